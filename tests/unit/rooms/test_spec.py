"""Desired rooms: every documented field and rule, the rooms file, and the plan."""

from __future__ import annotations

import copy
import re
import tomllib
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import ConfigError
from pipeline.rooms import fields
from pipeline.rooms.audit import RoomUse, audit_rooms
from pipeline.rooms.plan import (
    Change,
    Room,
    RoomChanges,
    RoomsFile,
    by_external_key,
    masked,
    plan_rooms,
    read_rooms_file,
)
from pipeline.rooms.spec import change_body
from tests.support.paths import ROOT

NOW = datetime(2026, 11, 23, 2, 15, tzinfo=UTC)
SECTION_9 = (ROOT / "docs/reference/enablex-api.md").read_text().split("### 9.3")[1].split("### 9.4")[0]
LATER = datetime(2026, 12, 1, 14, 0, tzinfo=UTC)
SCHEDULED = {"scheduled": True, "scheduled_time": LATER, "duration": 30}


def room(**more: Any) -> Room:
    return Room(**{"name": "Front desk", "owner_ref": "tenant-42", "participants": 10, **more})


def file(rooms: dict[str, Any], **more: Any) -> RoomsFile:
    defaults = {"owner_ref": "tenant-42", "participants": 10}
    filled = {key: {"name": key, **defaults, **values} for key, values in rooms.items()}
    return read_rooms_file({"file": "clinic", "rooms": filled, **more}, projects=["acme"], source="rooms.toml")


def made(changes: RoomChanges) -> list[dict[str, Any]]:
    """The rooms at EnableX after the creations of the plan."""
    return [
        {**copy.deepcopy(dict(c.body)), "room_id": f"{number:024x}", "created": f"2026-11-23T02:{number:02}:00.000Z"}
        for number, c in enumerate(changes.todo)
    ]


def plan(desired: RoomsFile, actual: list[dict[str, Any]], now: datetime = NOW, **how: bool) -> list[Change]:
    return list(plan_rooms(desired, {"acme": actual}, now, **how).changes)


# --- fields ---


def test_every_documented_field_exists() -> None:
    """Each field of the documented table exists under its own name, and no other field."""
    rows = re.findall(r"^\| (`.*?) \|", SECTION_9, re.M)
    documented = {name.removeprefix("settings.") for row in rows for name in re.findall(r"`([a-z_.]+)`", row)}
    existing = {name.split(".")[0] for name in fields.FIELDS} | {"data"}
    assert documented - {"sip"} <= existing
    assert existing - documented <= {"aor", "sip"}
    assert existing == set(Room.__dataclass_fields__)


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("name", {"name": " "}, "10002"),
    ("scheduled", {"scheduled": "yes"}, "10003"),
    ("scheduled_time", {"scheduled": True, "duration": 30}, "10004"),
    ("scheduled_time", {**SCHEDULED, "scheduled_time": "tomorrow"}, "10005"),
    ("scheduled_time", {**SCHEDULED, "scheduled_time": "2026-12-01 14:00:00"}, "no time zone"),
    ("participants", {"participants": "many"}, "10007"),
    ("participants", {"participants": -1}, "10007"),
    ("participants", {"participants": True}, "10007"),
    ("auto_recording", {"auto_recording": "true"}, "10008"),
    ("owner_ref", {"owner_ref": ""}, "10010"),
    ("duration", {"scheduled": True, "scheduled_time": LATER}, "10011"),
    ("duration", {**SCHEDULED, "duration": -5}, "10011"),
    ("active_talker", {"active_talker": 6}, "10012"),
    ("max_active_talkers", {"max_active_talkers": 17}, "10012"),
    ("wait_for_moderator", {"wait_for_moderator": 1}, "10013"),
    ("quality", {"quality": "4K"}, "10014"),
    ("sip.uri", {"sip": {"enabled": True, "uri": ""}}, "10015"),
    ("adhoc", {"adhoc": 0}, "10016"),
    ("adhoc", {**SCHEDULED, "adhoc": True}, "10017"),
    ("scheduled_time", {"scheduled_time": LATER}, "10018"),
    ("duration", {"duration": 30}, "10018"),
    ("mode", {"mode": 1}, "10019"),
    ("mode", {"mode": "choir"}, "10020"),
    ("moderators", {"moderators": True}, "10022"),
    ("moderators", {"moderators": 6}, "10023"),
    ("peep", {"peep": "x"}, "10024"),
    ("knock", {"knock": "x"}, "10025"),
    ("aor", {"aor": "https://x"}, "10026"),
    ("role_based_recording.moderator", {"role_based_recording": {"moderator": "video"}}, "audiovideo"),
    ("live_recording.url", {"live_recording": {"url": "http://x/?token=s3cr3t"}}, "https"),
    ("live_transcription.enable", {"live_transcription": {"enable": "on"}}, "true or false"),
    ("hls_view_url", {"hls_view_url": "default"}, "https"),
    ("media_zone", {"media_zone": "EU"}, "IN, SG, US or XX"),
    ("single_file_recording", {"single_file_recording": True}, "2 users"),
    ("audiences", {"audiences": -1}, "0 or more"),
    ("data", {"data": {"postroom_key": "x/y"}}, "reserved"),
    ("data", {"data": {"when": NOW}}, "JSON"),
    ("data", {"data": {"nan": float("nan")}}, "finite"),
]


