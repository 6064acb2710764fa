"""Desired rooms: one room with typed, checked fields, and a rooms file of many (pure).

Source: enablex-api.md section 9; docs/guide/rooms.md shows the use.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any, Literal

from pipeline.core.errors import ConfigError
from pipeline.rooms.fields import FIELDS, Document, Path, flat, leaves, moment, nested, problems, unknown_among
from pipeline.tables.normalize import values

Recording = Literal["required", "forbidden", "free"]

EDIT_CUTOFF = timedelta(minutes=15)
"""A scheduled room cannot be changed later than this before its start (documented)."""

ONCE = "once"
"""In place of a file's name in the key of a room that no file names; it has a key to be found after a lost reply."""

_WORD = re.compile(r"[A-Za-z0-9._-]{1,64}")
"""Names and keys of ours: what passes everywhere (section 12)."""


# --- one room ---


@dataclass(frozen=True, kw_only=True)
class Room:
    """A desired room; None leaves a field to EnableX. Names are the API's, settings without "settings.".

    `duration`: minutes. `scheduled_time`: a time with any zone (a `datetime`, or text such as
    "2026-12-01 14:00 Europe/Berlin"); kept as UTC. Permanent: neither `scheduled` nor `adhoc`.

    Raises:
        ConfigError: a field, what is wrong with it, and the code with which EnableX would refuse it.
    """

    name: str
    owner_ref: str
    participants: int
    moderators: int = 1
    mode: str = "group"
    scheduled: bool = False
    adhoc: bool = False
    scheduled_time: datetime | str | None = None
    duration: int | None = None
    description: str | None = None
    billing_code: str | int | None = None
    auto_recording: bool | None = None
    quality: str | None = None
    screen_share: bool | None = None
    canvas: bool | None = None
    abwd: bool | None = None
    max_active_talkers: int | None = None
    active_talker: bool | None = None
    knock: bool | None = None
    wait_for_moderator: bool | None = None
    single_file_recording: bool | None = None
    role_based_recording: Mapping[str, str] | None = None
    live_recording: Mapping[str, bool | str] | None = None
    watermark: bool | None = None
    media_zone: str | None = None
    facex: bool | None = None
    peep: bool | None = None
    audiences: int | None = None
    send_audiences_stats: bool | None = None
    hls_view_url: str | None = None
    live_transcription: Mapping[str, bool | str] | None = None
    aor: str | None = None
    sip: Mapping[str, bool | str] | None = None
    data: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        wrong = problems(self.named())
        if wrong:
            raise ConfigError(_first(f"{name}: {why}" for name, why in wrong))
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and field.name in FIELDS:
                object.__setattr__(self, field.name, FIELDS[field.name].kind.check(value))

    def named(self) -> dict[str, Any]:
        """Every field that is set, by its dotted name."""
        return dict(flat({field.name: getattr(self, field.name) for field in fields(self)}))

    def begins_at(self) -> datetime | None:
        """When a scheduled room starts, UTC."""
        return moment(self.scheduled_time) if self.scheduled else None

    def leaves(self) -> dict[Path, Any]:
        """Every value as it is sent, by its place in the API's object."""
        named = self.named()
        data = named.pop("data", {})
        sent = {FIELDS[name].path: FIELDS[name].kind.serialize(FIELDS[name].kind.check(v)) for name, v in named.items()}
        return {**sent, **dict(leaves(data, ("data",)))}

    def body(self) -> Document:
        """What POST /rooms takes."""
        return nested(self.leaves())


def change_body(room: Document, changes: Mapping[str, Any], now: datetime) -> Document:
    """What PATCH takes to change some fields of a room that EnableX returned.

    Raises:
        ConfigError: a field that cannot be changed, or a value that EnableX would refuse.
    """
    for name in changes:
        if name in FIELDS and FIELDS[name].is_fixed:
            raise ConfigError(f"{name}: cannot be changed; delete and recreate the room (10106)")
    actual = _as_specified(room)
    before = problems(actual)  # what is odd already is not this change's fault
    wrong = [problem for problem in problems({**actual, **changes}) if problem not in before]
    if wrong:
        raise ConfigError(_first(f"{name}: {why}" for name, why in wrong))
    begins_at = actual.get("scheduled_time") if actual.get("scheduled") else None
    if begins_at is not None and now > begins_at - EDIT_CUTOFF:
        raise ConfigError(f"a scheduled room is not changed later than 15 minutes before {begins_at} (10006)")
    data = changes.get("data", {})
    sent = {
        FIELDS[name].path: FIELDS[name].kind.serialize(FIELDS[name].kind.check(value))
        for name, value in changes.items()
        if name in FIELDS
    }
    check_future(moment(changes["scheduled_time"]) if "scheduled_time" in changes else None, now)
    return nested({**sent, **dict(leaves(data, ("data",)))})


