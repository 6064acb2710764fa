"""Requests and replies of rooms, users, tokens and dial-in, without I/O, and the meaning of every result code.

Source: enablex-api.md sections 2.5, 2.6 and 9. An error reply becomes an exception with the API's code, its documented
meaning, and the next step.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote

import msgspec

from pipeline.core.errors import ApiError, ConfigError, Refused, RoomActive, RoomMissing, UnreadableReply
from pipeline.enablex.protocol import Problem, Reply, Request, read_object, verdict

Document = dict[str, Any]
"""One JSON object of the API."""

ROLES = ("moderator", "participant", "viewer", "audience")
"""Lower case; `audience` occurs only in newer documentation (section 9.8)."""

MAX_TOKEN_DATA = 5
"""Maximum number of keys in a token's `data` (documented). Every participant of the session can read them."""

MEANINGS: Mapping[str, str] = {
    "10000": "application not found (bad project or credentials)",
    "10001": "room_id missing in URL",
    "10002": "name missing",
    "10003": "invalid settings.scheduled",
    "10004": "settings.scheduled_time missing",
    "10005": "settings.scheduled_time: bad format",
    "10006": "settings.scheduled_time: not acceptable (for example in the past)",
    "10007": "invalid settings.participants",
    "10008": "invalid settings.auto_recording",
    "10009": "unrecognised key in settings",
    "10010": "owner_ref missing",
    "10011": "invalid settings.duration",
    "10012": "invalid settings.active_talker",
    "10013": "invalid settings.wait_moderator",
    "10014": "invalid settings.quality",
    "10015": "sip.uri missing",
    "10016": "invalid settings.adhoc",
    "10017": "not acceptable settings.adhoc",
    "10018": "parameter not valid for this room type",
    "10019": "invalid settings.mode",
    "10020": "not acceptable settings.mode",
    "10021": "room quality above the project's quality",
    "10022": "invalid settings.moderators",
    "10023": "not acceptable settings.moderators",
    "10024": "not acceptable settings.peep",
    "10025": "not acceptable settings.knock",
    "10026": "invalid SIP URI (settings.aor)",
    "10030": "update refused: room is active",
    "10101": "name missing",
    "10102": "user_ref missing",
    "10103": "role missing",
    "10104": "invalid role",
    "10105": "server busy",
    "10106": "room type cannot be changed",
    "10111": "conference is over",
    "10112": "past the permitted cut-off time",
    "10113": "room is not active (too early for a scheduled room)",
    "10114": "room is full",
    "40001": "room not found",
    "40002": "unauthorised",
    "50000": "internal error",
    "50001": "could not create room",
    "50002": "could not list rooms",
    "50003": "could not get room",
    "50004": "could not delete room",
    "50005": "could not delete room",
}
"""Result codes of sections 2.5 and 2.6. 50004 and 50005 have the same text; deleting an active room can return either,
10030, or HTTP 409."""

_ADVICE: Mapping[str, str] = {
    "10006": "choose a later time; a scheduled room cannot be changed in the last 15 minutes before its start",
    "10021": "choose a lower quality, or a larger plan",
    "10106": "mode, scheduled and adhoc cannot be changed; delete the room and create it again (--replace)",
    "10111": "create a new room",
    "10112": "create a new room, or change its scheduled_time",
    "10113": "tokens are available from 15 minutes before scheduled_time",
    "10114": "raise participants, or wait until a participant leaves",
}
_ACTIVE = {"10030", "50004", "50005"}
_MISSING = "40001"


# --- requests ---


def create_request(body: Mapping[str, Any]) -> Request:
    """Create a room. A blind retry can create a second room: there is no idempotency key (section 2.8)."""
    return Request("POST", "/rooms", "room", msgspec.json.encode(body))


def room_request(room_id: str) -> Request:
    return Request("GET", _room_path(room_id), "room")


def update_request(room_id: str, body: Mapping[str, Any]) -> Request:
    """Change only the fields in `body`; effective from the next session."""
    return Request("PATCH", _room_path(room_id), "", msgspec.json.encode(body))


def delete_request(room_id: str) -> Request:
    return Request("DELETE", _room_path(room_id), "")


