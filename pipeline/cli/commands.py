"""One command per flow: arguments, flow, printed outcome, exit code.

Exit codes: 0 done, 1 failed, 2 usage or settings, 3 some items failed, 4 files at risk or newly lost.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline import __version__
from pipeline.core.errors import ConfigError, PipelineError
from pipeline.core.models import SOURCES, Failure, Outcome, Period

if TYPE_CHECKING:
    from rich.console import Console

    from pipeline.app import App
    from pipeline.core.progress import Progress
    from pipeline.core.settings.load import Loaded

cli = typer.Typer(
    name="postroom",
    help="Keep what EnableX knows about finished video sessions: CDRs to Parquet, recordings to a vault, with proof.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


_INTERRUPTED = 130
_BROKEN_OFF = "interrupted; nothing is half-written, run it again to go on"


@dataclass(frozen=True)
class Options:
    """What stands before the command."""

    config: Path | None
    now: datetime | None
    as_json: bool
    verbose: bool


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"postroom {__version__}")
        raise typer.Exit


@cli.callback(epilog="Example: postroom demo")
def options(
    ctx: typer.Context,
    config: Annotated[
        Path | None, typer.Option(help="Settings file; else POSTROOM_CONFIG, else config/default.toml.")
    ] = None,
    now: Annotated[str | None, typer.Option(help="Act as if it were this moment, e.g. 2026-11-23T02:15:00Z.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON outcome on standard output.")] = False,
    verbose: Annotated[bool, typer.Option(help="Log every step; show tracebacks.")] = False,
    _version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
) -> None:
    ctx.obj = Options(config, _moment(now), as_json, verbose)


From = Annotated[str | None, typer.Option("--from", metavar="DAY", help="First UTC day, YYYY-MM-DD.")]
To = Annotated[str | None, typer.Option("--to", metavar="DAY", help="Last UTC day, inclusive; today when left out.")]
ProjectName = Annotated[str | None, typer.Option("--project", metavar="NAME", help="Only this project.")]
RowsForm = Annotated[
    str | None, typer.Option("--format", help="table, csv, json or parquet; else by the ending of --output.")
]


@cli.command(short_help="See it work: seven simulated nights.", epilog="Example: postroom demo")
def demo(
    ctx: typer.Context,
    folder: Annotated[Path, typer.Option("--dir", help="Where to put it; an earlier demo there is replaced.")] = Path(
        "data/demo"
    ),
) -> int:
    """Start the bundled EnableX simulator, run every flow over seven days of its traffic, show what came of it."""
    from pipeline.cli import show
    from pipeline.cli.demo import run_demo

    given: Options = ctx.obj
    _set_up_logging(given, quiet=True)
    now = given.now or datetime.now(UTC)
    outcome = run_demo(folder, now, _progress(given), say=None if given.as_json else show.console_for())
    if given.as_json:
        _print_json(outcome.as_json())
    return outcome.exit_code


@cli.command(
    short_help="API to raw.", epilog="Example: postroom collect --from 2026-11-20 --to 2026-11-22 --project acme"
)
def collect(
    ctx: typer.Context,
    from_: From = None,
    to: To = None,
    project: ProjectName = None,
    source: Annotated[str | None, typer.Option(help=f"Only this source: {' or '.join(SOURCES)}.")] = None,
) -> int:
    """API to raw: ask for each day (by default lookback and today) and land every reply as received."""
    from pipeline import flows

    sources = _choices("--source", source, SOURCES)
    return _run(
        ctx,
        "collect",
        lambda app: flows.collect(app, _period(from_, to, app), project=project, sources=sources),
        project=project,
    )


@cli.command(
    short_help="Raw to tables.", epilog="Example: postroom build --from 2026-11-01 --to 2026-11-30 --table usage_daily"
)
def build(
    ctx: typer.Context,
    from_: From = None,
    to: To = None,
    table: Annotated[str | None, typer.Option(help="Only this table; another word names them all.")] = None,
    project: ProjectName = None,
) -> int:
    """Raw to tables: rebuild every day whose inputs changed (by default of all that was ever landed)."""
    from pipeline import flows
    from pipeline.tables.schemas import TABLES

    wanted = _choices("--table", table, tuple(TABLES))
    return _run(
        ctx,
        "build",
        lambda app: flows.build(app, _period(from_, to, app), wanted=wanted, project=project),
        project=project,
    )


@cli.command(
    "copy-media", short_help="Files to the vault, verified.", epilog="Example: postroom copy-media --limit 100"
)
def copy_media(
    ctx: typer.Context,
    limit: Annotated[int | None, typer.Option(min=1, help="Copy at most this many files.")] = None,
    fresh: Annotated[bool, typer.Option("--collect/--no-collect", help="Ask for fresh listings first.")] = True,
) -> int:
    """Archive listings minus manifests to the vault: stream, hash, verify; the earliest deadline first."""
    from pipeline import flows

    return _run(ctx, "copy-media", lambda app: flows.copy_media(app, limit=limit, fresh=fresh))


@cli.command(
    "audit-media",
    short_help="Manifests against the vault.",
    epilog="Example: postroom audit-media --from 2026-11-01 --to 2026-11-30 --sample 5",
)
def audit_media(
    ctx: typer.Context,
    from_: From = None,
    to: To = None,
    sample: Annotated[
        float, typer.Option(metavar="PCT", help="Read so many percent of the files from beginning to end (0 to 100).")
    ] = 1,
    project: ProjectName = None,
) -> int:
    """Manifests against the vault: every chain and file of the period (by default all), a sample read and hashed."""
    from pipeline import flows

    if not 0 <= sample <= 100:
        raise ConfigError(f"--sample {sample:g}: not a percentage; give 0 to 100")
    return _run(
        ctx,
        "audit-media",
        lambda app: flows.audit_media(app, _period(from_, to, app), sample_percent=sample, project=project),
        project=project,
    )


@cli.command(short_help="What a cron runs: all of it.", epilog="Example: postroom --json nightly")
def nightly(ctx: typer.Context) -> int:
    """All of it, as a cron runs it: collect what is missing or may change, build, copy media, build again."""
    from pipeline import flows

    return _run(ctx, "nightly", flows.nightly)


@cli.command(
    short_help="Months or years, with a plan first.", epilog="Example: postroom backfill --from 2024-01-01 --dry-run"
)
def backfill(
    ctx: typer.Context,
    from_: Annotated[str, typer.Option("--from", metavar="DAY", help="First UTC day, YYYY-MM-DD.")],
    to: To = None,
    project: ProjectName = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what is missing and what it will take.")] = False,
) -> int:
    """Months or years: collect every day that is missing, at the usual pace, and build; run it again to go on."""
    from pipeline import flows
    from pipeline.cli import show

    flow = flows.plan_backfill if dry_run else flows.backfill
    return _run(
        ctx,
        "backfill plan" if dry_run else "backfill",
        lambda app: flow(app, _required_period(from_, to, app), project=project),
        show.show_backfill_plan if dry_run else None,
        project=project,
    )


@cli.command(
    short_help="Ask the tables, in SQL.",
    epilog='Example: postroom query "SELECT day, sum(participant_min) FROM usage_daily GROUP BY day ORDER BY day"',
)
def query(
    ctx: typer.Context,
    sql: Annotated[str, typer.Argument(help="One SQL statement; every table is a view.")],
    form: RowsForm = None,
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="Write rows there, whole or not at all.")] = None,
) -> int:
    """Ask the tables something, in SQL (DuckDB), reading only."""
    from pipeline import flows, results
    from pipeline.cli import show

    given: Options = ctx.obj
    form = _form(form, output, as_json=given.as_json)
    outcome = Outcome("query")
    with _open(given, _loaded(given)) as app, flows.query(app, sql) as rows:
        outcome.details["columns"] = rows.schema.names
        if output:
            with results.whole_file(output) as stream:
                outcome.succeeded(rows=results.write_rows(rows, form, stream))
            outcome.details["output"] = str(output)
        elif given.as_json:
            outcome.details["rows"] = results.checked(rows, "json").read_all().to_pylist()
            outcome.succeeded(rows=len(outcome.details["rows"]))
        elif form == "table":
            show.show_table(show.console_for(), *results.first_rows(rows, show.MOST_ROWS))
        else:
            results.write_rows(rows, form, sys.stdout.buffer)
    if given.as_json:
        _print_json(outcome.as_json())
    elif output:
        print(f"{show.counts_text(outcome.counts)} in {output}")
    return 0


def _form(form: str | None, output: Path | None, *, as_json: bool) -> str:
    """The form of a query's answer: as asked for, else by the ending of its file."""
    from pipeline import results

    if as_json and not output:
        known: tuple[str, ...] = ("json",)
    elif output:
        known = tuple(results.FORMS)
        form = form or output.suffix.removeprefix(".")
    else:
        known = ("table", *results.FORMS)
        if form == "parquet":
            raise ConfigError("--format parquet: not for a screen; add --output FILE")
    chosen: str = _choices("--format", form or known[0], known)[0]
    return chosen


