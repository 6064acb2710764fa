"""CDR documents for tests: both documented shapes, and all their variations."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from hypothesis import strategies as st

DROP: Any = object()
"""Instead of a value: removes the key."""

BEGIN = datetime(2024, 3, 9, 14, 2, 30, 900_000, UTC)

NEW: Mapping[str, Any] = {
    "cdr_id": "65ec6b1f0c3a9e0012ab34cd",
    "app_id": "61aa00bb22cc33dd44ee55ff",
    "parent_partner_id": "5f00aa11bb22cc33dd44ee55",
    "trans_date": "2024-03-09T14:33:05.120Z",
    "conf_num": "284170002063",
    "sip": False,
    "call_num": "3",
    "call_log_id": "65ec6b1f0c3a9e0012ab34ce",
    "room": {
        "room_id": "65ec60000c3a9e0012ab0001",
        "connect_dt": "2024-03-09T14:02:31.337Z",
        "disconnect_dt": "2024-03-09T14:32:58.901Z",
        "duration": 1827,
        "sip": False,
        "room_details": {
            "name": "Consultation 118",
            "owner_ref": "tenant-42",
            "settings": {
                "mode": "group",
                "scheduled": True,
                "scheduled_time": "2024-03-09 14:00:00",
                "duration": "30",
                "participants": "2",
                "moderators": "1",
                "billing_code": "CC-7781",
                "auto_recording": True,
                "quality": "SD",
                "live_recording": {"auto_recording": False, "url": "https://live.example/?token=hush"},
            },
            "sip": {"enabled": True, "pin": 4711},
            "data": {"custom_key": ""},
            "created": "2024-03-08T09:10:11.012Z",
            "room_id": "65ec60000c3a9e0012ab0001",
        },
    },
    "user": {
        "role": "participant",
        "ip": "203.0.113.7",
        "name": "A. Patient",
        "ref": "patient-9001",
        "agent": "Mozilla/5.0 (X11)",
    },
    "sigserver": {
        "connect_dt": "2024-03-09T14:02:30.900Z",
        "disconnect_dt": "2024-03-09T14:32:59.100Z",
        "ip": "198.51.100.20",
        "duration": 1828.2,
        "hold_duration": 0.44,
    },
    "published_track": {"audio": True, "video": True, "data": False, "screen": False, "url": False},
    "usage": {
        "subscribed_minutes": 30,
        "published_minutes": 31,
        "screen_minutes": 0,
        "connect_minutes": 31,
        "connect_minutes_cal": 31,
        "room_connect_minutes": 31,
    },
    "stats_quality": {
        "send": {
            "video": {"avg_bitrate": 412, "avg_bitrate_quality": "Good", "max_bitrate": 640, "min_bitrate": 88},
            "audio": {"avg_bitrate": 34, "avg_bitrate_quality": "Good", "max_bitrate": 48, "min_bitrate": 12},
            "sharing": {},
        },
        "receive": {
            "video": {
                "avg_bitrate": 388,
                "avg_bitrate_quality": "Bad",
                "max_bitrate": 610,
                "min_bitrate": 0,
                "bitrate_good_percent": 71,
            },
            "audio": {"avg_bitrate": 31, "avg_bitrate_quality": "Good", "max_bitrate": 44, "min_bitrate": 9},
            "sharing": {},
        },
    },
    "price": {"connect_duration": 0.124},
}
"""The newer shape (enablex-api.md section 4.1)."""

OLD: Mapping[str, Any] = {
    "trans_date": "2024-03-09T15:15:00.000Z",
    "conf_num": "284170002063",
    "call_num": "1",
    "call_log_id": "5ed4b6a40c3a9e0012ab0007",
    "room": {
        "room_id": "65ec60000c3a9e0012ab0001",
        "connect_dt": "2024-03-09T15:04:58.100Z",
        "disconnect_dt": "2024-03-09T15:14:58.612Z",
        "duration": 600.512,
    },
    "user": {
        "ip": "203.0.113.7",
        "name": "",
        "role": "moderator",
        "ref": "",
        "agent": "okhttp/3.5.0",
        "token": "eyJhbGciOiJIUzI1NiJ9.hush",
        "confName": "",
    },
    "sigserver": {
        "connect_dt": "2024-03-09T15:04:57.900Z",
        "ip": "",
        "disconnect_dt": "2024-03-09T15:14:58.904Z",
        "duration": 601.004,
        "hold_duration": 0.12,
    },
    "published_track": {"audio": "true", "data": "true", "video": "true", "screen": "false", "url": "false"},
    "usage": {"subscribed_minutes": 9.871, "published_minutes": 10.008},
    "app_id": "61aa00bb22cc33dd44ee55ff",
    "cdr_id": "5ed4b6a40c3a9e0012ab0008",
}
"""The older shape (section 4.2)."""


def changed(document: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """A copy with other values: `changed(NEW, user__name="B", cdr_id=DROP)`; `__` separates levels."""
    result = copy.deepcopy(dict(document))
    for path, value in changes.items():
        set_at(result, tuple(path.split("__")), value)
    return result


def set_at(document: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    """Set a value at a path, or with DROP remove it. Without effect if a parent is not an object."""
    branch: Any = document
    for key in path[:-1]:
        branch = branch.setdefault(key, {}) if isinstance(branch, dict) else None
    if not isinstance(branch, dict):
        return
    if value is DROP:
        branch.pop(path[-1], None)
    else:
        branch[path[-1]] = value


def raw(document: Any) -> msgspec.Raw:
    """A document as its bytes in a reply."""
    return msgspec.Raw(json.dumps(document).encode())


def utc(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def paths(document: Mapping[str, Any], at: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every path in a document, including those of containers."""
    result = []
    for key, value in document.items():
        result.append((*at, key))
        if isinstance(value, dict):
            result += paths(value, (*at, key))
    return result