@pytest.mark.parametrize(("field", "values", "why"), WRONG, ids=lambda v: v if isinstance(v, str) else "")
def test_an_invalid_value_is_not_sent(field: str, values: dict[str, Any], why: str) -> None:
    """Types, ranges and the rules of permanent, scheduled and ad hoc rooms: the error has the field and the code."""
    with pytest.raises(ConfigError) as refused:
        room(**values)
    assert str(refused.value).startswith(f"{field}: ")
    assert why in str(refused.value)
    assert "s3cr3t" not in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "values",
    [
        {"participants": "10", "moderators": "2"},
        {"participants": 0},
        {"billing_code": 4711},
        {**SCHEDULED, "duration": 0},
        {"adhoc": True, "duration": 60},
        {"single_file_recording": True, "participants": 1},
        {"hls_view_url": "DEFAULT", "audiences": 100, "live_transcription": {"language": "en-US"}},
        {"live_recording": {"auto_recording": True, "url": "https://x/?token=1"}},
        {"data": {"a": [1, {"b": None}], "c": {}}},
    ],
)
def test_documented_values_are_valid(values: dict[str, Any]) -> None:
    """Numbers may be text, 0 means no limit, and an ad hoc room may have a duration."""
    room(**values)


def test_a_body_is_as_the_samples_send_it() -> None:
    """Counts of users as text, duration as a number, times in UTC without a zone; only the given fields."""
    body = room(**SCHEDULED, billing_code=4711, role_based_recording={"moderator": "audio"}, data={"x": 1}).body()
    assert body == {
        "name": "Front desk",
        "owner_ref": "tenant-42",
        "settings": {
            "participants": "10",
            "moderators": "1",
            "mode": "group",
            "scheduled": True,
            "adhoc": False,
            "scheduled_time": "2026-12-01 14:00:00",
            "duration": 30,
            "billing_code": 4711,
            "role_based_recording": {"moderator": "audio"},
        },
        "data": {"x": 1},
    }


@pytest.mark.parametrize(
    "given",
    [
        "2026-12-01T14:00:00Z",
        "2026-12-01 14:00:00+00:00",
        "2026-12-01T15:00:00+01:00",
        "2026-12-01 15:00 Europe/Berlin",
        "2026-12-01 19:30:00 Asia/Kolkata",
        "2026-12-01 14:00 UTC",
        "2026-12-01 14:00Z",
        datetime(2026, 12, 1, 4, 0, tzinfo=timezone(timedelta(hours=-10))),
    ],
)
def test_a_time_in_any_zone_becomes_utc(given: Any) -> None:
    """Offsets and IANA names, with or without seconds, all mean one moment."""
    assert fields.parse_time(given) == LATER


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("2026-03-29 02:30 Europe/Berlin", "skipped"),
        ("2026-10-25 02:30 Europe/Berlin", "ambiguous"),
        ("2026-12-01 14:00 Europe/Berln", "no such time zone"),
        ("2026-12-01 14:00", "no time zone"),
        (LATER.replace(tzinfo=None), "no time zone"),
        ("2026-12-01T14:00:00.5Z", "whole seconds"),
        ("2026-13-01T14:00:00Z", "month"),
        (14, "must be a time"),
    ],
)
def test_a_time_that_is_not_one_moment_is_refused(given: Any, why: str) -> None:
    """Refused: no zone, an unknown zone, an hour that the zone skips or repeats."""
    with pytest.raises(ValueError, match=why):
        fields.parse_time(given)


