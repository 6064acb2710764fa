"""Connections, transcoded sessions and stored files to what is billed (pure). The rules: docs/guide/billing.md.

Each *item* (a connection, a session, a file) adds to one *line*: a project, billing day, owner, billing code and room.
All measures are decimals, made of whole milliseconds, thousandths of a minute and bytes: sums are exact in any order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.billing.month import RECORD_REACH_DAYS, BillingMonth
from pipeline.core.arrow_types import BILLED, COUNT, FLAG, TEXT, TIME
from pipeline.core.models import STORED
from pipeline.core.settings.sections import Rounding
from pipeline.tables.normalize.arrow_ops import Column, decimals, mask, repeats_before, unscaled

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
}
_NAMED = {"kind": TEXT, "item": TEXT, "conf_num": TEXT}
_KNOWN = {"first_seen_at": TIME, "changed_at": TIME}

ITEMS = pa.schema([*_NAMED.items(), *LINE_KEY.items(), *MEASURES.items(), *_KNOWN.items()])
"""What one connection (`item`: its `cdr_id`), session (`conf_num`) or file (`conf_num/kind/name`) adds to its line."""

REPEATED = ("kind", "project", "owner_ref", "billing_code", "room_id")
"""Of items: texts that many have. In memory each different one is held, looked at and written once."""

ENCODED_ITEMS = pa.schema(
    [field.with_type(pa.dictionary(pa.int32(), TEXT)) if field.name in REPEATED else field for field in ITEMS]
)
"""Items as they are made, with texts that are encoded."""

LINES = pa.schema([*LINE_KEY.items(), *MEASURES.items()])

CDR_COLUMNS = (
    "cdr_id", "conf_num", "trans_at", "is_sip", "room_id", "owner_ref", "billing_code", "room_connected_at",
    "signal_connected_at", "signal_disconnected_at", "participant_s", "connect_billed_min", "first_seen_at",
    "changed_at",
)  # fmt: skip
SESSION_COLUMNS = (
    "conf_num", "room_id", "owner_ref", "billing_code", "first_connected_at", "duration_s", "is_recorded",
    "is_transcoded",
)  # fmt: skip
MEDIA_COLUMNS = ("conf_num", "room_id", "kind", "name", "state", "size_bytes", "stored_at")

_ATTRIBUTION = ("owner_ref", "billing_code", "room_id")
_DAY_MS = 86_400_000
_MINUTE_MS = 60_000


def connection_items(
    rows: pa.Table, partition: Column, sessions: pa.Table, project: str, month: BillingMonth, rounding: Rounding
) -> pa.Table:
    """Connections that began in the month (schema `ENCODED_ITEMS`), in order of `rows`.

    `rows` are `CDR_COLUMNS` of table `cdr`, `partition` the UTC day each is filed under; `sessions` are those of the
    days around. Room columns that a connection lacks come from its session. Columns of `REPEATED` may be encoded.
    """
    rows, days = _begun_in(month, rows, _began_ms(rows, partition))
    at = _found_in(rows["conf_num"], sessions)
    stay_ms = participant_ms(rows)
    billed = _thousandths(rows["connect_billed_min"])
    minutes = billed_minutes(stay_ms, rounding)
    if rounding == "vendor":
        is_stated = pc.is_valid(rows["connect_billed_min"]).to_numpy()
        minutes = np.where(is_stated, billed, minutes)
    is_sip = pc.fill_null(rows["is_sip"], False).to_numpy()
    is_recorded = mask(pc.fill_null(_taken(sessions, "is_recorded", at), False))
    return _items(
        rows.num_rows,
        kind="connection",
        item=rows["cdr_id"],
        conf_num=rows["conf_num"],
        project=project,
        day=days,
        **{name: _own_or_session(rows[name], sessions, name, at) for name in _ATTRIBUTION},
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
    """Transcoded sessions that began in the month: first in to last out, once, however many took part."""
    sessions = sessions.filter(pc.fill_null(sessions["is_transcoded"], False))
    sessions, days = _begun_in(month, sessions, pc.cast(sessions["first_connected_at"], COUNT).to_numpy())
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
    """Files in the vault before the month ended: on the day they were stored; older ones on the first of the month."""
    stored = pc.and_(pc.is_in(media["state"], pa.array(sorted(STORED))), pc.is_valid(media["stored_at"]))
    media = media.filter(pc.and_(stored, pc.less(media["stored_at"], pa.scalar(month.ends_at, TIME))))
    at = _found_in(media["conf_num"], sessions)
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
        **{name: _taken(sessions, name, at) for name in ("owner_ref", "billing_code")},
        room_id=_own_or_session(media["room_id"], sessions, "room_id", at),
        storage_gb_months=decimals(byte_months(sizes, ends_ms - kept_from_ms, ends_ms - begins_ms), GB_MONTHS),
    )


def participant_ms(rows: pa.Table) -> np.ndarray:
    """How long each connection lasted, in whole milliseconds; 0 where it is unknown."""
    ms: np.ndarray = np.rint(pc.fill_null(rows["participant_s"], 0.0).to_numpy() * 1000).astype(np.int64)
    return ms


def billed_minutes(length_ms: np.ndarray, rounding: Rounding) -> np.ndarray:
    """Milliseconds as thousandths of a minute: every begun minute whole; when `exact`, the nearest thousandth."""
    minutes: np.ndarray = (length_ms + 30) // 60 if rounding == "exact" else -(-length_ms // _MINUTE_MS) * 1000
    return minutes


def byte_months(size_bytes: np.ndarray, kept_ms: np.ndarray, month_ms: int) -> np.ndarray:
    """Bytes times the share of the month for which they were kept, to the nearest whole one; by whole seconds."""
    kept_s, month_s = kept_ms // 1000, int(month_ms) // 1000
    whole, rest = np.divmod(size_bytes, month_s)
    shared: np.ndarray = whole * kept_s + (rest * kept_s + month_s // 2) // month_s  # in two steps: 64 bits are enough
    return shared


def aggregate_lines(items: pa.Table) -> pa.Table:
    """Items, or lines of some of them, as lines: one per key, sorted by key."""
    return summed(items, list(LINE_KEY), MEASURES)


def summary(lines: pa.Table) -> pa.Table:
    """Lines, priced or not, per project and owner, in that order."""
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


def key_text(rows: pa.Table, keys: Iterable[str] = tuple(LINE_KEY)) -> pa.ChunkedArray:
    """The key of each row, by default of its line, as one text; for looking up, not for showing."""
    texts = [pc.fill_null(pc.cast(rows[name], TEXT), "") for name in keys]
    return pc.binary_join_element_wise(*texts, "\x1f")


def summed(rows: pa.Table, keys: list[str], added: Mapping[str, pa.DataType]) -> pa.Table:
    """The sums of the columns of `added`, of these types, per key; in order of keys, null last.

    Keys are compared as numbers, and decimals added as whole numbers of their smallest unit, below 2**63: text and
    decimals themselves take several times as long.
    """
    _, firsts, groups = np.unique(_places([rows[name] for name in keys]), return_index=True, return_inverse=True)
    named = plain(rows.select(keys).take(pa.array(firsts)))
    for name, column_type in added.items():
        column, sums = rows[name], np.zeros(len(firsts), np.int64)
        if column.null_count:
            is_known, are_known = mask(pc.is_valid(column)), np.zeros(len(firsts), bool)
            np.add.at(sums, groups[is_known], _whole(column)[is_known])
            are_known[groups[is_known]] = True
            sums_or_null = pc.if_else(pa.array(are_known), _of_whole(sums, column_type), pa.scalar(None, column_type))
        else:
            np.add.at(sums, groups, _whole(column))
            sums_or_null = _of_whole(sums, column_type)
        named = named.append_column(name, sums_or_null)
    return named


def _places(columns: Iterable[Column]) -> np.ndarray:
    """A number for each row: equal for equal values of the columns, and in their order."""
    places, count = np.zeros(1, np.int64), 1
    for column in columns:
        encoded = _encoded(column)
        order = pc.sort_indices(encoded.dictionary).to_numpy()
        ranks = np.full(len(order) + 1, len(order))  # the last one is null's
        ranks[order] = np.cumsum(~repeats_before(encoded.dictionary.take(pa.array(order)))) - 1
        if count * len(ranks) > np.iinfo(np.int64).max:
            distinct, places = np.unique(places, return_inverse=True)
            count = len(distinct)
        of_rows = ranks[pc.fill_null(encoded.indices, len(order)).to_numpy()]
        places, count = places * len(ranks) + of_rows, count * len(ranks)
    return places


def _encoded(column: Column) -> pa.DictionaryArray:
    """One array, encoded unless it is already."""
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return whole if pa.types.is_dictionary(whole.type) else whole.dictionary_encode()


def plain(rows: pa.Table) -> pa.Table:
    """The same rows with texts that are not encoded."""
    kinds = [field.type.value_type if pa.types.is_dictionary(field.type) else field.type for field in rows.schema]
    return rows.cast(pa.schema(list(zip(rows.schema.names, kinds, strict=True))))


def _whole(column: Column) -> np.ndarray:
    return unscaled(column) if pa.types.is_decimal(column.type) else column.to_numpy()


def _of_whole(numbers: np.ndarray, column_type: pa.DataType) -> pa.Array:
    return decimals(numbers, column_type) if pa.types.is_decimal(column_type) else pa.array(numbers, column_type)


def _begun_in(month: BillingMonth, rows: pa.Table, began_ms: np.ndarray) -> tuple[pa.Table, pa.Array]:
    """The rows that began in the month, and their billing days."""
    numbers = month.day_numbers(began_ms)
    inside = numbers >= 0
    if not inside.all():  # of most days all are; taking them out would copy every column
        rows, numbers = rows.filter(pa.array(inside)), numbers[inside]
    return rows, month.dates(numbers)


def _began_ms(rows: pa.Table, partition: Column) -> np.ndarray:
    """When each connection began, as `participant_s` counts it; where that is unknown or far from its record, that."""
    filed_ms = pc.cast(partition, pa.int32()).to_numpy().astype(np.int64) * _DAY_MS
    by_signal = pc.and_(pc.is_valid(rows["signal_connected_at"]), pc.is_valid(rows["signal_disconnected_at"]))
    began = pc.if_else(
        by_signal, rows["signal_connected_at"], pc.coalesce(rows["room_connected_at"], rows["signal_connected_at"])
    )
    moments: np.ndarray = filed_ms
    for known in (rows["trans_at"], began):
        known_ms = pc.fill_null(pc.cast(known, COUNT), np.iinfo(np.int64).min // 2).to_numpy()
        is_near = np.abs(known_ms // _DAY_MS - filed_ms // _DAY_MS) <= RECORD_REACH_DAYS
        moments = np.where(is_near, known_ms, moments)
    return moments


def _own_or_session(own: Column, sessions: pa.Table, name: str, at: pa.Array) -> Column:
    """The rows' own values, else those of their sessions."""
    return pc.coalesce(pc.cast(own, TEXT), _taken(sessions, name, at)) if own.null_count else own


