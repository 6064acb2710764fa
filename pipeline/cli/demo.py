"""The demo: seven nightly runs against the simulator, over HTTP, ending now.

One recording is staged to fail: its host returns an error page until the end, so that the summary shows a file at risk
and the commands that copy it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from pathlib import Path

from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from jobs.nightly import nightly
from jobs.runtime import open_app
from pipeline.cli import render
from pipeline.cli.day_report.page import report
from pipeline.core.context import App
from pipeline.core.errors import ConfigError
from pipeline.core.models import Period, RunResult
from pipeline.core.progress import Progress
from pipeline.core.settings.load import load
from pipeline.core.settings.sections import Settings
from pipeline.enablex.simulator.server import Simulator
from pipeline.enablex.simulator.world import SimFile, World
from pipeline.media.audit import audit_media
from pipeline.tables.parquet import dataset, read_arrow
from pipeline.tables.schemas import TABLES

DAYS = 7
NIGHTLY_AT = time(2, 15, tzinfo=UTC)
CONFIG_NAME = "postroom.toml"
_CONFIG_HEADER = "# Written by `postroom demo`: this folder is replaced by the next demo."
_PORT = 8640
"""Default port of `postroom simulate`, so that it serves the demo's settings later."""


def run_demo(folder: Path, now: datetime, progress: Progress, console: Console | None) -> RunResult[DemoFacts]:
    """Run seven nights into `folder`, ending at `now`; print a summary on `console`."""
    _make_empty(folder)
    world = World(begin=now.date() - timedelta(days=DAYS - 1))
    outcome = RunResult("demo", is_staged=True)
    with _simulator(world, now) as simulator:
        staged = _staged_failure(world, now)
        simulator.faults.on(f"html_200@{staged.path}")
        config = folder / CONFIG_NAME
        folder.mkdir(parents=True, exist_ok=True)
        config.write_text(f"{_CONFIG_HEADER}\n{simulator.settings_toml(str(folder.resolve()))}", encoding="utf-8")
        settings = load(config, {}).settings
        for moment in _nights(now):
            simulator.clock.set(moment)
            if console:
                console.print(f"[bold]night of {moment:%a %d %b}[/] [dim]simulated time {moment:%H:%M} UTC[/]")
            night = _run_night(settings, moment, progress)
            outcome.merge(night)
            outcome.at_risk = night.at_risk
            if console:
                console.print(f"  {render.counts_text(night.counts)}")
    outcome.failed = [failure for failure in outcome.failed if staged.path.rpartition("/")[2] not in failure.item]
    with open_app(settings, now=now, progress=progress) as app:
        audit_media(app)
        page = folder / "report.html"
        page.write_text(report(app, now.date() - timedelta(days=1)), encoding="utf-8")
        facts = _facts(app, world, now, config, page)
    if console:
        _summary(console, outcome, facts, staged)
    return outcome.with_details(facts)


def _run_night(settings: Settings, moment: datetime, progress: Progress) -> RunResult:
    with open_app(settings, now=moment, progress=progress) as app:
        return app.run_store.record_run("nightly", app.clock, lambda: nightly(app), projects=list(settings.projects))


def _nights(now: datetime) -> list[datetime]:
    """02:15 UTC after each of the first six days, then `now`."""
    first = now.date() - timedelta(days=DAYS - 1)
    nights = [datetime.combine(first + timedelta(days=number), NIGHTLY_AT) for number in range(1, DAYS)]
    return [night for night in nights if night < now] + [now]


def _staged_failure(world: World, now: datetime) -> SimFile:
    """A recording with 12 to 21 hours left: at risk, with enough time to copy it."""
    files = [
        file
        for project in world.projects
        for file in world.files(project, now)
        if file.kind == "recording" and now + timedelta(hours=12) < file.expires_at < now + timedelta(hours=21)
    ]
    return max(files, key=lambda file: (file.expires_at, file.path))


