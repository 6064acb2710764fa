"""What changed from one revision of a billing export to the next: line by line, with the items that caused it (pure).

Lines and items of the earlier revision count negative, those of the new one positive; what does not come to nothing is
a correction. So the earlier lines and the corrections add up to the new lines, exactly.
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
"""What an item is known by: projects, and connections, sessions and files, have ids of their own."""


def line_differences(before: pa.Table, now: pa.Table) -> pa.Table:
    """Lines of two revisions: their keys and signed differences, where there is one; sorted by key."""
    return differences(before, now, list(LINE_KEY), MEASURES)


def item_corrections(before: pa.Table, now: pa.Table, known_until: Mapping[str, datetime | None]) -> pa.Table:
    """Items of the lines that differ, in both revisions: signed differences, each with its cause.

    `known_until`: the newest thing that the earlier revision knew of each project. Causes: `late` (first collected
    after that), `corrected` (changed after that), `repaired` (collected before, and a row only now: it was a reject, or
    its day was not built), `recounted` (the connection is the same; its recording was listed since, or a setting
    changed), `gone`.
    """
    found = differences(before, now, _ITEM_KEY, MEASURES)
    told = (
        now.select(["first_seen_at", "changed_at"])
        .append_column("which", key_text(now, _ITEM_ID))
        .group_by("which")
        .aggregate([("first_seen_at", "min"), ("changed_at", "max")])
    )
    which = key_text(found, _ITEM_ID).combine_chunks()
    at = pc.index_in(which, told["which"].combine_chunks())
    first_seen_at, changed_at = (
        told[name].combine_chunks().take(at) for name in ("first_seen_at_min", "changed_at_max")
    )
    is_now = mask(pc.is_valid(at))
    was_before = mask(pc.is_in(which, key_text(before, _ITEM_ID).combine_chunks()))
    projects = pa.array(list(known_until), TEXT)
    known = pa.array(known_until.values(), TIME).take(pc.index_in(found["project"].combine_chunks(), projects))
    is_late, has_changed = (
        mask(pc.fill_null(pc.greater(moments, known), False)) for moments in (first_seen_at, changed_at)
    )
    is_late |= mask(pc.is_null(known))
    is_connection = mask(pc.equal(found["kind"], "connection").combine_chunks())
    cause = np.select(
        [~is_now, was_before & has_changed, was_before, is_late | ~is_connection],
        ["gone", "corrected", "recounted", "late"],
        "repaired",
    )
    columns = {**{name: found[name] for name in found.schema.names}, "cause": pa.array(cause.astype(object), TEXT)}
    return pa.table([columns[name] for name in CORRECTIONS.names], schema=CORRECTIONS)


def with_amounts(
    corrected: pa.Table, lines_before: pa.Table, lines_now: pa.Table, repriced: Collection[str]
) -> pa.Table:
    """Corrections with signed `AMOUNTS` and `currency`, unless neither revision has amounts; sorted by key.

    An item's amount is its part of its line's: of the new revision, or of the earlier one where nothing of the unit is
    left. What else differs in a line, by no item, is one more row of kind `amount`; its cause is `repriced` for the
    projects whose prices are others now, else `apportioned`: the month's quantity lies elsewhere in the tiers, or the
    last digit was rounded elsewhere. Where the currency changed, the earlier amounts are taken back in theirs.
    """
    scales = [lines["amount"].type.scale for lines in (lines_before, lines_now) if "amount" in lines.schema.names]
    if not scales:
        return corrected
    kind = pa.decimal128(18, max(scales))
    before, now = _amounts_of(lines_before, kind), _amounts_of(lines_now, kind)
    items = _item_amounts(corrected, before, now, kind)
    key, added = [*LINE_KEY, "currency"], dict.fromkeys(AMOUNTS, kind)
    explained = pa.concat_tables([one.select([*key, *AMOUNTS]) for one in (before, items)])
    rest = differences(explained, now, key, added)
    is_repriced = pc.is_in(rest["project"], pa.array(sorted(repriced), TEXT))
    known = {
        **{name: rest[name] for name in rest.schema.names},
        "kind": pa.repeat(pa.scalar("amount", TEXT), rest.num_rows),
        "cause": pc.if_else(is_repriced, "repriced", "apportioned"),
        **{name: pa.repeat(pa.scalar(0, kind), rest.num_rows) for name, kind in MEASURES.items()},
    }
    columns = [known.get(field.name, pa.nulls(rest.num_rows, field.type)) for field in items.schema]
    rows = pa.concat_tables([items, pa.table(columns, schema=items.schema)])
    return rows.sort_by([(name, "ascending") for name in _ITEM_KEY])


def _amounts_of(lines: pa.Table, kind: pa.Decimal128Type) -> pa.Table:
    """Lines with amounts of this type, 0 where there are none."""
    for name in AMOUNTS:
        none = pa.nulls(lines.num_rows, kind)
        amounts = lines[name].cast(kind) if name in lines.schema.names else none
        lines = lines.drop_columns([name] if name in lines.schema.names else [])
        lines = lines.append_column(name, pc.fill_null(amounts, pa.scalar(Decimal(0), kind)))
    currency = lines["currency"] if "currency" in lines.schema.names else pa.nulls(lines.num_rows, TEXT)
    return lines.select([*LINE_KEY, *MEASURES, *AMOUNTS]).append_column("currency", currency)


def _item_amounts(corrected: pa.Table, before: pa.Table, now: pa.Table, kind: pa.Decimal128Type) -> pa.Table:
    """The corrections, each with its part of the amounts of its line, to the nearest smallest unit."""
    currency = next((text for lines in (now, before) for text in lines["currency"].to_pylist() if text), None)
    lines = pa.concat_tables([now, before])
    lines = lines.filter(pc.equal(lines["currency"], pa.scalar(currency, TEXT)))
    wanted, sums = key_text(corrected).combine_chunks(), np.zeros(corrected.num_rows, object)
    for unit, name in UNIT_AMOUNTS.items():
        used = lines.filter(pc.greater(lines[unit], pa.scalar(0, MEASURES[unit])))
        at = pc.index_in(wanted, key_text(used).combine_chunks())
        is_known, at = mask(pc.is_valid(at)), pc.fill_null(at, 0).to_numpy()
        amounts = np.zeros(corrected.num_rows, object)
        changed = unscaled(corrected[unit]).astype(object)[is_known]
        quantity, amount = (unscaled(used[column]).astype(object)[at[is_known]] for column in (unit, name))
        amounts[is_known] = (2 * changed * amount + quantity) // (2 * quantity)
        sums += amounts
        corrected = corrected.append_column(name, _decimals(amounts, kind))
    corrected = corrected.append_column("amount", _decimals(sums, kind))
    return corrected.append_column("currency", pa.repeat(pa.scalar(currency, TEXT), corrected.num_rows))


def _decimals(units: np.ndarray, kind: pa.Decimal128Type) -> pa.Array:
    return decimals(units.astype(np.int64), kind)


def differences(before: pa.Table, now: pa.Table, keys: list[str], added: Mapping[str, pa.DataType]) -> pa.Table:
    """The sums by key that make of `before` what `now` is, signed; none where nothing differs; in order of keys."""
    names = [*keys, *added]
    earlier = pa.table([pc.negate(before[name]) if name in added else before[name] for name in names], names=names)
    sums = summed(pa.concat_tables([now.select(names), earlier]), keys, added)
    differs = np.zeros(sums.num_rows, bool)
    for name, kind in added.items():
        differs |= mask(pc.not_equal(sums[name], pa.scalar(0, kind)))
    return sums.filter(pa.array(differs))
