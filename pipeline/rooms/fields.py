"""Every field of a room: valid values, EnableX's spelling, and when two spellings are equal (pure).

Source: enablex-api.md sections 2.5 and 9.2 to 9.5. Returned values may have another type (observed): numbers as text,
text as numbers, flags as "true". Therefore actual values are parsed leniently by `normalize.values`, and desired values
strictly by the checks below.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pipeline.tables.normalize import values
from pipeline.tables.normalize.row_reader import get_path, set_path

Document = dict[str, Any]
"""One JSON object of the API."""

Path = tuple[str, ...]
"""Keys from the top of the API's room object to one value."""

Check = Callable[[Any], Any]
"""Returns a desired value in its normal form; raises ValueError with the valid values."""

_NAMED_ZONE = re.compile(r"(\d{4}-\d\d-\d\d[ T]\d\d:\d\d(?::\d\d)?) ?([A-Za-z][\w+-]*(?:/[\w+-]+)*)")


# --- checks ---


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("must be text that is not empty")
    return value


def _any_text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("must be text")
    return value


def _code_text(value: Any) -> str | int:
    """Returned unchanged: EnableX returns a number as a number (observed)."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError("must be text or a whole number")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def _count(least: int, most: int | None = None) -> Check:
    def check(value: Any) -> int:
        number = int(value) if isinstance(value, str) and value.isdecimal() else value
        if isinstance(number, bool) or not isinstance(number, int):
            raise ValueError("must be a whole number")
        if number < least or (most is not None and number > most):
            raise ValueError(f"must be from {least} to {most}" if most is not None else f"must be {least} or more")
        return number

    return check


def _one_of(*words: str) -> Check:
    def check(value: Any) -> str:
        if value not in words:
            raise ValueError(f"must be {', '.join(words[:-1])} or {words[-1]}")
        return str(value)

    return check


def _sip_uri(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"sips?:[^@\s]+@[^@\s]+", value):
        raise ValueError("must be a SIP URI such as sip:desk@example.com")
    return value


def _https_url(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"https://[^\s/]+(/\S*)?", value):
        raise ValueError("must be a URL that starts with https://")
    return value


def _stream_url(value: Any) -> str:
    return "DEFAULT" if value == "DEFAULT" else _https_url(value)


def parse_time(value: Any) -> datetime:
    """Parse a point in time with any zone; returns UTC in whole seconds.

    A `datetime` with a zone, or text: `2026-12-01T14:00:00+01:00`, `2026-12-01 14:00 Asia/Kolkata`.

    Raises:
        ValueError: no zone, an unknown zone, or an hour that the zone skips or repeats.
    """
    if isinstance(value, str):
        value = _time_from_text(value.strip())
    if not isinstance(value, datetime):
        raise ValueError('must be a time such as 2026-12-01T14:00:00+01:00 or "2026-12-01 14:00 Europe/Berlin"')
    if value.tzinfo is None:
        raise ValueError(f"{value} has no time zone; write it with one, for example {value.isoformat()}Z for UTC")
    if value.microsecond:
        raise ValueError("must be in whole seconds")
    return value.astimezone(UTC)


def _time_from_text(text: str) -> Any:
    named = _NAMED_ZONE.fullmatch(text)
    try:
        if named is None or named[2].upper() == "Z":
            return datetime.fromisoformat(text)
        return _local_time(datetime.fromisoformat(named[1]), named[2])
    except (ZoneInfoNotFoundError, OSError):
        raise ValueError(
            f'no such time zone; it is an IANA name such as "Asia/Kolkata", not "{named and named[2]}"'
        ) from None
    except ValueError as error:
        if named:
            raise
        raise ValueError(f"{error}; write it as 2026-12-01T14:00:00+01:00") from None


def _local_time(local: datetime, zone: str) -> datetime:
    """A local time of a zone, if it exists exactly once there."""
    first, second = (local.replace(tzinfo=ZoneInfo(zone), fold=fold) for fold in (0, 1))
    if first.utcoffset() == second.utcoffset():
        return first
    exists = first.astimezone(UTC).astimezone(first.tzinfo).replace(tzinfo=None) == local
    what = "ambiguous" if exists else "skipped"
    raise ValueError(f"{local} is {what} in {zone}, where clocks change; write it with an offset such as +01:00")


# --- kinds and fields ---


@dataclass(frozen=True)
class Kind:
    """How the values of a field are checked, sent and parsed."""

    check: Check
    parse: Callable[[Any], Any]
    serialize: Callable[[Any], Any] = lambda value: value


TEXT = Kind(_text, values.text)
ANY_TEXT = Kind(_any_text, values.text)
CODE = Kind(_code_text, values.text)
FLAG = Kind(_flag, values.flag)
TIMESTAMP = Kind(parse_time, values.timestamp, lambda value: f"{value:%Y-%m-%d %H:%M:%S}")


def _number(least: int, most: int | None = None, *, as_text: bool = False) -> Kind:
    return Kind(_count(least, most), values.decimal, str if as_text else lambda value: value)


def _word(*words: str) -> Kind:
    return Kind(_one_of(*words), values.text)


@dataclass(frozen=True)
class Field:
    """One field of a room. `name` is dotted, as in a rooms file, where settings have no prefix "settings.".

    `code`: EnableX's error code for an invalid value. `default`: the documented default, which is restored when a rooms
    file no longer names the field; None when there is none, or when the field is always sent.
    """

    name: str
    path: Path
    kind: Kind
    code: str = ""
    default: Any = None
    is_fixed: bool = False
    is_secret: bool = False
    aliases: str = ""

    def value_in(self, room: Mapping[str, Any]) -> Any:
        """The value in a room document, parsed leniently; None when it is missing or cannot be parsed."""
        raw = get_path(room, self.path)
        if raw is None and self.aliases:
            raw = get_path(room, (*self.path[:-1], self.aliases))
        return self.read(raw)

    def is_present(self, room: Mapping[str, Any]) -> bool:
        """Whether a room document has a value for this field; empty text counts for text fields."""
        return self.value_in(room) is not None or (get_path(room, self.path) == "" and self.kind.parse is values.text)

    def read(self, raw: Any) -> Any:
        try:
            return self.kind.parse(raw)
        except ValueError:
            return None


def _top(name: str, kind: Kind, code: str = "", **more: Any) -> Field:
    return Field(name, tuple(name.split(".")), kind, code, **more)


def _setting(name: str, kind: Kind, code: str = "", **more: Any) -> Field:
    return Field(name, ("settings", *name.split(".")), kind, code, **more)


_TRACKS = _word("audio", "audiovideo")

FIELDS: Mapping[str, Field] = MappingProxyType(
    {
        field.name: field
        for field in (
            _top("name", TEXT, "10002"),
            _top("owner_ref", TEXT, "10010"),
            _setting("description", ANY_TEXT, default=""),
            _setting("mode", _word("group", "lecture"), "10019, 10020", is_fixed=True),
            _setting("scheduled", FLAG, "10003", is_fixed=True),
            _setting("adhoc", FLAG, "10016", is_fixed=True),
            _setting("scheduled_time", TIMESTAMP, "10005"),
            _setting("duration", _number(0), "10011"),
            _setting("moderators", _number(1, 5, as_text=True), "10022, 10023"),
            _setting("participants", _number(0, as_text=True), "10007"),
            _setting("billing_code", CODE, default=""),
            _setting("auto_recording", FLAG, "10008", default=False),
            _setting("quality", _word("HD", "SD", "LD"), "10014"),
            _setting("screen_share", FLAG, default=True),
            _setting("canvas", FLAG, default=False),
            _setting("abwd", FLAG, default=True),
            _setting("max_active_talkers", _number(1, 16), "10012", default=6),
            _setting("active_talker", FLAG, "10012", default=True),
            _setting("knock", FLAG, "10025", default=False),
            _setting("wait_for_moderator", FLAG, "10013", default=False, aliases="wait_moderator"),
            _setting("single_file_recording", FLAG, default=False),
            _setting("role_based_recording.moderator", _TRACKS, default="audiovideo"),
            _setting("role_based_recording.participant", _TRACKS, default="audiovideo"),
            _setting("live_recording.auto_recording", FLAG),
            _setting("live_recording.url", Kind(_https_url, values.text), is_secret=True),
            _setting("watermark", FLAG, default=False),
            _setting("media_zone", _word("IN", "SG", "US", "XX"), default="XX"),
            _setting("facex", FLAG),
            _setting("peep", FLAG, "10024"),
            _setting("audiences", _number(0)),
            _setting("send_audiences_stats", FLAG),
            _setting("hls_view_url", Kind(_stream_url, values.text), is_secret=True),
            _setting("live_transcription.language", TEXT),
            _setting("live_transcription.auto_transcribe", FLAG, default=False),
            _setting("live_transcription.enable", FLAG, default=True),
            _setting("aor", Kind(_sip_uri, values.text), "10026"),
            _top("sip.enabled", FLAG, default=False),
            _top("sip.uri", Kind(_sip_uri, values.text), "10015"),
        )
    }
)
"""Every documented field by name, in the order of section 9.3, except `data`, which is any object.

