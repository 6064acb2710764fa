"""Split observations of connections into newest and earlier versions (pure).

An id that names two different documents of one response names two records: they are numbered, and none is dropped.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.arrow_types import COUNT, FLAG, TEXT, TIME
from pipeline.tables.normalize.arrow_ops import mask, repeats_before
from pipeline.tables.schemas import CDR_CONTENT

_CONTENT = [column.name for column in CDR_CONTENT if column.name != "cdr_id_is_derived"]
"""What makes a version. An id that EnableX adds later is no correction."""

_COMPARED = [*_CONTENT, "stats_quality"]
_TEXTS = sorted(column.name for column in CDR_CONTENT if column.type == TEXT and column.name not in {"cdr_id", "extra"})
IS_REPEATED, IS_REPEATED_IN_SESSION = 1, 2
"""Values of column `repeated`: the id names another record too; and both are of one session, so that one is wrong."""


@dataclass(frozen=True)
class Listings:
    """By response code: when the response was last collected unchanged (milliseconds), and whether it is the newest for
    its requested day."""

    until_ms: np.ndarray
    is_current: np.ndarray


class Versions(NamedTuple):
    """Rows of `cdr` and of `cdr_history`, not yet rated."""

    newest: pa.Table
    earlier: pa.Table


def split_versions(observations: pa.Table, listings: Listings) -> Versions:
    """Versions of observations sorted by `cdr_id` and `seen_at`, each key whole.

    Both results keep the other columns of `observations` (`day`, `stats_quality`, `response`, `ordinal`) and the order
    of keys, and have `repeated`. A version is a series of consecutive observations with the same content. Repeats and
    the number of responses do not matter.
    """
    observations = number_repeated_ids(observations)
    seen = _listing(observations, listings)
    observations = _one_per_moment(observations)
    count = observations.num_rows
    if not count:
        return Versions(
            _without_rows(observations, "first_seen_at", "changed_at", "last_seen_at").append_column(
                "is_listed", pa.array([], FLAG)
            ),
            _without_rows(observations, "known_from", "known_to"),
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
    newest = newest.append_column("last_seen_at", pa.array(seen.until_ms, COUNT, mask=seen.is_current).cast(TIME))
    newest = newest.append_column("is_listed", pa.array(seen.is_current, FLAG))
    earlier, at = versions(ends & ~is_newest)
    earlier = earlier.append_column("known_from", seen_at.take(pa.array(of_version[at])))
    earlier = earlier.append_column("known_to", seen_at.take(pa.array(at + 1)))
    return Versions(newest, earlier)


def _listing(observations: pa.Table, listings: Listings) -> Listings:
    """The listing of each key, over all its observations."""
    starts = np.flatnonzero(~repeats_before(observations["cdr_id"]))
    if not len(starts):
        return Listings(np.zeros(0, np.int64), np.zeros(0, bool))
    codes = observations["response"].to_numpy()
    return Listings(
        np.maximum.reduceat(listings.until_ms[codes], starts),
        np.logical_or.reduceat(listings.is_current[codes], starts),
    )


def _without_rows(observations: pa.Table, *moments: str) -> pa.Table:
    empty = observations.drop_columns(["seen_at"]).append_column("revision", pa.array([], COUNT))
    for name in moments:
        empty = empty.append_column(name, observations["seen_at"])
    return empty


# --- ids that name several records --------------------------------------------------------------------------------


def number_repeated_ids(rows: pa.Table) -> pa.Table:
    """Give different documents of one response different ids: `a`, `a#2`, …; add column `repeated`.

    Records of an id are numbered by `conf_num`, and in one session by `trans_at` and stay, latest and longest first.
    The nth one in each response is a version of the nth record.
    """
    repeated = np.zeros(rows.num_rows, np.int8)
    several = ids_with_rivals(rows)
    if not len(several):
        return rows.append_column("repeated", pa.array(repeated))
    ids = rows["cdr_id"].combine_chunks()
    places = np.flatnonzero(mask(pc.is_in(ids, several)))
    by_id: dict[str, list[tuple[int, dict[str, Any]]]] = defaultdict(list)
    for place, row in zip(places.tolist(), rows.take(pa.array(places)).to_pylist(), strict=True):
        by_id[row["cdr_id"]].append((place, row))
    renamed: list[str] = []
    renamed_places: list[int] = []
    for cdr_id, observed in by_id.items():
        numbers = _record_numbers([row for _, row in observed])
        for (place, _), (number, mark) in zip(observed, numbers, strict=True):
            repeated[place] = mark
            if number > 1:
                renamed_places.append(place)
                renamed.append(f"{cdr_id}#{number}")
    is_renamed = np.zeros(rows.num_rows, bool)
    is_renamed[renamed_places] = True
    in_order = [name for _, name in sorted(zip(renamed_places, renamed, strict=True))]
    ids = pc.replace_with_mask(ids, pa.array(is_renamed), pa.array(in_order, TEXT))
    rows = rows.set_column(rows.schema.get_field_index("cdr_id"), "cdr_id", ids)
    rows = rows.append_column("repeated", pa.array(repeated))
    return rows.take(pc.sort_indices(rows, [("cdr_id", "ascending"), ("seen_at", "ascending")]))


def ids_with_rivals(rows: pa.Table) -> pa.Array:
    """Ids of rows, sorted by `cdr_id` and `seen_at`, of which one moment has different documents."""
    repeats = repeats_before(rows["cdr_id"]) & repeats_before(rows["seen_at"])
    rivals = np.zeros(rows.num_rows, bool)
    if repeats.any():
        rivals[repeats] = _differs(rows, np.flatnonzero(repeats), _COMPARED)
    return rows["cdr_id"].filter(pa.array(rivals)).combine_chunks()


def _record_numbers(observed: Sequence[dict[str, Any]]) -> list[tuple[int, int]]:
    """For each observation of one id, the number of its record and the value of `repeated`."""
    by_response: dict[int, list[int]] = defaultdict(list)
    for place, row in enumerate(observed):
        by_response[row["response"]].append(place)
    sessions = _rival_sessions(observed, by_response.values())
    ranks: list[tuple[int, int]] = [(0, 0)] * len(observed)
    for places in by_response.values():
        of_session: dict[int, list[int]] = defaultdict(list)
        for place in places:
            of_session[sessions[place]].append(place)
        for session, same_session in of_session.items():
            contents = {place: _preference(observed[place]) for place in same_session}
            order = [content for content, _ in groupby(sorted(contents.values(), reverse=True))]
            for place, content in contents.items():
                ranks[place] = (session, order.index(content))
    numbers = {rank: number for number, rank in enumerate(sorted(set(ranks)), 1)}
    is_stated = not observed[0]["cdr_id_is_derived"]

    def mark(rank: tuple[int, int]) -> int:
        if not is_stated or numbers[rank] == 1:
            return 0
        return IS_REPEATED_IN_SESSION if rank[1] else IS_REPEATED

    return [(numbers[rank], mark(rank)) for rank in ranks]


def _rival_sessions(observed: Sequence[dict[str, Any]], responses: Any) -> list[int]:
    """The index of the session of each observation; 0 for all if no response has the id in two sessions."""
    conf_nums = [row["conf_num"] for row in observed]
    if all(len({conf_nums[place] for place in places}) == 1 for places in responses):
        return [0] * len(observed)
    order = sorted(set(conf_nums))
    return [order.index(conf_num) for conf_num in conf_nums]


def _preference(row: dict[str, Any]) -> tuple[datetime, float, list[str], bytes]:
    """What is preferred of two documents with one id: written later, longer, greater by its text, by its bytes."""
    content = msgspec.json.encode([row[name] for name in _COMPARED])
    return (row["trans_at"] or _FIRST, _stay_s(row), [row[name] or "" for name in _TEXTS], content)


_FIRST = datetime.fromisoformat("0001-01-01T00:00:00+00:00")


def _stay_s(row: dict[str, Any]) -> float:
    for side in ("signal", "room"):
        start, end = row[f"{side}_connected_at"], row[f"{side}_disconnected_at"]
        if start and end and end >= start:
            stay: float = (end - start).total_seconds()
            return stay
    return -1.0


def _one_per_moment(rows: pa.Table) -> pa.Table:
    """One observation per `cdr_id` and `seen_at`; of several responses of one moment, the preferred document."""
    repeats = repeats_before(rows["cdr_id"]) & repeats_before(rows["seen_at"])
    if not repeats.any():
        return rows
    rivals = np.zeros(rows.num_rows, bool)
    rivals[repeats] = _differs(rows, np.flatnonzero(repeats), _COMPARED)
    if not rivals.any():
        return rows.filter(pa.array(~repeats))
    # Two responses of one millisecond that differ are rare enough to compare row by row.
    moment = np.cumsum(~repeats)
    keep = ~repeats
    for number in np.unique(moment[rivals]):
        places = np.flatnonzero(moment == number)
        contents = [_preference(row) for row in rows.take(pa.array(places)).to_pylist()]
        keep[places] = False
        keep[places[contents.index(max(contents))]] = True
    return rows.filter(pa.array(keep))


def _differs(rows: pa.Table, places: np.ndarray, names: list[str]) -> np.ndarray:
    """For each of `places`, whether the row there differs from the one before it; null equals null."""
    here, before = rows.take(pa.array(places)), rows.take(pa.array(places - 1))
    differs = np.zeros(len(places), bool)
    for name in names:
        left, right = here[name], before[name]
        unequal = pc.fill_null(pc.not_equal(left, right), False)
        differs |= mask(pc.or_(unequal, pc.xor(pc.is_null(left), pc.is_null(right))))
    return differs
