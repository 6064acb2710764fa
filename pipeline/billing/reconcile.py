"""Our side of a month: the connections, or sessions, that an invoice is checked against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.billing.invoice import (
    GRACE,
    MEASURED,
    UNEXPLAINED,
    came_late,
    compare,
    read_invoice,
    summarize_differences,
)
from pipeline.billing.line_items import CDR_COLUMNS, ITEMS, connection_items, plain, session_items
from pipeline.billing.month import RECORD_REACH_DAYS, BillingMonth
from pipeline.billing.month_reader import Sessions, table_day
from pipeline.core.arrow_types import BILLED, TEXT, TIME
from pipeline.core.context import App, chosen_projects
from pipeline.core.errors import ConfigError
from pipeline.core.models import RunResult
from pipeline.core.settings.sections import Rounding
from pipeline.storage.base import ObjectStore
from pipeline.tables.normalize.arrow_ops import mask, unscaled

_SEEN = ("first_seen_at", "changed_at")
_HISTORY_COLUMNS = (*(name for name in CDR_COLUMNS if name not in _SEEN), "known_from", "known_to")
_ITEM_COLUMNS = [name for name in ITEMS.names if name in {*MEASURED.names, "item", "first_seen_at"}]
_COUNTED = pa.schema([*(ITEMS.field(name) for name in _ITEM_COLUMNS), pa.field("minutes", BILLED)])
"""An item and its minutes of the unit that is compared."""

UNITS = ("participant_min", "sip_min", "recording_min", "transcoding_min")
"""Of the measures of an item, those that an invoice counts in minutes."""


def measured_usage(
    lake: ObjectStore,
    projects: Sequence[str],
    month: BillingMonth,
    rounding: Rounding = "ceil_per_connection",
    unit: str = "participant_min",
) -> pa.Table:
    """Rows of `OURS`, in minutes of one of `UNITS`: the connections of the month, and those near its ends that count in
    the month before or after; of transcoding the sessions. What comes to nothing counts only in participant minutes.

    Late is what the tables learnt more than a day after the month was over: the minutes of a connection first collected
    then, unless its day was not looked at before, or what a correction added then (took away: negative). When a session
    became known is in no table, nor when it was first recorded.
    """
    side = _sessions_side if unit == "transcoding_min" else _connections_side
    found = [side(lake, project, month, rounding, unit) for project in projects]
    return pa.concat_tables([MEASURED.empty_table(), *found])


def _connections_side(lake: ObjectStore, project: str, month: BillingMonth, rounding: Rounding, unit: str) -> pa.Table:
    over = pa.scalar(month.ends_at + GRACE, TIME)
    sessions, beside, nothing = Sessions(lake, project), _beside(month), _COUNTED.empty_table()
    now, then, near = [nothing], [nothing], [nothing]
    for day in month.partition_days:
        items = partial(_items, day=day, sessions=sessions.around(day), project=project, rounding=rounding, unit=unit)
        of_day = [nothing]
        for rows in table_day(lake, "cdr", project, day, CDR_COLUMNS):
            of_day.append(items(rows, month=month))
            near += [items(rows, month=one) for one in beside if _is_near_end(month, day)]
        now.append(_without_moments_in_time(pa.concat_tables(of_day), month))
        for rows in table_day(lake, "cdr_history", project, day, _HISTORY_COLUMNS):
            then.append(items(_as_known_at(rows, over), month=month))
    connections = pa.concat_tables(now)
    late = _late(connections, pa.concat_tables(then))
    return pa.concat_tables([_counted(connections, late), _elsewhere(pa.concat_tables(near))])


def _sessions_side(lake: ObjectStore, project: str, month: BillingMonth, rounding: Rounding, unit: str) -> pa.Table:
    sessions, beside, found = Sessions(lake, project), _beside(month), [MEASURED.empty_table()]
    for day in month.partition_days:
        of_day = sessions.of(day)
        items = _compared(session_items(of_day, project, month, rounding), unit)
        found.append(_counted(items, np.zeros(items.num_rows, np.int64)))
        for one in beside if _is_near_end(month, day) else []:
            found.append(_elsewhere(_compared(session_items(of_day, project, one, rounding), unit)))
    sides = pa.concat_tables(found)
    return sides.set_column(0, "cdr_id", pa.nulls(sides.num_rows, TEXT))


def _is_near_end(month: BillingMonth, day: date) -> bool:
    """Whether what is filed under a day may count in the month before or after."""
    return not month.days[RECORD_REACH_DAYS] <= day <= month.days[-RECORD_REACH_DAYS - 1]


def _beside(month: BillingMonth) -> list[BillingMonth]:
    """The months before and after."""
    return [
        BillingMonth((month.first - timedelta(days=1)).replace(day=1), month.zone),
        BillingMonth(month.days[-1] + timedelta(days=1), month.zone),
    ]


def _items(
    rows: pa.Table, *, day: date, sessions: pa.Table, project: str, month: BillingMonth, rounding: Rounding, unit: str
) -> pa.Table:
    """What the rows of a day's table come to, as in an export."""
    filed = pa.repeat(pa.scalar(day, pa.date32()), rows.num_rows)
    return _compared(connection_items(rows, filed, sessions, project, month, rounding), unit)


