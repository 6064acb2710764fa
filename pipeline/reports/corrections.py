"""What changed from one revision of a billing export to the next: line by line, with the items that caused it (pure).

Lines and items of the earlier revision count negative, those of the new one positive; what does not come to nothing is
a correction. So the earlier lines and the corrections add up to the new lines, exactly.
"""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.normalise.arrow import mask
from pipeline.reports.billing import LINE_KEY, MEASURES, summed
from pipeline.schemas import TEXT, TIME

CORRECTIONS = pa.schema(
    [*LINE_KEY.items(), ("kind", TEXT), ("item", TEXT), ("conf_num", TEXT), ("cause", TEXT), *MEASURES.items()]
)
_ITEM_KEY = [*LINE_KEY, "kind", "item", "conf_num"]


def line_differences(before: pa.Table, now: pa.Table) -> pa.Table:
    """Lines of two revisions: their keys and signed differences, where there is one; in order of key."""
    return _differences(before, now, list(LINE_KEY), MEASURES).sort_by([(name, "ascending") for name in LINE_KEY])


def item_corrections(before: pa.Table, now: pa.Table, known_until: datetime | None) -> pa.Table:
    """Items of the lines that differ, in both revisions: signed differences, each with its cause.

    `known_until`: the newest thing that the earlier revision knew. Causes: `late` (first collected after that),
    `corrected` (changed after that), `repaired` (collected before, and a row only now: it was a reject, or its day was
    not built), `recounted` (the connection is the same; its recording was listed since, or a setting changed), `gone`.
    """
    found = _differences(before, now, _ITEM_KEY, MEASURES)
    told = (
        now.select(["item", "first_seen_at", "changed_at"])
        .group_by("item")
        .aggregate([("first_seen_at", "min"), ("changed_at", "max")])
    )
    at = pc.index_in(found["item"].combine_chunks(), told["item"].combine_chunks())
    first_seen_at, changed_at = (
        told[name].combine_chunks().take(at) for name in ("first_seen_at_min", "changed_at_max")
    )
    is_now = mask(pc.is_valid(at))
    was_before = mask(pc.is_in(found["item"].combine_chunks(), before["item"].combine_chunks()))
    known = pa.scalar(known_until, TIME)
    is_late, has_changed = (
        mask(pc.fill_null(pc.greater(moments, known), False)) for moments in (first_seen_at, changed_at)
    )
    is_connection = mask(pc.equal(found["kind"], "connection").combine_chunks())
    cause = np.select(
        [~is_now, was_before & has_changed, was_before, is_late | ~is_connection],
        ["gone", "corrected", "recounted", "late"],
        "repaired",
    )
    columns = {**{name: found[name] for name in found.schema.names}, "cause": pa.array(cause.astype(object), TEXT)}
    rows = pa.table([columns[name] for name in CORRECTIONS.names], schema=CORRECTIONS)
    return rows.sort_by([(name, "ascending") for name in _ITEM_KEY])


def _differences(before: pa.Table, now: pa.Table, keys: list[str], added: dict[str, pa.DataType]) -> pa.Table:
    names = [*keys, *added]
    earlier = pa.table([pc.negate(before[name]) if name in added else before[name] for name in names], names=names)
    sums = summed(pa.concat_tables([now.select(names), earlier]), keys, added)
    differs = np.zeros(sums.num_rows, bool)
    for name, kind in added.items():
        differs |= mask(pc.not_equal(sums[name], pa.scalar(0, kind)))
    return sums.filter(pa.array(differs))
