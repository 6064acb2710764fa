"""Measured usage of a month, by connection or session, and its reconciliation with an invoice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.billing.invoice import (
    GRACE,
    MEASURED,
    RULES,
    UNEXPLAINED,
    DecimalMark,
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
_MINUTES = ("ours", *RULES)
_ITEM_MINUTES = pa.schema([*(ITEMS.field(name) for name in _ITEM_COLUMNS), *((name, BILLED) for name in _MINUTES)])
"""An item and its minutes of the compared unit: as billed, and by each of `RULES`."""

UNITS = ("participant_min", "sip_min", "recording_min", "transcoding_min")
"""Measures of an item that an invoice can contain in minutes."""


def measured_usage(
    lake: ObjectStore,
    projects: Sequence[str],
    month: BillingMonth,
    rounding: Rounding = "ceil_per_connection",
    unit: str = "participant_min",
) -> pa.Table:
    """Rows of `MEASURED` in minutes of one of `UNITS`: connections of the month, and those near its ends that count in
    the month before or after; for transcoding, sessions. Rows with 0 minutes are included only for participant minutes.

    `late_*`: minutes that were collected more than 1 day after the month: of a connection first collected then, unless
    its day was not collected before, or those that a correction added then (removed: negative). No table has the time
    when a session or its recording was first listed, so these are never late.
    """
    measure = _used_sessions if unit == "transcoding_min" else _used_connections
    tables = [measure(lake, project, month, rounding, unit) for project in projects]
    return pa.concat_tables([MEASURED.empty_table(), *tables])


def _used_connections(lake: ObjectStore, project: str, month: BillingMonth, rounding: Rounding, unit: str) -> pa.Table:
    limit = pa.scalar(month.ends_at + GRACE, TIME)
    sessions, adjacent, empty = Sessions(lake, project), (month.previous, month.next), _ITEM_MINUTES.empty_table()
    now, then, near = [empty], [empty], [empty]
    for day in month.partition_days:
        items = partial(_items, sessions=sessions.around(day), project=project, rounding=rounding, unit=unit)
        day_items = [empty]
        for rows in table_day(lake, "cdr", project, day, CDR_COLUMNS):
            day_items.append(items(rows, month=month))
            near += [items(rows, month=other) for other in adjacent if _is_near_end(month, day)]
        now.append(_with_late_times_only(pa.concat_tables(day_items), month))
        for rows in table_day(lake, "cdr_history", project, day, _HISTORY_COLUMNS):
            then.append(items(_versions_at(rows, limit), month=month))
    connections = pa.concat_tables(now)
    late = _late(connections, pa.concat_tables(then))
    return pa.concat_tables([_in_month(connections, late), _elsewhere(pa.concat_tables(near))])


def _used_sessions(lake: ObjectStore, project: str, month: BillingMonth, rounding: Rounding, unit: str) -> pa.Table:
    sessions, adjacent, tables = Sessions(lake, project), (month.previous, month.next), [MEASURED.empty_table()]
    for day in month.partition_days:
        day_sessions = sessions.of(day)
        by_rule = partial(session_items, day_sessions, project)
        tables.append(_in_month(_item_minutes(partial(by_rule, month), rounding, unit), {}))
        for other in adjacent if _is_near_end(month, day) else []:
            tables.append(_elsewhere(_item_minutes(partial(by_rule, other), rounding, unit)))
    rows = pa.concat_tables(tables)
    return rows.set_column(0, "cdr_id", pa.nulls(rows.num_rows, TEXT))


def _is_near_end(month: BillingMonth, day: date) -> bool:
    """Whether rows of a partition day can count in the month before or after."""
    return not month.days[RECORD_REACH_DAYS] <= day <= month.days[-RECORD_REACH_DAYS - 1]


def _items(
    rows: pa.Table, *, sessions: pa.Table, project: str, month: BillingMonth, rounding: Rounding, unit: str
) -> pa.Table:
    """Items of the rows of one partition, as in an export."""
    return _item_minutes(partial(connection_items, rows, sessions, project, month), rounding, unit)


def _item_minutes(by_rule: Callable[[Rounding], pa.Table], rounding: Rounding, unit: str) -> pa.Table:
    """Items as `_ITEM_MINUTES`; those with 0 minutes only for participant minutes. `by_rule`: the same items by any
    rounding, in the same order.
    """
    by_rounding = {rule: by_rule(rule) for rule in RULES.values()}
    items = plain(by_rounding[rounding].select(_ITEM_COLUMNS))
    for name, rule in {"ours": rounding, **RULES}.items():
        items = items.append_column(name, by_rounding[rule][unit])
    return items if unit == "participant_min" else items.filter(pc.greater(items["ours"], 0))


def _with_late_times_only(items: pa.Table, month: BillingMonth) -> pa.Table:
    """The items of a day, with `first_seen_at` null unless they are late."""
    seen = items["first_seen_at"]
    index = items.schema.get_field_index("first_seen_at")
    late = pc.if_else(came_late(seen, month.ends_at), seen, pa.scalar(None, TIME))
    return items.set_column(index, "first_seen_at", late)


def _versions_at(history: pa.Table, time: pa.Scalar) -> pa.Table:
    """The replaced versions that were current at `time`, with the columns of `cdr`."""
    was_current = pc.and_(pc.less_equal(history["known_from"], time), pc.greater(history["known_to"], time))
    rows = history.filter(was_current)
    for name in _SEEN:
        rows = rows.append_column(name, pa.nulls(rows.num_rows, TIME))
    return rows.select(list(CDR_COLUMNS))


def _late(items: pa.Table, then: pa.Table) -> dict[str, np.ndarray]:
    """Late thousandths of a minute of each item, by each of `_MINUTES`; `then`: replaced versions that were current at
    the limit.
    """
    at = pc.index_in(items["item"].combine_chunks(), then["item"].combine_chunks())
    has_changed, is_new = mask(pc.is_valid(at)), mask(pc.is_valid(items["first_seen_at"]))
    late = {}
    for name in _MINUTES:
        minutes = unscaled(items[name])
        earlier = minutes.copy()
        earlier[has_changed] = unscaled(then[name])[at.drop_null().to_numpy()]
        earlier[is_new] = 0
        late[f"late_{name}"] = minutes - earlier
    return late


def _in_month(items: pa.Table, late: Mapping[str, np.ndarray]) -> pa.Table:
    minutes = {name: unscaled(items[name]) for name in _MINUTES}
    return _rows(items, here=np.ones(items.num_rows, np.int64), **minutes, **late)


def _elsewhere(items: pa.Table) -> pa.Table:
    return _rows(items, elsewhere=np.ones(items.num_rows, np.int64))


def _rows(items: pa.Table, **sums: np.ndarray) -> pa.Table:
    none = np.zeros(items.num_rows, np.int64)
    columns = {name: items[name] for name in _ITEM_COLUMNS}
    columns |= {"cdr_id": items["item"], **{name: pa.array(units) for name, units in sums.items()}}
    return pa.table([columns.get(name, pa.array(none)) for name in MEASURED.names], schema=MEASURED)


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
    decimal: DecimalMark | None = None,
    unit: str = "participant_min",
    project: str | None = None,
) -> tuple[RunResult[InvoiceComparison], pa.Table]:
    """Compare an invoice with measured usage of a unit; unexplained differences are reported as failed."""
    outcome = RunResult("billing compare")
    if unit not in UNITS:
        raise ConfigError(f"--unit {unit}: unknown; valid units: {', '.join(UNITS)}")
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror or error}") from None
    invoice = read_invoice(content, file.name, headers, decimal)
    names = chosen_projects(app.settings, project)
    if unit == "transcoding_min" and invoice.by == ("cdr_id",):
        raise ConfigError(
            f"{file.name}: transcoding is compared by session; a column conf_num is needed, and no cdr_id"
        )
    ours = measured_usage(app.lake, names, month, app.settings.billing.rounding, unit)
    lines = compare(ours, invoice)
    rows = summarize_differences(lines)
    outcome.add_success(max(1, lines.num_rows))
    comparison = InvoiceComparison(str(month), names, unit, list(invoice.by), rows)
    unexplained = {row["verdict"]: row["lines"] for row in rows if row["verdict"] in UNEXPLAINED and row["lines"]}
    if unexplained:
        counts = ", ".join(f"{count:,} {verdict.replace('_', ' ')}" for verdict, count in unexplained.items())
        minutes = sum(row["explains"] for row in rows if row["verdict"] in UNEXPLAINED)
        outcome.add_failure(str(month), f"{counts}: {minutes:+,} minutes not explained by rounding or lateness")
    return outcome.with_details(comparison), lines
