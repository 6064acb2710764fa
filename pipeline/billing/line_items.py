"""Convert connections, transcoded sessions and stored files to billed items and lines (pure). Rules:
docs/guide/billing.md.

Each *item* (a connection, a session, a file) adds to one *line*: a project, billing day, owner, billing code and room.
All measures are decimals from whole milliseconds, thousandths of a minute and bytes: sums are exact in any order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.billing.month import BillingMonth
from pipeline.core.arrow_types import BILLED, COUNT, FLAG, TEXT, TIME
from pipeline.core.models import STORED
from pipeline.core.settings.sections import Rounding
from pipeline.tables.normalize.arrow_ops import (
    Column,
    decimals,
    mask,
    number_and_time,
    numbered,
    repeats_before,
    unscaled,
)
from pipeline.tables.normalize.ratings import believed_vendor_minutes

SECONDS = pa.decimal128(18, 3)
GB_MONTHS = pa.decimal128(18, 9)
LINE_KEY = {"project": TEXT, "day": pa.date32(), "owner_ref": TEXT, "billing_code": TEXT, "room_id": TEXT}
MEASURES = {
    "connections": COUNT,
    "participant_s": SECONDS,
    "participant_min": BILLED,
    "sip_min": BILLED,
    "connect_billed_min": BILLED,
    "recording_min": BILLED,
    "transcoding_min": BILLED,
    "storage_gb_months": GB_MONTHS,
    "suspense": COUNT,
    "suspense_min": BILLED,
}
_ITEM = {"kind": TEXT, "item": TEXT, "conf_num": TEXT}
_SEEN = {"first_seen_at": TIME, "changed_at": TIME}

ITEMS = pa.schema([*_ITEM.items(), *LINE_KEY.items(), *MEASURES.items(), *_SEEN.items()])
"""Measures of one connection (`item`: `cdr_id`), session (`conf_num`), file (`conf_num/kind/name`) or record in
suspense (`suspense_id`)."""

REPEATED = ("kind", "project", "owner_ref", "billing_code", "room_id")
"""Text columns of items with few distinct values; dictionary-encoded in memory."""

ENCODED_ITEMS = pa.schema(
    [field.with_type(pa.dictionary(pa.int32(), TEXT)) if field.name in REPEATED else field for field in ITEMS]
)
"""`ITEMS` with dictionary-encoded `REPEATED` columns."""

LINES = pa.schema([*LINE_KEY.items(), *MEASURES.items()])

CDR_COLUMNS = (
    "cdr_id", "conf_num", "began_at", "is_sip", "room_id", "owner_ref", "billing_code", "participant_s",
    "connect_billed_min", "suspense", "first_seen_at", "changed_at",
)  # fmt: skip
SESSION_COLUMNS = (
    "conf_num", "room_id", "owner_ref", "billing_code", "first_connected_at", "duration_s", "is_recorded",
    "is_transcoded",
)  # fmt: skip
MEDIA_COLUMNS = ("conf_num", "room_id", "kind", "name", "session_began_at", "state", "size_bytes", "stored_at")
SUSPENSE_COLUMNS = (
    "suspense_id", "conf_num", "room_id", "owner_ref", "billing_code", "reasons", "at_stake_min", "began_at",
    "decision",
)  # fmt: skip

_ATTRIBUTION = ("owner_ref", "billing_code", "room_id")
_MINUTE_MS = 60_000


def connection_items(
    rows: pa.Table, sessions: pa.Table, project: str, month: BillingMonth, rounding: Rounding
) -> pa.Table:
    """Items of connections that began in the month (schema `ENCODED_ITEMS`), in the order of `rows`.

    `rows`: `CDR_COLUMNS` of table `cdr`. `sessions`: those of the surrounding days, sorted by `conf_num` and start;
    they provide room, owner and billing code that a connection lacks. Columns of `REPEATED` may be encoded. EnableX's
    own minutes count only where they can be believed; with rounding "vendor", measured ones are used elsewhere.
    """
    rows, days = _in_month(month, rows, _ms(rows["began_at"]))
    at = _session_indexes(rows["conf_num"], rows["began_at"], sessions)
    stay_ms = participant_ms(rows)
    is_believed, billed = _vendor_minutes(rows)
    minutes = billed_minutes(stay_ms, rounding)
    if rounding == "vendor":
        minutes = np.where(is_believed, billed, minutes)
    is_sip = pc.fill_null(rows["is_sip"], False).to_numpy()
    is_recorded = mask(pc.fill_null(_session_values(sessions, "is_recorded", at), False))
    return _items(
        rows.num_rows,
        kind="connection",
        item=rows["cdr_id"],
        conf_num=rows["conf_num"],
        project=project,
        day=days,
        **{name: _with_session_values(rows[name], sessions, name, at) for name in _ATTRIBUTION},
        connections=pa.array(np.ones(rows.num_rows, np.int64)),
        participant_s=decimals(stay_ms, SECONDS),
        participant_min=decimals(minutes, BILLED),
        sip_min=decimals(np.where(is_sip, minutes, 0), BILLED),
        connect_billed_min=decimals(billed, BILLED),
        recording_min=decimals(np.where(is_recorded, minutes, 0), BILLED),
        first_seen_at=rows["first_seen_at"],
        changed_at=rows["changed_at"],
    )


def session_items(sessions: pa.Table, project: str, month: BillingMonth, rounding: Rounding) -> pa.Table:
    """Items of transcoded sessions that began in the month: from the first connection to the last disconnection."""
    sessions = sessions.filter(pc.fill_null(sessions["is_transcoded"], False))
    sessions, days = _in_month(month, sessions, _ms(sessions["first_connected_at"]))
    length_ms = np.rint(sessions["duration_s"].to_numpy() * 1000).astype(np.int64)
    return _items(
        sessions.num_rows,
        kind="session",
        item=sessions["conf_num"],
        conf_num=sessions["conf_num"],
        project=project,
        day=days,
        **{name: sessions[name] for name in _ATTRIBUTION},
        transcoding_min=decimals(billed_minutes(length_ms, rounding), BILLED),
    )


def file_items(media: pa.Table, sessions: pa.Table, project: str, month: BillingMonth) -> pa.Table:
    """Items of files in the vault before the end of the month: on the day of storing; older ones on the first day."""
    stored = pc.and_(pc.is_in(media["state"], pa.array(sorted(STORED))), pc.is_valid(media["stored_at"]))
    media = media.filter(pc.and_(stored, pc.less(media["stored_at"], pa.scalar(month.ends_at, TIME))))
    at = _session_indexes(media["conf_num"], media["session_began_at"], sessions)
    begins_ms, ends_ms = month.midnights_ms[0], month.midnights_ms[-1]
    kept_from_ms = np.maximum(pc.cast(media["stored_at"], COUNT).to_numpy(), begins_ms)
    sizes = pc.fill_null(media["size_bytes"], 0).to_numpy()
    return _items(
        media.num_rows,
        kind="file",
        item=pc.binary_join_element_wise(media["conf_num"], media["kind"], media["name"], "/"),
        conf_num=media["conf_num"],
        project=project,
        day=month.dates(month.day_numbers(kept_from_ms)),
        **{name: _session_values(sessions, name, at) for name in ("owner_ref", "billing_code")},
        room_id=_with_session_values(media["room_id"], sessions, "room_id", at),
        storage_gb_months=decimals(byte_months(sizes, ends_ms - kept_from_ms, ends_ms - begins_ms), GB_MONTHS),
    )


def suspense_items(
    suspense: pa.Table, partition: date, sessions: pa.Table, project: str, month: BillingMonth
) -> pa.Table:
    """Items of open records in suspense that began in the month; a record without a begin counts on its partition.

    `sessions` provide room, owner and billing code as for connections, so that both are in the same line.
    """
    midnight = pa.scalar(datetime(partition.year, partition.month, partition.day, tzinfo=UTC), TIME)
    rows, days = _in_month(month, suspense, _ms(pc.fill_null(suspense["began_at"], midnight)))
    is_open = pc.equal(rows["decision"], "open")
    rows, days = rows.filter(is_open), days.filter(is_open.combine_chunks())
    at = _session_indexes(rows["conf_num"], rows["began_at"], sessions)
    return _items(
        rows.num_rows,
        kind="suspense",
        item=rows["suspense_id"],
        conf_num=rows["conf_num"],
        project=project,
        day=days,
        **{name: _with_session_values(rows[name], sessions, name, at) for name in _ATTRIBUTION},
        suspense=pa.array(np.ones(rows.num_rows, np.int64)),
        suspense_min=pc.fill_null(rows["at_stake_min"], pa.scalar(0, BILLED)),
    )


def participant_ms(rows: pa.Table) -> np.ndarray:
    """Duration of each connection in whole milliseconds; 0 if unknown."""
    ms: np.ndarray = np.rint(pc.fill_null(rows["participant_s"], 0.0).to_numpy() * 1000).astype(np.int64)
    return ms


def billed_minutes(length_ms: np.ndarray, rounding: Rounding) -> np.ndarray:
    """Milliseconds as thousandths of a minute, rounded up to full minutes; if `exact`, to the nearest thousandth."""
    minutes: np.ndarray = (length_ms + 30) // 60 if rounding == "exact" else -(-length_ms // _MINUTE_MS) * 1000
    return minutes


def byte_months(size_bytes: np.ndarray, kept_ms: np.ndarray, month_ms: int) -> np.ndarray:
    """Bytes times the share of the month for which they were kept, to the nearest integer; in whole seconds."""
    kept_s, month_s = kept_ms // 1000, int(month_ms) // 1000
    whole, rest = np.divmod(size_bytes, month_s)
    # in two steps, so that 64 bits are enough
    result: np.ndarray = whole * kept_s + (rest * kept_s + month_s // 2) // month_s
    return result


def aggregate_lines(items: pa.Table) -> pa.Table:
    """Aggregate items, or lines of parts of them, to lines: one per key, sorted by key."""
    return summed(items, list(LINE_KEY), MEASURES)


def summary(lines: pa.Table) -> pa.Table:
    """Lines, with or without amounts, summed and sorted by project and owner."""
    keys = [name for name in ("project", "owner_ref", "currency") if name in lines.schema.names]
    added = {field.name: field.type for field in lines.schema if field.name not in {*LINE_KEY, *keys}}
    owners = summed(lines, keys, added)
    return owners.select([name for name in lines.schema.names if name in owners.schema.names])


def totals(rows: pa.Table, columns: Sequence[str] = tuple(MEASURES)) -> dict[str, Any]:
    """The sum of each column; decimals stay decimals."""
    return {name: pc.sum(rows[name], min_count=0).as_py() for name in columns if name in rows.schema.names}


def with_provisional_flag(rows: pa.Table, *, is_provisional: bool) -> pa.Table:
    """The rows with a last column `is_provisional`."""
    return rows.append_column("is_provisional", pa.array(np.full(rows.num_rows, is_provisional), FLAG))


def with_all_measures(rows: pa.Table) -> pa.Table:
    """The rows of an earlier revision, with 0 for measures that its version did not have."""
    for name, kind in MEASURES.items():
        if name not in rows.schema.names:
            rows = rows.append_column(name, pa.repeat(pa.scalar(0, kind), rows.num_rows))
    return rows


def key_text(rows: pa.Table, keys: Iterable[str] = tuple(LINE_KEY)) -> pa.ChunkedArray:
    """The key of each row, by default of its line, as one text; for look-ups, not for output."""
    texts = [pc.fill_null(pc.cast(rows[name], TEXT), "") for name in keys]
    return pc.binary_join_element_wise(*texts, "\x1f")


def summed(rows: pa.Table, keys: list[str], added: Mapping[str, pa.DataType]) -> pa.Table:
    """Sums of the columns of `added`, with these types, per key; sorted by key, null last.

    Keys are compared as numbers, and decimals are added as integers of their smallest unit, below 2**63; text and
    decimals would take several times as long.
    """
    _, firsts, groups = np.unique(_ranks([rows[name] for name in keys]), return_index=True, return_inverse=True)
    result = plain(rows.select(keys).take(pa.array(firsts)))
    for name, column_type in added.items():
        column, sums = rows[name], np.zeros(len(firsts), np.int64)
        if column.null_count:
            is_valid, has_value = mask(pc.is_valid(column)), np.zeros(len(firsts), bool)
            np.add.at(sums, groups[is_valid], _integers(column)[is_valid])
            has_value[groups[is_valid]] = True
            total = pc.if_else(pa.array(has_value), _from_integers(sums, column_type), pa.scalar(None, column_type))
        else:
            np.add.at(sums, groups, _integers(column))
            total = _from_integers(sums, column_type)
        result = result.append_column(name, total)
    return result


def _ranks(columns: Iterable[Column]) -> np.ndarray:
    """A number for each row: equal for equal values of the columns, and sorted like them."""
    numbers, count = np.zeros(1, np.int64), 1
    for column in columns:
        encoded = _encoded(column)
        order = pc.sort_indices(encoded.dictionary).to_numpy()
        ranks = np.full(len(order) + 1, len(order))  # the last one is for null
        ranks[order] = np.cumsum(~repeats_before(encoded.dictionary.take(pa.array(order)))) - 1
        if count * len(ranks) > np.iinfo(np.int64).max:
            distinct, numbers = np.unique(numbers, return_inverse=True)
            count = len(distinct)
        row_ranks = ranks[pc.fill_null(encoded.indices, len(order)).to_numpy()]
        numbers, count = numbers * len(ranks) + row_ranks, count * len(ranks)
    return numbers


def _encoded(column: Column) -> pa.DictionaryArray:
    """The column as one dictionary-encoded array."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return array if pa.types.is_dictionary(array.type) else array.dictionary_encode()


