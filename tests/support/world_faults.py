"""Faults of EnableX's replies, by name (docs/guide/billing.md, docs/reference/enablex-api.md): how each changes what is
shown.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

from tests.support.oracle import Document, document

Value = dict[str, Any]


def iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass
class Shown:
    """A true connection and its documents: (first night, night after the last one, document)."""

    number: int
    conf_num: str
    start: datetime
    end: datetime
    room_id: str
    showings: list[tuple[int, int, Value]]
    is_identified: bool = True
    rivals: list[Shown] = field(default_factory=list)
    """Connections that share its id or its identifying fields: distinguished only where replies contain all of them."""

    def at(self, night: int) -> list[Value]:
        return [value for first, end, value in self.showings if first <= night < end]

    def change(self, action: Callable[[Value], None]) -> None:
        """Change every document."""
        self.showings = [(first, end, _changed(value, action)) for first, end, value in self.showings]

    def correct(self, rng: random.Random, action: Callable[[Value], None]) -> int:
        """Change the documents from some night on; returns the night."""
        first, end, value = self.showings[-1]
        if end - first < 2:
            return first
        night = rng.randrange(first + 1, end)
        self.showings[-1:] = [(first, night, value), (night, end, _changed(value, action))]
        return night


def _changed(value: Value, action: Callable[[Value], None]) -> Value:
    result = copy.deepcopy(value)
    action(result)
    return result


@dataclass(frozen=True)
class Vendor:
    """How EnableX selects the documents of a period."""

    by_connect_time: bool
    to_date_is_exclusive: bool

    def days(self, value: Value) -> set[date]:
        """The requested days in whose replies a document is: to_date is the day after, inclusive or exclusive."""
        times = [_time(value, "trans_date")]
        connected = [_time(value, "sigserver", "connect_dt"), _time(value, "room", "connect_dt")]
        ended = [_time(value, "room", "disconnect_dt")]
        times = [*connected, *times, *ended] if self.by_connect_time else [*times, *ended, *connected]
        found = next((moment for moment in times if moment and 2020 < moment.year < 2030), None)
        if found is None:
            return set()
        day = found.date()
        return {day} if self.to_date_is_exclusive else {day, day - timedelta(days=1)}


def _time(value: Value, *path: str) -> datetime | None:
    inner: Any = value
    for key in path:
        inner = inner.get(key) if isinstance(inner, dict) else None
    return datetime.fromisoformat(inner) if inner else None


# --- worlds -------------------------------------------------------------------------------------------------------

WORLD_FAULTS = ("sessions_for_weeks", "late_archives", "growing_archives", "hold_unlisted", "decisions")
"""Of whole worlds. Not faults, but switched like them: taken back records are held, and operators decide."""

# --- connections: (random numbers, the connection, all connections) ----------------------------------------------

Fault = Callable[[random.Random, Shown, list[Shown]], None]


def old_shape(rng: random.Random, one: Shown, _all: list[Shown]) -> None:
    """The older shape: no room details, strings for flags, no billed minutes; sometimes upgraded some nights later."""

    def age(value: Value) -> None:
        room = value["room"]
        value["room"] = {name: room[name] for name in ("room_id", "connect_dt", "disconnect_dt", "duration")}
        value["published_track"] = {name: str(flag).lower() for name, flag in value["published_track"].items()}
        value["usage"] = {name: value["usage"][name] for name in ("subscribed_minutes", "published_minutes")}
        value["user"] |= {"token": "", "name": rng.choice(["", value["user"]["name"]])}
        del value["sip"], value["price"]

    first, end, value = one.showings[0]
    if rng.random() < 0.5 and end - first >= 2:
        night = rng.randrange(first + 1, end)
        one.showings[:1] = [(first, night, _changed(value, age)), (night, end, value)]
    else:
        one.change(age)


def long_connections(rng: random.Random, one: Shown, _all: list[Shown]) -> None:
    """A connection of exactly a day, a little more, or several days, as EnableX's own durations confirm."""
    length = rng.choice(
        [timedelta(hours=24), timedelta(hours=24, milliseconds=1), timedelta(hours=23, minutes=59), timedelta(days=3.5)]
    )
    one.end = one.start + length

    def stretch(value: Value) -> None:
        _set_end(value, one.end, 0)

    one.change(stretch)