`aor` and `sip.uri` occur only in error codes, `active_talker` in samples. Fields that need a subscription are sent as
desired: the subscription of a project cannot be queried.
"""

REQUIRED = ("name", "owner_ref", "participants")


# --- a room as named values ---


def flat(nested: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Flatten nested tables to dotted names; `data` stays one value."""
    for key, value in nested.items():
        if isinstance(value, Mapping) and not (key == "data" and not above):
            yield from flat(value, f"{above}{key}.")
        elif value is not None:
            yield f"{above}{key}", value


def problems(named: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(field, problem and valid values) for everything that EnableX refuses (documented)."""
    invalid = [(name, unknown(name)) for name in named if name not in FIELDS and name != "data"]
    missing = [name for name in REQUIRED if name not in named]
    invalid += [(name, f"missing; required in every room ({FIELDS[name].code})") for name in missing]
    for name, value in named.items():
        try:
            checked_data(value) if name == "data" else FIELDS[name].kind.check(value) if name in FIELDS else None
        except ValueError as error:
            code = FIELDS[name].code if name in FIELDS else ""
            invalid.append((name, f"{error}; found {_shown(name, value)}{f' ({code})' if code else ''}"))
    return invalid or list(_type_problems(named))


def _type_problems(named: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Invalid combinations of valid values (section 9.2)."""
    scheduled, adhoc = named.get("scheduled", False), named.get("adhoc", False)
    if scheduled and adhoc:
        yield "adhoc", "a room is scheduled or ad hoc, not both (10017)"
    if scheduled:
        for name, code in (("scheduled_time", "10004"), ("duration", "10011")):
            if name not in named:
                yield name, f"missing; required in a scheduled room ({code})"
    elif "scheduled_time" in named:
        yield "scheduled_time", "allowed only in a scheduled room; add scheduled = true (10018)"
    if not scheduled and not adhoc and "duration" in named:
        yield "duration", "not allowed in a permanent room; add scheduled = true or adhoc = true (10018)"
    if named.get("single_file_recording"):
        users = int(named["participants"]) + int(named.get("moderators", 1))
        if users != 2:
            yield "single_file_recording", f"allowed for 2 users only; this room is for {users}"


def unknown(name: str) -> str:
    return f"{unknown_among(name, (*FIELDS, 'data'))} (10009)"


def unknown_among(name: str, valid: Sequence[str]) -> str:
    """Error text for an unknown name, with the nearest valid name or all of them."""
    near = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    return "unknown; " + (f'did you mean "{near[0]}"?' if near else f"valid names: {', '.join(valid)}")


def _shown(name: str, value: Any) -> str:
    return "a secret" if name in FIELDS and FIELDS[name].is_secret else repr(value)[:60]


def checked_data(data: Any) -> Mapping[str, Any]:
    """Check `data`: any JSON object; keys that start with "postroom_" are reserved."""
    if not isinstance(data, Mapping):
        raise ValueError("must be a table")
    _check_json(data)
    for key in data:
        if key.startswith("postroom_"):
            raise ValueError(f"{key}: keys that start with postroom_ are reserved")
    return data


def _check_json(value: Any) -> None:
    if isinstance(value, Mapping):
        for key, part in value.items():
            if not isinstance(key, str):
                raise ValueError("keys must be text")
            _check_json(part)
    elif isinstance(value, list | tuple):
        for part in value:
            _check_json(part)
    elif isinstance(value, float) and not abs(value) < float("inf"):
        raise ValueError("must be finite numbers")
    elif value is not None and not isinstance(value, str | bool | int | float):
        raise ValueError(f"must be valid JSON; write the {type(value).__name__} as text")


def from_text(name: str, text: str) -> Any:
    """The value of a field from a command line: `true`, `30`, `2026-12-01T14:00:00+01:00`."""
    field = FIELDS.get(name)
    if field is not None and field.kind is FLAG:
        return {"true": True, "false": False}.get(text.lower(), text)
    return text


def same_json(desired: Any, actual: Any) -> bool:
    """Whether a returned value of `data` equals the sent one, ignoring changed types ("30" for 30)."""
    if isinstance(desired, Mapping):
        return isinstance(actual, Mapping) and all(
            key in actual and same_json(desired[key], actual[key]) for key in desired
        )
    if isinstance(desired, list | tuple):
        return isinstance(actual, list) and len(desired) == len(actual) and all(map(same_json, desired, actual))
    if desired == actual:
        return True
    return not isinstance(actual, Mapping | list) and _type_neutral(desired) == _type_neutral(actual)


def _type_neutral(value: Any) -> Any:
    try:
        return values.decimal(value)
    except ValueError:
        return values.text(value)


# --- leaves ---


def leaves(value: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    """Every value inside, by path; an empty object counts as a value."""
    if isinstance(value, Mapping) and value:
        for key, part in value.items():
            yield from leaves(part, (*path, key))
    elif not (isinstance(value, Mapping) and len(path) == 1):
        yield path, value


def nested(leaves: Mapping[Path, Any]) -> Document:
    """The object with these values at these paths."""
    document: Document = {}
    for path, value in leaves.items():
        set_path(document, path, value)
    return document