def check_future(begins_at: datetime | None, now: datetime) -> None:
    """Raise ConfigError for a scheduled time that has passed."""
    if begins_at is not None and begins_at <= now:
        raise ConfigError(f"scheduled_time: {begins_at:%Y-%m-%d %H:%M:%S} UTC has passed; choose a later one (10006)")


def _as_specified(room: Document) -> dict[str, Any]:
    """An actual room in the terms of a rooms file; required fields that are absent get placeholders."""
    read = {name: field.value_in(room) for name, field in FIELDS.items() if not field.is_secret}
    said = {name: value for name, value in read.items() if value is not None}
    whole = {name: int(value) if FIELDS[name].kind.parse is values.decimal else value for name, value in said.items()}
    return {"name": "?", "owner_ref": "?", "participants": 1, **whole}


# --- a rooms file ---


@dataclass(frozen=True)
class DesiredRoom:
    """A room of a rooms file. `key` is unique in the file."""

    project: str
    key: str
    room: Room
    recording: Recording = "free"


@dataclass(frozen=True)
class RoomsFile:
    """A rooms file. `name` is part of every key: rooms of other files are never touched.

    `recording` is a policy for every room of `project` (None: of all), which `audit_rooms` compares with what is so.
    """

    name: str
    rooms: tuple[DesiredRoom, ...]
    recording: Recording = "free"
    project: str | None = None

    def external_key(self, key: str) -> str:
        """What stands as `postroom_key` in a room's `data`."""
        return f"{self.name}/{key}"

    def policy(self, project: str) -> Recording:
        """The file's recording policy for rooms of this project that it does not name."""
        return self.recording if self.project in (None, project) else "free"


_TOP = ("file", "project", "recording", "rooms")
_BESIDE = ("project", "recording")
_RECORDINGS = ("required", "forbidden", "free")


def read_rooms_file(content: Mapping[str, Any], *, projects: Sequence[str], source: str) -> RoomsFile:
    """Read the parsed TOML of a rooms file.

    `projects`: those that are configured; with only one, the file need not name it. `source`: for messages.

    Raises:
        ConfigError: the first problem, with room, field, `source` and what would be valid, and how many more there are.
    """
    wrong = list(_file_problems(content, projects))
    if not wrong:
        rooms = content.get("rooms", {})
        wrong = [problem for key, room in rooms.items() for problem in _room_problems(key, room, content, projects)]
    if wrong:
        raise ConfigError(_first(f"{place} ({source}): {why}" for place, why in wrong))
    policy = content.get("recording", "free")
    return RoomsFile(
        content["file"],
        tuple(
            DesiredRoom(
                room.get("project") or content.get("project") or projects[0],
                key,
                Room(**{name: value for name, value in room.items() if name not in _BESIDE}),
                room.get("recording", policy),
            )
            for key, room in content.get("rooms", {}).items()
        ),
        policy,
        content.get("project"),
    )


def _file_problems(content: Mapping[str, Any], projects: Sequence[str]) -> Iterator[tuple[str, str]]:
    for key in content:
        if key not in _TOP:
            yield key, unknown_among(key, _TOP)
    if not _is_word(content.get("file")) or content["file"] == ONCE:
        yield "file", 'must be this file\'s own name, such as "clinic": letters, digits, ".", "_", "-"; never change it'
    yield from _beside_problems("", content, projects)
    rooms = content.get("rooms", {})
    if not isinstance(rooms, Mapping):
        yield "rooms", "must be tables: [rooms.KEY]"
        return
    for key, room in rooms.items():
        if not _is_word(key):
            yield f"rooms.{key}", 'a key is letters, digits, ".", "_" and "-", 64 at most'
        if not isinstance(room, Mapping):
            yield f"rooms.{key}", f"must be a table: [rooms.{key}]"


def _beside_problems(place: str, table: Mapping[str, Any], projects: Sequence[str]) -> Iterator[tuple[str, str]]:
    """What is wrong with what stands beside the fields of a room, or above all rooms."""
    if "project" in table and table["project"] not in projects:
        yield f"{place}project", f"{table['project']}: not configured; there are {', '.join(projects)}"
    if "recording" in table and table["recording"] not in _RECORDINGS:
        yield f"{place}recording", f"must be {', '.join(_RECORDINGS[:-1])} or {_RECORDINGS[-1]}"


def _room_problems(
    key: str, room: Mapping[str, Any], content: Mapping[str, Any], projects: Sequence[str]
) -> Iterator[tuple[str, str]]:
    place = f"rooms.{key}."
    yield from _beside_problems(place, room, projects)
    if "project" not in room and "project" not in content and len(projects) != 1:
        yield f"{place}project", f"missing; there are {', '.join(projects)}"
    named = dict(flat({name: value for name, value in room.items() if name not in _BESIDE}))
    for name, why in problems(named):
        yield f"{place}{name}", why


def _is_word(text: Any) -> bool:
    return isinstance(text, str) and _WORD.fullmatch(text) is not None


def _first(wrong: Iterable[str]) -> str:
    first, *more = wrong
    return f"{first} (and {len(more)} more)" if more else first
