"""Records in suspense of a month: how many there are, what is at stake, and what is decided about them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pyarrow as pa

from pipeline.billing.month import BillingMonth
from pipeline.core.context import App, chosen_projects
from pipeline.core.errors import ConfigError
from pipeline.core.models import DecisionOutcome, Period, Row, RunResult
from pipeline.storage.base import ObjectStore
from pipeline.storage.decisions import DecidedRecord, Decision, write_decision
from pipeline.tables import parquet
from pipeline.tables.batches import SESSION_REACH_DAYS
from pipeline.tables.build import build
from pipeline.tables.suspense import REJECTED

_MAX_NAMED = 5


class SuspenseTotal(msgspec.Struct):
    """Open records with the same reasons, and whole minutes at stake in total, as far as known."""

    records: int
    at_stake_min: Decimal


def read_suspense(lake: ObjectStore, project: str, month: BillingMonth) -> list[Row]:
    """Rows of table `suspense` of one project that began in a month, open and decided; sorted by day and id."""
    rows = parquet.read_arrow("suspense", month.partition_days, project=project, lake=lake)
    return [row for row in rows.to_pylist() if month.begins_at <= _began_at(row) < month.ends_at]


def suspense_totals(rows: Sequence[Row]) -> dict[str, SuspenseTotal]:
    """Open records by reasons, sorted."""
    totals: dict[str, SuspenseTotal] = {}
    for row in rows:
        if row["decision"] == "open":
            total = totals.setdefault(row["reasons"], SuspenseTotal(0, Decimal(0)))
            total.records += 1
            total.at_stake_min += row["at_stake_min"] or 0
    return dict(sorted(totals.items()))


def suspense_text(totals: dict[str, SuspenseTotal], month: BillingMonth) -> str:
    """Error text: what is in suspense, and the next steps."""
    records, minutes = sum(total.records for total in totals.values()), _minutes(totals)
    parts = [f"{total.records:,} {reasons}" for reasons, total in totals.items()]
    return (
        f"{records:,} records in suspense, {minutes:,} minutes at stake ({'; '.join(parts)});"
        f" see `postroom billing suspense list --month {month}`, release or exclude them, or use --accept-suspense"
    )


def _minutes(totals: dict[str, SuspenseTotal]) -> Decimal:
    return sum((total.at_stake_min for total in totals.values()), Decimal(0)).quantize(Decimal(1))


def _began_at(row: Row) -> datetime:
    day: date = row["day"]
    began_at: datetime = row["began_at"] or datetime(day.year, day.month, day.day, tzinfo=UTC)
    return began_at


@dataclass(frozen=True)
class SuspenseRecords:
    """Records in suspense as the result contains them: id, project, reasons, minutes at stake, decision, source."""

    records: list[Row]
    decided: str | None = None


_LISTED = (
    "suspense_id", "project", "day", "conf_num", "owner_ref", "reasons", "detail", "is_held", "at_stake_min",
    "began_at", "source_key", "ordinal", "decision", "decided_at", "decided_because",
)  # fmt: skip


@dataclass(frozen=True)
class SuspenseFilter:
    """Records of a month, of a project, with one of the ids, with a reason; open ones only unless `decided`."""

    month: BillingMonth | None = None
    project: str | None = None
    ids: tuple[str, ...] = ()
    reason: str | None = None
    decided: bool = False


def list_suspense(app: App, wanted: SuspenseFilter) -> RunResult[SuspenseRecords]:
    """Records in suspense, sorted by project, day and id."""
    outcome = RunResult[SuspenseRecords]("billing suspense list")
    rows = _matching(app, wanted)
    outcome.add_success(max(1, len(rows)), records=len(rows))
    return outcome.with_details(SuspenseRecords(rows))


def decide_suspense(
    app: App, wanted: SuspenseFilter, outcome: DecisionOutcome, because: str
) -> RunResult[SuspenseRecords]:
    """Decide open records, store the decision as a fact, and build their days again.

    Raises:
        ConfigError: no record matches, no reason is given, an id is unknown, or a reject is to be released.
    """
    result = RunResult[SuspenseRecords](f"billing suspense {outcome.removesuffix('d')}")
    if not because.strip():
        raise ConfigError("--because: state why; the text is kept with the decision")
    if not (wanted.ids or wanted.reason):
        raise ConfigError("name the records: ids, or --reason; `postroom billing suspense list` shows them")
    rows = _matching(app, wanted)
    _require_decidable(wanted, rows, outcome)
    for project in dict.fromkeys(row["project"] for row in rows):
        of_project = [row for row in rows if row["project"] == project]
        records = tuple(
            DecidedRecord(row["suspense_id"], row["day"], row["reasons"], row["at_stake_min"]) for row in of_project
        )
        write_decision(
            app.lake,
            project,
            Decision(decided_at=app.clock(), outcome=outcome, because=because.strip(), records=records),
        )
        days = [row["day"] for row in of_project]
        result.merge(build(app, Period(min(days), max(days)).widened(SESSION_REACH_DAYS), project=project))
    result.add_success(len(rows), decided=len(rows))
    return result.with_details(SuspenseRecords(rows, outcome))


def _require_decidable(wanted: SuspenseFilter, rows: Sequence[Row], outcome: DecisionOutcome) -> None:
    unknown = set(wanted.ids) - {row["suspense_id"] for row in rows}
    if unknown:
        names = ", ".join(sorted(unknown)[:_MAX_NAMED])
        raise ConfigError(f"not open in suspense: {names}; `postroom billing suspense list --all` shows all records")
    if not rows:
        raise ConfigError("no open record in suspense matches; `postroom billing suspense list` shows them")
    rejected = [row["suspense_id"] for row in rows if row["reasons"] == REJECTED]
    if rejected and outcome == "released":
        names = ", ".join(rejected[:_MAX_NAMED])
        raise ConfigError(f"{names}: no row could be made of this document, so it cannot be billed; exclude it instead")


def _matching(app: App, wanted: SuspenseFilter) -> list[Row]:
    matches: list[Callable[[Row], bool]] = [
        lambda row: wanted.decided or row["decision"] == "open",
        lambda row: not wanted.ids or row["suspense_id"] in wanted.ids,
        lambda row: not wanted.reason or wanted.reason in row["reasons"].split(", "),
    ]
    rows: list[Any] = []
    for project in chosen_projects(app.settings, wanted.project):
        for row in _rows(app.lake, project, wanted.month):
            if all(match(row) for match in matches):
                rows.append({name: row[name] for name in _LISTED})
    return rows


def _rows(lake: ObjectStore, project: str, month: BillingMonth | None) -> list[Row]:
    if month:
        return read_suspense(lake, project, month)
    rows: pa.Table = parquet.read_arrow("suspense", project=project, lake=lake)
    listed: list[Row] = rows.to_pylist()
    return listed
