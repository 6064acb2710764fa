"""`postroom billing …`: numbered monthly exports, and invoices checked against them (docs/guide/billing.md)."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.cli.options import (
    Options,
    ProjectName,
    RowsForm,
    load_options_settings,
    open_run,
    output_format,
    print_json,
    run_flow,
)
from pipeline.core.errors import ConfigError
from pipeline.core.models import RunResult

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.billing.export import ExportSummary
    from pipeline.billing.month import BillingMonth
    from pipeline.billing.reconcile import InvoiceComparison
    from pipeline.core.context import App

_MOST_LINES = 20
"""To ask about, on a screen."""

billing_cli = typer.Typer(
    name="billing",
    help="Export billable usage by month, and check invoices against it.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@billing_cli.command(
    short_help="Export a month.", epilog="Example: postroom billing export --month 2026-11 --provisional"
)
def export(
    ctx: typer.Context,
    month: Annotated[str, typer.Option("--month", metavar="YYYY-MM", help="Month, in billing.time_zone.")],
    project: ProjectName = None,
    provisional: Annotated[
        bool, typer.Option("--provisional", help="Export a month that may still change; every file is marked.")
    ] = False,
    form: Annotated[
        str | None, typer.Option("--format", help="focus: also write FOCUS 1.2 as Parquet and CSV; requires prices.")
    ] = None,
) -> int:
    """Write a month's usage as CSV and Parquet, with control totals and corrections to the last export.

    When nothing changed since the last export, there is no new one. With --project: exports of that project alone,
    with numbers of its own.
    """
    from pipeline.billing.export import export_billing

    if form not in {None, "focus"}:
        raise ConfigError(f"--format {form}: there is focus; without it CSV and Parquet are written anyway")
    return run_flow(
        ctx,
        "billing export",
        lambda app: export_billing(
            app, _month(app, month), project=project, provisional=provisional, focus=form == "focus"
        ),
        show_export,
        project=project,
    )


@billing_cli.command(
    short_help="Check an invoice and explain the difference.",
    epilog="Example: postroom billing compare INVOICE.csv --month 2026-11 --column minutes=Billed --output lines.csv",
)
def compare(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="CSV with a header: the vendor's invoice, or the portal's CDR export.")],
    month: Annotated[str, typer.Option("--month", metavar="YYYY-MM", help="Month, in billing.time_zone.")],
    project: ProjectName = None,
    column: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=HEADER", help="Header of minutes, cdr_id, day … in the file; repeatable."),
    ] = None,
    unit: Annotated[
        str, typer.Option(help="Unit: participant_min, sip_min, recording_min or transcoding_min.")
    ] = "participant_min",
    form: RowsForm = None,
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="Write every line to this file.")] = None,
) -> int:
    """Compare an invoice's minutes with ours: by cdr_id, else conf_num, else by day, room, owner and so on.

    Each line is equal, rounding, late, different, missing_here or missing_there; what these explain adds up to the
    difference exactly. Exit code 3 when there is anything that neither rounding nor lateness explains.
    """
    from pipeline.billing.reconcile import compare_invoice
    from pipeline.cli import render
    from pipeline.cli.output import whole_file, write_rows

    given: Options = ctx.obj
    form = output_format(form, output, as_json=given.as_json)
    headers = dict(_named_header(text) for text in column or ())
    with open_run(given, load_options_settings(given)) as app:
        outcome, lines = compare_invoice(app, file, _month(app, month), headers=headers, unit=unit, project=project)
    if output:
        outcome = outcome.with_details(replace(outcome.details, output=str(output)))
        with whole_file(output) as stream:
            write_rows(lines.to_reader(), form, stream)
    if given.as_json:
        unequal = [line for line in lines.to_pylist() if line["verdict"] != "equal"]
        print_json({**outcome.to_dict(), "lines": unequal})
    elif form == "table" or output:
        show_comparison(render.console_for(), outcome, lines)
    else:
        write_rows(lines.to_reader(), form, sys.stdout.buffer)
    return outcome.exit_code


def show_comparison(console: Console, outcome: RunResult[InvoiceComparison], lines: pa.Table) -> None:
    """Differences by verdict, then the unexplained lines, the largest first."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from pipeline.billing.invoice import UNEXPLAINED
    from pipeline.cli import render

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("verdict", "lines", "our minutes", "their minutes", "explains"):
        table.add_column(heading, justify="left" if heading == "verdict" else "right")
    for row in outcome.details.explained:
        minutes = [f"{row['ours']:,}", f"{row['theirs']:,}", f"{row['explains']:+,}"]
        table.add_row(Text(row["verdict"].replace("_", " ")), f"{row['lines']:,}", *minutes)
    console.print(table)
    to_ask = lines.filter(pc.is_in(lines["verdict"], pa.array(UNEXPLAINED)))
    to_ask = to_ask.append_column("size", pc.abs(to_ask["difference_min"])).sort_by([("size", "descending")])
    names = [*outcome.details.by, "ours_min", "theirs_min", "difference_min", "verdict"]
    if to_ask.num_rows:
        shown = to_ask.select(names).slice(0, _MOST_LINES)
        console.print(Text(f"\nunexplained, the largest first, {shown.num_rows:,} of {to_ask.num_rows:,}:"))
        render.show_table(console, shown)
    render.show_failures(console, outcome)
    if output := outcome.details.output:
        console.print(Text(f"every line is in {output}"))


def _named_header(text: str) -> tuple[str, str]:
    name, separator, header = text.partition("=")
    if not separator:
        raise ConfigError(f"--column {text}: write it as NAME=HEADER, such as minutes='Billed Min'")
    return name, header


def show_export(console: Console, outcome: RunResult[ExportSummary | None]) -> None:
    """Sums of the export per project, and its folder."""
    from pipeline.billing.line_items import MEASURES
    from pipeline.cli import render

    render.show_failures(console, outcome)
    summary = outcome.details
    if summary is None:
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("project", overflow="fold")
    names = [*MEASURES, *(["amount"] if any("amount" in sums for sums in summary.projects.values()) else [])]
    for name in names:
        table.add_column(name.replace("_", " "), justify="right")
    for project, sums in summary.projects.items():
        table.add_row(Text(project), *(f"{sums[name]:,}" for name in names))
    console.print(table)
    for project, days in summary.unsettled.items():
        states = ", ".join(f"{len(of_state)} days {state}" for state, of_state in days.items())
        console.print(Text(f"{project}: provisional: {states}", style="yellow"))
    causes = ", ".join(f"{count:,} {cause}" for cause, count in summary.corrections.items())
    what = f"revision {summary.revision} of {summary.month}"
    news = f"{what}, corrections: {causes or 'none'}" if summary.is_new else f"nothing changed since {what}"
    console.print(Text(f"billing export: {news}"))
    if of_class := summary.focus:
        console.print(Text(f"FOCUS: {of_class['usage']:,} rows of usage, {of_class['corrections']:,} corrections"))
    console.print(Text(f"in the lake under {summary.path}"))


def _month(app: App, text: str) -> BillingMonth:
    from pipeline.billing.month import billing_month

    try:
        return billing_month(text, app.settings.billing.time_zone)
    except ValueError as error:
        raise ConfigError(f"--month {error}") from None
