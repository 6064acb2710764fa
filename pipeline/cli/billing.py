"""`postroom billing …`: numbered monthly exports, and comparison of invoices (docs/guide/billing.md)."""

from __future__ import annotations

import sys
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

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
    parse_choice,
    parse_month,
    print_json,
    run_flow,
)
from pipeline.cli.suspense import suspense_cli
from pipeline.core.errors import ConfigError
from pipeline.core.models import RunResult

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.billing.export import ExportSummary
    from pipeline.billing.reconcile import InvoiceComparison

_MAX_LINES = 20
"""Maximum unexplained lines printed as a table."""

billing_cli = typer.Typer(
    name="billing",
    help="Export billable usage by month, and compare invoices with it.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@billing_cli.command(
    short_help="Export the usage of a month.", epilog="Example: postroom billing export --month 2026-11 --provisional"
)
def export(
    ctx: typer.Context,
    month: Annotated[str, typer.Option("--month", metavar="YYYY-MM", help="Month, in billing.time_zone.")],
    project: ProjectName = None,
    provisional: Annotated[
        bool, typer.Option("--provisional", help="Export a month that is not settled; every file is marked.")
    ] = False,
    accept_suspense: Annotated[
        bool, typer.Option("--accept-suspense", help="Export although records are in suspense; it is recorded.")
    ] = False,
    form: Annotated[
        str | None, typer.Option("--format", help="focus: also write FOCUS 1.2 as Parquet and CSV; requires prices.")
    ] = None,
) -> int:
    """Write a month's usage as CSV and Parquet, with control totals and corrections to the last final export.

    Writes nothing if nothing changed since the last export. With --project, the export contains only that project and
    is numbered separately.
    """
    from pipeline.billing.export import export_billing

    if form not in {None, "focus"}:
        raise ConfigError(f"--format {form}: unknown; use focus. CSV and Parquet are always written")
    return run_flow(
        ctx,
        "billing export",
        lambda app: export_billing(
            app,
            parse_month(app, month),
            project=project,
            provisional=provisional,
            accept_suspense=accept_suspense,
            focus=form == "focus",
        ),
        show_export,
        project=project,
    )


billing_cli.add_typer(suspense_cli)


@billing_cli.command(
    short_help="Collect a month again before its final export.",
    epilog="Example: postroom billing sweep --month 2026-11",
)
def sweep(
    ctx: typer.Context,
    month: Annotated[str, typer.Option("--month", metavar="YYYY-MM", help="Month, in billing.time_zone.")],
    project: ProjectName = None,
) -> int:
    """Collect and build each day of a month that was last collected before the month had settled.

    A final export requires this. `nightly` does it once for the last month; this command does it now, for any month.
    """
    from pipeline.billing.sweep import sweep_month

    return run_flow(
        ctx, "billing sweep", lambda app: sweep_month(app, parse_month(app, month), project=project), project=project
    )


@billing_cli.command(
    short_help="Compare an invoice with measured usage.",
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
    decimal: Annotated[
        str | None, typer.Option(help="Decimal mark of the file: comma or point; the other one separates thousands.")
    ] = None,
    unit: Annotated[
        str, typer.Option(help="Unit: participant_min, sip_min, recording_min or transcoding_min.")
    ] = "participant_min",
    form: RowsForm = None,
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="Write every line to this file.")] = None,
) -> int:
    """Compare an invoice with measured minutes, by cdr_id, else conf_num, else other columns such as day and room.

    Each line is equal, rounding, late, different, missing_here or missing_there; their sums add up to the difference
    exactly. Rounding has a range: the exact minutes, the begun ones and EnableX's own of each connection. Exit code 3
    if a line is explained neither by rounding nor by lateness.
    """
    from pipeline.billing.csv_files import csv_bytes
    from pipeline.billing.reconcile import compare_invoice
    from pipeline.cli import render
    from pipeline.cli.output import whole_file, write_rows

    given: Options = ctx.obj
    form = output_format(form, output, as_json=given.as_json)
    headers = dict(_named_header(text) for text in column or ())
    mark = parse_choice("--decimal", decimal, ("comma", "point"))[0] if decimal else None
    with open_run(given, load_options_settings(given)) as app:
        csv_form = app.settings.billing.csv
        outcome, lines = compare_invoice(
            app, file, parse_month(app, month), headers=headers, decimal=mark, unit=unit, project=project
        )

    def write(stream: IO[bytes]) -> None:
        if form == "csv":
            stream.write(csv_bytes(lines, csv_form))
        else:
            write_rows(lines.to_reader(), form, stream)

    if output:
        outcome = outcome.with_details(replace(outcome.details, output=str(output)))
        with whole_file(output) as stream:
            write(stream)
    if given.as_json:
        unequal = [line for line in lines.to_pylist() if line["verdict"] != "equal"]
        print_json({**outcome.to_dict(), "lines": unequal})
    elif form == "table" or output:
        show_comparison(render.console_for(), outcome, lines)
    else:
        write(sys.stdout.buffer)
    return outcome.exit_code


