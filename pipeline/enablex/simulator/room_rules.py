"""Validation of the rooms routes: documented result codes, checked in a fixed order (pure)."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

Document = dict[str, Any]
Check = Callable[[Any], int | None]

CODES = {
    10000: "Application not found",
    10001: "Missing room_id in URL",
    10002: "Missing parameter: name",
    10003: "Invalid parameter: settings.scheduled",
    10004: "Missing parameter: settings.scheduled_time",
    10005: "Invalid format: settings.scheduled_time",
    10006: "Not acceptable value: settings.scheduled_time",
    10007: "Invalid parameter: settings.participants",
    10008: "Invalid parameter: settings.auto_recording",
    10009: "Unrecognized key in settings",
    10010: "Missing parameter: owner_ref",
    10011: "Invalid parameter: settings.duration",
    10012: "Invalid parameter: settings.active_talker",
    10013: "Invalid parameter: settings.wait_moderator",
    10014: "Invalid parameter: settings.quality",
    10015: "Missing parameter: sip.uri",
    10016: "Invalid parameter: settings.adhoc",
    10017: "Not acceptable value: settings.adhoc",
    10018: "Parameter not valid for this room type",
    10019: "Invalid parameter: settings.mode",
    10020: "Not acceptable value: settings.mode",
    10021: "Room quality above the project's quality",
    10022: "Invalid parameter: settings.moderators",
    10023: "Not acceptable value: settings.moderators",
    10024: "Not acceptable value: settings.peep",
    10025: "Not acceptable value: settings.knock",
    10026: "Invalid SIP URI",
    10030: "Room is active",
    10101: "Missing parameter: name",
    10102: "Missing parameter: user_ref",
    10103: "Missing parameter: role",
    10104: "Invalid parameter: role",
    10105: "Server busy",
    10106: "Room type can not be changed",
    10111: "Conference is over",
    10112: "Past the permitted cut-off time",
    10113: "Room is not active yet",
    10114: "Room is full",
    40001: "Room not found",
    50000: "Internal error",
    50001: "Could not create room",
    50002: "Could not list rooms",
    50003: "Could not get room",
    50004: "Could not delete room",
    50005: "Could not delete room",
}
"""Result codes of rooms and tokens with their texts. 50004 and 50005 have the same text, as documented."""

EDIT_CUTOFF = timedelta(minutes=15)
"""Time before `scheduled_time` at which a scheduled room opens and can no longer be changed."""

ROLES = ("moderator", "participant", "viewer", "audience")
TYPE_KEYS = ("mode", "scheduled", "adhoc")
_TIME = "%Y-%m-%d %H:%M:%S"
_SUBSCRIPTION = ("audiences", "send_audiences_stats", "hls_view_url", "live_transcription")
_UNCHECKED = (
    "description",
    "billing_code",
    "screen_share",
    "canvas",
    "abwd",
    "single_file_recording",
    "role_based_recording",
    "live_recording",
    "watermark",
    "media_zone",
    "facex",
)


def _flag(code: int) -> Check:
    return lambda value: None if isinstance(value, bool) else code


def _one_of(code: int, *values: str) -> Check:
    return lambda value: None if value in values else code


def _count(code: int, least: int) -> Check:
    """An integer, as a number or text, of at least `least`."""
    return lambda value: None if (number := whole(value)) is not None and number >= least else code


def _mode(value: Any) -> int | None:
    if not isinstance(value, str):
        return 10019
    return None if value in ("group", "lecture") else 10020


def _moderators(value: Any) -> int | None:
    number = whole(value)
    if number is None:
        return 10022
    return None if 1 <= number <= 5 else 10023


def _talkers(value: Any) -> int | None:
    number = whole(value)
    return None if number is not None and 1 <= number <= 16 else 10012


def _sip_uri(value: Any) -> int | None:
    return None if isinstance(value, str) and re.fullmatch(r"sips?:[^@\s]+@[^@\s]+", value) else 10026


_CHECKS: dict[str, Check] = {
    "mode": _mode,
    "scheduled": _flag(10003),
    "adhoc": _flag(10016),
    "scheduled_time": lambda value: None if scheduled_time(value) else 10005,
    "duration": _count(10011, 0),
    "moderators": _moderators,
    "participants": _count(10007, 0),
    "auto_recording": _flag(10008),
    "active_talker": _flag(10012),
    "max_active_talkers": _talkers,
    "wait_for_moderator": _flag(10013),
    "wait_moderator": _flag(10013),
    "quality": _one_of(10014, "HD", "SD", "LD"),
    "peep": _flag(10024),
    "knock": _flag(10025),
    "aor": _sip_uri,
} | {key: lambda _: None for key in _UNCHECKED}
"""Every valid key of `settings`, with the check of its value: a result code, or None for a valid value."""


def create_fault(body: Document, now: datetime, *, plan_is_sd: bool) -> int | None:
    """The code with which a new room is refused; None if it is valid."""
    if not body.get("name"):
        return 10002
    if not body.get("owner_ref"):
        return 10010
    settings = body.get("settings", {})
    return _settings_fault(settings, plan_is_sd=plan_is_sd) or _sip_fault(body) or _type_fault(settings, now)


def change_fault(room: Document, body: Document, now: datetime, *, plan_is_sd: bool) -> int | None:
    """The code with which a change of a room is refused. The caller has checked that the room is not active."""
    settings = body.get("settings", {})
    if "name" in body and not body["name"]:
        return 10002
    code = _settings_fault(settings, plan_is_sd=plan_is_sd) or _sip_fault(body)
    if code is not None:
        return code
    before = room["settings"]
    if any(key in settings and settings[key] != before.get(key) for key in TYPE_KEYS):
        return 10106
    if not before.get("scheduled"):
        return 10018 if "scheduled_time" in settings else None
    begin = scheduled_time(before.get("scheduled_time"))
    if begin is not None and begin - EDIT_CUTOFF < now:
        return 10006
    return _past(settings, now)


def token_fault(body: Document) -> int | None:
    """The code with which a token request is refused for its own fields, for any room."""
    for key, code in (("name", 10101), ("user_ref", 10102), ("role", 10103)):
        if not body.get(key):
            return code
    return None if body["role"] in ROLES else 10104


def room_fault(room: Document, now: datetime, *, present: int | None, was_used: bool) -> int | None:
    """The code with which a room refuses another user. `present`: users in the session; None without a session."""
    settings = room["settings"]
    begin = scheduled_time(settings.get("scheduled_time")) if settings.get("scheduled") else None
    if begin is not None:
        minutes = whole(settings.get("duration")) or 0
        if now < begin - EDIT_CUTOFF:
            return 10113
        if minutes and present is None and now >= begin + timedelta(minutes=minutes):
            return 10111 if was_used else 10112
    seats = whole(settings.get("participants")) or 0
    if seats and (present or 0) >= seats + (whole(settings.get("moderators")) or 1):
        return 10114
    return None


def needs_subscription(body: Document) -> str | None:
    """The first setting that requires a subscription. Its result code is not documented."""
    settings = body.get("settings")
    return next((key for key in _SUBSCRIPTION if key in settings), None) if isinstance(settings, dict) else None


def scheduled_time(value: Any) -> datetime | None:
    """Parse `YYYY-MM-DD HH:MM:SS`, in UTC; None for any other value."""
    try:
        return datetime.strptime(value, _TIME).replace(tzinfo=UTC)
    except (TypeError, ValueError):
        return None


def whole(value: Any) -> int | None:
    """An integer, given as a number or text; None for other values, including booleans."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    return int(value) if re.fullmatch(r"[0-9]+", str(value)) else None


def _settings_fault(settings: Any, *, plan_is_sd: bool) -> int | None:
    if not isinstance(settings, dict) or any(key not in _CHECKS for key in settings):
        return 10009
    codes = (_CHECKS[key](value) for key, value in settings.items())
    first = next((code for code in codes if code is not None), None)
    if first is None and plan_is_sd and settings.get("quality") == "HD":
        return 10021
    return first


def _type_fault(settings: Document, now: datetime) -> int | None:
    """The code for an invalid combination of a new room's settings. Single values have been checked before."""
    scheduled = settings.get("scheduled")
    if scheduled and settings.get("adhoc"):
        return 10017
    if not scheduled:
        return 10018 if "scheduled_time" in settings else None
    if "scheduled_time" not in settings:
        return 10004
    return 10011 if "duration" not in settings else _past(settings, now)


def _sip_fault(body: Document) -> int | None:
    sip = body.get("sip")
    return 10015 if isinstance(sip, dict) and "uri" in sip and not sip["uri"] else None


def _past(settings: Document, now: datetime) -> int | None:
    begin = scheduled_time(settings.get("scheduled_time"))
    return 10006 if begin is not None and begin <= now else None