_MOMENTS = st.integers(0, 3 * 86_400_000).map(lambda ms: utc(BEGIN + timedelta(milliseconds=ms)))
_ODD_TIMES = st.sampled_from(
    ["2024-03-09 14:00:00", "2024-03-09T14:33:05Z", "2024-03-09T14:33:05.120+05:30", "2024-03-09T24:00:00.000Z",
     "2024-03-09T14:33:60.000Z", "2024-03-09T14:33:05,120Z", "2024-03-09 14:33:05.120Z", "1969-12-31T23:59:59.999Z",
     "0001-01-01T00:00:00.000Z", "9999-12-31T23:59:59.999Z", "2024-02-30T00:00:00.000Z", "20240309T143305.1201234Z",
     "2024-W10-6T14:33:05.120Z", "１７０９９９２９５１", 1709992951337, "1709992951337", 1709992951, 1709992951.337, 5,
     "yesterday"]
)  # fmt: skip
_ODD = st.one_of(
    st.sampled_from(
        [None, "", {}, [], " ", "x", "true", "FALSE", True, False, 0, 1, 1.0, 0.0, -0.0, -1, 2, "1", "12.5", " 7 ",
         "NaN", "1e3", 0.0005, 1.0005, 2.5e-7, 1e11, 999_999_999_999, 10**12, 2**53 + 1, 2**63, 10**30, -(10**30),
         1e300, "9" * 50, "\ud800", "\x00", "\u2028", [1], ["x"], [None, {"token": "hush"}], {"a": 1},
         {"token": "hush", "b": 2}]
    ),
    _ODD_TIMES,
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(),
    st.text(max_size=5),
)  # fmt: skip
_PLACES = sorted({*paths(NEW), *paths(OLD)})
_UNDOCUMENTED = st.tuples(
    st.sampled_from([(), ("user",), ("room",), ("room", "room_details", "settings"), ("usage",), ("sigserver",)]),
    st.sampled_from(["beta", "auth_token", "pin", "app_key", "é", "a.b"]),
).map(lambda parent_and_key: (*parent_and_key[0], parent_and_key[1]))
_DRIFT = st.tuples(st.sampled_from(_PLACES) | _UNDOCUMENTED, st.just(DROP) | _ODD)


