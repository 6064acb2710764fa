"""Commands that read what is there: query, report, status, doctor, settings."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.options import (
    Options,
    RowsForm,
    cli,
    load_options_settings,
    open_run,
    output_format,
    parse_day,
    print_json,
)
from pipeline.core.models import Row, RunResult


@dataclass(frozen=True)
class QueryDetails:
    """Columns of a query, and its rows or the file that has them."""

    columns: list[str]
    output: str | None = None
    rows: list[Row] | None = None


@dataclass(frozen=True)
class ReportDetails:
    """The day of a report, and its file."""

    day: str
    output: str


@dataclass(frozen=True)
class SettingsDetails:
    """Every setting with value and origin."""

    settings: list[Row]


@cli.command(
    short_help="Query the tables with SQL.",
    epilog='Example: postroom query "SELECT day, sum(participant_min) FROM usage_daily GROUP BY day ORDER BY day"',
)
def query(
    ctx: typer.Context,
    sql: Annotated[str, typer.Argument(help="One SQL statement; every table is a view.")],
    form: RowsForm = None,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the rows to this file, atomically.")
    ] = None,
) -> int:
    """Run one read-only SQL statement (DuckDB) over the tables."""
    from pipeline.cli import render
    from pipeline.cli.output import checked, first_rows, whole_file, write_rows
    from pipeline.tables.query import open_query

    given: Options = ctx.obj
    form = output_format(form, output, as_json=given.as_json)
    outcome, found = RunResult("query"), None
    with open_run(given, load_options_settings(given)) as app, open_query(app.lake, sql) as rows:
        names = rows.schema.names
        if output:
            with whole_file(output) as stream:
                outcome.add_success(rows=write_rows(rows, form, stream))
        elif given.as_json:
            found = checked(rows, "json").read_all().to_pylist()
            outcome.add_success(rows=len(found))
        elif form == "table":
            render.show_table(render.console_for(), *first_rows(rows, render.MOST_ROWS))
        else:
            write_rows(rows, form, sys.stdout.buffer)
    if given.as_json:
        details = QueryDetails(names, str(output) if output else None, found)
        print_json(outcome.with_details(details).to_dict())
    elif output:
        print(f"{render.counts_text(outcome.counts)} in {output}")
    return 0


@cli.command(
    short_help="Write one day as an HTML report with charts.", epilog="Example: postroom report --day 2026-11-22"
)
def report(
    ctx: typer.Context,
    day: Annotated[str | None, typer.Option(metavar="DAY", help="UTC day, YYYY-MM-DD; default: yesterday.")] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Default: report-DAY.html in this folder.")
    ] = None,
) -> int:
    """Write usage, hours, lateness, media, deadlines and audits of one day to one HTML file; it needs no network."""
    from pipeline.cli.day_report.page import report as report_flow
    from pipeline.cli.output import whole_file

    given: Options = ctx.obj
    with open_run(given, load_options_settings(given)) as app:
        wanted = parse_day("--day", day) if day else app.clock().date() - timedelta(days=1)
        output = output or Path(f"report-{wanted}.html")
        with whole_file(output) as stream:
            stream.write(report_flow(app, wanted).encode())
    if given.as_json:
        print_json(RunResult("report", details=ReportDetails(str(wanted), str(output))).to_dict())
    else:
        print(f"{wanted} is in {output}")
    return 0


@cli.command(
    short_help="Show days, files at risk, lateness, sizes, next runs.", epilog="Example: postroom --json status"
)
def status(ctx: typer.Context) -> int:
    """Show what is settled, missing, pending, at risk and lost. Exit code 4 when a file is at risk."""
    from jobs.status import status as status_flow
    from pipeline.cli import render

    given: Options = ctx.obj
    with open_run(given, load_options_settings(given)) as app:
        outcome = status_flow(app)
    if given.as_json:
        print_json(outcome.to_dict())
    else:
        render.show_status(render.console_for(), outcome)
    return outcome.exit_code


@cli.command(short_help="Test every part of this set-up.", epilog="Example: postroom doctor --probe")
def doctor(
    ctx: typer.Context,
    probe: Annotated[
        bool, typer.Option("--probe", help="Also test on the live account what EnableX's documentation leaves open.")
    ] = False,
) -> int:
    """Test every part of the set-up and print the next step for each failure. Exit code 1 when a test fails."""
    from pipeline.cli import render
    from pipeline.cli.doctor import doctor as doctor_flow

    given: Options = ctx.obj
    with open_run(given, load_options_settings(given)) as app:
        outcome = doctor_flow(app, probe=probe)
    if given.as_json:
        print_json(outcome.to_dict())
    else:
        render.show_doctor(render.console_for(), outcome)
    return 1 if outcome.failed else 0


@cli.command(
    short_help="Show effective settings and their origins.",
    epilog="Example: postroom --config config/local.toml settings",
)
def settings(ctx: typer.Context) -> int:
    """Show every setting, its value and its origin; secrets are masked."""
    from pipeline.cli import render

    given: Options = ctx.obj
    rows = load_options_settings(given).rows()
    if given.as_json:
        named = [{"setting": key, "value": value, "from": origin} for key, value, origin in rows]
        print_json(RunResult("settings", details=SettingsDetails(named)).to_dict())
    else:
        render.show_settings(render.console_for(), rows)
    return 0
