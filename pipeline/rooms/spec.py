"""Desired rooms: one room with typed, checked fields, and the rooms file (pure).

Source: enablex-api.md section 9; docs/guide/rooms.md shows the use.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any, Literal

from pipeline.core.errors import ConfigError
from pipeline.rooms.fields import FIELDS, Document, Path, flat, leaves, nested, parse_time, problems, unknown_among
from pipeline.tables.normalize import values

Recording = Literal["required", "forbidden", "free"]

EDIT_CUTOFF = timedelta(minutes=15)
"""A scheduled room cannot be changed less than this before its start (documented)."""

ONCE = "once"
"""Replaces the file name in the external key of a room without a file; the key is for look-ups after a lost reply."""

_WORD = re.compile(r"[A-Za-z0-9._-]{1,64}")
"""Names of files and keys: characters that are safe everywhere (section 12)."""


# --- one room ---


@dataclass(frozen=True, kw_only=True)
class Room:
    """One desired room. None leaves a field to EnableX. Names are those of the API, settings without "settings.".

    `duration`: minutes. `scheduled_time`: a time with any zone (a `datetime`, or text such as
    "2026-12-01 14:00 Europe/Berlin"); kept as UTC. Permanent: neither `scheduled` nor `adhoc`.

    Raises:
        ConfigError: the field, the problem, and the error code of EnableX.
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
        invalid = problems(self.named())
        if invalid:
            raise ConfigError(_first(f"{name}: {why}" for name, why in invalid))
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and field.name in FIELDS:
                object.__setattr__(self, field.name, FIELDS[field.name].kind.check(value))

    def named(self) -> dict[str, Any]:
        """Every field with a value, by its dotted name."""
        return dict(flat({field.name: getattr(self, field.name) for field in fields(self)}))

    def begins_at(self) -> datetime | None:
        """Start of a scheduled room, UTC."""
        return parse_time(self.scheduled_time) if self.scheduled else None

    def leaves(self) -> dict[Path, Any]:
        """Every value as it is sent, by its path in the API's object."""
        named = self.named()
        data = named.pop("data", {})
        sent = {FIELDS[name].path: FIELDS[name].kind.serialize(FIELDS[name].kind.check(v)) for name, v in named.items()}
        return {**sent, **dict(leaves(data, ("data",)))}

    def body(self) -> Document:
        """Body of POST /rooms."""
        return nested(self.leaves())


def change_body(room: Document, changes: Mapping[str, Any], now: datetime) -> Document:
    """Body of PATCH that changes fields of an actual room.

    Raises:
        ConfigError: a field that cannot be changed, or an invalid value.
    """
    for name in changes:
        if name in FIELDS and FIELDS[name].is_fixed:
            raise ConfigError(f"{name}: cannot be changed; delete the room and create it again (10106)")
    actual = _values_of(room)
    before = problems(actual)  # existing problems do not block the change
    invalid = [problem for problem in problems({**actual, **changes}) if problem not in before]
    if invalid:
        raise ConfigError(_first(f"{name}: {why}" for name, why in invalid))
    begins_at = actual.get("scheduled_time") if actual.get("scheduled") else None
    if begins_at is not None and now > begins_at - EDIT_CUTOFF:
        raise ConfigError(f"a scheduled room cannot be changed later than 15 minutes before {begins_at} (10006)")
    data = changes.get("data", {})
    sent = {
        FIELDS[name].path: FIELDS[name].kind.serialize(FIELDS[name].kind.check(value))
        for name, value in changes.items()
        if name in FIELDS
    }
    check_future(parse_time(changes["scheduled_time"]) if "scheduled_time" in changes else None, now)
    return nested({**sent, **dict(leaves(data, ("data",)))})


def check_future(begins_at: datetime | None, now: datetime) -> None:
    """Raise ConfigError for a scheduled time that has passed."""
    if begins_at is not None and begins_at <= now:
        raise ConfigError(f"scheduled_time: {begins_at:%Y-%m-%d %H:%M:%S} UTC has passed; choose a later one (10006)")