@contextmanager
def _simulator(world: World, now: datetime) -> Iterator[Simulator]:
    """A simulator on the ports of `postroom simulate` if they are free, else on any."""
    with ExitStack() as stack:
        try:
            preferred = Simulator(world, now=now, api_port=_PORT, files_port=_PORT + 1, foreign_port=_PORT + 2)
            simulator = stack.enter_context(preferred)
        except OSError:
            simulator = stack.enter_context(Simulator(world, now=now))
        yield simulator


def _make_empty(folder: Path) -> None:
    """Delete an earlier demo. Raises ConfigError for any other folder that is not empty."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    config = folder / CONFIG_NAME
    if not config.is_file() or not config.read_text(encoding="utf-8").startswith(_CONFIG_HEADER):
        raise ConfigError(f"--dir {folder}: not empty and not an earlier demo; use another folder")
    shutil.rmtree(folder)


@dataclass(frozen=True)
class DemoFacts:
    """Results of the demo, read from its stores."""

    config: str
    period: list[str]
    projects: list[str]
    table_rows: dict[str, int]
    sessions: int
    participant_min: int
    report: str


def _facts(app: App, world: World, now: datetime, config: Path, page: Path) -> DemoFacts:
    period = Period(now.date() - timedelta(days=DAYS - 1), now.date())
    usage = read_arrow("usage_daily", period, ["participant_min", "sessions"], lake=app.lake)
    return DemoFacts(
        config=str(config),
        period=[str(period.first), str(period.last)],
        projects=list(world.projects),
        table_rows={name: dataset(app.lake, name).count_rows() for name in TABLES},
        sessions=sum(usage["sessions"].to_pylist()),
        participant_min=int(sum(usage["participant_min"].to_pylist())),
        report=str(page),
    )


def _summary(console: Console, outcome: RunResult, facts: DemoFacts, staged: SimFile) -> None:
    counts = outcome.counts
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold")
    grid.add_column()
    grid.add_row(
        "collected",
        f"{counts['replies']:,} responses of {len(facts.projects)} projects, {counts['new_pages']:,} changed;"
        " unchanged responses are stored once",
    )
    grid.add_row("built", ", ".join(f"{name} {number:,}" for name, number in facts.table_rows.items()) + " rows")
    grid.add_row("", f"{facts.sessions:,} sessions, {facts.participant_min:,} participant minutes")
    grid.add_row(
        "archived",
        f"{counts['files_copied']:,} files, {render.bytes_text(counts['bytes_copied'])}, with SHA-256 in manifests"
        + (f"; {counts['malformed']} malformed at the source" if counts["malformed"] else ""),
    )
    if facts.table_rows["suspense"]:
        hint = "`postroom billing suspense list` shows them"
        grid.add_row("[yellow]in suspense[/]", f"{facts.table_rows['suspense']:,} records that need a decision: {hint}")
    for file in outcome.at_risk:
        name = f"{file['project']}/{file['conf_num']}/{file['kind']}/{file['name']}"
        grid.add_row("[yellow]at risk[/]", f"{name}: {render.hours_text(file['hours_left'])}")
    grid.add_row("", "[dim]staged: the host returned an error page instead of the video; it was not archived[/]")
    if not outcome.at_risk:
        grid.add_row("[yellow]at risk[/]", f"no file, although {staged.path} was staged")
    for failure in outcome.failed:
        grid.add_row("[red]failed[/]", f"{failure.item}: {failure.error}")
    console.print()
    console.print(Panel(grid, title="seven simulated nights", title_align="left", border_style="dim"))
    postroom = f"postroom --config {facts.config}"
    sql = "SELECT owner_ref, sum(participant_min) AS minutes FROM usage_daily GROUP BY 1 ORDER BY 2 DESC LIMIT 5"
    console.print("Try next (after `make demo`, postroom is in .venv/bin):")
    console.print(f'  {postroom} query "{sql}"', markup=False)
    console.print(f"  {postroom} status", markup=False)
    console.print(
        f"  postroom simulate &  {postroom} media copy     # the host works again: copy the file", markup=False
    )
    console.print(f"Report of yesterday: {Path(facts.report).resolve().as_uri()}", markup=False)