@given(
    st.datetimes(NOW.replace(tzinfo=None), max_value=LATER.replace(year=2030, tzinfo=None)),
    st.integers(-14 * 60, 14 * 60),
)
def test_a_time_keeps_its_moment(wall: datetime, offset_min: int) -> None:
    """With any offset, the same moment is sent in UTC."""
    moment = wall.replace(microsecond=0, tzinfo=timezone(timedelta(minutes=offset_min)))
    assert fields.parse_time(moment.isoformat()) == moment
    sent = fields.TIMESTAMP.serialize(fields.parse_time(moment))
    assert datetime.strptime(sent, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC) == moment


# --- the file ---


def test_the_example_file_is_valid() -> None:
    """config/rooms.example.toml is valid as it is, and with all its lines uncommented."""
    text = (ROOT / "config/rooms.example.toml").read_text()
    assert tomllib.loads(text) == {"file": "rooms"}
    live = tomllib.loads(re.sub("^# ", "", text, flags=re.M))
    read = read_rooms_file(live, projects=["acme"], source="config/rooms.example.toml")
    assert [desired.key for desired in read.rooms] == ["front-desk", "consultation-118", "hotline"]
    assert [desired.recording for desired in read.rooms] == ["required", "required", "free"]
    assert str(read.rooms[1].room.begins_at()) == "2099-12-01 13:00:00+00:00"
    for name in fields.FIELDS:
        assert name.split(".")[0] in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, 'file (rooms.toml): must be a unique name such as "clinic"'),
        ({"file": "once"}, "file (rooms.toml): must be"),
        ({"file": "a/b"}, "file (rooms.toml): must be"),
        ({"file": "a", "room": {}}, 'room (rooms.toml): unknown; did you mean "rooms"?'),
        (
            {"file": "a", "project": "acne"},
            "project (rooms.toml): acne: not configured; configured projects: acme, globex",
        ),
        ({"file": "a", "recording": "yes"}, "recording (rooms.toml): must be required, forbidden or free"),
        ({"file": "a", "rooms": 5}, "rooms (rooms.toml): must be tables"),
        ({"file": "a", "rooms": {"x y": {}}}, "rooms.x y (rooms.toml): a key has at most 64"),
        ({"file": "a", "rooms": {"x": 5}}, "rooms.x (rooms.toml): must be a table: [rooms.x]"),
        (
            {"file": "a", "rooms": {"x": {}}},
            "rooms.x.project (rooms.toml): missing; configured projects: acme, globex (and 3 more)",
        ),
        (
            {"file": "a", "project": "acme", "rooms": {"x": {"name": "n", "owner_ref": "o"}}},
            "rooms.x.participants (rooms.toml): missing; required in every room (10007)",
        ),
        (
            {
                "file": "a",
                "project": "acme",
                "rooms": {"x": {"name": "n", "owner_ref": "o", "participants": 1, "auto_recordin": True}},
            },
            'rooms.x.auto_recordin (rooms.toml): unknown; did you mean "auto_recording"? (10009)',
        ),
    ],
)
def test_a_mistake_in_the_file_is_named(content: dict[str, Any], message: str) -> None:
    """The error has room, field, file and valid values; for an unknown key it has the nearest valid one."""
    with pytest.raises(ConfigError) as refused:
        read_rooms_file(content, projects=["acme", "globex"], source="rooms.toml")
    assert str(refused.value).startswith(message)


# --- the plan ---