def plain(rows: pa.Table) -> pa.Table:
    """The same rows without dictionary encoding."""
    kinds = [field.type.value_type if pa.types.is_dictionary(field.type) else field.type for field in rows.schema]
    return rows.cast(pa.schema(list(zip(rows.schema.names, kinds, strict=True))))


def _integers(column: Column) -> np.ndarray:
    return unscaled(column) if pa.types.is_decimal(column.type) else column.to_numpy()


def _from_integers(numbers: np.ndarray, column_type: pa.DataType) -> pa.Array:
    return decimals(numbers, column_type) if pa.types.is_decimal(column_type) else pa.array(numbers, column_type)


def _in_month(month: BillingMonth, rows: pa.Table, start_ms: np.ndarray) -> tuple[pa.Table, pa.Array]:
    """The rows that started in the month, and their billing days."""
    numbers = month.day_numbers(start_ms)
    inside = numbers >= 0
    if not inside.all():  # true for most days; filtering would copy every column
        rows, numbers = rows.filter(pa.array(inside)), numbers[inside]
    return rows, month.dates(numbers)


def _ms(times: Column) -> np.ndarray:
    """Times without nulls as milliseconds since 1970."""
    ms: np.ndarray = pc.cast(times, COUNT).to_numpy()
    return ms


