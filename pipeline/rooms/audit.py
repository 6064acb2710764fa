"""Audit rooms: sessions without owner or billing code, unused rooms, violated recording policy (pure)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from pipeline.rooms.fields import FIELDS, Document
from pipeline.rooms.plan import RoomsFile, external_key_of, room_name
from pipeline.tables.normalize import values


@dataclass(frozen=True)
class Finding:
    """Something about a room that needs review."""

    kind: Literal["no owner", "no billing code", "unused", "recording"]
    project: str
    room_id: str
    name: str
    why: str


@dataclass(frozen=True)
class RoomFindings:
    """Findings of an audit of rooms, as an outcome has them."""

    findings: list[Finding]


@dataclass(frozen=True)
class RoomUse:
    """Sessions of one room in the tables: their number, those without owner or billing code, and the last end."""

    sessions: int
    without_owner: int
    without_billing_code: int
    last_at: datetime


def audit_rooms(
    project: str,
    rooms: Sequence[Document],
    used: Mapping[str, RoomUse],
    now: datetime,
    *,
    unused_days: int,
    collected_since: datetime | None,
    file: RoomsFile | None = None,
) -> list[Finding]:
    """Find sessions without owner or billing code, unused rooms, and rooms that violate the recording policy.

    `used`: by room_id, deleted rooms included. `collected_since`: the first collected day; use before it is unknown.
    Sorted by kind, name and ID.
    """
    by_id = {room["room_id"]: room for room in rooms}
    findings = [f for room_id, use in used.items() for f in _unowned(project, room_id, by_id.get(room_id), use)]
    for room in rooms:
        findings += _unused(project, room, used.get(room["room_id"]), now, timedelta(days=unused_days), collected_since)
        findings += _policy_violations(project, room, file)
    return sorted(findings, key=lambda f: (f.kind, f.name, f.room_id))


def _unowned(project: str, room_id: str, room: Document | None, use: RoomUse) -> Iterator[Finding]:
    name = room_name(room) if room else "(gone)"
    if use.without_owner:
        yield Finding(
            "no owner", project, room_id, name, f"{use.without_owner} of {use.sessions} sessions: no owner_ref"
        )
    if use.without_billing_code:
        why = f"{use.without_billing_code} of {use.sessions} sessions: no billing_code"
        yield Finding("no billing code", project, room_id, name, why)


def _unused(
    project: str,
    room: Document,
    use: RoomUse | None,
    now: datetime,
    unused_for: timedelta,
    collected_since: datetime | None,
) -> Iterator[Finding]:
    begins_at = FIELDS["scheduled_time"].value_in(room)
    if collected_since is None or (begins_at is not None and begins_at > now):
        return
    since = use.last_at if use else max(_created(room) or collected_since, collected_since)
    if now - since >= unused_for:
        what = "last used" if use else "never used since"
        yield Finding("unused", project, room["room_id"], room_name(room), f"{what} {since:%Y-%m-%d}")


def _policy_violations(project: str, room: Document, file: RoomsFile | None) -> Iterator[Finding]:
    if file is None:
        return
    policies = {file.external_key(room.key): room.recording for room in file.rooms if room.project == project}
    policy = policies.get(external_key_of(room) or "", file.policy(project))
    actual = FIELDS["auto_recording"].value_in(room)
    if policy == "free" or actual is (policy == "required"):
        return
    state = "is not returned" if actual is None else f"is {str(actual).lower()}"
    why = f"auto_recording {state}, and recording is {policy}"
    yield Finding("recording", project, room["room_id"], room_name(room), why)


def _created(room: Document) -> datetime | None:
    try:
        return values.timestamp(room.get("created"))
    except ValueError:
        return None
