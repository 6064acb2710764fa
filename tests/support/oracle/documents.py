"""One document of EnableX as columns of `cdr` (docs/reference/tables.md), without any code of the product."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

Columns = dict[str, Any]

_SECRET = re.compile(r"token|passw|secret|app_key|meeting_id|authorization|cookie|^pin$", re.IGNORECASE)


class Unreadable(ValueError):
    """A value that fits no column."""


class Rejected(ValueError):
    """A document that becomes no row; its text is the beginning of the reason."""


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    raise Unreadable


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if word in {"true", "1", "yes"}:
        return True
    if word in {"false", "0", "no"}:
        return False
    raise Unreadable


def _number(value: Any) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise Unreadable
    try:
        number = Decimal(str(value).strip())
    except InvalidOperation:
        raise Unreadable from None
    if not number.is_finite() or abs(number) >= 10**7:
        raise Unreadable
    return number


def _time(value: Any) -> datetime:
    """ISO 8601 only: worlds contain no other form of times."""
    if not isinstance(value, str):
        raise Unreadable
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise Unreadable from None
    moment = moment.replace(tzinfo=moment.tzinfo or UTC)
    if not 2000 <= moment.year < 2100:
        raise Unreadable
    return moment.astimezone(UTC)


def _billed(value: Any) -> Decimal:
    return round(_number(value), 3)


def _money(value: Any) -> Decimal:
    return round(_number(value), 6)


FIELDS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "cdr_id": ("cdr_id", _text),
    "app_id": ("app_id", _text),
    "partner_id": ("parent_partner_id", _text),
    "conf_num": ("conf_num", _text),
    "call_num": ("call_num", _text),
    "call_log_id": ("call_log_id", _text),
    "trans_at": ("trans_date", _time),
    "is_sip": ("sip", _flag),
    "room_id": ("room.room_id", _text),
    "room_name": ("room.room_details.name", _text),
    "owner_ref": ("room.room_details.owner_ref", _text),
    "billing_code": ("room.room_details.settings.billing_code", _text),
    "room_mode": ("room.room_details.settings.mode", _text),
    "room_is_scheduled": ("room.room_details.settings.scheduled", _flag),
    "room_is_adhoc": ("room.room_details.settings.adhoc", _flag),
    "room_auto_recording": ("room.room_details.settings.auto_recording", _flag),
    "room_connected_at": ("room.connect_dt", _time),
    "room_disconnected_at": ("room.disconnect_dt", _time),
    "room_duration_s": ("room.duration", _number),
    "user_ref": ("user.ref", _text),
    "user_name": ("user.name", _text),
    "user_role": ("user.role", _text),
    "user_ip": ("user.ip", _text),
    "user_agent": ("user.agent", _text),
    "signal_connected_at": ("sigserver.connect_dt", _time),
    "signal_disconnected_at": ("sigserver.disconnect_dt", _time),
    "signal_duration_s": ("sigserver.duration", _number),
    "signal_hold_s": ("sigserver.hold_duration", _number),
    "published_audio": ("published_track.audio", _flag),
    "published_video": ("published_track.video", _flag),
    "published_data": ("published_track.data", _flag),
    "published_screen": ("published_track.screen", _flag),
    "published_url": ("published_track.url", _flag),
    "subscribed_min": ("usage.subscribed_minutes", _number),
    "published_min": ("usage.published_minutes", _number),
    "screen_min": ("usage.screen_minutes", _number),
    "connect_min": ("usage.connect_minutes", _number),
    "connect_billed_min": ("usage.connect_minutes_cal", _billed),
    "room_connect_min": ("usage.room_connect_minutes", _number),
    "price": ("price.connect_duration", _money),
}
"""Column: (path in the document, how it is read)."""

PERSONAL = {"user_ref", "user_name", "user_ip"}
_NOT_EXTRA = {path for path, _ in FIELDS.values()} | {
    "stats_quality",
    "user.token",
    "room.room_details.sip.pin",
    "room.room_details.settings.live_recording.url",
    "room.room_details.settings.hls_view_url",
}
MOMENTS = ("trans_at", "signal_disconnected_at", "room_disconnected_at", "signal_connected_at", "room_connected_at")
"""The first of these that a document has is its moment."""

TEXTS = sorted(name for name, (_, read) in FIELDS.items() if read is _text and name != "cdr_id")
CONNECT_TIMES = ("signal_connected_at", "room_connected_at")


def columns(value: Any) -> Columns:
    """The columns that EnableX fills, and `extra` as an object.

    Raises:
        Rejected: not an object, no `conf_num`, or no time.
    """
    if not isinstance(value, dict):
        raise Rejected("not an object")
    row = readable(value)
    if row["conf_num"] is None:
        raise Rejected("missing or unreadable")
    if moment(row) is None:
        raise Rejected("no readable time")
    return row


def readable(value: Any) -> Columns:
    """What can be read of any document; nothing of one that is not an object."""
    if not isinstance(value, dict):
        return dict.fromkeys(FIELDS)
    row: Columns = {}
    extra = _rest(value, "")
    for name, (path, read) in FIELDS.items():
        found = _at(value, path)
        try:
            row[name] = None if found is None or found == "" else read(found)
        except Unreadable:
            row[name] = None
            if name not in PERSONAL:
                _put(extra, path, _without_secrets(found))
    row["is_sip"] = bool(row["is_sip"])
    row["extra"] = extra or None
    return row


def moment(row: Mapping[str, Any]) -> datetime | None:
    return next((row[name] for name in MOMENTS if row[name]), None)


def day_of(row: Mapping[str, Any]) -> date:
    found = moment(row)
    assert found is not None
    return found.date()


def _at(value: Any, path: str) -> Any:
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _put(tree: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for key in parents:
        tree = tree.setdefault(key, {})
    tree[last] = value


def _rest(value: Mapping[str, Any], at: str) -> dict[str, Any]:
    """Fields without a column, without empty ones and secrets."""
    rest: dict[str, Any] = {}
    for key, inner in value.items():
        path = f"{at}.{key}".lstrip(".")
        kept = _rest(inner, path) if isinstance(inner, dict) else _without_secrets(inner)
        if path not in _NOT_EXTRA and not _SECRET.search(key) and kept is not None and kept not in ("", {}):
            rest[key] = kept
    return rest


def _without_secrets(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_secrets(inner) for key, inner in value.items() if not _SECRET.search(key)}
    return [_without_secrets(inner) for inner in value] if isinstance(value, list) else value