def _set_end(value: Value, end: datetime, late_s: int) -> None:
    """Another disconnection, with durations, minutes and the time of writing that fit."""
    starts = {side: _time(value, side, "connect_dt") for side in ("room", "sigserver")}
    for side, start in starts.items():
        if start:
            seconds = (end - start).total_seconds()
            value[side] |= {"disconnect_dt": iso(end), "duration": round(seconds, 2)}
    value["trans_date"] = iso(end + timedelta(seconds=late_s))
    minutes = -(-int(seconds * 1000) // 60_000)
    if "connect_minutes" in value["usage"]:
        value["usage"] |= {"connect_minutes": minutes, "connect_minutes_cal": minutes}


def corrections(rng: random.Random, one: Shown, _all: list[Shown]) -> None:
    """Later nights show another end of the connection, or another price."""
    if rng.random() < 0.3:
        one.correct(rng, lambda value: value.update(price={"connect_duration": 0.5}))
        return
    before = len(one.showings)
    end = one.start + (one.end - one.start) * rng.choice([0.5, 1.25]) // timedelta(milliseconds=1) * timedelta(
        milliseconds=1
    )
    one.correct(rng, lambda value: _set_end(value, end, 3))
    if len(one.showings) > before:
        one.end = end


def moved_records(rng: random.Random, one: Shown, _all: list[Shown]) -> None:
    """Later nights show the record with a `trans_date` 1 to 30 days later."""
    days = rng.choice([1, 2, 3, 7, 8, 30])

    def move(value: Value) -> None:
        written = datetime.fromisoformat(value["trans_date"]) + timedelta(days=days)
        value["trans_date"] = iso(written)

    one.correct(rng, move)


def absurd_times(rng: random.Random, one: Shown, _all: list[Shown]) -> None:
    """A time that cannot be, on one side or on both."""
    year = rng.choice(["2062", "2001", "1969", "0001", "9999"])
    name = "connect_dt" if year == "2001" else rng.choice(["connect_dt", "disconnect_dt"])
    sides = rng.choice([("room", "sigserver"), ("sigserver",), ("room",)])

    def spoil(value: Value) -> None:
        for side in sides:
            value[side][name] = year + value[side][name][4:]

    one.change(spoil)


def null_times(rng: random.Random, one: Shown, _all: list[Shown]) -> None:
    """No times but `trans_date`; EnableX's durations are there, or not."""
    kept = rng.choice([("sigserver", "room"), ("room",), ()])
    has_minutes = rng.random() < 0.5
    written = one.end + timedelta(seconds=1)

    def empty(value: Value) -> None:
        for side in ("room", "sigserver"):
            value[side] |= {"connect_dt": None, "disconnect_dt": None}
            if side not in kept:
                value[side]["duration"] = None
        if not has_minutes:
            value["usage"] |= {"connect_minutes": None, "connect_minutes_cal": None}
        value["trans_date"] = value["trans_date"] or iso(written)

    one.change(empty)


def missing_ends(rng: random.Random, one: Shown, _all: list[Shown]) -> None:
    """One end of one side, or `trans_date`, is missing."""
    side, name = rng.choice(
        [("sigserver", "connect_dt"), ("sigserver", "disconnect_dt"), ("room", "connect_dt"), ("room", "disconnect_dt"),
         ("", "trans_date")]
    )  # fmt: skip
    one.change(lambda value: (value[side] if side else value).update({name: None}))


def reversed_signal(_rng: random.Random, one: Shown, _all: list[Shown]) -> None:
    """Signalling ends before it begins, and begins after the room: a clock was set back."""

    def reverse(value: Value) -> None:
        end = value["room"]["disconnect_dt"]
        if end:
            moment = datetime.fromisoformat(end)
            value["sigserver"] |= {
                "connect_dt": iso(moment + timedelta(seconds=10)),
                "disconnect_dt": iso(moment + timedelta(seconds=5)),
            }

    one.change(reverse)


def vendor_minutes(rng: random.Random, one: Shown, _all: list[Shown]) -> None:
    """EnableX's minutes are seconds, or negative."""
    factor = rng.choice([60, -1])
    names = rng.choice([("connect_minutes",), ("connect_minutes_cal",), ("connect_minutes", "connect_minutes_cal")])

    def spoil(value: Value) -> None:
        for name in names:
            if value["usage"].get(name) is not None:
                value["usage"][name] *= factor

    one.change(spoil)


def wrong_durations(rng: random.Random, one: Shown, _all: list[Shown]) -> None:
    """A stated duration that differs from the times: by exactly the tolerance, by more, or it is negative."""
    added = rng.choice([600, 601, 7200, -90000])
    sides = rng.choice([("sigserver",), ("room",), ("sigserver", "room")])

    def spoil(value: Value) -> None:
        for side in sides:
            seconds = round((one.end - one.start).total_seconds())
            value[side]["duration"] = seconds + added

    one.change(spoil)


