"""Our connections of a month, as an invoice is held against them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.billing import Sessions, table_day
from pipeline.normalise.arrow import mask, unscaled
from pipeline.reports.billing import CDR_COLUMNS, ITEMS, Rounding, connection_items, plain
from pipeline.reports.billing_month import RECORD_REACH_DAYS, BillingMonth
from pipeline.reports.invoice import GRACE, OURS, came_late
from pipeline.schemas import TIME
from pipeline.store.base import ObjectStore

_SEEN = ("first_seen_at", "changed_at")
_HISTORY_COLUMNS = (*(name for name in CDR_COLUMNS if name not in _SEEN), "known_from", "known_to")
_ITEM_COLUMNS = [name for name in ITEMS.names if name in {*OURS.names, "item", "participant_min", "first_seen_at"}]


def our_connections(
    lake: ObjectStore, projects: Sequence[str], month: BillingMonth, rounding: Rounding = "connection_up"
) -> pa.Table:
    """Rows of `OURS`: the connections of the month, and those near its ends that count in the month before or after.

    Late is what the tables learnt more than a day after the month was over: the minutes of a connection first collected
    then, unless its day was not looked at before, or what a correction added then (took away: negative).
    """
    over = pa.scalar(month.ends_at + GRACE, TIME)
    beside = [
        BillingMonth((month.first - timedelta(days=1)).replace(day=1), month.zone),
        BillingMonth(month.days[-1] + timedelta(days=1), month.zone),
    ]
    nothing = ITEMS.empty_table().select(_ITEM_COLUMNS)
    found = [OURS.empty_table()]
    for project in projects:
        sessions = Sessions(lake, project)
        now, then, near = [nothing], [nothing], [nothing]
        for day in month.partitions:
            around = sessions.around(day)
            items = partial(_items, day=day, sessions=around, project=project, rounding=rounding)
            is_near = not month.days[RECORD_REACH_DAYS] <= day <= month.days[-RECORD_REACH_DAYS - 1]
            of_day = [nothing]
            for rows in table_day(lake, "cdr", project, day, CDR_COLUMNS):
                of_day.append(items(rows, month=month))
                near += [items(rows, month=one) for one in beside if is_near]
            now.append(_without_moments_in_time(pa.concat_tables(of_day), month))
            for rows in table_day(lake, "cdr_changes", project, day, _HISTORY_COLUMNS):
                then.append(items(_as_known_at(rows, over), month=month))
        connections = pa.concat_tables(now)
        late = _late(connections, pa.concat_tables(then))
        found += [_counted(connections, late), _elsewhere(pa.concat_tables(near))]
    return pa.concat_tables(found)


def _items(
    rows: pa.Table, *, day: date, sessions: pa.Table, project: str, month: BillingMonth, rounding: Rounding
) -> pa.Table:
    """What the rows of a day's table come to, as in an export."""
    filed = pa.repeat(pa.scalar(day, pa.date32()), rows.num_rows)
    return plain(connection_items(rows, filed, sessions, project, month, rounding).select(_ITEM_COLUMNS))


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
    minutes = unscaled(items["participant_min"])
    at = pc.index_in(items["item"].combine_chunks(), then["item"].combine_chunks())
    was_else = mask(pc.is_valid(at))
    earlier = minutes.copy()
    earlier[was_else] = unscaled(then["participant_min"])[at.drop_null().to_numpy()]
    earlier[mask(pc.is_valid(items["first_seen_at"]))] = 0
    late: np.ndarray = minutes - earlier
    return late


def _counted(items: pa.Table, late: np.ndarray) -> pa.Table:
    return _rows(items, here=np.ones(items.num_rows, np.int64), ours=unscaled(items["participant_min"]), late=late)


def _elsewhere(items: pa.Table) -> pa.Table:
    return _rows(items, elsewhere=np.ones(items.num_rows, np.int64))


def _rows(items: pa.Table, **sums: np.ndarray) -> pa.Table:
    none = np.zeros(items.num_rows, np.int64)
    known = {name: items[name] for name in items.schema.names}
    known |= {"cdr_id": items["item"], **{name: pa.array(units) for name, units in sums.items()}}
    return pa.table([known.get(name, pa.array(none)) for name in OURS.names], schema=OURS)