def _values_of(room: Document) -> dict[str, Any]:
    """The values of an actual room by field name, except secrets; missing required fields get placeholders."""
    parsed = {name: field.value_in(room) for name, field in FIELDS.items() if not field.is_secret}
    present = {name: value for name, value in parsed.items() if value is not None}
    integral = {
        name: int(value) if FIELDS[name].kind.parse is values.decimal else value for name, value in present.items()
    }
    return {"name": "?", "owner_ref": "?", "participants": 1, **integral}


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
    """Content of a rooms file. `name` is part of every external key: rooms of other files are never changed.

    `recording` is a policy for every room of `project` (None: all projects), which `audit_rooms` checks.
    """

    name: str
    rooms: tuple[DesiredRoom, ...]
    recording: Recording = "free"
    project: str | None = None

    def external_key(self, key: str) -> str:
        """The value of `postroom_key` in the `data` of a room."""
        return f"{self.name}/{key}"

    def policy(self, project: str) -> Recording:
        """The recording policy for rooms of this project that the file does not contain."""
        return self.recording if self.project in (None, project) else "free"


_TOP = ("file", "project", "recording", "rooms")
_NOT_FIELDS = ("project", "recording")
_RECORDINGS = ("required", "forbidden", "free")


def read_rooms_file(content: Mapping[str, Any], *, projects: Sequence[str], source: str) -> RoomsFile:
    """Read the parsed TOML of a rooms file.

    `projects`: the configured ones; with only one, the file need not name it. `source`: for messages.

    Raises:
        ConfigError: the first problem, with room, field, `source` and valid values, and the number of other problems.
    """
    invalid = list(_file_problems(content, projects))
    if not invalid:
        rooms = content.get("rooms", {})
        invalid = [problem for key, room in rooms.items() for problem in _room_problems(key, room, content, projects)]
    if invalid:
        raise ConfigError(_first(f"{path} ({source}): {why}" for path, why in invalid))
    policy = content.get("recording", "free")
    return RoomsFile(
        content["file"],
        tuple(
            DesiredRoom(
                room.get("project") or content.get("project") or projects[0],
                key,
                Room(**{name: value for name, value in room.items() if name not in _NOT_FIELDS}),
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
        yield "file", 'must be a unique name such as "clinic": letters, digits, ".", "_" and "-"; never change it'
    yield from _common_problems("", content, projects)
    rooms = content.get("rooms", {})
    if not isinstance(rooms, Mapping):
        yield "rooms", "must be tables: [rooms.KEY]"
        return
    for key, room in rooms.items():
        if not _is_word(key):
            yield f"rooms.{key}", 'a key has at most 64 letters, digits, ".", "_" and "-"'
        if not isinstance(room, Mapping):
            yield f"rooms.{key}", f"must be a table: [rooms.{key}]"


def _common_problems(prefix: str, table: Mapping[str, Any], projects: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Problems of `project` and `recording`, in a room or at the top of the file."""
    if "project" in table and table["project"] not in projects:
        yield f"{prefix}project", f"{table['project']}: not configured; configured projects: {', '.join(projects)}"
    if "recording" in table and table["recording"] not in _RECORDINGS:
        yield f"{prefix}recording", f"must be {', '.join(_RECORDINGS[:-1])} or {_RECORDINGS[-1]}"


def _room_problems(
    key: str, room: Mapping[str, Any], content: Mapping[str, Any], projects: Sequence[str]
) -> Iterator[tuple[str, str]]:
    prefix = f"rooms.{key}."
    yield from _common_problems(prefix, room, projects)
    if "project" not in room and "project" not in content and len(projects) != 1:
        yield f"{prefix}project", f"missing; configured projects: {', '.join(projects)}"
    named = dict(flat({name: value for name, value in room.items() if name not in _NOT_FIELDS}))
    for name, why in problems(named):
        yield f"{prefix}{name}", why


def _is_word(text: Any) -> bool:
    return isinstance(text, str) and _WORD.fullmatch(text) is not None


def _first(messages: Iterable[str]) -> str:
    first, *more = messages
    return f"{first} (and {len(more)} more)" if more else first
