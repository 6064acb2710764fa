"""What the oracle is given: replies, rules that are settings, and decisions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from itertools import groupby
from typing import Any


@dataclass(frozen=True)
class Document:
    """One element of a reply: its bytes, and the value that they stand for (after a repair, with `$repaired`)."""

    raw: bytes
    value: Any = None
    is_json: bool = True
    """False: no repair makes an object of these bytes."""

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.raw).hexdigest()


def document(value: Any) -> Document:
    """A document in strict JSON."""
    return Document(json.dumps(value).encode(), value)


@dataclass(frozen=True)
class Reply:
    """One reply of EnableX. `room_id`: of a part of a day; other replies hold the whole day."""

    day: date
    asked_at: datetime
    documents: tuple[Document, ...]
    source: str = "cdr"
    room_id: str = ""

    @property
    def is_part(self) -> bool:
        return self.room_id != ""

    @property
    def request(self) -> tuple[str, date, str]:
        return self.source, self.day, self.room_id

    @property
    def body(self) -> tuple[bytes, ...]:
        return tuple(one.raw for one in self.documents)


@dataclass(frozen=True)
class StoredReply:
    """A body that differs from the one before it to the same request; a repetition is the same body."""

    reply: Reply
    first_at: datetime
    last_at: datetime
    is_replaced: bool
    """A later reply to the same request has another body."""


def stored_replies(replies: Iterable[Reply]) -> list[StoredReply]:
    """The replies with a body of their own, by time."""
    stored: list[StoredReply] = []
    ordered = sorted(replies, key=lambda reply: (reply.request, reply.asked_at))
    for _, same_request in groupby(ordered, key=lambda reply: reply.request):
        runs = [list(run) for _, run in groupby(same_request, key=lambda reply: reply.body)]
        stored += [
            StoredReply(run[0], run[0].asked_at, run[-1].asked_at, is_replaced=run is not runs[-1]) for run in runs
        ]
    return sorted(stored, key=lambda one: (one.first_at, one.reply.request))


@dataclass(frozen=True)
class Decision:
    """An operator's decision; it holds for the reasons and the minutes that it was made for."""

    suspense_id: str
    decision: str
    """`release` or `exclude`."""
    reasons: str
    at_stake_min: int | None
    decided_at: datetime
    because: str = ""


def derived_label(identity: Mapping[str, Any]) -> str:
    """A label for a connection without `cdr_id`; the tests replace it by the product's."""
    text = "|".join(f"{name}={value}" for name, value in identity.items())
    return "derived-" + hashlib.sha256(text.encode()).hexdigest()[:24]


@dataclass(frozen=True)
class Rules:
    """Settings that change tables or lines."""

    max_stay_hours: int = 24
    tolerance_min: int = 10
    unlisted: str = "bill"
    system_participants: str = "bill"
    zone: str = "UTC"
    rounding: str = "ceil_per_connection"
    decisions: tuple[Decision, ...] = ()
    label: Callable[[Mapping[str, Any]], str] = field(default=derived_label, repr=False)


def in_order(decisions: Iterable[Decision], suspense_id: str) -> Iterator[Decision]:
    """The decisions about one record, newest first."""
    mine = [one for one in decisions if one.suspense_id == suspense_id]
    yield from sorted(mine, key=lambda one: one.decided_at, reverse=True)