@cli.command(short_help="A day as a page with charts.", epilog="Example: postroom report --day 2026-11-22")
def report(
    ctx: typer.Context,
    day: Annotated[
        str | None, typer.Option(metavar="DAY", help="UTC day, YYYY-MM-DD; yesterday when left out.")
    ] = None,
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="Instead of report-DAY.html here.")] = None,
) -> int:
    """One day as a page to look at: usage, hours, lateness, media and deadlines, audits; one HTML file, no network."""
    from pipeline import flows, results

    given: Options = ctx.obj
    with _open(given, _loaded(given)) as app:
        wanted = _day("--day", day) if day else app.clock().date() - timedelta(days=1)
        output = output or Path(f"report-{wanted}.html")
        with results.whole_file(output) as stream:
            stream.write(flows.report(app, wanted).encode())
    if given.as_json:
        _print_json(Outcome("report", details={"day": str(wanted), "output": str(output)}).as_json())
    else:
        print(f"{wanted} is in {output}")
    return 0


@cli.command(short_help="Done, missing, late, at risk.", epilog="Example: postroom --json status")
def status(ctx: typer.Context) -> int:
    """What is settled, missing, waiting, at risk, lost; exit code 4 when a file is at risk."""
    from pipeline import flows
    from pipeline.cli import show

    given: Options = ctx.obj
    with _open(given, _loaded(given)) as app:
        outcome = flows.status(app)
    if given.as_json:
        _print_json(outcome.as_json())
    else:
        show.show_status(show.console_for(), outcome)
    return outcome.exit_code