def users_request(room_id: str) -> Request:
    return Request("GET", f"{_room_path(room_id)}/users", "users")


def token_request(room_id: str, *, name: str, role: str, user_ref: str, data: Mapping[str, Any] | None) -> Request:
    """Request a token with which one user can enter a room once within 15 minutes.

    Raises:
        ConfigError: EnableX would refuse the request; the message has its result code.
    """
    for key, value, code in (("name", name, "10101"), ("user_ref", user_ref, "10102"), ("role", role, "10103")):
        if not value.strip():
            raise ConfigError(f"{key}: must not be empty ({code})")
    if role not in ROLES:
        raise ConfigError(f"role {role}: unknown; valid roles: {', '.join(ROLES)} (10104)")
    if data is not None and len(data) > MAX_TOKEN_DATA:
        raise ConfigError(f"data: {len(data)} keys; a token has at most {MAX_TOKEN_DATA}")
    body = {"name": name, "role": role, "user_ref": user_ref, **({"data": data} if data else {})}
    return Request("POST", f"{_room_path(room_id)}/tokens", "token", msgspec.json.encode(body))


def dialin_request() -> Request:
    """Request the project's telephone numbers and SIP account; the reply contains secrets."""
    return Request("GET", "/dialin", "sip")


def _room_path(room_id: str) -> str:
    if not room_id.strip():
        raise ConfigError("room_id: must not be empty; `postroom rooms list` shows all rooms (10001)")
    return f"/rooms/{quote(room_id, safe='')}"


# --- replies ---


def read_small(reply: Reply, *, now: datetime) -> Document:
    """The JSON object of a rooms, users, tokens or dial-in reply.

    Raises:
        RoomMissing, RoomActive, Refused, CredentialsRefused, Throttled, Unreachable, UnreadableReply: with code,
            meaning and next step.
    """
    is_room_path = reply.request.path.startswith("/rooms/")
    return read_object(
        reply, now=now, judge=lambda status, problem: _room_verdict(status, problem, is_room_path=is_room_path)
    )


def _room_verdict(status: int, problem: Problem, *, is_room_path: bool) -> tuple[type[ApiError], str]:
    code = "" if problem.result is None else f"{problem.result:.0f}"
    meaning = MEANINGS.get(code, "")
    kind, advice = verdict(status, problem)
    if code in _ACTIVE or (status == 409 and kind is Refused):
        return RoomActive, f"{_prefix(meaning)}a session is running in the room; run again when it is over"
    if code == _MISSING or (status == 404 and is_room_path and kind is Refused):
        return (
            RoomMissing,
            f"{_prefix(meaning)}deleted, or a used ad hoc room; `postroom rooms list` shows all rooms",
        )
    if kind is Refused and meaning:
        return Refused, _prefix(meaning) + _ADVICE.get(code, "correct it and run again")
    return kind, _prefix(meaning) + advice


def _prefix(meaning: str) -> str:
    return f"{meaning}; " if meaning else ""


def parse_room(reply: Mapping[str, Any]) -> Document:
    """The room in a reply. Raises UnreadableReply without a room that has an id."""
    room = reply.get("room")
    if not isinstance(room, dict) or not isinstance(room.get("room_id"), str):
        raise UnreadableReply("EnableX returned success without a room; try again later")
    return room


def parse_rooms(reply: Mapping[str, Any]) -> list[Document]:
    """The rooms of a listing, except entries without an id. Null, a missing key and a single room are accepted."""
    rooms = reply.get("rooms") or []
    listed = [rooms] if isinstance(rooms, dict) else rooms
    return [room for room in listed if isinstance(room, dict) and isinstance(room.get("room_id"), str)]


def parse_users(reply: Mapping[str, Any]) -> list[Document]:
    """The users in a room; null, a missing key and an empty list mean none (section 9.7)."""
    return [user for user in reply.get("users") or [] if isinstance(user, dict)]


def parse_token(reply: Mapping[str, Any]) -> str:
    """The token: a secret for 15 minutes. Raises UnreadableReply without one."""
    token = reply.get("token")
    if not isinstance(token, str) or not token:
        raise UnreadableReply("EnableX returned success without a token; try again later")
    return token
