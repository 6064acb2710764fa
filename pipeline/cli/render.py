"""Text output of results: short and aligned, urgent items last and highlighted."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.core.models import STORED, RunResult

if TYPE_CHECKING:
    import pyarrow as pa

    from jobs.status import ObjectTotals, ProjectStatus, StatusReport
    from pipeline.cli.doctor_checks import DoctorReport
    from pipeline.ingest.backfill import BackfillPlan

_UNATTENDED_WIDTH = 160
"""Output into a file or pipe is not wrapped at 80 columns, so that names and hashes stay on one line."""

MOST_ROWS = 1000
"""Maximum rows of a query printed as a table."""

_COUNT_LABELS = {
    "replies": "responses",
    "new_pages": "new",
    "documents": "documents",
    "requests": "requests",
    "days_built": "days built",
    "tables_written": "table days written",
    "rows": "rows",
    "rejects": "rejects",
    "retries": "requests retried",
    "files_copied": "files copied",
    "bytes_copied": "copied",
    "malformed": "malformed",
    "lost": "lost",
    "files_adopted": "copied from delivery bucket",
    "files_rechecked": "rechecked",
    "files_changed": "changed at the source",
    "files_gone": "deleted at the source",
    "sessions_audited": "sessions audited",
    "files_audited": "files audited",
    "files_reread": "read completely",
    "bytes_reread": "read",
    "problems": "problems",
}

_NOTICES = {
    "malformed": "stored completely, but it cannot be opened",
    "changed": "the bytes at the source changed; both versions are kept",
    "orphan": "in no manifest: left by an interrupted copy, or added by a user",
    "aborted_uploads": "stale multipart upload aborted",
}


def console_for(stream: Any = None) -> Console:
    """A console on a stream, as wide as the terminal; 160 columns for a file or pipe."""
    stream = stream or sys.stdout
    width = None if stream.isatty() else _UNATTENDED_WIDTH
    return Console(file=stream, width=width, highlight=False, soft_wrap=not stream.isatty())


def show_outcome(console: Console, outcome: RunResult) -> None:
    """Counts, notices, failures, and files lost or at risk."""
    console.print(f"[bold]{outcome.command}[/]: {counts_text(outcome.counts)}")
    if outcome.unknown_fields:
        fields = ", ".join(f"{name} ({count:,})" for name, count in sorted(outcome.unknown_fields.items()))
        console.print(Text(f"undocumented fields, stored in `extra`: {fields}"))
    for kind, items in outcome.notices.items():
        for item in items:
            console.print(Text.assemble((f"{kind.replace('_', ' ')} ", "bold"), f"{item}: {_NOTICES.get(kind, '')}"))
    show_failures(console, outcome)
    show_deadlines(console, outcome)


def counts_text(counts: Mapping[str, int]) -> str:
    """`8 responses, 5 new, …`, without zeros."""
    parts = [
        f"{bytes_text(number) if name.startswith('bytes_') else f'{number:,}'} {_COUNT_LABELS.get(name, name)}"
        for name, number in counts.items()
        if number
    ]
    return ", ".join(parts) or "nothing to do"


def show_failures(console: Console, outcome: RunResult) -> None:
    groups: dict[str, list[str]] = {}
    for failure in outcome.failed:
        groups.setdefault(failure.error, []).append(failure.item)
    for error, items in groups.items():
        more = f" and {len(items) - 1} more" if len(items) > 1 else ""
        console.print(Text.assemble(("failed ", "bold red"), f"{items[0]}{more}: {error}"))


def show_deadlines(console: Console, outcome: RunResult) -> None:
    for files, title, style in ((outcome.lost, "lost", "bold red"), (outcome.at_risk, "at risk", "bold yellow")):
        for file in files:
            name = f"{file['project']}/{file['conf_num']}/{file['kind']}/{file['name']}"
            detail = "deleted at the source" if title == "lost" else hours_text(file["hours_left"])
            console.print(Text.assemble((f"{title} ", style), f"{name}: {detail}"))


def show_backfill_plan(console: Console, outcome: RunResult[BackfillPlan]) -> None:
    """Missing days by project and source, with the number, duration and size of the requests."""
    plan = outcome.details
    if not plan.requests:
        console.print("backfill plan: nothing is missing")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("project", "source", "from", "to", "missing days", "size"):
        table.add_column(heading, justify="right" if heading in {"missing days", "size"} else "left", overflow="fold")
    for row in plan.missing:
        size = "unknown" if row.bytes is None else bytes_text(row.bytes)
        table.add_row(row.project, row.source, row.first, row.last, f"{row.requests:,}", size)
    console.print(table)
    size = "unknown until the first response" if plan.bytes is None else f"about {bytes_text(plan.bytes)}"
    duration = timedelta(seconds=round(plan.seconds))
    console.print(f"{plan.requests:,} requests, at least {duration} within the rate limit; size {size}")


def show_status(console: Console, outcome: RunResult[StatusReport]) -> None:
    """Projects, stores and next runs; urgent items last."""
    report = outcome.details
    for name, project in report.projects.items():
        console.print(Text(name, "bold"))
        for heading, text in _project_lines(project):
            console.print(Text(f"  {heading:<9}{text}"))
    for name, kinds in report.stores.items():
        console.print(Text(f"{name:<11}{_sizes_text(kinds)}"))
    next_runs = [f"{command} {_moment_text(moment)}" for command, moment in report.next_runs.items()]
    console.print(Text(f"{'next runs':<11}{', '.join(next_runs) or 'none'}"))
    for name, project in report.projects.items():
        if project.lateness and project.lateness.hint:
            console.print(Text(f"{name}: {project.lateness.hint}", "yellow"))
        if unlisted := project.unlisted:
            text = f"{name}: sessions with automatic recording, but without a listed file: {_days_text(unlisted)}"
            console.print(Text(f"{text}; ask EnableX before the files expire", "yellow"))
        if project.suspense:
            listed = ", ".join(f"{totals.records:,} {reason}" for reason, totals in project.suspense.items())
            console.print(Text(f"{name}: in suspense: {listed}; `postroom billing suspense list` shows them", "yellow"))
        for drifted in project.drift:
            example = f", for example {drifted.example}" if drifted.example else ""
            seen = f"since {drifted.first_day}, in {drifted.share:.1%} of the CDRs"
            console.print(
                Text(f"{name}: undocumented field {drifted.path} {seen}{example}; stored in `extra`", "yellow")
            )
        if missing := project.days.missing:
            text = f"{name}: missing days: {_days_text(missing)}; `postroom nightly` collects them"
            console.print(Text(text, "yellow"))
    show_deadlines(console, outcome)
    if not (outcome.at_risk or outcome.lost):
        console.print(Text("no file is at risk", "green"))


def _project_lines(project: ProjectStatus) -> Iterator[tuple[str, str]]:
    days, media = project.days, project.media
    since = f"since {days.first}: " if days.first else "never collected: "
    listed = f" ({_days_text(days.provisional)})" if days.provisional else ""
    provisional, missing = len(days.provisional), len(days.missing)
    yield "days", f"{since}{days.settled} settled, {provisional} provisional{listed}, {missing} missing"
    stored = [totals for state, totals in media.items() if state in STORED]
    parts = [f"{sum(part.files for part in stored):,} stored ({bytes_text(sum(part.bytes for part in stored))})"]
    parts += [f"{project.pending} pending", f"{project.at_risk} at risk"]
    parts += [f"{media['lost'].files if 'lost' in media else 0} lost"]
    deadline = f"; next deadline: {hours_text(project.hours_left)}" if project.hours_left is not None else ""
    yield "media", f"{', '.join(parts)}{deadline}"
    last_done = [f"{source} {_moment_text(moment)}" for source, moment in project.last_done.items()]
    yield "latest", ", ".join(last_done) or "none yet"
    successes = [f"{command} {_moment_text(moment)}" for command, moment in project.last_good_runs.items()]
    yield "success", ", ".join(successes) or "none yet"
    if late := project.lateness:
        shares = ", ".join(f"{step} {share:.1%}" for step, share in late.known_after.items())
        yield "lateness", f"rows collected within {shares} ({late.rows:,} rows of the last 31 days)"


def _sizes_text(kinds: Mapping[str, ObjectTotals]) -> str:
    parts = [f"{kind} {bytes_text(size.bytes)} ({size.objects:,})" for kind, size in kinds.items()]
    return ", ".join(parts) or "empty"


def _moment_text(moment: str) -> str:
    return moment[:16].replace("T", " ")


def show_doctor(console: Console, outcome: RunResult[DoctorReport]) -> None:
    """One line for each check, and below it the next step; then the results on the live account."""
    states = {True: Text("ok", "green"), False: Text("FAILED", "bold red"), None: Text("skipped", "yellow")}
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("check", "state", "detail"):
        table.add_column(heading, overflow="fold")
    for check in outcome.details.checks:
        table.add_row(Text(check.name), states[check.ok], Text(check.detail))
        if check.next_step:
            table.add_row("", "", Text(f"→ {check.next_step}", "" if check.ok else "bold"))
    console.print(table)
    for line in outcome.details.toml or ():
        console.print(Text(line))
    failed = len(outcome.failed)
    console.print("no check failed" if not failed else f"{failed} of {len(outcome.details.checks)} checks failed")


def show_settings(console: Console, rows: Iterable[tuple[str, str, str]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("setting", "value", "from"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)


def show_simulator(console: Console, base_url: str, files_url: str, faults: Sequence[str], config: Path | None) -> None:
    """Addresses, faults and settings file of the simulator."""
    console.print(f"EnableX simulator: API {base_url}, files {files_url}")
    console.print(
        f"faults: {', '.join(faults) or 'none'}; change them at {base_url.rpartition('/video')[0]}/_simulator"
    )
    if config:
        console.print(Text(f"settings written: postroom --config {config} nightly"))
    console.print("press Ctrl-C to stop")


def show_table(console: Console, result: pa.Table, is_cut: bool = False) -> None:
    """A query's result, or its first rows: a table if it fits, else one record below the other."""
    columns = [[_cell(value) for value in column.to_pylist()] for column in result.columns]  # names may repeat
    cells = list(zip(*columns, strict=True))
    numeric = {index for index, field in enumerate(result.schema) if _is_number(field.type)}
    show_cells(console, result.schema.names, cells, numeric)
    count = f"{result.num_rows:,} row{'' if result.num_rows == 1 else 's'}"
    console.print(f"first {count}; use LIMIT, or --output FILE for all rows" if is_cut else count, style="dim")


