"""List, create, update and delete rooms at EnableX; apply a plan of `rooms.plan`.

Every step can be repeated, and a killed run is completed by the next one, whose plan is computed from the actual rooms.
PATCH and DELETE can be sent twice. POST cannot: after a failure with an unknown result, the room is looked up by its
external key. A room is replaced by creating the new one first: a refused room, or a killed run, deletes nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow.compute as pc
import structlog

from pipeline.core.context import App, chosen_projects, record_item
from pipeline.core.errors import ApiError, Refused, RoomActive, RoomMissing, Throttled, Transient
from pipeline.core.models import RunResult
from pipeline.core.settings.load import read_toml
from pipeline.enablex import rooms as requests
from pipeline.enablex.client import EnablexClient
from pipeline.enablex.protocol import rooms_request
from pipeline.enablex.rooms import Document
from pipeline.rooms import audit, plan, spec
from pipeline.rooms.audit import RoomUse
from pipeline.rooms.plan import (
    Change,
    Room,
    RoomsFile,
    by_external_key,
    external_key_of,
    marked_body,
    read_rooms_file,
    replaced_by,
)
from pipeline.storage import raw
from pipeline.tables import parquet

_log = structlog.get_logger()


def read_file(app: App, path: Path) -> RoomsFile:
    """Read a rooms file. Raises ConfigError with room, field, file and the valid values."""
    projects = chosen_projects(app.settings, None)
    content = read_toml(path, "rooms file; name one with --file or rooms.file")
    return read_rooms_file(content, projects=projects, source=str(path))


# --- one room ---


def list_rooms(client: EnablexClient) -> list[Document]:
    """All rooms of a project as EnableX returns them, including dial-in secrets: mask them before printing."""
    return requests.parse_rooms(client.call(rooms_request()))


def find_room(app: App, room_id: str, project: str | None) -> tuple[str, Document]:
    """The project and document of a room. Raises RoomMissing when no requested project has it."""
    missing: RoomMissing | None = None
    for name in chosen_projects(app.settings, project):
        try:
            return name, requests.parse_room(app.clients[name].call(requests.room_request(room_id)))
        except RoomMissing as error:
            missing = error
    raise missing or RoomMissing(f"{room_id}: no such room")


def create_single(app: App, project: str, room: Room) -> Document:
    """Create a room that no rooms file names."""
    spec.check_future(room.begins_at(), app.clock())
    external_key = f"{spec.ONCE}/{uuid4().hex}"
    return _Creation(app.clients[project], external_key, marked_body(room, external_key)).room()


def update_single(app: App, project: str, room: Document, changes: Mapping[str, Any]) -> Document:
    """Change fields of a room; returns the room as EnableX returns it afterwards."""
    client, room_id = app.clients[project], room["room_id"]
    client.call(requests.update_request(room_id, spec.change_body(room, changes, app.clock())))
    return requests.parse_room(client.call(requests.room_request(room_id)))


def delete_room(client: EnablexClient, room_id: str) -> bool:
    """Delete a room; False if it was already deleted."""
    try:
        client.call(requests.delete_request(room_id))
    except RoomMissing:
        return False
    return True


class _Creation:
    """Creates one room exactly once, even if replies are lost."""

    def __init__(self, client: EnablexClient, external_key: str, body: Mapping[str, Any]) -> None:
        self._client, self._external_key, self._body = client, external_key, body
        self.is_unconfirmed = False

    def room(self) -> Document:
        """Create the room. Raises ApiError after the last attempt; then the room may or may not exist."""
        return self._client.retry(self._attempt)

    def _attempt(self) -> Document:
        if self.is_unconfirmed:
            rooms = by_external_key(requests.parse_rooms(self._client.send(rooms_request())))
            same = rooms.get(self._external_key, [])
            matches = [room for room in same if replaced_by(room) == replaced_by(self._body)]  # not the replaced room
            if matches:
                _log.info("room.recovered", external_key=self._external_key, room_id=matches[0]["room_id"])
                return matches[0]
        try:
            return requests.parse_room(self._client.send(requests.create_request(self._body)))
        except Throttled:
            raise  # refused before a room was created
        except Transient:
            self.is_unconfirmed = True
            raise


# --- a plan ---


class RoomApplier:
    """Applies a plan; thread-safe. `before`: by project, IDs of the rooms that existed when the plan was made."""

    def __init__(self, app: App, before: Mapping[str, frozenset[str]]) -> None:
        self._app, self._before = app, before
        self._unconfirmed: dict[str, set[str]] = defaultdict(set)
        self._no_keys: dict[str, str] = {}

    def apply(self, change: Change) -> dict[str, int]:
        """Apply one change; returns counts.

        Raises:
            RoomActive: a session is running; nothing was changed, and the next run retries.
            ApiError: see core/errors.py.
        """
        client = self._app.clients[change.project]
        match change.action, change.room_id:
            case "create", _:
                self._create(change)
                return {"created": 1}
            case "update", str(room_id):
                client.call(requests.update_request(room_id, change.body))
                return {"updated": 1}
            case "replace", str(room_id):
                self._replace(client, change, room_id)
                return {"replaced": 1}
            case "delete", str(room_id):
                return {"deleted": 1} if delete_room(client, room_id) else {"already_gone": 1}
        return {}

    @property
    def unconfirmed(self) -> list[str]:
        """Projects in which this run may have created a room twice."""
        return sorted(self._unconfirmed)

    def confirm(self, project: str) -> dict[str, int]:
        """List the rooms again and delete duplicates that this run created; the earliest room is kept.

        A delayed listing may have hidden a created room from the look-up, so that it was created again.
        """
        client = self._app.clients[project]
        rooms = by_external_key(list_rooms(client))
        created = [
            [room["room_id"] for room in rooms.get(external_key, []) if room["room_id"] not in self._before[project]]
            for external_key in self._unconfirmed[project]
        ]
        return {"doubles_deleted": sum(delete_room(client, room_id) for same in created for room_id in same[1:])}

    def _replace(self, client: EnablexClient, change: Change, room_id: str) -> None:
        """Create the new room, then delete the old one, unless a session is running in it."""
        with suppress(RoomMissing):
            if requests.parse_users(client.call(requests.users_request(room_id))):
                raise RoomActive("a session is running in the room; run again when it is over")
        new_id = self._create(change)["room_id"]
        try:
            delete_room(client, room_id)
        except ApiError as error:
            left = (
                f"created {new_id}, but the room that it replaces, {room_id}, is not deleted; the next apply deletes it"
            )
            error.args = (f"{left}: {error}",)
            raise

    def _create(self, change: Change) -> Document:
        if change.project in self._no_keys:
            raise Refused(self._no_keys[change.project])
        client = self._app.clients[change.project]
        creation = _Creation(client, change.external_key, change.body)
        try:
            room = creation.room()
        finally:
            if creation.is_unconfirmed:
                self._unconfirmed[change.project].add(change.external_key)
        self._check_key(client, change, room)
        return room

    def _check_key(self, client: EnablexClient, change: Change, room: Document) -> None:
        """Delete a new room if EnableX does not return its external key: every run would create it again."""
        room_id = room["room_id"]
        if external_key_of(room) == change.external_key:
            return
        if external_key_of(requests.parse_room(client.call(requests.room_request(room_id)))) == change.external_key:
            return
        why = "EnableX does not return the data of rooms, so they cannot be identified; no room of the file is created"
        self._no_keys[change.project] = why
        delete_room(client, room_id)
        raise Refused(why, endpoint="POST /rooms")


# --- usage in the tables ---


def room_use(app: App, project: str) -> dict[str, RoomUse]:
    """Usage of every room by `room_id`, from table `sessions`."""
    columns = ["room_id", "owner_ref", "billing_code", "last_disconnected_at"]
    sessions = parquet.read_arrow("sessions", columns=columns, project=project, lake=app.lake)
    grouped = sessions.group_by("room_id", use_threads=False).aggregate(
        [
            ("last_disconnected_at", "max"),
            ([], "count_all"),
            ("owner_ref", "count", pc.CountOptions(mode="only_null")),
            ("billing_code", "count", pc.CountOptions(mode="only_null")),
        ]
    )
    return {
        room_id: RoomUse(sessions, without_owner, without_code, last_at.astimezone(UTC))
        for room_id, last_at, sessions, without_owner, without_code in zip(
            *(column.to_pylist() for column in grouped.columns), strict=True
        )
        if room_id is not None and last_at is not None
    }


def collected_since(app: App, project: str) -> datetime | None:
    """The first day whose CDRs were collected; the use of rooms before it is unknown."""
    first = min(raw.last_collected(app.vault, "cdr", project), default=None)
    return None if first is None else datetime(first.year, first.month, first.day, tzinfo=UTC)


def plan_rooms(
    app: App, path: Path | None = None, *, project: str | None = None, prune: bool = False, replace: bool = False
) -> RunResult[plan.RoomsDiff]:
    """Compare the rooms file with the actual rooms; nothing is changed."""
    outcome = RunResult[plan.RoomsDiff]("rooms plan")
    changes, _ = _planned_rooms(app, outcome, path, project, prune=prune, replace=replace)
    outcome.add_success(len(changes.changes), **changes.counts())
    return outcome


def apply_rooms(
    app: App, path: Path | None = None, *, project: str | None = None, prune: bool = False, replace: bool = False
) -> RunResult[plan.RoomsDiff]:
    """Apply the rooms file. Changes blocked by a running session or a fixed field are reported as failed."""
    outcome = RunResult[plan.RoomsDiff]("rooms apply")
    changes, before = _planned_rooms(app, outcome, path, project, prune=prune, replace=replace)
    applier = RoomApplier(app, before)
    max_concurrency = app.settings.collect.concurrency * len(app.settings.projects)
    todo = app.map_items(
        "apply rooms",
        changes.todo,
        applier.apply,
        max_concurrency=max_concurrency,
        group=lambda change: change.project,
    )
    for done in todo:
        record_item(app, outcome, done, done.result)
    for change in changes.blocked:
        outcome.add_failure(change, change.why)
    for confirmed in app.map_items("confirm rooms", applier.unconfirmed, applier.confirm, max_concurrency=1, group=str):
        record_item(app, outcome, confirmed, confirmed.result)
    quiet = [change for change in changes.changes if change.action in ("unchanged", "ignored")]
    for change in quiet:
        outcome.add_success(**{change.action: 1})
    app.run_store.forget_attempts([str(done.item) for done in todo if done.result] + [str(change) for change in quiet])
    return outcome


def delete_rooms(app: App, room_ids: Sequence[str], *, project: str | None = None) -> RunResult:
    """Delete rooms by ID in any project; a room that no project has counts as already deleted."""
    outcome = RunResult("rooms delete")

    def delete(room_id: str) -> dict[str, int]:
        try:
            name, _ = find_room(app, room_id, project)
        except RoomMissing:
            return {"already_gone": 1}
        return {"deleted": 1} if delete_room(app.clients[name], room_id) else {"already_gone": 1}

    for done in app.map_items("delete rooms", room_ids, delete, max_concurrency=app.settings.collect.concurrency):
        record_item(app, outcome, done, done.result)
    return outcome


def _planned_rooms(
    app: App, outcome: RunResult[plan.RoomsDiff], path: Path | None, project: str | None, *, prune: bool, replace: bool
) -> tuple[plan.RoomChanges, dict[str, frozenset[str]]]:
    """The plan, and by project the IDs of the actual rooms; a project that does not respond is omitted."""
    file = read_file(app, path or Path(app.settings.rooms.file))
    listed = list_all_rooms(app, outcome, project)
    changes = plan.plan_rooms(file, listed, app.clock(), prune=prune, replace=replace)
    outcome.details = plan.RoomsDiff(tuple(changes.changes))
    return changes, {name: frozenset(room["room_id"] for room in rooms) for name, rooms in listed.items()}


def list_all_rooms(app: App, outcome: RunResult, project: str | None) -> dict[str, list[dict[str, Any]]]:
    """The rooms of every project, or of one; a project that does not respond is reported as failed."""
    names = chosen_projects(app.settings, project)
    listed = {}
    for done in app.map_items(
        "list rooms", names, lambda name: list_rooms(app.clients[name]), max_concurrency=len(names), group=str
    ):
        if done.result is None:
            record_item(app, outcome, done, done.result)
        else:
            listed[done.item] = done.result
    return listed


def audit_rooms(
    app: App, path: Path | None = None, *, project: str | None = None, unused_days: int = 90
) -> RunResult[audit.RoomFindings]:
    """Rooms with sessions without owner or billing code, rooms unused for `unused_days`, violated recording policy."""
    outcome = RunResult("rooms audit")
    path = path or Path(app.settings.rooms.file)
    file = read_file(app, path) if path.exists() else None
    findings = [
        finding
        for name, listed in list_all_rooms(app, outcome, project).items()
        for finding in audit.audit_rooms(
            name,
            listed,
            room_use(app, name),
            app.clock(),
            unused_days=unused_days,
            collected_since=collected_since(app, name),
            file=file,
        )
    ]
    outcome.add_success(1)
    for finding in findings:
        outcome.add_success(**{finding.kind.replace(" ", "_"): 1})
    return outcome.with_details(audit.RoomFindings(findings))
