"""A session that a test plays in a room created by a client, as records of the world (pure)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from pipeline.enablex.simulator import room_rules as rules
from pipeline.enablex.simulator.documents import Document
from pipeline.enablex.simulator.traffic import Connection, Room, Session


def played_session(project: str, room: Document, began: datetime, ended: datetime, users: int, number: int) -> Session:
    """A session in which all `users` stay from start to end. Its CDRs are visible immediately."""
    conf_num = f"9{began:%y%j}{number:06d}"
    connections = tuple(
        Connection(
            cdr_id=f"{room['room_id'][:12]}{number:08x}{user:04x}",
            call_num=f"{conf_num}{user:02d}",
            call_log_id=f"{number:012x}{user:012x}",
            user_ref=f"visitor-{user}",
            user_name=f"Visitor {user}",
            role="participant",
            sip=False,
            agent="okhttp/3.5.0",
            connected_at=began,
            disconnected_at=ended,
            old_shape=False,
            trans_at=ended,
            visible_at=ended,
            corrected_at=None,
            entropy=number * 100 + user,
        )
        for user in range(1, users + 1)
    )
    return Session(
        project=project,
        conf_num=conf_num,
        archive_id=f"{number:024x}",
        number=number,
        room=_room(room),
        connections=connections,
        segments=(),
        transcoded=False,
        chat=False,
        metadata=False,
    )


def _room(document: Document) -> Room:
    settings: dict[str, Any] = document["settings"]
    kind = "scheduled" if settings["scheduled"] else "adhoc" if settings["adhoc"] else "permanent"
    return Room(
        room_id=document["room_id"],
        kind=kind,
        name=document["name"],
        owner_ref=document["owner_ref"],
        billing_code=settings.get("billing_code"),
        mode=settings["mode"],
        created_at=datetime.fromisoformat(document["created"]).astimezone(UTC),
        scheduled_at=rules.scheduled_time(settings.get("scheduled_time")),
        duration_min=rules.whole(settings.get("duration")),
        participants=rules.whole(settings.get("participants")) or 0,
        auto_recording=bool(settings.get("auto_recording")),
        single_file=bool(settings.get("single_file_recording")),
    )
