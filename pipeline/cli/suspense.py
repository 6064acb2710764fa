"""`postroom billing suspense …`: records that are in doubt, and decisions about them (docs/guide/billing.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from pipeline.cli.options import ProjectName, parse_month, run_flow
from pipeline.core.models import DecisionOutcome, RunResult

if TYPE_CHECKING:
    from pipeline.billing.suspense import SuspenseFilter, SuspenseRecords
    from pipeline.core.context import App

suspense_cli = typer.Typer(
    name="suspense",
    help="List records in suspense, and release or exclude them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_SHOWN = ("suspense_id", "project", "day", "conf_num", "owner_ref", "reasons", "at_stake_min", "decision")

Ids = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Ids of records, as listed.")]
MonthName = Annotated[
    str | None, typer.Option("--month", metavar="YYYY-MM", help="Records of this month, in billing.time_zone.")
]
Reason = Annotated[str | None, typer.Option(help="Records with this reason, such as stay_too_long.")]
Because = Annotated[str, typer.Option(metavar="TEXT", help="Why; kept with the decision.")]


@suspense_cli.command(
    "list",
    short_help="List records in suspense.",
    epilog="Example: postroom billing suspense list --month 2026-11 --reason stay_too_long",
)
def list_(
    ctx: typer.Context,
    month: MonthName = None,
    project: ProjectName = None,
    reason: Reason = None,
    with_decided: Annotated[bool, typer.Option("--all", help="Also list records with a decision.")] = False,
) -> int:
    """List records that were read but are not believed, with the minutes at stake and the document they came from.

    A final export of a month is refused while there are open ones.
    """
    from pipeline.billing.suspense import list_suspense

    return run_flow(
        ctx,
        "billing suspense list",
        lambda app: list_suspense(app, _filter(app, month, project, reason, decided=with_decided)),
        show_suspense,
        project=project,
    )


@suspense_cli.command(
    short_help="Bill records in suspense.",
    epilog="Example: postroom billing suspense release 65ec6b1f0c3a9e0012ab34cd --because 'on call for 30 hours'",
)
def release(
    ctx: typer.Context,
    because: Because,
    ids: Ids = None,
    month: MonthName = None,
    project: ProjectName = None,
    reason: Reason = None,
) -> int:
    """Count the minutes at stake of these records; their days are built again.

    A decision holds for this version of a record. If EnableX changes it, it is open again.
    """
    return _decide(ctx, "released", because, ids, month, project, reason)


@suspense_cli.command(
    short_help="Leave records in suspense off the bill.",
    epilog="Example: postroom billing suspense exclude --reason rejected --month 2026-11 --because 'test traffic'",
)
def exclude(
    ctx: typer.Context,
    because: Because,
    ids: Ids = None,
    month: MonthName = None,
    project: ProjectName = None,
    reason: Reason = None,
) -> int:
    """Count no minutes of these records; their days are built again.

    A decision holds for this version of a record. If EnableX changes it, it is open again.
    """
    return _decide(ctx, "excluded", because, ids, month, project, reason)


def _decide(
    ctx: typer.Context,
    outcome: DecisionOutcome,
    because: str,
    ids: list[str] | None,
    month: str | None,
    project: str | None,
    reason: str | None,
) -> int:
    from pipeline.billing.suspense import decide_suspense

    return run_flow(
        ctx,
        f"billing suspense {'release' if outcome == 'released' else 'exclude'}",
        lambda app: decide_suspense(app, _filter(app, month, project, reason, ids=ids), outcome, because),
        show_suspense,
        project=project,
    )


def _filter(
    app: App,
    month: str | None,
    project: str | None,
    reason: str | None,
    *,
    ids: list[str] | None = None,
    decided: bool = False,
) -> SuspenseFilter:
    from pipeline.billing.suspense import SuspenseFilter

    chosen = parse_month(app, month) if month else None
    return SuspenseFilter(chosen, project, tuple(ids or ()), reason, decided)


def show_suspense(console: Console, outcome: RunResult[SuspenseRecords]) -> None:
    """The records as a table, and what was decided."""
    import pyarrow as pa

    from pipeline.cli import render

    details = outcome.details
    render.show_failures(console, outcome)
    if not details.records:
        console.print("no records in suspense")
        return
    render.show_table(console, pa.Table.from_pylist([{name: row[name] for name in _SHOWN} for row in details.records]))
    if details.decided:
        console.print(Text(f"{len(details.records):,} records {details.decided}"))
