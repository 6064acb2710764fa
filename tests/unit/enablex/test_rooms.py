"""Requests of rooms as documented, and every code of sections 2.5 and 2.6 with its meaning."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any

import pytest

from pipeline.core.errors import (
    ApiError,
    ConfigError,
    CredentialsRefused,
    Refused,
    RoomActive,
    RoomMissing,
    Throttled,
    Transient,
    Unreachable,
    UnreadableReply,
)
from pipeline.enablex import rooms
from pipeline.enablex.protocol import Reply, Request
from pipeline.enablex.rooms import MEANINGS, read_small
from tests.support.paths import ROOT

NOW = datetime(2026, 11, 23, 2, 15, tzinfo=UTC)
ROOM = rooms.room_request("65ec60000c3a9e0012ab0001")
SECTION_2 = (ROOT / "docs/reference/enablex-api.md").read_text().split("\n## ")[2]
TABLES = SECTION_2[SECTION_2.index("### 2.5") : SECTION_2.index("### 2.7")]
CODES = sorted(set(re.findall(r"\b[1-5]\d{4}\b", TABLES)))

KINDS: dict[str, type[ApiError]] = {
    **dict.fromkeys(("10000", "40002"), CredentialsRefused),
    **dict.fromkeys(("10105", "50000", "50001", "50002", "50003"), Unreachable),
    **dict.fromkeys(("10030", "50004", "50005"), RoomActive),
    "40001": RoomMissing,
}


def parsed(status: int, body: object, request: Request = ROOM) -> dict[str, Any]:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_small(Reply(request, status, {}, content), now=NOW)


def refusal(status: int, body: object, request: Request = ROOM) -> ApiError:
    with pytest.raises(ApiError) as caught:
        parsed(status, body, request)
    return caught.value


def test_every_documented_code_has_a_meaning() -> None:
    """Exactly the codes of the contract's two tables have a meaning."""
    assert len(CODES) >= 45
    assert set(MEANINGS) == set(CODES)


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("status", [200, 400])
@pytest.mark.parametrize("spelled", [int, str])
def test_a_code_becomes_an_error_with_its_meaning(code: str, status: int, spelled: Any) -> None:
    """Each code, as number or text, on HTTP 200 or 400, has its type, its meaning and EnableX's text in one line."""
    error = refusal(status, {"result": spelled(code), "error": "their words", "desc": ""})
    assert type(error) is KINDS.get(code, Refused)
    assert error.code == code
    for text in (MEANINGS[code], "their words", f"HTTP {status}", f"GET {ROOM.path}"):
        assert text in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize("code", ["10030", "50004", "50005"])
@pytest.mark.parametrize("status", [200, 400, 409, 500])
def test_an_active_room_is_known_on_any_status(code: str, status: int) -> None:
    """A running session is not retried: the room is left to the next run."""
    error = refusal(status, {"result": int(code)}, rooms.delete_request("65ec"))
    assert type(error) is RoomActive
    assert not isinstance(error, Transient)
    assert type(refusal(409, b"<html>")) is RoomActive


def test_a_missing_room_is_known_by_code_or_status() -> None:
    """40001 on any status, or 404 on a room's route; a 404 of the listing is a wrong base_url, not a missing room."""
    assert type(refusal(200, {"result": "40001"})) is RoomMissing
    assert type(refusal(404, b"")) is RoomMissing
    assert type(refusal(404, b"", Request("GET", "/rooms", "rooms"))) is Refused


@pytest.mark.parametrize(
    ("status", "kind"), [(401, CredentialsRefused), (403, CredentialsRefused), (429, Throttled), (503, Unreachable)]
)
def test_other_errors_are_those_of_every_route(status: int, kind: type[ApiError]) -> None:
    """Credentials, throttling and outages have the same errors as for CDRs."""
    assert type(refusal(status, b"<html>")) is kind


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b'{"result": 0, "room": {', b"[]", {"hello": 1}, b'{"result":1e999,}']
)
def test_a_success_that_is_not_the_promised_json_is_unreadable(body: object) -> None:
    """The error can be retried, and the body never becomes a room."""
    assert type(refusal(200, body)) is UnreadableReply


def test_dial_in_has_no_result() -> None:
    """The object of `/dialin`, which has no `result`, is a success."""
    assert parsed(200, {"_id": "61aa", "sip": {}, "dialin": []}, rooms.dialin_request())["_id"] == "61aa"


def test_requests_are_as_documented() -> None:
    """Method, path without trailing slash, JSON body; a room id cannot escape its path segment."""
    requests = [
        rooms.create_request({"name": "n"}),
        ROOM,
        rooms.update_request("65/ec", {"name": "m"}),
        rooms.delete_request("65ec"),
        rooms.users_request("65ec"),
        rooms.token_request("65ec", name="n", role="viewer", user_ref="u", data={"a": 1}),
        rooms.dialin_request(),
    ]
    assert [str(request) for request in requests] == [
        "POST /rooms",
        "GET /rooms/65ec60000c3a9e0012ab0001",
        "PATCH /rooms/65%2Fec",
        "DELETE /rooms/65ec",
        "GET /rooms/65ec/users",
        "POST /rooms/65ec/tokens",
        "GET /dialin",
    ]
    assert [json.loads(request.body) for request in requests if request.body] == [
        {"name": "n"},
        {"name": "m"},
        {"name": "n", "role": "viewer", "user_ref": "u", "data": {"a": 1}},
    ]
    assert "viewer" not in repr(requests)


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"name": ""}, "10101"),
        ({"user_ref": " "}, "10102"),
        ({"role": ""}, "10103"),
        ({"role": "Moderator"}, "10104"),
        ({"data": dict.fromkeys("abcdef")}, "at most 5"),
    ],
)
def test_a_token_is_checked_before_it_is_asked_for(changed: dict[str, Any], code: str) -> None:
    """A request that EnableX would refuse is not sent; the message has its result code."""
    arguments: dict[str, Any] = {"name": "n", "role": "viewer", "user_ref": "u", "data": None, **changed}
    with pytest.raises(ConfigError, match=code):
        rooms.token_request("65ec", **arguments)
    with pytest.raises(ConfigError, match="10001"):
        rooms.delete_request("  ")


def test_empty_users_and_rooms_come_in_every_form() -> None:
    """Null, a missing key and an empty list are empty; an entry without an id is no room."""
    for reply in ({"users": None}, {"users": []}, {}):
        assert rooms.parse_users(reply) == []
    for reply in ({"rooms": None}, {"rooms": []}, {}, {"rooms": [None, {}, {"room_id": 5}]}):
        assert rooms.parse_rooms(reply) == []
    assert rooms.parse_rooms({"rooms": {"room_id": "a"}}) == [{"room_id": "a"}]


@pytest.mark.parametrize("reply", [{}, {"room": None}, {"room": {"name": "n"}}])
def test_a_success_without_a_room_is_unreadable(reply: dict[str, Any]) -> None:
    """Whether the room was created is unknown then, so the caller lists the rooms."""
    with pytest.raises(UnreadableReply):
        rooms.parse_room(reply)
    with pytest.raises(UnreadableReply):
        rooms.parse_token(reply)
