"""Rooms, tokens, users, dial-in: every documented result code, and the life cycle of rooms."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from pipeline.enablex.simulator import Simulator
from pipeline.enablex.simulator.room_rules import CODES

Body = dict[str, Any]

SOON = "2026-11-22 13:00:00"  # one hour after the fixture's now
FAULTY = (50000, 50001, 50002, 50003, 10021, 10105)
"""Codes caused only by a fault; they are tested with the faults."""


def body(**settings: Any) -> Body:
    return {"name": "Consultation", "owner_ref": "tenant-1", "settings": settings}


def scheduled(**settings: Any) -> Body:
    return body(scheduled=True, scheduled_time=SOON, duration=30, **settings)


CREATE: list[tuple[int, Body]] = [
    (10002, {"owner_ref": "o"}),
    (10003, body(scheduled="yes")),
    (10004, body(scheduled=True, duration=30)),
    (10005, body(scheduled=True, scheduled_time="2026-11-22T13:00:00Z", duration=30)),
    (10006, body(scheduled=True, scheduled_time="2026-11-22 11:59:00", duration=30)),
    (10007, body(participants="many")),
    (10008, body(auto_recording="true")),
    (10009, body(colour="green")),
    (10010, {"name": "n"}),
    (10011, body(scheduled=True, scheduled_time=SOON)),
    (10011, body(duration=-5)),
    (10012, body(active_talker=6)),
    (10012, body(max_active_talkers=17)),
    (10013, body(wait_for_moderator=1)),
    (10013, body(wait_moderator="no")),
    (10014, body(quality="4K")),
    (10015, body() | {"sip": {"enabled": True, "uri": ""}}),
    (10016, body(adhoc=0)),
    (10017, scheduled(adhoc=True)),
    (10018, body(scheduled_time=SOON)),
    (10019, body(mode=1)),
    (10020, body(mode="choir")),
    (10022, body(moderators=True)),
    (10023, body(moderators="6")),
    (10024, body(peep="x")),
    (10025, body(knock="x")),
    (10026, body(aor="https://x")),
]

TOKEN: list[tuple[int, Body]] = [
    (10101, {"role": "viewer", "user_ref": "u"}),
    (10102, {"name": "n", "role": "viewer"}),
    (10103, {"name": "n", "user_ref": "u"}),
    (10104, {"name": "n", "role": "Moderator", "user_ref": "u"}),
]

ELSEWHERE = {10000, 10001, 10030, 10106, 10111, 10112, 10113, 10114, 40001, 50004, 50005}
"""Codes with a separate test below, or for 10000 a test among the faults."""


def make(api: httpx.Client, request: Body) -> Body:
    reply = api.post("/rooms", json=request)
    assert reply.status_code in (200, 201), reply.text
    room: Body = reply.json()["room"]
    return room


def result(reply: httpx.Response) -> int:
    return int(reply.json()["result"])


def ask_token(api: httpx.Client, room_id: str, **more: Any) -> httpx.Response:
    return api.post(f"/rooms/{room_id}/tokens", json={"name": "n", "role": "viewer", "user_ref": "u"} | more)


def test_every_code_has_a_test() -> None:
    """Each result code of the simulator is returned in one of these tests."""
    assert {code for code, _ in CREATE + TOKEN} | ELSEWHERE | set(FAULTY) == set(CODES)


@pytest.mark.parametrize(("code", "request_body"), CREATE, ids=lambda v: str(v) if isinstance(v, int) else "")
def test_an_invalid_room_is_refused(api: httpx.Client, code: int, request_body: Body) -> None:
    """Each invalid request gets its documented code, and no room is created."""
    before = len(api.get("/rooms").json()["rooms"])
    reply = api.post("/rooms", json=request_body)
    assert (reply.status_code, reply.json()) == (
        400,
        {"result": code, "error": CODES[code], "desc": f"{CODES[code]}."},
    )
    assert len(api.get("/rooms").json()["rooms"]) == before


@pytest.mark.parametrize(("code", "request_body"), TOKEN, ids=lambda v: str(v) if isinstance(v, int) else "")
def test_an_incomplete_token_request_is_refused(api: httpx.Client, code: int, request_body: Body) -> None:
    """Each missing or invalid field of a token request has its code."""
    room_id = api.get("/rooms").json()["rooms"][0]["room_id"]
    reply = api.post(f"/rooms/{room_id}/tokens", json=request_body)
    assert (reply.status_code, result(reply)) == (400, code)


def test_a_room_is_created_read_listed_changed_and_deleted(api: httpx.Client) -> None:
    """A created room is read and listed, a change is merged deeply, and a deleted room does not exist."""
    request = scheduled(participants="4", billing_code=4711) | {"data": {"ours": "x1"}, "sip": {"enabled": False}}
    room = make(api, request)
    url = f"/rooms/{room['room_id']}"
    assert api.get(url).json() == {"result": 0, "room": room}
    assert room in api.get("/rooms/").json()["rooms"]
    assert (room["data"], room["settings"]["billing_code"]) == ({"ours": "x1"}, 4711)
    assert room["settings"]["media_configuration"] == "default"
    later = {"name": "Moved", "settings": {"scheduled_time": "2026-11-23 09:00:00"}}
    assert api.patch(url, json=later).json() == {"result": 0}
    changed = api.get(url).json()["room"]
    assert (changed["name"], changed["settings"]["scheduled_time"]) == ("Moved", "2026-11-23 09:00:00")
    assert changed["settings"]["billing_code"] == 4711
    assert api.delete(url).json() == {"result": 0}
    for reply in (api.get(url), api.delete(url), api.patch(url, json={}), ask_token(api, room["room_id"])):
        assert (reply.status_code, result(reply)) == (404, 40001)


def test_types_differ_between_request_and_reply(api: httpx.Client) -> None:
    """Numbers are returned as text in one room and text as numbers in the next, with 201 or 200."""
    replies = [api.post("/rooms", json=scheduled(participants=p)) for p in (4, "4")]
    assert sorted(reply.status_code for reply in replies) == [200, 201]
    returned = [reply.json()["room"]["settings"]["participants"] for reply in replies]
    assert returned == ["4", 4]


def test_the_worlds_rooms_can_be_changed_and_deleted_too(simulator: Simulator, api: httpx.Client) -> None:
    """A room of the world behaves like one created by a client, and its CDRs remain after its deletion."""
    now = simulator.clock.now()
    busy = {s.room.room_id for s in simulator.world.sessions_between("acme", now.date(), now.date())}
    room = next(r for r in api.get("/rooms").json()["rooms"] if r["settings"]["description"] == "permanent")
    assert busy
    simulator.clock.set(quiet_moment(simulator, room["room_id"]))
    url = f"/rooms/{room['room_id']}"
    assert api.patch(url, json={"name": "Front desk"}).json() == {"result": 0}
    assert api.get(url).json()["room"] == room | {"name": "Front desk"}
    reports = api.get(f"/cdr/room/{room['room_id']}").json()
    assert api.delete(url).json() == {"result": 0}
    assert result(api.get(url)) == 40001
    assert api.get(f"/cdr/room/{room['room_id']}").json() == reports


def quiet_moment(simulator: Simulator, room_id: str) -> datetime:
    moment = simulator.clock.now()
    while simulator.world.running("acme", room_id, moment):
        moment += timedelta(minutes=10)
    return moment


def test_the_type_of_a_room_cannot_be_changed(api: httpx.Client) -> None:
    """Mode, scheduled and adhoc cannot be changed; unchanged values are accepted."""
    url = f"/rooms/{make(api, body(mode='group'))['room_id']}"
    for settings in ({"mode": "lecture"}, {"scheduled": True}, {"adhoc": True}):
        assert result(api.patch(url, json={"settings": settings})) == 10106
    assert result(api.patch(url, json={"settings": {"mode": "group"}})) == 0
    assert result(api.patch(url, json={"settings": {"colour": "red"}})) == 10009


def test_a_running_session_protects_its_room(simulator: Simulator, api: httpx.Client) -> None:
    """A room with users cannot be changed or deleted, and its users are listed."""
    codes = set()
    for number in range(6):
        room_id = make(api, body())["room_id"]
        assert api.get(f"/rooms/{room_id}/users").json().get("users") in (None, [])
        simulator.rooms.start_session("acme", room_id, simulator.clock.now(), users=number + 1)
        assert result(api.patch(f"/rooms/{room_id}", json={"name": "x"})) == 10030
        refusal = api.delete(f"/rooms/{room_id}")
        assert refusal.status_code == 409
        codes.add(result(refusal))
        users = api.get(f"/rooms/{room_id}/users").json()
        assert users["total"] == len(users["users"]) == number + 1
        simulator.rooms.end_session("acme", room_id)
        assert result(api.delete(f"/rooms/{room_id}")) == 0
    assert codes == {10030, 50004, 50005}


def test_the_worlds_sessions_fill_their_rooms(simulator: Simulator, api: httpx.Client) -> None:
    """During a session of the world its room exists, is active, and has the connected users."""
    now = simulator.clock.now()
    session = next(s for s in simulator.world.sessions("acme", now.date()) if s.room.kind == "adhoc")
    simulator.clock.set(session.began_at + (session.ended_at - session.began_at) / 2)
    url = f"/rooms/{session.room.room_id}"
    users = api.get(f"{url}/users").json()["users"]
    connected = [c for c in session.connections if c.connected_at <= simulator.clock.now() < c.disconnected_at]
    assert [u["user_ref"] for u in users] == [c.user_ref for c in connected]
    assert api.delete(url).status_code == 409
    simulator.clock.set(session.ended_at)
    assert result(api.get(url)) == 40001


def test_users_of_an_inactive_room_have_every_empty_form(api: httpx.Client) -> None:
    """`users` of a room that is not active is null, [] or missing."""
    room_ids = [make(api, body())["room_id"] for _ in range(3)]
    replies = [api.get(f"/rooms/{room_id}/users").json() for room_id in room_ids]
    assert {repr(reply.get("users", "missing")) for reply in replies} == {"None", "[]", "'missing'"}


def test_an_adhoc_room_is_deleted_after_its_session(simulator: Simulator, api: httpx.Client) -> None:
    """Without a duration it is deleted when all users have left; with one, that long after its first start."""
    once, timed = make(api, body(adhoc=True))["room_id"], make(api, body(adhoc=True, duration=60))["room_id"]
    for room_id in (once, timed):
        simulator.rooms.start_session("acme", room_id, simulator.clock.now())
        simulator.rooms.end_session("acme", room_id)
    assert result(api.get(f"/rooms/{once}")) == 40001
    simulator.clock.advance(timedelta(minutes=59))
    assert result(api.get(f"/rooms/{timed}")) == 0
    simulator.clock.advance(timedelta(minutes=1))
    assert result(api.get(f"/rooms/{timed}")) == 40001


def test_a_played_session_has_cdrs(simulator: Simulator, api: httpx.Client) -> None:
    """A played session that has ended has one CDR per user, with the room as created."""
    room = make(api, body(billing_code="CC-1", participants=5))
    simulator.rooms.start_session("acme", room["room_id"], simulator.clock.now(), users=3)
    simulator.clock.advance(timedelta(minutes=7))
    assert api.get(f"/cdr/room/{room['room_id']}").json()["cdr"] == []
    simulator.rooms.end_session("acme", room["room_id"], simulator.clock.now())
    cdrs = api.get(f"/cdr/room/{room['room_id']}").json()["cdr"]
    assert [cdr["room"]["duration"] for cdr in cdrs] == [420, 420, 420]
    assert len({cdr["cdr_id"] for cdr in cdrs}) == 3
    assert len({cdr["conf_num"] for cdr in cdrs}) == 1
    details = cdrs[0]["room"]["room_details"]
    assert (details["owner_ref"], details["settings"]["billing_code"]) == ("tenant-1", "CC-1")
    day = simulator.clock.now().date()
    assert [cdr for cdr in api.get(f"/cdr/period/{day}/{day}").json()["cdr"] if cdr in cdrs] == cdrs


def test_a_scheduled_room_has_opening_times(simulator: Simulator, api: httpx.Client) -> None:
    """Changes until 15 minutes before the start, tokens from then on, none after the end without users."""
    rooms = [make(api, scheduled())["room_id"] for _ in range(2)]
    begin = datetime(2026, 11, 22, 13, 0, tzinfo=UTC)
    assert result(ask_token(api, rooms[0])) == 10113
    simulator.clock.set(begin - timedelta(minutes=15))
    assert result(api.patch(f"/rooms/{rooms[0]}", json={"name": "in time"})) == 0
    assert result(ask_token(api, rooms[0])) == 0
    simulator.clock.set(begin - timedelta(minutes=14))
    assert result(api.patch(f"/rooms/{rooms[0]}", json={"name": "too late"})) == 10006
    simulator.rooms.start_session("acme", rooms[0], begin)
    simulator.clock.set(begin + timedelta(minutes=31))
    assert result(ask_token(api, rooms[0])) == 0
    simulator.rooms.end_session("acme", rooms[0])
    assert [result(ask_token(api, room_id)) for room_id in rooms] == [10111, 10112]


def test_a_full_room_gives_no_token(simulator: Simulator, api: httpx.Client) -> None:
    """The limit is participants plus moderators; 0 participants means no limit."""
    small, large = make(api, body(participants=2))["room_id"], make(api, body(participants=0))["room_id"]
    for room_id in (small, large):
        simulator.rooms.start_session("acme", room_id, simulator.clock.now(), users=3)
    assert [result(ask_token(api, room_id)) for room_id in (small, large)] == [10114, 0]


def test_each_token_is_unique(api: httpx.Client) -> None:
    """Two tokens for the same user differ, and carry at most five data keys."""
    room_id = make(api, body())["room_id"]
    first, second = ask_token(api, room_id).json(), ask_token(api, room_id).json()
    assert first["token"].count(".") == 2
    assert first != second
    refused = ask_token(api, room_id, data=dict.fromkeys("abcdef"))
    assert (refused.status_code, refused.json()["error_code"]) == (400, "INVALID_PARAM")


def test_dial_in_has_no_envelope_and_contains_secrets(simulator: Simulator, api: httpx.Client) -> None:
    """The dial-in reply has no `result`, and contains the project's key."""
    reply = api.get("/dialin/").json()
    assert "result" not in reply
    assert reply["app_key"] == simulator.world.project("acme").app_key


def test_invalid_requests_are_refused(api: httpx.Client) -> None:
    """No id, no JSON, an unsubscribed setting, a wrong method and an unknown route have different errors."""
    assert result(api.patch("/rooms", json={})) == 10001
    assert result(api.delete("/rooms/")) == 10001
    for content in (b"{", b"[]", b"\xff"):
        reply = api.post("/rooms", content=content)
        assert (reply.status_code, reply.json()["error_code"]) == (400, "INVALID_PARAM")
    assert api.post("/rooms", json=body(audiences=100)).status_code == 422
    assert api.put("/rooms/x", json={}).status_code == 405
    assert api.get("/dialin/x").status_code in (404, 405)


def test_projects_do_not_share_rooms(simulator: Simulator, api: httpx.Client) -> None:
    """A room created in one project does not exist in the other."""
    room_id = make(api, body())["room_id"]
    other = simulator.world.project("globex")
    reply = httpx.get(f"{simulator.base_url}/rooms/{room_id}", auth=(other.app_id, other.app_key))
    assert reply.status_code == 404