@cli.command(short_help="Whether this set-up can work.", epilog="Example: postroom doctor --probe")
def doctor(
    ctx: typer.Context,
    probe: Annotated[
        bool, typer.Option("--probe", help="Also ask the live account what EnableX's documents leave open.")
    ] = False,
) -> int:
    """Try every part of the set-up for real; say for each failure what to do. Exit code 1 when one does not work."""
    from pipeline import flows
    from pipeline.cli import show

    given: Options = ctx.obj
    with _open(given, _loaded(given)) as app:
        outcome = flows.doctor(app, probe=probe)
    if given.as_json:
        _print_json(outcome.as_json())
    else:
        show.show_doctor(show.console_for(), outcome)
    return 1 if outcome.failed else 0


@cli.command(
    short_help="What is configured, and where.", epilog="Example: postroom --config config/local.toml settings"
)
def settings(ctx: typer.Context) -> int:
    """Every setting, its value and where it came from; secrets masked."""
    from pipeline.cli import show

    given: Options = ctx.obj
    rows = _loaded(given).rows()
    if given.as_json:
        named = [{"setting": key, "value": value, "from": origin} for key, value, origin in rows]
        _print_json(Outcome("settings", details={"settings": named}).as_json())
    else:
        show.show_settings(show.console_for(), rows)
    return 0