def _compared(items: pa.Table, unit: str) -> pa.Table:
    """Items as `_COUNTED`; those that come to nothing only of participant minutes."""
    if unit != "participant_min":
        items = items.filter(pc.greater(items[unit], 0))
    return plain(items.select([*_ITEM_COLUMNS, unit])).rename_columns(_COUNTED.names)


def _without_moments_in_time(items: pa.Table, month: BillingMonth) -> pa.Table:
    """A day's items, whose `first_seen_at` is left only where they came late."""
    seen = items["first_seen_at"]
    place = items.schema.get_field_index("first_seen_at")
    late = pc.if_else(came_late(seen, month.ends_at), seen, pa.scalar(None, TIME))
    return items.set_column(place, "first_seen_at", late)


def _as_known_at(history: pa.Table, moment: pa.Scalar) -> pa.Table:
    """The versions that were in force at a moment, and are history by now, with the columns of `cdr`."""
    held = pc.and_(pc.less_equal(history["known_from"], moment), pc.greater(history["known_to"], moment))
    rows = history.filter(held)
    for name in _SEEN:
        rows = rows.append_column(name, pa.nulls(rows.num_rows, TIME))
    return rows.select(list(CDR_COLUMNS))


def _late(items: pa.Table, then: pa.Table) -> np.ndarray:
    """How many thousandths of each item were not known when the month was over; `then`: items as they were by then."""
    minutes = unscaled(items["minutes"])
    at = pc.index_in(items["item"].combine_chunks(), then["item"].combine_chunks())
    was_else = mask(pc.is_valid(at))
    earlier = minutes.copy()
    earlier[was_else] = unscaled(then["minutes"])[at.drop_null().to_numpy()]
    earlier[mask(pc.is_valid(items["first_seen_at"]))] = 0
    late: np.ndarray = minutes - earlier
    return late


def _counted(items: pa.Table, late: np.ndarray) -> pa.Table:
    return _rows(items, here=np.ones(items.num_rows, np.int64), ours=unscaled(items["minutes"]), late=late)


def _elsewhere(items: pa.Table) -> pa.Table:
    return _rows(items, elsewhere=np.ones(items.num_rows, np.int64))


def _rows(items: pa.Table, **sums: np.ndarray) -> pa.Table:
    none = np.zeros(items.num_rows, np.int64)
    known = {name: items[name] for name in items.schema.names}
    known |= {"cdr_id": items["item"], **{name: pa.array(units) for name, units in sums.items()}}
    return pa.table([known.get(name, pa.array(none)) for name in MEASURED.names], schema=MEASURED)


@dataclass(frozen=True)
class InvoiceComparison:
    """What explains the difference between an invoice and our minutes; `by`: the columns that lines are joined by."""

    month: str
    projects: list[str]
    unit: str
    by: list[str]
    explained: list[dict[str, Any]]
    output: str | None = None


def compare_invoice(
    app: App,
    file: Path,
    month: BillingMonth,
    *,
    headers: Mapping[str, str],
    unit: str = "participant_min",
    project: str | None = None,
) -> tuple[RunResult[InvoiceComparison], pa.Table]:
    """The vendor's lines of a month against ours of a unit; lines that nothing explains are named as failed."""
    outcome = RunResult("billing compare")
    if unit not in UNITS:
        raise ConfigError(f"--unit {unit}: there are {', '.join(UNITS)}")
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror or error}") from None
    invoice = read_invoice(content, file.name, headers)
    names = chosen_projects(app.settings, project)
    if unit == "transcoding_min" and invoice.by == ("cdr_id",):
        raise ConfigError(f"{file.name}: transcoding is counted by session; it needs a column conf_num and no cdr_id")
    ours = measured_usage(app.lake, names, month, app.settings.billing.rounding, unit)
    lines = compare(ours, invoice)
    found = summarize_differences(lines)
    outcome.add_success(max(1, lines.num_rows))
    comparison = InvoiceComparison(str(month), names, unit, list(invoice.by), found)
    open_lines = {row["verdict"]: row["lines"] for row in found if row["verdict"] in UNEXPLAINED and row["lines"]}
    if open_lines:
        counts = ", ".join(f"{count:,} {verdict.replace('_', ' ')}" for verdict, count in open_lines.items())
        minutes = sum(row["explains"] for row in found if row["verdict"] in UNEXPLAINED)
        outcome.add_failure(str(month), f"{counts}: {minutes:+,} minutes that neither rounding nor lateness explains")
    return outcome.with_details(comparison), lines
