"""Corrections between two revisions of a billing export, per line, with the items that caused them (pure).

Lines and items of the earlier revision count negative, those of the new one positive; a sum other than 0 is a
correction. So the earlier lines plus the corrections are exactly the new lines.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.billing.line_items import LINE_KEY, MEASURES, key_text, summed
from pipeline.core.arrow_types import TEXT, TIME
from pipeline.core.settings.prices import AMOUNTS, UNIT_AMOUNTS
from pipeline.tables.normalize.arrow_ops import decimals, mask, unscaled

CORRECTIONS = pa.schema(
    [*LINE_KEY.items(), ("kind", TEXT), ("item", TEXT), ("conf_num", TEXT), ("cause", TEXT), *MEASURES.items()]
)
_ITEM_KEY = [*LINE_KEY, "kind", "item", "conf_num"]
_ITEM_ID = ("project", "kind", "item")
"""Columns that identify an item: IDs are unique per project and kind."""


def line_differences(before: pa.Table, now: pa.Table) -> pa.Table:
    """Keys and signed differences of the lines of two revisions that differ; sorted by key."""
    return differences(before, now, list(LINE_KEY), MEASURES)


def item_corrections(before: pa.Table, now: pa.Table, known_until: Mapping[str, datetime | None]) -> pa.Table:
    """Signed differences of the items of two revisions, each with its cause.

    `known_until`: per project, the latest time in the data of the earlier revision. Causes: `late` (first collected
    after it), `corrected` (changed after it), `repaired` (collected before it, but a row only now: it was a reject, or
    its day was not built), `recounted` (the connection is unchanged; its recording was listed since, or a setting
    changed), `gone`.
    """
    changed = differences(before, now, _ITEM_KEY, MEASURES)
    seen = (
        now.select(["first_seen_at", "changed_at"])
        .append_column("item_id", key_text(now, _ITEM_ID))
        .group_by("item_id")
        .aggregate([("first_seen_at", "min"), ("changed_at", "max")])
    )
    item_ids = key_text(changed, _ITEM_ID).combine_chunks()
    at = pc.index_in(item_ids, seen["item_id"].combine_chunks())
    first_seen_at, changed_at = (
        seen[name].combine_chunks().take(at) for name in ("first_seen_at_min", "changed_at_max")
    )
    is_now = mask(pc.is_valid(at))
    was_before = mask(pc.is_in(item_ids, key_text(before, _ITEM_ID).combine_chunks()))
    projects = pa.array(list(known_until), TEXT)
    limits = pa.array(known_until.values(), TIME).take(pc.index_in(changed["project"].combine_chunks(), projects))
    is_late, has_changed = (
        mask(pc.fill_null(pc.greater(times, limits), False)) for times in (first_seen_at, changed_at)
    )
    is_late |= mask(pc.is_null(limits))
    is_connection = mask(pc.equal(changed["kind"], "connection").combine_chunks())
    cause = np.select(
        [~is_now, was_before & has_changed, was_before, is_late | ~is_connection],
        ["gone", "corrected", "recounted", "late"],
        "repaired",
    )
    columns = {**{name: changed[name] for name in changed.schema.names}, "cause": pa.array(cause.astype(object), TEXT)}
    return pa.table([columns[name] for name in CORRECTIONS.names], schema=CORRECTIONS)


def with_amounts(
    corrected: pa.Table, lines_before: pa.Table, lines_now: pa.Table, repriced: Collection[str]
) -> pa.Table:
    """Corrections with signed `AMOUNTS` and `currency`, unless neither revision has amounts; sorted by key.

    The amount of an item is its share of the amount of its line, in the new revision, or in the earlier one if the new
    line has nothing of the unit. The rest of the difference of a line is one more row of kind `amount`; its cause is
    `repriced` for projects whose prices changed, else `apportioned`: the quantity of the month is in other tiers, or
    the last digit was rounded differently. If the currency changed, the earlier amounts are reversed in their currency.
    """
    scales = [lines["amount"].type.scale for lines in (lines_before, lines_now) if "amount" in lines.schema.names]
    if not scales:
        return corrected
    kind = pa.decimal128(18, max(scales))
    before, now = _amounts_of(lines_before, kind), _amounts_of(lines_now, kind)
    items = _item_amounts(corrected, before, now, kind)
    key, added = [*LINE_KEY, "currency"], dict.fromkeys(AMOUNTS, kind)
    explained = pa.concat_tables([rows.select([*key, *AMOUNTS]) for rows in (before, items)])
    rest = differences(explained, now, key, added)
    is_repriced = pc.is_in(rest["project"], pa.array(sorted(repriced), TEXT))
    values = {
        **{name: rest[name] for name in rest.schema.names},
        "kind": pa.repeat(pa.scalar("amount", TEXT), rest.num_rows),
        "cause": pc.if_else(is_repriced, "repriced", "apportioned"),
        **{name: pa.repeat(pa.scalar(0, kind), rest.num_rows) for name, kind in MEASURES.items()},
    }
    columns = [values.get(field.name, pa.nulls(rest.num_rows, field.type)) for field in items.schema]
    rows = pa.concat_tables([items, pa.table(columns, schema=items.schema)])
    return rows.sort_by([(name, "ascending") for name in _ITEM_KEY])


def _amounts_of(lines: pa.Table, kind: pa.Decimal128Type) -> pa.Table:
    """Lines with amounts of this type; missing amounts are 0."""
    for name in AMOUNTS:
        none = pa.nulls(lines.num_rows, kind)
        amounts = lines[name].cast(kind) if name in lines.schema.names else none
        lines = lines.drop_columns([name] if name in lines.schema.names else [])
        lines = lines.append_column(name, pc.fill_null(amounts, pa.scalar(Decimal(0), kind)))
    currency = lines["currency"] if "currency" in lines.schema.names else pa.nulls(lines.num_rows, TEXT)
    return lines.select([*LINE_KEY, *MEASURES, *AMOUNTS]).append_column("currency", currency)


def _item_amounts(corrected: pa.Table, before: pa.Table, now: pa.Table, kind: pa.Decimal128Type) -> pa.Table:
    """The corrections, each with its share of the amounts of its line, rounded to the smallest unit."""
    currency = next((text for lines in (now, before) for text in lines["currency"].to_pylist() if text), None)
    lines = pa.concat_tables([now, before])
    lines = lines.filter(pc.equal(lines["currency"], pa.scalar(currency, TEXT)))
    line_keys, sums = key_text(corrected).combine_chunks(), np.zeros(corrected.num_rows, object)
    for unit, name in UNIT_AMOUNTS.items():
        used = lines.filter(pc.greater(lines[unit], pa.scalar(0, MEASURES[unit])))
        at = pc.index_in(line_keys, key_text(used).combine_chunks())
        has_line, at = mask(pc.is_valid(at)), pc.fill_null(at, 0).to_numpy()
        amounts = np.zeros(corrected.num_rows, object)
        changed = unscaled(corrected[unit]).astype(object)[has_line]
        quantity, amount = (unscaled(used[column]).astype(object)[at[has_line]] for column in (unit, name))
        amounts[has_line] = (2 * changed * amount + quantity) // (2 * quantity)
        sums += amounts
        corrected = corrected.append_column(name, _decimals(amounts, kind))
    corrected = corrected.append_column("amount", _decimals(sums, kind))
    return corrected.append_column("currency", pa.repeat(pa.scalar(currency, TEXT), corrected.num_rows))


def _decimals(units: np.ndarray, kind: pa.Decimal128Type) -> pa.Array:
    return decimals(units.astype(np.int64), kind)


def differences(before: pa.Table, now: pa.Table, keys: list[str], added: Mapping[str, pa.DataType]) -> pa.Table:
    """`now` minus `before`, summed by key; only keys that differ, sorted."""
    names = [*keys, *added]
    earlier = pa.table([pc.negate(before[name]) if name in added else before[name] for name in names], names=names)
    sums = summed(pa.concat_tables([now.select(names), earlier]), keys, added)
    differs = np.zeros(sums.num_rows, bool)
    for name, kind in added.items():
        differs |= mask(pc.not_equal(sums[name], pa.scalar(0, kind)))
    return sums.filter(pa.array(differs))
