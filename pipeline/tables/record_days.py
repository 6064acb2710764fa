"""On which day each id of table `cdr` is: an index that shows records which EnableX moved to another day.

A correction can change `trans_date`, and with it the day of a record, by any number of days. A build reads the
responses around the days it builds, so it cannot see that a newer version stands on a distant day. The index finds ids
on two days; both days then read the responses of the other one. It is derived and can be deleted: it is read back from
the tables. Ids are stored as 64-bit hashes, 12 bytes each, one object per month.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import chain, groupby

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.errors import ObjectMissing
from pipeline.storage.base import ObjectStore, read_bytes
from pipeline.storage.keys import day_index_key, moved_days_key, table_key
from pipeline.tables.parquet import list_partitions

MOVED_DAYS = 62
"""Two months: a record that EnableX moves further is found only if both days are built together."""

_ENTRY = np.dtype([("id", "<u8"), ("day", "<i4")])
"""An id and its day, as days since 1970."""

_WORD_BYTES = 8
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_EPOCH = date(1970, 1, 1)

MovedRecords = Mapping[int, Set[date]]
"""All days of each moved record, by the hash of its id."""

EMPTY: MovedRecords = {}

Links = Mapping[date, frozenset[date]]
"""For a day with moved records, all other days on which these were or are."""


def id_hashes(ids: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """A 64-bit hash of each text, the same on every machine. Two of a million texts are equal by chance once in 37
    million cases; that costs time, not correctness."""
    array = ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids
    if not len(array):
        return np.zeros(0, np.uint64)
    _, offset_buffer, content = array.buffers()
    offsets = np.frombuffer(offset_buffer, np.int32)[array.offset : array.offset + len(array) + 1].astype(np.int64)
    sizes = np.diff(offsets)
    width = max(_WORD_BYTES, -(-int(sizes.max()) // _WORD_BYTES) * _WORD_BYTES)
    place = np.arange(width)
    padded = np.zeros((len(array), width), np.uint8)
    inside = place < sizes[:, None]
    padded[inside] = np.frombuffer(content, np.uint8)[(offsets[:-1, None] + place)[inside]] if sizes.any() else 0
    words = padded.view("<u8")
    hashes = sizes.astype(np.uint64)
    for column in range(words.shape[1]):
        mixed = (hashes ^ words[:, column]) * _MULTIPLIER
        mixed ^= mixed >> np.uint64(29)
        hashes = np.where(sizes > column * _WORD_BYTES, mixed, hashes)  # padding depends on the longest of all texts
    return hashes


@dataclass(frozen=True)
class RecordDays:
    """The index of one project in a lake."""

    lake: ObjectStore
    project: str

    def links(self) -> Links:
        """All days with moved records."""
        days: dict[date, set[date]] = defaultdict(set)
        for moved in self._moved().values():
            for day in moved:
                days[day] |= moved - {day}
        return {day: frozenset(others) for day, others in days.items()}

    def _moved(self) -> dict[int, set[date]]:
        """All days of each moved record, by the hash of its id."""
        try:
            return _MOVED.decode(read_bytes(self.lake, moved_days_key(self.project)))
        except (ObjectMissing, msgspec.DecodeError):
            return {}

    def update(self, built: Mapping[date, np.ndarray], moved: MovedRecords = EMPTY) -> set[date]:
        """Replace the ids of built days; return the days between which records were moved and that were not linked yet.

        Ids are compared with those of days up to `MOVED_DAYS` away, or in the same months. `built`: the hashes of each
        day. `moved`: the days of records that are known to have moved, by the hash of their id.
        """
        if not built:
            return set()
        months = sorted({month for day in built for month in _near_months(day)})
        stored = {month: self._stored_month(month) for month in months}
        known_months = [
            np.frombuffer(content, _ENTRY) if content is not None else self._month_of_tables(month)
            for month, content in stored.items()
        ]
        is_other = [~np.isin(entries["day"], [_number(day) for day in built]) for entries in known_months]
        others = [entries[mask] for entries, mask in zip(known_months, is_other, strict=True)]
        entries = np.concatenate([_entries(built), *others])
        entries.sort(order=["id", "day"])
        for month in sorted({_month(day) for day in built}):
            content = _of_month(entries, month)
            if content != stored[month]:
                self.lake.overwrite(day_index_key(self.project, month), [content])
        all_days, new_days = self._moved(), set[date]()
        for record, days in chain(_repeated(entries), moved.items()):
            known = all_days.get(record, set())
            if not days <= known:
                all_days[record] = known | days
                new_days |= all_days[record]
        if new_days:
            self.lake.overwrite(
                moved_days_key(self.project),
                [msgspec.json.encode({record: sorted(all_days[record]) for record in sorted(all_days)})],
            )
        return new_days

    def _stored_month(self, month: date) -> bytes | None:
        """The index of a month; None if there is none, or it is cut."""
        try:
            content = read_bytes(self.lake, day_index_key(self.project, month))
        except ObjectMissing:
            return None
        return content if len(content) % _ENTRY.itemsize == 0 else None

    def _month_of_tables(self, month: date) -> np.ndarray:
        """The entries of a month that the index lacks."""
        days = [day for day in list_partitions(self.lake, "cdr", self.project) if _month(day) == month]
        return _entries({day: self._stored_ids(day) for day in days})

    def _stored_ids(self, day: date) -> np.ndarray:
        try:
            with self.lake.open(table_key("cdr", self.project, day)) as stream:
                return id_hashes(pq.read_table(stream, columns=["cdr_id"])["cdr_id"])
        except ObjectMissing:
            return np.zeros(0, np.uint64)


def _of_month(entries: np.ndarray, month: date) -> bytes:
    first, last = _number(month), _number((month + timedelta(days=31)).replace(day=1))
    inside: np.ndarray = entries[(entries["day"] >= first) & (entries["day"] < last)]
    return inside.tobytes()


_MOVED = msgspec.json.Decoder(dict[int, set[date]])


def _entries(ids: Mapping[date, np.ndarray]) -> np.ndarray:
    entries = np.empty(sum(map(len, ids.values())), _ENTRY)
    entries["id"] = np.concatenate([*ids.values(), np.zeros(0, np.uint64)])
    entries["day"] = np.repeat([_number(day) for day in ids], [len(hashes) for hashes in ids.values()])
    return entries


def _repeated(entries: np.ndarray) -> Iterator[tuple[int, set[date]]]:
    """Ids that are on several days, with these days; entries are sorted by id and day."""
    ids = entries["id"]
    repeats = np.flatnonzero(ids[1:] == ids[:-1])
    places = np.unique(np.concatenate([repeats, repeats + 1]))
    for record, group in groupby(entries[places].tolist(), key=lambda entry: entry[0]):
        days = {_EPOCH + timedelta(days=day) for _, day in group}
        if len(days) > 1:
            yield record, days


def _near_months(day: date) -> set[date]:
    """The months with days up to `MOVED_DAYS` before or after a day."""
    return {_month(day + timedelta(days=distance)) for distance in range(-MOVED_DAYS, MOVED_DAYS + 1)}


def _month(day: date) -> date:
    return day.replace(day=1)


def _number(day: date) -> int:
    return (day - _EPOCH).days
