"""Commands that read stores and settings: query, report, status, doctor, settings."""

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
    load_options_settings,
    open_run,
    output_format,
    parse_day,
    print_json,
)
from pipeline.core.models import Row, RunResult

queries_cli = typer.Typer()


@dataclass(frozen=True)
class QueryDetails:
    """Columns of a query, and its rows or the path of the file that contains them."""

    columns: list[str]
    output: str | None = None
    rows: list[Row] | None = None


@dataclass(frozen=True)
class ReportDetails:
    """The day of a report, and the path of its file."""

    day: str
    output: str


@dataclass(frozen=True)
class SettingsDetails:
    """Every setting with its value and origin."""

    settings: list[Row]


@queries_cli.command(
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
    """Run one read-only SQL statement (DuckDB) over the tables.

    CSV is raw: text is written as it is stored, even if a spreadsheet would run it as a formula.
    """
    from pipeline.cli import render
    from pipeline.cli.output import checked, first_rows, whole_file, write_rows
    from pipeline.tables.query import open_query

    given: Options = ctx.obj
    form = output_format(form, output, as_json=given.as_json)
    outcome, found_rows = RunResult("query"), None
    with open_run(given, load_options_settings(given)) as app, open_query(app.lake, sql) as rows:
        names = rows.schema.names
        if output:
            with whole_file(output) as stream:
                outcome.add_success(rows=write_rows(rows, form, stream))
        elif given.as_json:
            found_rows = checked(rows, "json").read_all().to_pylist()
            outcome.add_success(rows=len(found_rows))
        elif form == "table":
            render.show_table(render.console_for(), *first_rows(rows, render.MOST_ROWS))
        else:
            write_rows(rows, form, sys.stdout.buffer)
    if given.as_json:
        details = QueryDetails(names, str(output) if output else None, found_rows)
        print_json(outcome.with_details(details).to_dict())
    elif output:
        print(f"{render.counts_text(outcome.counts)} written to {output}")
    return 0


@queries_cli.command(
    short_help="Write an HTML report of one day, with charts.", epilog="Example: postroom report --day 2026-11-22"
)
def report(
    ctx: typer.Context,
    day: Annotated[str | None, typer.Option(metavar="DAY", help="UTC day, YYYY-MM-DD; default: yesterday.")] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="HTML file; default: report-DAY.html in the current folder.")
    ] = None,
) -> int:
    """Write usage, hours, lateness, media, deadlines and audits of one day to a self-contained HTML file."""
    from pipeline.cli.day_report.page import report as report_flow
    from pipeline.cli.output import whole_file

    given: Options = ctx.obj
    with open_run(given, load_options_settings(given)) as app:
        report_day = parse_day("--day", day) if day else app.clock().date() - timedelta(days=1)
        output = output or Path(f"report-{report_day}.html")
        with whole_file(output) as stream:
            stream.write(report_flow(app, report_day).encode())
    if given.as_json:
        print_json(RunResult("report", details=ReportDetails(str(report_day), str(output))).to_dict())
    else:
        print(f"{report_day} is in {output}")
    return 0


@queries_cli.command(
    short_help="Show days, files at risk, lateness, sizes, next runs.", epilog="Example: postroom --json status"
)
def status(ctx: typer.Context) -> int:
    """Show settled, provisional and missing days, and pending, at-risk and lost files.

    Exit code 4 if a file is at risk or newly lost.
    """
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


@queries_cli.command(short_help="Check the installation.", epilog="Example: postroom doctor --probe")
def doctor(
    ctx: typer.Context,
    probe: Annotated[
        bool, typer.Option("--probe", help="Also test undocumented behavior of EnableX with the live account.")
    ] = False,
) -> int:
    """Check machine, stores, API, clock and files; print the next step for each failure. Exit code 1 if one fails."""
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


@queries_cli.command(
    short_help="Show effective settings and their origins.",
    epilog="Example: postroom --config config/local.toml settings",
)
def settings(ctx: typer.Context) -> int:
    """Show every setting, its value and its origin; secrets are masked."""
    from pipeline.cli import render

    given: Options = ctx.obj
    rows = load_options_settings(given).rows()
    if given.as_json:
        settings_rows = [{"setting": key, "value": value, "from": origin} for key, value, origin in rows]
        print_json(RunResult("settings", details=SettingsDetails(settings_rows)).to_dict())
    else:
        render.show_settings(render.console_for(), rows)
    return 0