def _with_session_values(column: Column, sessions: pa.Table, name: str, at: pa.Array) -> Column:
    """The column, with nulls replaced by the values of the sessions."""
    return pc.coalesce(pc.cast(column, TEXT), _session_values(sessions, name, at)) if column.null_count else column


def _session_values(sessions: pa.Table, name: str, at: pa.Array) -> pa.Array:
    """The value of the session of each row; null if the session is unknown."""
    return sessions[name].combine_chunks().take(at)


def _session_indexes(conf_nums: Column, began_at: Column, sessions: pa.Table) -> pa.Array:
    """Index of the session of each row: the last one of its `conf_num` that began at `began_at` or before.

    Null if unknown. `sessions` are sorted by `conf_num` and start.
    """
    if not sessions.num_rows:
        return pa.nulls(len(conf_nums), pa.int64())
    codes, names = numbered(sessions["conf_num"])
    code_of_row = pc.index_in(conf_nums.combine_chunks(), names)
    of_row = pc.fill_null(code_of_row, -1).to_numpy().astype(np.int64)
    starts, began = _ms(sessions["first_connected_at"]), pc.fill_null(pc.cast(began_at, COUNT), -1).to_numpy()
    at = np.searchsorted(number_and_time(codes, starts), number_and_time(of_row, began), side="right") - 1
    is_known = (of_row >= 0) & (at >= 0) & (codes[at] == of_row)
    return pa.array(at, mask=~is_known)


def _vendor_minutes(rows: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Whether each row has minutes of EnableX that can be believed, and their thousandths, else 0."""
    is_believed = mask(pc.and_(pc.is_valid(rows["connect_billed_min"]), believed_vendor_minutes(rows)))
    return is_believed, np.where(is_believed, unscaled(rows["connect_billed_min"]), 0)


def _items(count: int, **columns: Any) -> pa.Table:
    """`count` items; missing measures are 0, other missing columns null."""
    arrays = []
    for field in ITEMS:
        value = columns.get(field.name)
        if isinstance(value, str):
            value = pa.DictionaryArray.from_arrays(np.zeros(count, np.int32), [value])
        elif value is None and field.name in MEASURES:
            value = pa.repeat(pa.scalar(0, field.type), count)
        elif value is None:
            value = pa.nulls(count, field.type)
        arrays.append(_encoded(value) if field.name in REPEATED else value)
    return pa.table(arrays, schema=ENCODED_ITEMS)