def _taken(sessions: pa.Table, name: str, at: pa.Array) -> pa.Array:
    """The value of each row's session; null where it is unknown."""
    return sessions[name].combine_chunks().take(at)


def _found_in(conf_nums: Column, sessions: pa.Table) -> pa.Array:
    """Where the session of each row is; null where it is unknown. The pieces of `sessions` are asked in turn while
    some are unknown, since of each a table of hashes is made."""
    names = conf_nums.combine_chunks()
    at, unknown, before = np.full(len(names), -1), np.arange(len(names)), 0
    for piece in sessions["conf_num"].chunks:
        if not len(unknown):
            break
        wanted = names if len(unknown) == len(names) else names.take(pa.array(unknown))
        found = pc.fill_null(pc.index_in(wanted, piece), -1).to_numpy()
        at[unknown[found >= 0]] = before + found[found >= 0]
        unknown = unknown[found < 0]
        before += len(piece)
    return pa.array(at, mask=at < 0)


def _thousandths(minutes: Column) -> np.ndarray:
    return np.where(mask(pc.is_valid(minutes)), unscaled(minutes), 0)


def _items(count: int, **columns: Any) -> pa.Table:
    """`count` items; columns that are not given are 0, times are null."""
    made = []
    for field in ITEMS:
        value = columns.get(field.name)
        if isinstance(value, str):
            value = pa.DictionaryArray.from_arrays(np.zeros(count, np.int32), [value])
        elif value is None and field.name in MEASURES:
            value = pa.repeat(pa.scalar(0, field.type), count)
        elif value is None:
            value = pa.nulls(count, field.type)
        made.append(_encoded(value) if field.name in REPEATED else value)
    return pa.table(made, schema=ENCODED_ITEMS)
