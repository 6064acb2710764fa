"""Split observations of connections into newest and earlier versions (pure)."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.arrow_types import COUNT
from pipeline.tables.normalize.arrow_ops import mask, repeats_before
from pipeline.tables.schemas import CDR_CONTENT

_CONTENT = [column.name for column in CDR_CONTENT]


def split_versions(observations: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Rows of `cdr` and of `cdr_history` from observations sorted by `cdr_id` and `seen_at`, each key whole.

    Both keep the other columns of `observations` (`day`, `stats_quality`) and the order of keys. A version is a series
    of consecutive observations with the same content. Repeats and the number of responses do not matter: of several
    contents with the same `seen_at`, the greatest in byte order is used.
    """
    observations = _one_per_moment(observations)
    count = observations.num_rows
    if not count:
        return _without_rows(observations, "first_seen_at", "changed_at"), _without_rows(
            observations, "known_from", "known_to"
        )
    same_key = repeats_before(observations["cdr_id"])
    starts = ~same_key
    starts[same_key] = _differs(observations, np.flatnonzero(same_key), _CONTENT)
    ends = np.append(starts[1:], True)
    is_newest = np.append(~same_key[1:], True)

    place = np.arange(count)
    of_key = np.maximum.accumulate(np.where(same_key, 0, place))
    of_version = np.maximum.accumulate(np.where(starts, place, 0))
    number = np.cumsum(starts)
    seen_at = observations["seen_at"]

    def versions(chosen: np.ndarray) -> tuple[pa.Table, np.ndarray]:
        at = np.flatnonzero(chosen)
        rows = (observations if len(at) == count else observations.take(pa.array(at))).drop_columns(["seen_at"])
        return rows.append_column("revision", pa.array(number[at] - number[of_key[at]] + 1, COUNT)), at

    newest, at = versions(is_newest)
    newest = newest.append_column("first_seen_at", seen_at.take(pa.array(of_key[at])))
    newest = newest.append_column("changed_at", seen_at.take(pa.array(of_version[at])))
    earlier, at = versions(ends & ~is_newest)
    earlier = earlier.append_column("known_from", seen_at.take(pa.array(of_version[at])))
    earlier = earlier.append_column("known_to", seen_at.take(pa.array(at + 1)))
    return newest, earlier


def _without_rows(observations: pa.Table, *moments: str) -> pa.Table:
    empty = observations.drop_columns(["seen_at"]).append_column("revision", pa.array([], COUNT))
    for name in moments:
        empty = empty.append_column(name, observations["seen_at"])
    return empty


def _one_per_moment(rows: pa.Table) -> pa.Table:
    """One observation per `cdr_id` and `seen_at`."""
    repeats = repeats_before(rows["cdr_id"]) & repeats_before(rows["seen_at"])
    if not repeats.any():
        return rows
    rivals = np.zeros(rows.num_rows, bool)
    rivals[repeats] = _differs(rows, np.flatnonzero(repeats), [*_CONTENT, "stats_quality"])
    if not rivals.any():
        return rows.filter(pa.array(~repeats))
    # Two contents with one `seen_at` are rare enough to compare row by row.
    moment = np.cumsum(~repeats)
    keep = ~repeats
    for number in np.unique(moment[rivals]):
        places = np.flatnonzero(moment == number)
        contents = [msgspec.json.encode(_content(row)) for row in rows.take(pa.array(places)).to_pylist()]
        keep[places] = False
        keep[places[contents.index(max(contents))]] = True
    return rows.filter(pa.array(keep))


def _content(row: dict[str, Any]) -> list[Any]:
    return [*(row[name] for name in _CONTENT), row["stats_quality"]]


def _differs(rows: pa.Table, places: np.ndarray, names: list[str]) -> np.ndarray:
    """For each of `places`, whether the row there differs from the one before it; null equals null."""
    here, before = rows.take(pa.array(places)), rows.take(pa.array(places - 1))
    differs = np.zeros(len(places), bool)
    for name in names:
        left, right = here[name], before[name]
        unequal = pc.fill_null(pc.not_equal(left, right), False)
        differs |= mask(pc.or_(unequal, pc.xor(pc.is_null(left), pc.is_null(right))))
    return differs
