"""`postroom billing …`: numbered exports of what is billed (docs/billing.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.cli.commands import ProjectName, _run
from pipeline.cli.lazy import flows, show
from pipeline.errors import ConfigError
from pipeline.model import Outcome

if TYPE_CHECKING:
    from pipeline.app import App
    from pipeline.reports.billing_month import BillingMonth

billing_cli = typer.Typer(
    name="billing",
    help="What is billed: numbered monthly exports, with corrections to the one before.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@billing_cli.callback()
def _group() -> None:
    """Keeps `export` a command of its own."""


@billing_cli.command(
    short_help="A month as a numbered export.", epilog="Example: postroom billing export --month 2026-11 --provisional"
)
def export(
    ctx: typer.Context,
    month: Annotated[str, typer.Option("--month", metavar="YYYY-MM", help="Month, in billing.time_zone.")],
    project: ProjectName = None,
    provisional: Annotated[
        bool, typer.Option("--provisional", help="Export a month that may still change, and say so in every file.")
    ] = False,
) -> int:
    """A month's usage as CSV and Parquet, with corrections to the last export and control totals; once settled, final.

    When nothing changed since the last export, there is no new one. With --project: exports of that project alone,
    numbered by themselves.
    """
    return _run(
        ctx,
        "billing export",
        lambda app: flows.export_billing(app, _month(app, month), project=project, provisional=provisional),
        show_export,
    )


def show_export(console: Console, outcome: Outcome) -> None:
    """What was exported, per project, and where it is."""
    from pipeline.reports.billing import MEASURES

    show.show_failures(console, outcome)
    told = outcome.details
    if not told:
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("project", overflow="fold")
    names = [*MEASURES, *(["amount"] if any("amount" in sums for sums in told["projects"].values()) else [])]
    for name in names:
        table.add_column(name.replace("_", " "), justify="right")
    for project, sums in told["projects"].items():
        table.add_row(Text(project), *(f"{sums[name]:,}" for name in names))
    console.print(table)
    for project, days in told["unsettled"].items():
        states = ", ".join(f"{len(of_state)} days {state}" for state, of_state in days.items())
        console.print(Text(f"{project}: provisional: {states}", style="yellow"))
    causes = ", ".join(f"{count:,} {cause}" for cause, count in told["corrections"].items())
    what = f"revision {told['revision']} of {told['month']}"
    news = f"{what}, corrections: {causes or 'none'}" if told["is_new"] else f"nothing changed since {what}"
    console.print(Text(f"billing export: {news}"))
    console.print(Text(f"in the lake under {told['under']}"))


def _month(app: App, text: str) -> BillingMonth:
    from pipeline.reports.billing_month import billing_month

    try:
        return billing_month(text, app.settings.billing.time_zone)
    except ValueError as error:
        raise ConfigError(f"--month {error}") from None