def show_comparison(console: Console, outcome: RunResult[InvoiceComparison], lines: pa.Table) -> None:
    """Differences by verdict, then the unexplained lines, largest first."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from pipeline.billing.invoice import UNEXPLAINED
    from pipeline.cli import render

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("verdict", "lines", "measured min", "invoiced min", "explains", "outside"):
        table.add_column(heading, justify="left" if heading == "verdict" else "right")
    for row in outcome.details.explained:
        minutes = [f"{row['ours']:,f}", f"{row['theirs']:,f}", f"{row['explains']:+,f}", f"{row['outside']:+,f}"]
        table.add_row(Text(row["verdict"].replace("_", " ")), f"{row['lines']:,}", *minutes)
    console.print(table)
    unexplained = lines.filter(pc.is_in(lines["verdict"], pa.array(UNEXPLAINED)))
    size = pc.abs(unexplained["difference_min"])
    unexplained = unexplained.append_column("size", size).sort_by([("size", "descending")])
    names = [*outcome.details.by, "ours_min", "theirs_min"]
    if unexplained.num_rows:
        largest = unexplained.slice(0, _MAX_LINES)
        limits = zip(largest["expected_low_min"].to_pylist(), largest["expected_high_min"].to_pylist(), strict=True)
        expected = [f"{low:f}" if low == high else f"{low:f} to {high:f}" for low, high in limits]
        shown = largest.select(names).append_column("expected_min", pa.array(expected, pa.string()))
        for name in ("outside_min", "verdict"):
            shown = shown.append_column(name, largest[name])
        console.print(Text(f"\nunexplained, largest first, {shown.num_rows:,} of {unexplained.num_rows:,}:"))
        render.show_table(console, shown)
    render.show_failures(console, outcome)
    if output := outcome.details.output:
        console.print(Text(f"all lines written to {output}"))


def _named_header(text: str) -> tuple[str, str]:
    name, separator, header = text.partition("=")
    if not separator:
        raise ConfigError(f"--column {text}: use the form NAME=HEADER, such as minutes='Billed Min'")
    return name, header


def show_export(console: Console, outcome: RunResult[ExportSummary | None]) -> None:
    """Sums of the export by project, and its path."""
    from pipeline.billing.line_items import MEASURES
    from pipeline.cli import render

    render.show_failures(console, outcome)
    summary = outcome.details
    if summary is None:
        return
    names = [*MEASURES, *(["amount"] if any("amount" in sums for sums in summary.projects.values()) else [])]
    sums = [[project, *(_sum_text(sums[name]) for name in names)] for project, sums in summary.projects.items()]
    render.show_cells(console, ["project", *(name.replace("_", " ") for name in names)], sums)
    for project, days in summary.unsettled.items():
        states = ", ".join(f"{len(days_in_state)} days {state}" for state, days_in_state in days.items())
        console.print(Text(f"{project}: provisional: {states}", style="yellow"))
    for project, totals in summary.suspense.items():
        reasons = ", ".join(f"{total.records:,} {reasons}" for reasons, total in totals.items())
        console.print(Text(f"{project}: in suspense: {reasons}", style="yellow"))
    causes = ", ".join(f"{count:,} {cause}" for cause, count in summary.corrections.items())
    revision = f"revision {summary.revision} of {summary.month}"
    result = f"{revision}, corrections: {causes or 'none'}" if summary.is_new else f"nothing changed since {revision}"
    console.print(Text(f"billing export: {result}"))
    if focus_rows := summary.focus:
        console.print(Text(f"FOCUS: {focus_rows['usage']:,} usage rows, {focus_rows['corrections']:,} corrections"))
    console.print(Text(f"path in the lake: {summary.path}"))


def _sum_text(total: Decimal | int) -> str:
    """With thousands separators, and without an exponent."""
    return f"{total:,}" if isinstance(total, int) else f"{total:,f}"