@cli.command(
    short_help="The EnableX look-alike alone.",
    epilog="Example: postroom simulate --write-config data/sim.toml --fault rate_limit=3",
)
def simulate(
    ctx: typer.Context,
    port: Annotated[int, typer.Option(help="Port of the API; files and the foreign host take the next two.")] = 8640,
    seed: Annotated[int, typer.Option(help="Another seed is another world.")] = 7,
    sessions_per_day: Annotated[int, typer.Option(min=1, help="Sessions per project and day.")] = 12,
    fault: Annotated[list[str] | None, typer.Option(help="Switch on a fault: NAME or NAME=VALUE; repeatable.")] = None,
    list_faults: Annotated[bool, typer.Option("--list-faults", help="Name every fault and what it does.")] = False,
    write_config: Annotated[Path | None, typer.Option(help="Write matching Postroom settings to this file.")] = None,
) -> int:
    """Run the bundled EnableX simulator alone, on loopback, until Ctrl-C: to rehearse outages without an account."""
    from pipeline.cli import show
    from pipeline.enablex.simulator.faults import FAULTS
    from pipeline.enablex.simulator.server import Simulator
    from pipeline.enablex.simulator.world import World

    given: Options = ctx.obj
    console = show.console_for()
    if list_faults:
        for name, fault_kind in FAULTS.items():
            console.print(f"{name:<26} {fault_kind.meaning}", markup=False)
        return 0
    world = World(seed=seed, sessions_per_day=sessions_per_day)
    simulator = Simulator(
        world, now=given.now, api_port=port, files_port=port + 1, foreign_port=port + 2, faults=fault or ()
    )
    try:
        with simulator:
            if write_config:
                write_config.parent.mkdir(parents=True, exist_ok=True)
                write_config.write_text(simulator.settings_toml("data/simulated"), encoding="utf-8")
            show.show_simulator(console, simulator.base_url, simulator.files_url, fault or [], write_config)
            simulator.wait()
    except KeyboardInterrupt:
        return 0
    except ValueError as error:
        raise ConfigError(f"--fault: {error}; see postroom simulate --list-faults") from None
    except OSError as error:
        raise ConfigError(f"--port {port}: {error.strerror or error}; name another one") from None
    return 0


@cli.command(
    short_help="Do all of it by itself, until stopped.",
    epilog="Example: postroom --config /etc/postroom.toml schedule",
)
def schedule(ctx: typer.Context) -> int:
    """The scheduler, until SIGTERM or Ctrl-C: jobs as [schedule] of the settings says, what is overdue at once.

    The same as `python -m jobs`. Several schedulers may share a ledger on PostgreSQL: no job runs twice.
    """
    given: Options = ctx.obj
    if given.now or given.as_json:
        raise ConfigError("schedule goes by the clock and has no outcome: leave --now and --json out")
    environ = {**os.environ, **({"POSTROOM_CONFIG": str(given.config)} if given.config else {})}
    os.execve(sys.executable, [sys.executable, "-m", "jobs"], environ)  # noqa: S606 - our own interpreter


def main() -> None:
    """The `postroom` command."""
    sys.exit(run_command(sys.argv[1:]))


def run_command(arguments: list[str]) -> int:
    """Run one command line; every expected error is one line on standard error and an exit code."""
    verbose = "--verbose" in arguments
    try:
        return _exit_code(arguments, cli(args=arguments, prog_name="postroom", standalone_mode=False))
    except typer.TyperException as error:
        return _refuse(arguments, error.format_message(), 2)
    except ConfigError as error:
        return _refuse(arguments, str(error), 2)
    except PipelineError as error:
        if verbose:
            raise
        return _refuse(arguments, str(error), 1)
    except (KeyboardInterrupt, typer.Abort):
        return _refuse(arguments, _BROKEN_OFF, _INTERRUPTED)
    except Exception as error:
        if verbose:
            raise
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        return _refuse(arguments, f"unexpected: {what}; run again with --verbose and report it", 1)