def test_a_created_room_is_unchanged() -> None:
    """A room created as planned is unchanged in the next plan."""
    desired = file({"a": {}, "b": {**SCHEDULED, "knock": True, "data": {"ward": "B2"}}})
    first = plan_rooms(desired, {"acme": []}, NOW)
    assert [change.action for change in first.changes] == ["create", "create"]
    assert [change.action for change in plan(desired, made(first))] == ["unchanged", "unchanged"]


@pytest.mark.parametrize(
    ("desired", "actual"),
    [
        (30, "30"),
        (30, 30),
        (30, 30.0),
        ("30", 30),
        (True, "true"),
        (False, "false"),
        (True, True),
        (True, 1),
        (0, "0"),
        ("", None),
        ("a", "a"),
        ([1, "2"], ["1", 2]),
        ({"a": 1}, {"a": "1", "more": 2}),
    ],
)
def test_a_type_that_drifts_is_no_difference(desired: Any, actual: Any) -> None:
    """ "30" for 30, "true" for true: an echo in another type is the same value, in settings and in data."""
    assert fields.same_json(desired, actual)


@pytest.mark.parametrize(
    ("desired", "actual"),
    [(30, 31), (True, False), ("a", "b"), (True, "false"), (1, [1]), ({"a": 1}, {}), ([1], [1, 2])],
)
def test_another_value_is_a_difference(desired: Any, actual: Any) -> None:
    """Lenient types hide no change."""
    assert not fields.same_json(desired, actual)


DRIFTS: list[dict[str, Any]] = [
    {"moderators": 1, "participants": 10, "max_active_talkers": "6"},
    {"moderators": "1", "participants": "10", "max_active_talkers": True},
    {"knock": "true", "scheduled": "false", "adhoc": 0},
    {"quality": None, "viewers": 0, "encryption": False, "media_configuration": "default"},
]


@pytest.mark.parametrize("echo", DRIFTS)
def test_an_echo_that_drifts_changes_nothing(echo: dict[str, Any]) -> None:
    """Numbers as text, flags as words, nulls and extra keys: the plan stays empty."""
    desired = file({"a": {"knock": True, "max_active_talkers": 6}})
    [actual] = made(plan_rooms(desired, {"acme": []}, NOW))
    actual["settings"] |= echo
    assert [change.action for change in plan(desired, [actual])] == ["unchanged"]


def test_only_what_differs_is_sent() -> None:
    """An update lists the differing fields and sends only these, with the external key and digest."""
    [actual] = made(plan_rooms(file({"a": {"knock": True, "billing_code": "CC-1"}}), {"acme": []}, NOW))
    [change] = plan(file({"a": {"knock": True, "billing_code": "CC-2", "participants": 12}}), [actual])
    assert change.action == "update"
    assert [str(d) for d in change.differences if not d.field.startswith("data.")] == [
        'participants: "10" -> "12"',
        'billing_code: "CC-1" -> "CC-2"',
    ]
    assert change.body["settings"] == {"participants": "12", "billing_code": "CC-2"}
    assert set(change.body) == {"settings", "data"}


def test_a_field_that_the_file_drops_goes_back_to_its_default() -> None:
    """Recording that the file no longer names is switched off; other manual changes stay."""
    [actual] = made(plan_rooms(file({"a": {"auto_recording": True, "billing_code": "CC-1"}}), {"acme": []}, NOW))
    actual["settings"]["canvas"] = True  # manually, in the portal
    [change] = plan(file({"a": {}}), [actual])
    assert change.body["settings"] == {"auto_recording": False, "billing_code": ""}


def test_a_listing_that_leaves_fields_out_hides_no_change() -> None:
    """A sparse echo alone is no difference, and a change of a field that is not returned is still sent."""
    desired = file({"a": {"knock": True}})
    [actual] = made(plan_rooms(desired, {"acme": []}, NOW))
    sparse = {key: value for key, value in actual.items() if key != "owner_ref"}
    sparse["settings"] = {key: actual["settings"][key] for key in ("mode", "scheduled", "adhoc")}
    assert [change.action for change in plan(desired, [sparse])] == ["unchanged"]
    [change] = plan(file({"a": {"knock": False, "owner_ref": "tenant-43"}}), [sparse])
    assert change.action == "update"
    assert (change.body["owner_ref"], change.body["settings"]["knock"]) == ("tenant-43", False)
    assert not {"mode", "scheduled", "adhoc"} & set(change.body["settings"])