def show_cells(
    console: Console, names: Sequence[str], rows: Sequence[Sequence[str]], numeric: Collection[int] | None = None
) -> None:
    """Rows as a table if it fits, else one record below the other. `numeric`: columns of numbers; default: all but the
    first.
    """
    widths = [max(map(cell_len, column)) for column in zip(names, *rows, strict=True)]
    if sum(widths) + 2 * len(widths) > console.width:
        _show_records(console, names, rows)
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for index, name in enumerate(names):
        is_number = index > 0 if numeric is None else index in numeric
        table.add_column(Text(name), justify="right" if is_number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)


def _show_records(console: Console, names: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    width = max(map(len, names))
    for number, row in enumerate(rows, start=1):
        console.print(f"-- row {number}", style="dim")
        for name, cell in zip(names, row, strict=True):
            console.print(Text.assemble((name.ljust(width), "bold"), "  ", cell))


def _is_number(column_type: pa.DataType) -> bool:
    from pyarrow import types

    return bool(types.is_integer(column_type) or types.is_floating(column_type) or types.is_decimal(column_type))


def bytes_text(size_bytes: int) -> str:
    size = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if round(size, 1) < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def hours_text(hours_left: float) -> str:
    if hours_left < 0:
        return f"deadline passed {-hours_left:g} h ago; copy is still attempted"
    return f"{abs(hours_left):g} h left"


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="milliseconds").replace("+00:00", "Z")
    if isinstance(value, float):
        return f"{value:,.2f}"
    if isinstance(value, Decimal):
        return f"{value:f}"  # str(value) can have an exponent
    return str(value)


def _days_text(days: Sequence[str | date]) -> str:
    shown = ", ".join(map(str, days[:5]))
    return shown if len(days) <= 5 else f"{shown} and {len(days) - 5} more"