def _exit_code(arguments: list[str], code: object) -> int:
    if code == _INTERRUPTED:  # typer makes this of Ctrl-C, without a word
        return _refuse(arguments, _BROKEN_OFF, _INTERRUPTED)
    return code if isinstance(code, int) else 0


def _refuse(arguments: list[str], message: str, code: int) -> int:
    """One line for people; with `--json` an outcome for programs too."""
    print(f"postroom: {message}", file=sys.stderr)
    if "--json" in arguments:
        known = {info.name or info.callback.__name__ for info in cli.registered_commands if info.callback}
        groups = {group.typer_instance.info.name for group in cli.registered_groups if group.typer_instance}
        command = next((argument for argument in arguments if argument in known | groups), "postroom")
        if command in groups:
            command = " ".join(arguments[arguments.index(command) :][:2])
        _print_json(Outcome(command, failed=[Failure(command, message)]).as_json())
    return code


def _run(
    ctx: typer.Context,
    command: str,
    flow: Callable[[App], Outcome],
    tell: Callable[[Console, Outcome], None] | None = None,
    *,
    project: str | None = None,
) -> int:
    """Open the app, run a flow (for all projects, or one), keep the run in the ledger, show the outcome."""
    from pipeline import observing
    from pipeline.cli import show

    given: Options = ctx.obj
    with _open(given, _loaded(given)) as app:
        only = [project] if project in app.settings.projects else None
        outcome = observing.run(app, command, flow, is_unattended=not sys.stderr.isatty(), projects=only)
    if given.as_json:
        _print_json(outcome.as_json())
    else:
        (tell or show.show_outcome)(show.console_for(), outcome)
    return outcome.exit_code


def _loaded(given: Options) -> Loaded:
    from pipeline.app import load_settings

    return load_settings(given.config, os.environ)


@contextmanager
def _open(given: Options, loaded: Loaded) -> Iterator[App]:
    from pipeline.app import open_app
    from pipeline.core.tracing import sending

    _set_up_logging(given, secrets=tuple(loaded.settings.secrets()))
    with open_app(loaded.settings, now=given.now, progress=_progress(given)) as app, sending(app.redact):
        yield app


def _set_up_logging(given: Options, *, secrets: tuple[str, ...] = (), quiet: bool = False) -> None:
    from pipeline.core.log import set_up_logging

    level = logging.DEBUG if given.verbose else logging.ERROR if quiet else logging.WARNING
    set_up_logging(level=level, secrets=secrets)


def _progress(given: Options) -> Progress:
    from pipeline.cli import show
    from pipeline.core.progress import Bars, Lines, Silent

    if given.as_json:
        return Silent()
    return Bars(show.console_for(sys.stderr)) if sys.stderr.isatty() else Lines()


def _print_json(outcome: Any) -> None:
    import msgspec

    encoded = msgspec.json.encode(outcome, enc_hook=str)
    sys.stdout.write(msgspec.json.format(encoded, indent=2).decode() + "\n")


def _choices(option: str, chosen: str | None, known: tuple[Any, ...]) -> tuple[Any, ...]:
    if chosen is not None and chosen not in known:
        raise ConfigError(f"{option} {chosen}: unknown; there are {', '.join(known)}")
    return known if chosen is None else (chosen,)


def _period(from_: str | None, to: str | None, app: App) -> Period | None:
    if from_ is None:
        if to is not None:
            raise ConfigError("--to needs --from as well")
        return None
    return _required_period(from_, to, app)


def _required_period(from_: str, to: str | None, app: App) -> Period:
    first = _day("--from", from_)
    last = _day("--to", to) if to else max(first, app.clock().date())
    try:
        return Period(first, last)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _day(option: str, text: str) -> date:
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).date()
    except ValueError:
        raise ConfigError(f"{option} {text}: not a date; write it as 2026-11-22") from None


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"--now {text}: not a moment; write it as 2026-11-22T02:15:00Z") from None
    return moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)