@pytest.mark.parametrize("other", [{"mode": "lecture"}, {"adhoc": True}, SCHEDULED])
def test_a_fixed_field_blocks_or_replaces(other: dict[str, Any]) -> None:
    """Another mode or type blocks the room and names --replace; with it the room is deleted and created again."""
    [actual] = made(plan_rooms(file({"a": {}}), {"acme": []}, NOW))
    [change] = plan(file({"a": other}), [actual])
    assert (change.action, change.body) == ("blocked", {})
    assert "--replace" in change.why
    [change] = plan(file({"a": other}), [actual], replace=True)
    assert (change.action, change.room_id) == ("replace", actual["room_id"])
    assert change.body["data"]["postroom_key"] == "clinic/a"


def test_prune_deletes_only_rooms_of_this_file() -> None:
    """Rooms of other files, of no file, and of a file whose name starts the same are never in the plan."""
    [actual] = made(plan_rooms(file({"gone": {}}), {"acme": []}, NOW))
    others = [
        {"room_id": "1", "name": "portal"},
        {"room_id": "2", "data": {"postroom_key": "clinic-2/gone"}},
        {"room_id": "3", "data": {"postroom_key": "once/gone"}},
        {"room_id": "4", "data": {"postroom_key": 7}},
        {"room_id": "5", "data": "clinic/gone"},
    ]
    [ignored] = plan(file({}), [actual, *others])
    assert (ignored.action, ignored.key, "--prune" in ignored.why) == ("ignored", "gone", True)
    [pruned] = plan(file({}), [actual, *others], prune=True)
    assert (pruned.action, pruned.room_id) == ("delete", actual["room_id"])


def test_two_rooms_with_one_key_are_blocked() -> None:
    """Neither room is changed, and both are named."""
    desired = file({"a": {}})
    [actual] = made(plan_rooms(desired, {"acme": []}, NOW))
    [change] = plan(desired, [actual, {**actual, "room_id": "f" * 24}], prune=True, replace=True)
    assert change.action == "blocked"
    assert actual["room_id"] in change.why
    assert "f" * 24 in change.why
    assert len(by_external_key([actual, {**actual, "room_id": "f" * 24}])["clinic/a"]) == 2


@pytest.mark.parametrize(
    ("before_start", "values", "action"),
    [
        (timedelta(minutes=15), {"participants": 3}, "update"),
        (timedelta(minutes=14), {"participants": 3}, "blocked"),
        (timedelta(minutes=14), {}, "unchanged"),
        (timedelta(minutes=-5), {"participants": 3}, "unchanged"),
        (timedelta(minutes=-5), {"scheduled_time": LATER + timedelta(days=1)}, "blocked"),
        (timedelta(hours=2), {"scheduled_time": LATER - timedelta(hours=3)}, "blocked"),
        (timedelta(hours=2), {"scheduled_time": LATER + timedelta(hours=3)}, "update"),
    ],
)
def test_a_scheduled_room_is_changed_until_the_cutoff(
    before_start: timedelta, values: dict[str, Any], action: str
) -> None:
    """Changed until 15 minutes before its start; later blocked; after its start unchanged."""
    [actual] = made(plan_rooms(file({"a": SCHEDULED}), {"acme": []}, NOW))
    [change] = plan(file({"a": {**SCHEDULED, **values}}), [actual], LATER - before_start)
    assert change.action == action


def test_a_scheduled_room_of_the_past_is_not_made() -> None:
    """Rooms in the file whose time has passed are neither created nor failed."""
    [change] = plan(file({"a": SCHEDULED}), [], LATER)
    assert (change.action, change.why) == ("unchanged", "its scheduled_time has passed")


def test_secrets_do_not_show_in_a_plan() -> None:
    """A stream URL is compared and never shown."""
    address = {"live_recording": {"auto_recording": True, "url": "https://x/?token=0ld"}}
    [actual] = made(plan_rooms(file({"a": address}), {"acme": []}, NOW))
    address["live_recording"] = {"auto_recording": True, "url": "https://x/?token=n3w"}
    [change] = plan(file({"a": address}), [actual])
    assert "live_recording.url" in [difference.field for difference in change.differences]
    assert "n3w" not in repr(change) + str(change.to_dict())
    assert "0ld" not in repr(change) + str(change.to_dict())