def late_records(rng: random.Random, one: Shown, _all: list[Shown]) -> None:
    """Not shown in the first nights."""
    night = rng.randrange(1, 4)
    late = [(max(first, night), end, value) for first, end, value in one.showings if end > night]
    one.showings = late or one.showings


def taken_back(rng: random.Random, one: Shown, _all: list[Shown]) -> None:
    """Not shown in the last nights, after its last version was shown."""
    night = rng.randrange(max(first for first, _, _ in one.showings), 4) + 1
    one.showings = [(first, min(end, night), value) for first, end, value in one.showings]


def no_ids(rng: random.Random, one: Shown, everyone: list[Shown]) -> None:
    """No ids at all: the smallest documented shape. Sometimes two people without names connect in the same moment."""
    is_smallest = rng.random() < 0.5

    def strip(value: Value) -> None:
        for name in ("cdr_id", "call_num", "call_log_id"):
            value.pop(name, None)
        if is_smallest and value["room"]["connect_dt"] and value["room"]["disconnect_dt"]:
            value["sigserver"] = {"connect_dt": None, "disconnect_dt": None, "duration": None}

    one.change(strip)
    has_times = all(
        value[side]["connect_dt"] for _, _, value in one.showings for side in ("room",) if value[side] is not None
    )
    one.is_identified = one.is_identified and has_times and _has_one_identity(one)
    if rng.random() < 0.3:
        _twin(rng, one, everyone)


def _twin(rng: random.Random, one: Shown, everyone: list[Shown]) -> None:
    """Another connection with the same identifying fields and another end."""
    twins = [other for other in everyone if other.conf_num == one.conf_num and other is not one]
    first, end, value = one.showings[0]
    is_sound = value["sigserver"]["connect_dt"] in {None, iso(one.start)}
    if not twins or not is_sound or not value["room"]["connect_dt"] or not value["room"]["disconnect_dt"]:
        return
    other = rng.choice(twins)
    other.start, other.end = one.start, one.start + (one.end - one.start) * 2
    copied = _changed(value, lambda twin: twin["user"].update(confName=f"truth-{other.number}"))
    _set_end(copied, other.end, 4)
    other.showings = [(first, end, copied)]
    _share(one, other)


def _share(one: Shown, other: Shown) -> None:
    one.rivals.append(other)
    other.rivals.append(one)


def _has_one_identity(one: Shown) -> bool:
    """Whether the versions of a connection without ids share their connect times."""
    return len({(value["room"]["connect_dt"], value["sigserver"]["connect_dt"]) for _, _, value in one.showings}) == 1


def ids_later(rng: random.Random, one: Shown, _all: list[Shown]) -> None:
    """The first nights show the record without `cdr_id`, and perhaps without one more id."""
    first, end, value = one.showings[0]
    if end - first < 2 or "cdr_id" not in value:
        return
    night = rng.randrange(first + 1, end)
    dropped = rng.choice([(), ("call_num",), ("call_log_id",), ("call_num", "call_log_id")])

    def strip(early: Value) -> None:
        for name in ("cdr_id", *dropped):
            early.pop(name, None)

    without = _changed(value, strip)
    one.showings[:1] = [(first, night, without), (night, end, value)]
    has_key = any(without.get(name) for name in ("call_num", "call_log_id")) or without["room"]["connect_dt"]
    one.is_identified = one.is_identified and bool(has_key)


def same_id_twice(rng: random.Random, one: Shown, everyone: list[Shown]) -> None:
    """One id for two documents of a reply: two versions of a connection, or two connections of a session."""
    others = [other for other in everyone if other.conf_num == one.conf_num and other is not one]
    cdr_id = one.showings[-1][2].get("cdr_id")
    if not cdr_id:
        return
    if others and rng.random() < 0.5:
        other = rng.choice(others)
        other.change(lambda value: value.update(cdr_id=cdr_id) if "cdr_id" in value else None)
        _share(one, other)
        return
    first, end, value = one.showings[-1]
    if value["sigserver"]["connect_dt"]:
        shorter = _changed(value, lambda rival: _set_end(rival, one.start + (one.end - one.start) / 2, -60))
        one.showings.append((rng.randrange(first, end), end, shorter))


