"""Documents of all replies as records: accepted, numbered, joined, and in versions (rules, sections 2, 3 and 5)."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

from tests.support.oracle import stays
from tests.support.oracle.documents import CONNECT_TIMES, TEXTS, Columns, Rejected, columns, day_of
from tests.support.oracle.inputs import Document, Reply, Rules, StoredReply

IDENTITY = (
    "call_log_id", "call_num", "user_ref", "user_name", "user_ip", "room_id", "signal_connected_at",
    "room_connected_at",
)  # fmt: skip
"""Fields of which two versions of one connection have no two different values."""

HASHED = ("conf_num", "app_id", *IDENTITY)
_NEVER = datetime(1, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Place:
    """A document in a reply: the reply, and its position from 0."""

    stored: StoredReply
    ordinal: int


@dataclass(frozen=True)
class Reject:
    place: Place
    document: Document
    reason: str


@dataclass(frozen=True)
class Observation:
    """A document that is a row, in one reply."""

    place: Place
    row: Columns

    @property
    def seen_at(self) -> datetime:
        return self.place.stored.first_at


@dataclass
class Record:
    """One connection: all observations of it, by time."""

    id: str
    is_derived: bool
    observations: list[Observation]
    reasons: dict[str, bool] = field(default_factory=dict)
    shares_id: bool = False
    """Its id was given to other records too."""

    @property
    def newest(self) -> Columns:
        return self.observations[-1].row

    @property
    def replies(self) -> set[int]:
        return {id(one.place.stored) for one in self.observations}

    @property
    def identity_size(self) -> int:
        return max(sum(one.row[name] is not None for name in IDENTITY) for one in self.observations)


@dataclass(frozen=True)
class Version:
    """Consecutive observations of the same content."""

    revision: int
    row: Columns
    known_from: datetime
    known_to: datetime | None


def observe(replies: Iterable[StoredReply]) -> tuple[list[Observation], list[Reject]]:
    """Every document of the CDR replies as an observation or a reject."""
    seen: list[Observation] = []
    rejects: list[Reject] = []
    for stored in replies:
        for ordinal, one in enumerate(stored.reply.documents):
            place = Place(stored, ordinal)
            try:
                row = _accepted(one, stored.reply)
            except Rejected as rejected:
                rejects.append(Reject(place, one, str(rejected)))
            else:
                seen.append(Observation(place, row))
    return seen, rejects


def _accepted(one: Document, reply: Reply) -> Columns:
    if not one.is_json:
        raise Rejected("not JSON")
    row = columns(one.value)
    away = abs(day_of(row) - reply.day).days
    connected = [row[name].date() for name in CONNECT_TIMES if row[name]]
    if away <= 3 or (away <= 5 and any(abs(day - reply.day).days <= 3 for day in connected)):
        return row
    raise Rejected("more than 3 days")


def records(observations: Iterable[Observation], rules: Rules) -> list[Record]:
    """Numbered and joined, by id."""
    return sorted(_joined(_numbered(observations, rules)), key=lambda record: record.id)


def versions(record: Record) -> list[Version]:
    """Every version of a record, oldest first."""
    result: list[Version] = []
    for one in record.observations:
        row = one.row | {"cdr_id": record.id}
        if result and result[-1].row == row:
            continue
        if result:
            before = result[-1]
            result[-1] = Version(before.revision, before.row, before.known_from, one.seen_at)
        result.append(Version(len(result) + 1, row, one.seen_at, None))
    return result


# --- one id, several documents ------------------------------------------------------------------------------------


def _numbered(observations: Iterable[Observation], rules: Rules) -> list[Record]:
    """Records of one id that occur together in a reply are numbered: by `conf_num`, then by what they contain."""
    by_id: dict[tuple[str, bool], list[Observation]] = defaultdict(list)
    labels: dict[str, tuple[Any, ...]] = {}
    for one in observations:
        stated = one.row["cdr_id"]
        identity = identity_of(one.row)
        key = stated or rules.label(identity)
        if not stated and labels.setdefault(key, tuple(identity.values())) != tuple(identity.values()):
            raise AssertionError(f"one derived id for two identities: {labels[key]} and {tuple(identity.values())}")
        by_id[key, not stated].append(one)
    result: list[Record] = []
    for (key, is_derived), same_id in by_id.items():
        result += _records_of_id(key, same_id, rules, is_derived=is_derived)
    return result


def _records_of_id(key: str, same_id: list[Observation], rules: Rules, *, is_derived: bool) -> list[Record]:
    in_reply: dict[int, list[Observation]] = defaultdict(list)
    for one in same_id:
        if all(one.row != other.row for other in in_reply[id(one.place.stored)]):
            in_reply[id(one.place.stored)].append(one)
    are_apart = any(len({one.row["conf_num"] for one in together}) > 1 for together in in_reply.values())
    slots: dict[tuple[str, int], list[Observation]] = defaultdict(list)
    for together in in_reply.values():
        by_conf: dict[str, list[Observation]] = defaultdict(list)
        for one in together:
            by_conf[one.row["conf_num"] if are_apart else ""].append(one)
        for conf_num, rivals in by_conf.items():
            ordered = sorted(rivals, key=lambda one: _rank(one.row), reverse=True)
            for number, one in enumerate(ordered):
                slots[conf_num, number].append(one)
    result = []
    for place, (conf_num, number) in enumerate(sorted(slots), 1):
        numbered = sorted(slots[conf_num, number], key=lambda one: one.seen_at)
        name = key if place == 1 else f"{key}#{place}"
        is_suspect = place > 1 and not is_derived
        reasons = {stays.SAME_ID_TWICE: number > 0} if is_suspect else {}
        result.append(Record(name, is_derived, numbered, reasons, shares_id=len(slots) > 1))
    return result


def identity_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """What a derived id is made of."""
    identity = {name: row[name] for name in HASHED}
    has_connect_time = any(row[name] for name in CONNECT_TIMES)
    return {**identity, "trans_at": None if has_connect_time else row["trans_at"]}


def _rank(row: Columns) -> tuple[Any, ...]:
    content = json.dumps(row, default=str, sort_keys=True)
    return row["trans_at"] or _NEVER, stays.by_times(row), [row[name] or "" for name in TEXTS], content


# --- derived ids that are versions of other records ---------------------------------------------------------------


def _joined(found: list[Record]) -> list[Record]:
    """Derived records become versions of the first record that they fit."""
    found, apart = [one for one in found if not one.shares_id], [one for one in found if one.shares_id]
    by_preference = sorted(found, key=lambda record: (record.is_derived, -record.identity_size, record.id))
    heads: list[Record] = []
    members: dict[str, list[Record]] = defaultdict(list)
    for record in by_preference:
        head = next((head for head in heads if record.is_derived and _fits(record, head, members[head.id])), None)
        if head is None:
            heads.append(record)
        else:
            members[head.id].append(record)
    for head in heads:
        for member in members[head.id]:
            head.observations += member.observations
        head.observations.sort(key=lambda one: one.seen_at)
    return [*heads, *apart]


def _fits(record: Record, head: Record, members: list[Record]) -> bool:
    if any(record.replies & other.replies for other in (head, *members)):
        return False
    return any(_is_same(record.newest, one.row) for one in head.observations)


def _is_same(left: Columns, right: Columns) -> bool:
    if left["conf_num"] != right["conf_num"]:
        return False
    both = [name for name in IDENTITY if left[name] is not None and right[name] is not None]
    if any(left[name] != right[name] for name in both):
        return False
    return bool({"call_log_id", "call_num", *CONNECT_TIMES} & set(both))


# --- what EnableX lists now ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Listing:
    """The replies that hold what EnableX lists now."""

    newest_whole: dict[date, datetime]

    def has(self, stored: StoredReply) -> bool:
        newest = self.newest_whole.get(stored.reply.day)
        if stored.reply.is_part:
            return newest is None or stored.first_at > newest
        return stored.first_at == newest

    def last_seen_at(self, stored: StoredReply) -> datetime:
        return stored.last_at if stored.is_replaced and not stored.reply.is_part else stored.first_at


def listing(replies: Iterable[StoredReply]) -> Listing:
    newest: dict[date, datetime] = {}
    for stored in replies:
        if not stored.reply.is_part:
            newest[stored.reply.day] = max(stored.first_at, newest.get(stored.reply.day, stored.first_at))
    return Listing(newest)


def within_days(one: date, other: date, days: int = 3) -> bool:
    return abs(one - other) <= timedelta(days=days)