def test_a_room_is_shown_without_its_secrets() -> None:
    """PIN, meeting ID, passwords, keys and stream URLs are masked anywhere; the rest is unchanged."""
    actual = {
        "name": "n",
        "settings": {"live_recording": {"url": "https://x/?t"}, "hls_view_url": "https://y", "knock": True},
        "sip": {"enabled": True, "pin": 99999, "meeting_id": 1, "password": "p"},
        "app_key": "k",
        "list": [{"token": "t"}],
    }
    hidden = masked(actual)
    assert (hidden["name"], hidden["settings"]["knock"], hidden["sip"]["enabled"]) == ("n", True, True)
    assert not re.search(r"https|99999|'p'|'k'|'t'", str(hidden))


# --- one room without a file ---


@pytest.mark.parametrize(
    ("actual", "changes", "why"),
    [
        ({}, {"mode": "lecture"}, "10106"),
        ({}, {"adhoc": True}, "10106"),
        ({}, {"participants": -1}, "10007"),
        ({}, {"colour": "red"}, "10009"),
        ({}, {"scheduled_time": LATER}, "10018"),
        (SCHEDULED, {"scheduled_time": NOW - timedelta(days=1)}, "10006"),
        ({**SCHEDULED, "scheduled_time": NOW + timedelta(minutes=10)}, {"name": "late"}, "10006"),
    ],
)
def test_a_single_change_is_checked_against_the_room(actual: dict[str, Any], changes: dict[str, Any], why: str) -> None:
    """Fixed fields, invalid values, the room's type and the last 15 minutes: refused before a request is sent."""
    with pytest.raises(ConfigError, match=why):
        change_body(room(**actual).body(), changes, NOW)


def test_existing_problems_do_not_block_a_change() -> None:
    """A room returned with invalid fields can still be renamed."""
    odd = room().body()
    odd["settings"] |= {"duration": "30", "single_file_recording": True, "max_active_talkers": True}
    assert change_body(odd, {"name": "New"}, NOW) == {"name": "New"}


# --- audit ---


def test_an_audit_finds_every_kind() -> None:
    """Sessions without owner or billing code (also of deleted rooms), unused rooms, violated recording policy."""
    used = {
        "r1": RoomUse(3, 0, 2, NOW - timedelta(days=1)),
        "gone": RoomUse(1, 1, 0, NOW - timedelta(days=40)),
        "r2": RoomUse(9, 0, 0, NOW - timedelta(days=31)),
    }
    created = "2026-01-01T00:00:00.000Z"
    soon = {"scheduled": True, "scheduled_time": "2026-12-01 14:00:00"}
    rooms = [
        {"room_id": "r1", "name": "one", "created": created, "settings": {"auto_recording": "true"}},
        {"room_id": "r2", "name": "two", "created": created, "settings": {"auto_recording": False}},
        {"room_id": "r3", "name": "three", "created": created, "settings": {"auto_recording": True}},
        {"room_id": "r4", "name": "four", "created": created, "settings": {"auto_recording": True, **soon}},
        {"room_id": "r5", "name": "five", "created": "2026-11-22T00:00:00.000Z", "settings": {}},
        {"room_id": "r6", "name": "six", "created": created, "data": {"postroom_key": "clinic/quiet"}, "settings": {}},
    ]
    desired = file({"quiet": {"recording": "free"}}, recording="required")
    since = NOW - timedelta(days=60)
    findings = audit_rooms("acme", rooms, used, NOW, unused_days=30, collected_since=since, file=desired)
    assert {(f.kind, f.room_id) for f in findings} == {
        ("no owner", "gone"),
        ("no billing code", "r1"),
        ("unused", "r2"),
        ("unused", "r3"),
        ("unused", "r6"),
        ("recording", "r2"),
        ("recording", "r5"),
    }
    assert audit_rooms("acme", rooms[:1], {}, NOW, unused_days=30, collected_since=None) == []