def same_id_in_two_sessions(rng: random.Random, one: Shown, everyone: list[Shown]) -> None:
    """One id for connections of two sessions, of different tenants or not."""
    others = [other for other in everyone if other.conf_num != one.conf_num]
    cdr_id = one.showings[-1][2].get("cdr_id")
    if others and cdr_id:
        other = rng.choice(others)
        other.change(lambda value: value.update(cdr_id=cdr_id) if "cdr_id" in value else None)
        _share(one, other)


def unknown_fields(_rng: random.Random, one: Shown, _all: list[Shown]) -> None:
    """A field that is not documented, in the document and inside it."""

    def add(value: Value) -> None:
        value |= {"region": "eu"}
        value["usage"] |= {"beta_minutes": 1, "none": None}

    one.change(add)


def system_participants(_rng: random.Random, one: Shown, _all: list[Shown]) -> None:
    """A participant that EnableX adds: it publishes nothing, and has no screen."""

    def add(value: Value) -> None:
        value["user"] |= {"agent": "Mozilla/5.0 HeadlessChrome/120.0"}
        value["published_track"] = dict.fromkeys(value["published_track"], False)

    one.change(add)


CONNECTION_FAULTS: dict[str, Fault] = {
    "long_connections": long_connections,
    "old_shape": old_shape,
    "corrections": corrections,
    "moved_records": moved_records,
    "reversed_signal": reversed_signal,
    "absurd_times": absurd_times,
    "missing_ends": missing_ends,
    "null_times": null_times,
    "wrong_durations": wrong_durations,
    "vendor_minutes": vendor_minutes,
    "unknown_fields": unknown_fields,
    "system_participants": system_participants,
    "no_ids": no_ids,
    "ids_later": ids_later,
    "same_id_twice": same_id_twice,
    "same_id_in_two_sessions": same_id_in_two_sessions,
    "late_records": late_records,
    "taken_back": taken_back,
}
"""In the order in which they are applied."""

# --- replies: (random numbers, the documents, the requested day) -------------------------------------------------

ReplyFault = Callable[[random.Random, list[Document], date], list[Document]]


def duplicates(rng: random.Random, documents: list[Document], _day: date) -> list[Document]:
    """Documents that are in the reply twice, byte for byte."""
    return documents + [one for one in documents if rng.random() < 0.3]


def reordered(rng: random.Random, documents: list[Document], _day: date) -> list[Document]:
    """Another order each night."""
    return rng.sample(documents, len(documents))


def unreadable(rng: random.Random, documents: list[Document], day: date) -> list[Document]:
    """Elements that are JSON and no connection: no session, no time, no object, another week."""
    far = {"conf_num": "284170000000", "trans_date": f"{day + timedelta(days=20)}T10:00:00.000Z"}
    choice = rng.choice([far, {"trans_date": f"{day}T10:00:00.000Z", "call_num": "7"}, {"conf_num": "1"}, 7, "x", None])
    return [*documents, document(choice)]


def broken_json(rng: random.Random, documents: list[Document], _day: date) -> list[Document]:
    """Bytes of one document that are not JSON: most can be repaired, some cannot."""
    at = rng.randrange(len(documents))
    return [*documents[:at], repaired(documents[at], rng.choice(BREAKAGES)), *documents[at + 1 :]]


BREAKAGES = ("lone_surrogate", "not_utf8", "nan", "huge_number", "trailing_comma")


def repaired(sound: Document, breakage: str) -> Document:
    """The document with one breakage, and what it stands for: it replaces `user.agent` or a number of `usage`."""
    if not isinstance(sound.value, dict):
        return sound
    if breakage == "trailing_comma":
        return Document(sound.raw[:-1] + b",}", None, is_json=False)
    if not isinstance(sound.value.get("user"), dict):
        return sound
    texts = {"lone_surrogate": (b'"x\\ud83d y"', "x\ufffd y"), "not_utf8": (b'"M\xfcller"', "M\ufffdller")}
    numbers = {"nan": (b"NaN", "NaN"), "huge_number": (b"1e400", "1e400")}
    path = "user.agent" if breakage in texts else "usage.subscribed_minutes"
    written, meant = (texts | numbers)[breakage]
    value = copy.deepcopy(sound.value)
    branch, name = path.split(".")
    value[branch][name] = "HERE"
    raw = json.dumps(value).encode().replace(b'"HERE"', written)
    value[branch][name] = meant
    return Document(raw, value | {"$repaired": [path]})


REPLY_FAULTS: dict[str, Any] = {
    "duplicates": duplicates,
    "unreadable": unreadable,
    "broken_json": broken_json,
    "reordered": reordered,
    "parts": None,
    "filter_by_connect": None,
    "to_date_exclusive": None,
}
"""Those without a function are properties of EnableX."""