_LEVELS = [(), ("user",), ("room",), ("usage",), ("price",), ("room", "room_details"), ("stats_quality",),
           ("room", "room_details", "settings"), ("room", "room_details", "sip")]  # fmt: skip
_KEYS = ["beta", "region", "é", "a.b", "", "$repaired", "auth_token", "pin", "name", "sip", "created", "conf_num"]
_KEY_TEXTS = st.sampled_from(_KEYS).map(json.dumps) | st.sampled_from(['"\\u0062eta"', '"\\"q"', '"n\\u0061me"'])
_VALUE_TEXTS = st.one_of(
    st.sampled_from(
        ["null", "true", "-0", "1.50", "1E2", "123456789012345678901234", '""',
         '"x"', '"\\u00e9\\n"', '"\\/"', '"\U0001f600"',
         "{}", "[]", "[ ]", '{"a":null,"b":{"token":"hush"}}', '{ "z":[{"pin":1},""],"a":"\\"q" }',
         '[1, {"b":"","a":2}]',
         '{"a":1,"a":2}', '{"":""}', '{"authorization":"hush"}', "[" * 70 + "]" * 70]
    ),
    _ODD.map(json.dumps),
)  # fmt: skip
_MEMBERS = st.tuples(st.sampled_from(_LEVELS), _KEY_TEXTS, _VALUE_TEXTS)


def spelled(document: Any, others: Sequence[tuple[tuple[str, ...], str, str]] = (), at: tuple[str, ...] = ()) -> str:
    """A document as JSON with further members (path of their object, key and value as JSON), also repeated ones."""
    if not isinstance(document, dict):
        return json.dumps(document)
    members = [f"{json.dumps(key)}:{spelled(value, others, (*at, key))}" for key, value in document.items()]
    members += [f"{key}: {value}" for path, key, value in others if path == at]
    return "{" + ", ".join(members) + "}"


@st.composite
def drifted_documents(draw: Callable[..., Any]) -> msgspec.Raw:
    """Documents with up to 4 further members at any level: undocumented, repeated, escaped, secret or empty ones."""
    document = draw(sound_documents() | sound_documents() | documents())
    return msgspec.Raw(spelled(document, draw(st.lists(_MEMBERS, max_size=4))).encode())


@st.composite
def sound_documents(draw: Callable[..., Any]) -> dict[str, Any]:
    """Documents of either documented shape, with drawn ids, times and minutes."""
    document = copy.deepcopy(dict(draw(st.sampled_from([NEW, OLD]))))
    document["cdr_id"] = draw(st.sampled_from(["c1", "c2", "c3", "c4"]))
    document["trans_date"] = draw(_MOMENTS)
    for side in ("room", "sigserver"):
        document[side]["connect_dt"], document[side]["disconnect_dt"] = draw(_MOMENTS), draw(_MOMENTS)
    document["usage"]["published_minutes"] = draw(st.integers(0, 600) | st.decimals(0, 600, places=3).map(float))
    return document


@st.composite
def documents(draw: Callable[..., Any]) -> Any:
    """Elements of a reply: usually valid documents, often with up to 3 changes, in 5 % other values."""
    if draw(st.integers(0, 19)) == 0:
        return draw(st.sampled_from([None, 1, "x", "", [], [{}], {}, True, 1.5, 10**30, {"conf_num": "1"}]))
    document = draw(sound_documents())
    for path, value in draw(st.lists(_DRIFT, max_size=3)):
        set_at(document, path, copy.deepcopy(value) if value is not DROP else DROP)
    return document
