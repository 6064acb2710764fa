"""Compare desired rooms with actual rooms; the result is `RoomChanges` (pure).

A room is identified by an external key in its `data`: `postroom_key = "<file>/<key>"`. `data` also contains
`postroom_digest`, a digest of the room in the file when it was last written, and `postroom_fields`, the fields that the
file named then. So a listing that omits fields (observed) hides no change, and a field that the file no longer names is
reset to its default. A room that replaced another one also contains `postroom_replaces`, the `room_id` of that one.

Source: enablex-api.md section 9; docs/guide/rooms.md shows the use.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from pipeline.core.models import SECRET_NAME, Row
from pipeline.rooms.fields import FIELDS, Document, Path, nested, same_json
from pipeline.rooms.spec import EDIT_CUTOFF, DesiredRoom, Recording, Room, RoomsFile, read_rooms_file
from pipeline.tables.normalize.row_reader import get_path

__all__ = [
    "Change",
    "DesiredRoom",
    "Difference",
    "Recording",
    "Room",
    "RoomChanges",
    "RoomsFile",
    "by_external_key",
    "external_key_of",
    "marked_body",
    "masked",
    "plan_rooms",
    "read_rooms_file",
    "replaced_by",
    "room_name",
    "room_type",
]

KEY, DIGEST, NAMED = "postroom_key", "postroom_digest", "postroom_fields"
REPLACES = "postroom_replaces"

_MASK = "********"
_SECRET_PATHS = {field.path for field in FIELDS.values() if field.is_secret}
_BY_PATH = {field.path: field for field in FIELDS.values()}
_PASSED = "its scheduled_time has passed"


# --- the external key ---


def keyed_leaves(room: Room, external_key: str) -> dict[Path, Any]:
    """The values of a room with the three keys in `data` that identify it."""
    leaves = room.leaves()
    named = sorted(name for name in room.named() if name in FIELDS and FIELDS[name].default is not None)
    content = json.dumps(sorted((".".join(path), value) for path, value in leaves.items()), sort_keys=True)
    digest = hashlib.sha256(content.encode()).hexdigest()[:12]
    return {**leaves, ("data", KEY): external_key, ("data", DIGEST): f"d{digest}", ("data", NAMED): ",".join(named)}


def marked_body(room: Room, external_key: str) -> Document:
    """Body of POST /rooms for a room that can be looked up by its external key."""
    return nested(keyed_leaves(room, external_key))


def external_key_of(room: Mapping[str, Any]) -> str | None:
    """The external key of a room, if it has one."""
    external_key = get_path(room, ("data", KEY))
    return external_key if isinstance(external_key, str) and external_key else None


def replaced_by(room: Mapping[str, Any]) -> str | None:
    """The `room_id` of the room that this one was created to replace, if any; also of the body that creates it."""
    room_id = get_path(room, ("data", REPLACES))
    return room_id if isinstance(room_id, str) and room_id else None


def by_external_key(rooms: Iterable[Document]) -> dict[str, list[Document]]:
    """Rooms by external key, sorted by creation; more than one room per key is an error."""
    grouped: dict[str, list[Document]] = defaultdict(list)
    for room in rooms:
        if external_key := external_key_of(room):
            grouped[external_key].append(room)
    return {
        external_key: sorted(same, key=lambda r: (str(r.get("created")), r["room_id"]))
        for external_key, same in grouped.items()
    }


# --- changes ---

Action = Literal["create", "update", "replace", "delete", "blocked", "ignored", "unchanged"]
DOING: tuple[Action, ...] = ("create", "update", "replace", "delete")


@dataclass(frozen=True)
class Difference:
    """One field whose actual and desired values differ; secrets are masked."""

    field: str
    actual: Any
    desired: Any

    def __str__(self) -> str:
        return f"{self.field}: {_quoted(self.actual)} -> {_quoted(self.desired)}"


@dataclass(frozen=True)
class Change:
    """The action for one room. `body`: the request to send. `why`: an explanation for the output."""

    action: Action
    project: str
    key: str
    external_key: str
    name: str
    room_id: str | None = None
    differences: tuple[Difference, ...] = ()
    why: str = ""
    body: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __str__(self) -> str:
        return f"{self.project}/{self.external_key}"

    def to_dict(self) -> Row:
        return {
            "action": self.action,
            "project": self.project,
            "key": self.key,
            "room_id": self.room_id,
            "name": self.name,
            "differences": [{"field": d.field, "actual": d.actual, "desired": d.desired} for d in self.differences],
            "why": self.why,
        }


@dataclass(frozen=True)
class RoomsDiff:
    """Every change that the rooms file requires, as an outcome has it."""

    changes: tuple[Change, ...]

    def to_dict(self) -> Row:
        return {"changes": [change.to_dict() for change in self.changes]}


@dataclass(frozen=True)
class RoomChanges:
    """A plan: every room of the file, and every room created from it earlier; sorted by project and key."""

    changes: tuple[Change, ...]

    def to_dict(self) -> Row:
        return {"changes": [change.to_dict() for change in self.changes]}

    @property
    def todo(self) -> tuple[Change, ...]:
        return tuple(change for change in self.changes if change.action in DOING)

    @property
    def blocked(self) -> tuple[Change, ...]:
        return tuple(change for change in self.changes if change.action == "blocked")

    def counts(self) -> dict[str, int]:
        return dict(Counter(change.action for change in self.changes))


def plan_rooms(
    file: RoomsFile,
    actual: Mapping[str, Sequence[Document]],
    now: datetime,
    *,
    prune: bool = False,
    replace: bool = False,
) -> RoomChanges:
    """Compare a rooms file with the rooms of the projects in `actual`; other projects are omitted.

    `prune`: delete rooms created from the file that it no longer contains. `replace`: create again a room whose mode or
    type differs, and delete the old one. An old one that was not deleted then is deleted without any option.
    """
    changes = []
    for project, rooms in actual.items():
        existing = by_external_key(rooms)
        leftovers = {
            external_key: _leftovers(same)
            for external_key, same in existing.items()
            if external_key.startswith(f"{file.name}/")
        }
        desired = {file.external_key(room.key): room for room in file.rooms if room.project == project}
        changes += [
            _change(
                room,
                external_key,
                [same for same in existing.get(external_key, []) if same not in leftovers.get(external_key, [])],
                now,
                replace=replace,
            )
            for external_key, room in desired.items()
        ]
        changes += [
            _deletion(project, external_key, room, why="another room replaced it")
            for external_key in desired
            for room in leftovers.get(external_key, [])
        ]
        changes += [
            _dropped(project, external_key, room, prune=prune)
            for external_key, same in existing.items()
            if external_key not in desired and external_key.startswith(f"{file.name}/")
            for room in same
        ]
    return RoomChanges(tuple(sorted(changes, key=lambda c: (c.project, c.key, c.room_id or ""))))


def _dropped(project: str, external_key: str, room: Document, *, prune: bool) -> Change:
    if prune:
        return _deletion(project, external_key, room, why="no longer in the file")
    why = "no longer in the file; --prune deletes it"
    return dataclasses.replace(_deletion(project, external_key, room, why=why), action="ignored")


def _deletion(project: str, external_key: str, room: Document, *, why: str) -> Change:
    key = external_key.partition("/")[2]
    return Change("delete", project, key, external_key, room_name(room), room["room_id"], why=why)


def _leftovers(same: Sequence[Document]) -> list[Document]:
    """Rooms of one external key that another of them replaced, but that were not deleted.

    Of more than one remaining room none is known to be right, so nothing is a leftover.
    """
    replaced = {replaced_by(room) for room in same}
    leftovers = [room for room in same if room["room_id"] in replaced]
    return leftovers if len(same) - len(leftovers) == 1 else []


def _change(
    desired: DesiredRoom, external_key: str, same: Sequence[Document], now: datetime, *, replace: bool
) -> Change:
    """The change for one desired room, given the rooms with its external key."""
    leaves = keyed_leaves(desired.room, external_key)
    begins_at = desired.room.begins_at()
    create = Change("create", desired.project, desired.key, external_key, desired.room.name, body=nested(leaves))
    if not same:
        is_over = begins_at is not None and begins_at <= now
        return _without_body(create, "unchanged", why=_PASSED) if is_over else create
    create = dataclasses.replace(create, room_id=same[0]["room_id"])
    if len(same) > 1:
        ids = ", ".join(room["room_id"] for room in same)
        return _without_body(create, "blocked", why=f"rooms {ids} have this key; `postroom rooms delete` all but one")
    return _existing(create, leaves, same[0], begins_at, now, replace=replace)


def _existing(
    create: Change,
    leaves: Mapping[Path, Any],
    actual: Document,
    begins_at: datetime | None,
    now: datetime,
    *,
    replace: bool,
) -> Change:
    """The change for a room that exists; `create` is the change that would create it."""
    if begins_at is not None and begins_at <= now and _actual_begin(actual) == begins_at:
        return _without_body(create, "unchanged", why=_PASSED)
    compared = _compare(leaves, actual)
    if compared.fixed:
        return _fixed(create, compared, may_replace=replace and (begins_at is None or begins_at > now))
    if not compared.changed:
        return _without_body(create, "unchanged")
    if begins_at is not None and (why := _too_late(begins_at, _actual_begin(actual), now)):
        return _without_body(create, "blocked", differences=compared.changed, why=why)
    return dataclasses.replace(create, action="update", differences=compared.changed, body=compared.body)


def _fixed(create: Change, compared: _Compared, *, may_replace: bool) -> Change:
    """The change for a room whose mode or type differs."""
    why = f"{', '.join(d.field for d in compared.fixed)} cannot be changed"
    differences = (*compared.fixed, *compared.changed)
    if may_replace:
        body = {**create.body, "data": {**create.body["data"], REPLACES: create.room_id}}
        return dataclasses.replace(create, action="replace", differences=differences, why=why, body=body)
    why += "; --replace creates it again and deletes this one"
    return _without_body(create, "blocked", differences=differences, why=why)


def _too_late(begins_at: datetime, actual_begins_at: datetime | None, now: datetime) -> str:
    if begins_at <= now:
        return "the scheduled_time in the file has passed; choose a later one (10006)"
    if actual_begins_at is not None and now > actual_begins_at - EDIT_CUTOFF:
        return "a scheduled room cannot be changed later than 15 minutes before its start (10006); give it a new key"
    return ""


def _actual_begin(room: Document) -> datetime | None:
    begins_at: datetime | None = FIELDS["scheduled_time"].value_in(room)
    return begins_at


def _without_body(change: Change, action: Action, **more: Any) -> Change:
    """The same change with another action and no request."""
    return dataclasses.replace(change, action=action, body={}, **more)


@dataclass(frozen=True)
class _Compared:
    """Differences in fixed fields, differences in other fields, and the body that updates the other fields."""

    fixed: tuple[Difference, ...]
    changed: tuple[Difference, ...]
    body: Document


def _compare(leaves: Mapping[Path, Any], actual: Document) -> _Compared:
    """Compare field by field. A missing actual value counts as last sent, until the room changes in the file."""
    is_new = not _is_same(leaves, actual, ("data", DIGEST))
    fixed, changed, body = [], [], {}
    for path, value in {**_defaults(leaves, actual), **leaves}.items():
        field = _BY_PATH.get(path)
        if field is None:
            is_present, differs = True, not _is_same(leaves, actual, path)
        else:
            is_present = field.is_present(actual)
            differs = is_present and field.value_in(actual) != field.read(value)
        if differs and field is not None and field.is_fixed:
            fixed.append(_difference(path, actual, value))
        elif differs:
            changed.append(_difference(path, actual, value))
            body[path] = value
        elif is_new and not is_present and not (field and field.is_fixed):
            body[path] = value
    return _Compared(tuple(fixed), tuple(changed), nested(body))


def _defaults(leaves: Mapping[Path, Any], actual: Document) -> dict[Path, Any]:
    """Defaults of the fields that the file named when the room was last written, and no longer names."""
    before = str(get_path(actual, ("data", NAMED)) or "").split(",")
    dropped = [FIELDS[name] for name in before if name in FIELDS and FIELDS[name].path not in leaves]
    return {field.path: field.default for field in dropped if field.default is not None}


def _is_same(desired: Mapping[Path, Any], actual: Document, path: Path) -> bool:
    value = get_path(actual, path)
    return same_json(desired[path], value) or (desired[path] == "" and value is None)


def _difference(path: Path, actual: Document, desired: Any) -> Difference:
    name = ".".join(path[1:] if path[0] == "settings" else path)
    if path in _SECRET_PATHS or SECRET_NAME.search(path[-1]):
        return Difference(name, _MASK, _MASK)
    return Difference(name, get_path(actual, path), desired)


# --- output of a room ---


def masked(document: Any) -> Any:
    """The same document with dial-in secrets, keys and stream URLs masked."""
    return _masked(document, ())


def _masked(value: Any, path: Path) -> Any:
    if isinstance(value, Mapping):
        return {key: _masked(part, (*path, key)) for key, part in value.items()}
    if isinstance(value, list):
        return [_masked(part, path) for part in value]
    is_secret = path and (SECRET_NAME.search(path[-1]) or path in _SECRET_PATHS)
    return _MASK if is_secret and value not in (None, "") else value


def room_type(room: Document) -> str:
    """permanent, scheduled or ad hoc."""
    if FIELDS["scheduled"].value_in(room):
        return "scheduled"
    return "ad hoc" if FIELDS["adhoc"].value_in(room) else "permanent"


def room_name(room: Mapping[str, Any]) -> str:
    return str(room.get("name") or "")


def _quoted(value: Any) -> str:
    return "(nothing)" if value is None else json.dumps(value, ensure_ascii=False, default=str)
