"""Wrong, lost and invented minutes: each fault that was found, and its kind, with its smallest input."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.models import Period
from pipeline.storage.decisions import DecidedRecord, Decision, write_decision
from pipeline.tables.build import Builder
from pipeline.tables.normalize.ratings import RatingRules
from tests.support.cdrs import DROP, NEW, changed
from tests.support.connections import DAY, NIGHT, assert_counted_once, call, cells, land
from tests.support.lakes import PROJECT, Lake

ABSURD = "2062-11-20T10:30:00.000Z"


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path)


# --- F1: absurd stays ---


@pytest.mark.parametrize(
    "changes",
    [
        {"sigserver__disconnect_dt": ABSURD, "room__disconnect_dt": ABSURD},
        {"sigserver__disconnect_dt": ABSURD},
        {"sigserver": None, "room__disconnect_dt": ABSURD},
        {"sigserver__connect_dt": "2001-01-01T00:00:00.000Z"},
        {"sigserver__connect_dt": "2026-11-18T10:00:00.000Z", "sigserver__duration": 175_800},
        {"sigserver__disconnect_dt": "2026-11-20T18:00:00.000Z"},
        {"sigserver__duration": 30},
    ],
    ids=["both ends", "signal", "room", "begin", "two days", "eight hours", "a duration in minutes"],
)
def test_a_stay_that_cannot_be_is_not_billed(lake: Lake, changes: dict[str, Any]) -> None:
    """A connection whose stay is too long, or contradicts its duration, has no minutes anywhere and is in suspense."""
    land(lake, call("fine"), call("odd", **changes))
    lake.build()
    assert cells(lake, "cdr", "cdr_id", "participant_min") == [("fine", 30), ("odd", None)]
    [(suspense_id, is_held, stake, decision)] = cells(
        lake, "suspense", "suspense_id", "is_held", "at_stake_min", "decision"
    )
    assert (suspense_id, is_held, decision) == ("odd", True, "open")
    assert stake >= 30
    for name, total in {"connections": 2, "participant_min": 30, "suspense": 1, "connect_billed_min": 30}.items():
        assert sum(row[name] for row in lake.rows("sessions")) == total, name
    assert_counted_once(lake)


def test_an_absurd_end_does_not_lengthen_a_transcoded_session(lake: Lake) -> None:
    """`transcoding_min` is from the first connection to the last believed end, not to 2062."""
    land(lake, call("fine"), call("odd", sigserver__disconnect_dt=ABSURD, room__disconnect_dt=ABSURD))
    land(lake, archive("c1", f"{DAY}T10:31:00.000Z"), source="archive")
    lake.build()
    assert cells(lake, "sessions", "duration_s", "transcoding_min", "recording_min") == [(1800, 30, 30)]
    assert_counted_once(lake)


def test_a_stay_of_24_hours_is_billed(lake: Lake) -> None:
    """A connection of exactly one day is believed and its session is one session."""
    land(lake, call("long", minutes=24 * 60))
    lake.build()
    assert cells(lake, "cdr", "participant_min", "suspense") == [(24 * 60, None)]
    assert lake.rows("suspense") == []
    assert_counted_once(lake)


# --- F2, F3: records without an id ---


def smallest(name: str | None, clock: str, minutes: int, day: date = DAY) -> dict[str, Any]:
    """A document of the smallest documented shape (section 11.8)."""
    whole = call("x", clock=clock, minutes=minutes, day=day)
    room = {key: whole["room"][key] for key in ("room_id", "connect_dt", "disconnect_dt")}
    user = {"name": name, "ref": ""} if name else None
    return {"trans_date": whole["trans_date"], "conf_num": "c1", "room": room, "user": user}


def test_two_people_without_ids_are_two_connections(lake: Lake) -> None:
    """Two documents without any id are two connections, and the minutes of both count."""
    land(lake, smallest("Ann", "10:00", 30), smallest("Bob", "10:05", 50))
    lake.build()
    assert sorted(cells(lake, "cdr", "user_name", "participant_min")) == [("Ann", 30), ("Bob", 50)]
    assert cells(lake, "sessions", "connections", "participant_min") == [(2, 80)]
    assert_counted_once(lake)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (smallest("Ann", "10:00", 30), smallest("Ann", "10:05", 30)),
        (smallest("Ann", "10:00", 30), smallest("Bob", "10:00", 30)),
        (smallest(None, "10:00", 30), smallest(None, "10:00", 50)),
        (smallest(None, "10:00", 30), smallest("Ann", "10:00", 30)),
    ],
    ids=["a rejoin", "at the same time", "without a name", "one without a name"],
)
def test_different_documents_of_one_reply_are_two_connections(lake: Lake, one: Any, other: Any) -> None:
    """Documents that differ in anything are two connections if one reply has both, and stay two when it is repeated."""
    land(lake, one, other, one)
    lake.build()
    first = sorted(row["cdr_id"] for row in lake.rows("cdr"))
    land(lake, other, one, asked_on=NIGHT + timedelta(days=1))
    lake.build()
    assert sorted(row["cdr_id"] for row in lake.rows("cdr")) == first
    assert len(first) == 2
    assert_counted_once(lake)


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_a_record_in_two_shapes_is_billed_once(lake: Lake, order: tuple[int, ...]) -> None:
    """The same connection without `cdr_id`, in the older shape and with `cdr_id` is one row in any order of replies."""
    full = call("65ec", call_log_id="log-1", call_num="7")
    shapes = [
        full,
        changed(full, cdr_id=DROP),
        changed(full, cdr_id=DROP, call_log_id=DROP, user__name=DROP, price=DROP),
    ]
    for night, at in enumerate(order):
        land(lake, shapes[at], asked_on=NIGHT + timedelta(days=night))
        lake.build()
    assert cells(lake, "cdr", "cdr_id", "participant_min") == [("65ec", 30)]
    assert cells(lake, "sessions", "connections", "participant_min") == [(1, 30)]
    assert_counted_once(lake)


def test_a_record_that_gets_its_id_is_not_corrected(lake: Lake) -> None:
    """The row gets the id that EnableX states later; an id alone makes no revision, other content does."""
    land(lake, call(DROP, call_log_id="log-1"))
    land(lake, call("65ec", call_log_id="log-1"), asked_on=NIGHT + timedelta(days=1))
    lake.build()
    assert cells(lake, "cdr", "cdr_id", "revision", "cdr_id_is_derived") == [("65ec", 1, False)]
    assert lake.rows("cdr_history") == []
    land(lake, call("65ec", call_log_id="log-1", user__role="viewer"), asked_on=NIGHT + timedelta(days=2))
    lake.build()
    assert cells(lake, "cdr", "cdr_id", "revision") == [("65ec", 2)]
    assert cells(lake, "cdr_history", "cdr_id", "revision") == [("65ec", 1)]


# --- F4: one id for two records ---


def test_one_id_with_two_stays_loses_none(lake: Lake) -> None:
    """Two documents with one id in one reply are two rows: the longer one is billed, the other one is held."""
    land(
        lake,
        call("a1", minutes=9, trans_date=f"{DAY}T11:00:00.000Z"),
        call("a1", minutes=50, trans_date=f"{DAY}T11:00:00.000Z"),
    )
    lake.build()
    assert cells(lake, "cdr", "cdr_id", "participant_min", "suspense") == [
        ("a1", 50, None), ("a1#2", None, "same_id_twice"),
    ]  # fmt: skip
    assert cells(lake, "suspense", "suspense_id", "reasons", "at_stake_min", "is_held") == [
        ("a1#2", "same_id_twice", 9, True)
    ]
    assert_counted_once(lake)


def test_one_id_in_two_sessions_loses_none(lake: Lake) -> None:
    """An id of two tenants is two connections, both billed; the one that is numbered is listed in suspense."""
    land(
        lake,
        call("a1", room__room_details__owner_ref="t1"),
        call("a1", conf_num="c2", minutes=9, room__room_details__owner_ref="t2"),
    )
    lake.build()
    assert cells(lake, "cdr", "cdr_id", "owner_ref", "participant_min", "suspense") == [
        ("a1", "t1", 30, None), ("a1#2", "t2", 9, "same_id_twice"),
    ]  # fmt: skip
    assert cells(lake, "suspense", "suspense_id", "is_held") == [("a1#2", False)]
    assert_counted_once(lake)


# --- F5: where a connection counts ---


def test_a_connection_begins_where_its_stay_is_counted(lake: Lake) -> None:
    """With reversed signalling times the stay and the begin are those of the room: before midnight."""
    times: dict[str, Any] = {
        "room__connect_dt": "2026-11-30T23:50:00.000Z",
        "room__disconnect_dt": "2026-12-01T00:00:05.000Z",
        "sigserver__connect_dt": "2026-12-01T00:00:10.000Z",
        "sigserver__disconnect_dt": "2026-12-01T00:00:05.000Z",
        "room__duration": 605,
    }
    land(
        lake,
        call("a", trans_date="2026-12-01T00:00:06.000Z", **times),
        day=date(2026, 12, 1),
        asked_on=date(2026, 12, 2),
    )
    lake.build()
    began = datetime(2026, 11, 30, 23, 50, tzinfo=UTC)
    assert cells(lake, "cdr", "began_at", "participant_min", "participant_s_from") == [(began, 11, "room")]
    assert cells(lake, "sessions", "first_connected_at", "day") == [(began, date(2026, 11, 30))]
    assert_counted_once(lake)


# --- F6: EnableX's own minutes ---


@pytest.mark.parametrize("minutes", [1800, -30, 48])
def test_absurd_minutes_of_enablex_are_in_no_sum(lake: Lake, minutes: int) -> None:
    """`connect_minutes_cal` that are seconds or negative are in suspense and in no sum; the stay is billed."""
    land(lake, call("a", usage__connect_minutes_cal=minutes))
    lake.build()
    assert cells(lake, "cdr", "connect_billed_min", "participant_min", "suspense") == [(minutes, 30, "vendor_minutes")]
    assert cells(lake, "sessions", "connect_billed_min", "participant_min") == [(0, 30)]
    assert cells(lake, "suspense", "reasons", "is_held", "at_stake_min") == [("vendor_minutes", False, 30)]
    assert_counted_once(lake)


# --- F9: one session number for weeks ---


def archive(conf_num: str, moment: str, name: str = "a") -> dict[str, Any]:
    """An archive record with a recording and a transcoded file."""
    urls = {kind: [{"url": f"https://files.example/{name}.{kind}"}] for kind in ("recording", "transcoded")}
    return {"conf_num": conf_num, "trans_date": moment, "room_id": NEW["room"]["room_id"], **urls}


@pytest.mark.parametrize(
    ("days", "recorded_on", "expected"),
    [
        ((2, 12), 12, {2: 0, 12: 30}),  # H3
        ((8, 15), 15, {8: 0, 15: 30}),  # H4
        ((6, 13), 13, {6: 0, 13: 30}),  # H1
        ((2, 12), 2, {2: 30, 12: 0}),
        ((2, 12), 5, {2: 30, 12: 0}),
        ((2, 12), 7, {2: 0, 12: 0}),
        ((9, 15, 16, 22), 16, {9: 0, 15: 30, 16: 0, 22: 0}),
    ],
)
def test_a_number_that_lives_for_weeks_counts_each_connection_once(
    lake: Lake, days: Sequence[int], recorded_on: int, expected: dict[int, int]
) -> None:
    """Each connection is in one session, a recording belongs to the session that was running, nothing counts twice."""
    for number in days:
        day = date(2026, 11, number)
        clock = "09:00" if number == 16 else "10:00"
        land(lake, call(f"k{number}", day=day, clock=clock), day=day, asked_on=date(2026, 11, 30))
    day = date(2026, 11, recorded_on)
    land(lake, archive("c1", f"{day}T10:31:00.000Z"), day=day, asked_on=date(2026, 11, 30), source="archive")
    lake.build()
    if days == (9, 15, 16, 22):  # the connections of the 15th and 16th are less than 24 hours apart
        assert cells(lake, "sessions", "day", "connections", "recording_min") == [
            (date(2026, 11, 9), 1, 0), (date(2026, 11, 15), 2, 60), (date(2026, 11, 22), 1, 0),
        ]  # fmt: skip
    else:
        assert {row["day"].day: row["recording_min"] for row in lake.rows("sessions")} == expected
        assert {row["day"].day: row["transcoding_min"] for row in lake.rows("sessions")} == expected
    assert_counted_once(lake)


TRAFFIC = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 23), st.sampled_from(["c1", "c2"])),
    min_size=1,
    max_size=14,
    unique=True,
)


@settings(max_examples=15)  # each builds a lake day by day
@given(TRAFFIC, st.lists(st.integers(0, 40), max_size=3, unique=True), st.randoms(use_true_random=False))
def test_sessions_of_weeks_do_not_depend_on_how_they_are_built(
    tmp_path_factory: pytest.TempPathFactory, traffic: Any, recorded: list[int], dice: random.Random
) -> None:
    """Weeks of few session numbers, with recordings, count each connection and file once, whichever days are built."""
    first = date(2026, 11, 1)
    together, singly = (Lake(tmp_path_factory.mktemp("lake")) for _ in range(2))
    for lake in (together, singly):
        by_day: dict[date, list[Any]] = {}
        for number, (at, hour, conf_num) in enumerate(traffic):
            day = first + timedelta(days=at)
            by_day.setdefault(day, []).append(call(f"k{number}", day=day, clock=f"{hour:02}:00", conf_num=conf_num))
        for day, documents in by_day.items():
            land(lake, *documents, day=day, asked_on=date(2027, 1, 1))
        for at in recorded:
            day = first + timedelta(days=at)
            record = archive("c1", f"{day}T12:00:00.000Z", f"f{at}")
            land(lake, record, day=day, asked_on=date(2027, 1, 1), source="archive")
    together.build()
    days = [first + timedelta(days=at) for at in range(42)]
    dice.shuffle(days)
    for day in days:
        singly.build(Period(day, day))
    assert singly.objects() == together.objects()
    assert_counted_once(together)
    owners = Counter((row["conf_num"], row["session_began_at"]) for row in together.rows("media"))
    files = {(row["conf_num"], row["first_connected_at"]): row["media_files"] for row in together.rows("sessions")}
    assert {key: count for key, count in owners.items() if key[1]} == {key: n for key, n in files.items() if n}
    assert len(together.rows("media")) == 2 * len(recorded)


# --- F10: what is not billed is counted ---


def test_documents_without_a_row_are_in_suspense(lake: Lake) -> None:
    """Fifty documents without `conf_num` and one without any stay are in suspense, with their minutes where known."""
    broken = [call(f"r{n:02}", conf_num=DROP, minutes=60) for n in range(50)]
    land(lake, call("good"), *broken, call("null", sigserver=None, room=None, usage=None))
    lake.build()
    found = lake.rows("suspense")
    assert Counter(row["reasons"] for row in found) == {"rejected": 50, "stay_unknown": 1}
    assert sum(row["at_stake_min"] for row in found if row["reasons"] == "rejected") == 50 * 60
    assert len({row["suspense_id"] for row in found}) == 51
    assert all(row["is_held"] and row["decision"] == "open" and row["day"] == DAY for row in found)
    assert {(row["source_key"], row["ordinal"]) for row in lake.rows("rejects")} == {
        (row["source_key"], row["ordinal"]) for row in found if row["reasons"] == "rejected"
    }
    assert_counted_once(lake)


@pytest.mark.parametrize(
    ("changes", "origin", "minutes"),
    [
        ({"sigserver__connect_dt": None, "room__connect_dt": None}, "signal_duration", 30),
        ({"sigserver": None, "room__connect_dt": None, "room__duration": 1230}, "room_duration", 21),
        ({"sigserver": None, "room": None}, "connect_billed_min", 30),
    ],
)
def test_a_connection_without_times_is_billed_by_its_duration(
    lake: Lake, changes: dict[str, Any], origin: str, minutes: int
) -> None:
    """Without times EnableX's duration is billed, marked, and in suspense."""
    land(lake, call("a", **changes))
    lake.build()
    assert cells(lake, "cdr", "participant_s_from", "participant_min", "suspense") == [
        (origin, minutes, "times_missing")
    ]
    assert cells(lake, "suspense", "is_held", "at_stake_min") == [(False, minutes)]
    assert_counted_once(lake)


def test_a_rejected_document_is_in_suspense_once(lake: Lake) -> None:
    """A document that several days and nights list is one record, on the earliest requested day that lists it."""
    broken = call("r", conf_num=DROP)
    for night in range(2):
        for day in (DAY, DAY - timedelta(days=1)):
            land(lake, broken, day=day, asked_on=NIGHT + timedelta(days=night))
    lake.build()
    assert cells(lake, "suspense", "day", "reasons") == [(DAY - timedelta(days=1), "rejected")]
    land(lake, call("r"), day=DAY, asked_on=NIGHT + timedelta(days=3))
    land(lake, call("r"), day=DAY - timedelta(days=1), asked_on=NIGHT + timedelta(days=3))
    lake.build()
    assert lake.rows("suspense") == []
    assert cells(lake, "cdr", "cdr_id", "participant_min") == [("r", 30)]


def test_a_decision_is_kept_when_tables_are_not(lake: Lake, tmp_path: Path) -> None:
    """A released record is billed, and still is after all tables and indexes were deleted; a correction opens it."""
    odd = call("odd", minutes=25 * 60)
    land(lake, odd)
    lake.build()
    [(stake, text)] = cells(lake, "suspense", "at_stake_min", "reasons")
    at = datetime(2026, 11, 25, tzinfo=UTC)
    records = (DecidedRecord("odd", lake.rows("suspense")[0]["day"], text, stake),)
    write_decision(lake.lake, PROJECT, Decision(decided_at=at, outcome="released", because="on call", records=records))
    for folder in (None, "tables", "index", "builds"):
        if folder:
            shutil.rmtree(tmp_path / "lake" / folder)
        lake.build()
        assert cells(lake, "cdr", "participant_min", "suspense") == [(1500, "stay_too_long")]
        assert cells(lake, "suspense", "decision", "decided_at", "decided_because") == [("released", at, "on call")]
        assert sum(row["suspense"] for row in lake.rows("sessions")) == 0
    land(lake, changed(odd, sigserver__disconnect_dt=ABSURD), asked_on=NIGHT + timedelta(days=2))
    lake.build()
    assert cells(lake, "cdr", "participant_min") == [(None,)]
    assert cells(lake, "suspense", "decision") == [("open",)]


# --- F11: records that EnableX took back ---


@pytest.mark.parametrize(("holds", "minutes"), [(False, 30), (True, None)])
def test_a_record_that_is_no_longer_listed_is_named(tmp_path: Path, holds: bool, minutes: int | None) -> None:
    """A record that the newest reply of its day lacks is kept, in suspense, with the time it was last seen; a setting
    determines if it is billed.
    """
    lake = RuledLake(tmp_path, rules=RatingRules(holds_unlisted=holds))
    land(lake, call("a"), call("b"))
    land(lake, call("a"), asked_on=NIGHT + timedelta(days=1))
    lake.build()
    seen_at = datetime(2026, 11, 21, 2, tzinfo=UTC)
    assert cells(lake, "cdr", "cdr_id", "participant_min", "is_listed", "last_seen_at", "suspense") == [
        ("a", 30, True, None, None), ("b", minutes, False, seen_at, "not_listed"),
    ]  # fmt: skip
    assert cells(lake, "suspense", "suspense_id", "is_held", "at_stake_min") == [("b", holds, 30)]
    assert_counted_once(lake)


def test_a_record_that_another_day_lists_is_listed(lake: Lake) -> None:
    """A record that a correction moved to another requested day is listed there."""
    land(lake, call("a"), call("b"))
    land(lake, call("a"), asked_on=NIGHT + timedelta(days=1))
    land(lake, call("b"), day=DAY + timedelta(days=1), asked_on=NIGHT + timedelta(days=1))
    lake.build()
    assert cells(lake, "cdr", "cdr_id", "is_listed") == [("a", True), ("b", True)]
    assert lake.rows("suspense") == []


def test_a_record_that_is_listed_again_is_out_of_suspense(lake: Lake) -> None:
    """A record that returns is listed, whichever builds happened in between."""
    for night, listed in enumerate((("a", "b"), ("a",), ("a", "b"))):
        land(lake, *map(call, listed), asked_on=NIGHT + timedelta(days=night))
        lake.build()
        assert len(lake.rows("suspense")) == (night == 1)


# --- F21: long connections ---


@pytest.mark.parametrize(("days_later", "is_row"), [(3, True), (4, True), (5, True), (6, False)])
def test_a_long_connection_is_found_by_its_begin(lake: Lake, days_later: int, is_row: bool) -> None:
    """A record up to 5 days after the requested day is a row if it began near that day; later its minutes are at
    stake.
    """
    minutes = days_later * 24 * 60
    land(lake, call("long", minutes=minutes), asked_on=DAY + timedelta(days=days_later + 1))
    lake.build()
    assert len(lake.rows("cdr")) == is_row
    assert len(lake.rows("rejects")) == (not is_row)
    reasons = "stay_too_long" if is_row else "rejected"
    assert cells(lake, "suspense", "reasons", "at_stake_min", "is_held") == [(reasons, minutes, True)]
    assert_counted_once(lake)


def test_a_document_of_another_day_is_not_at_stake(lake: Lake) -> None:
    """A short connection in the reply of a distant day is a reject only: the reply of its own day has it."""
    distant = DAY + timedelta(days=9)
    land(lake, call("a"), call("far", day=distant))
    land(lake, call("far", day=distant), day=distant, asked_on=distant + timedelta(days=1))
    lake.build()
    assert len(lake.rows("rejects")) == 1
    assert lake.rows("suspense") == []
    assert cells(lake, "cdr", "cdr_id", "day") == [("a", DAY), ("far", distant)]


class RuledLake(Lake):
    """A lake that is built with settings of `[suspense]`."""

    def __init__(self, folder: Path, rules: RatingRules) -> None:
        super().__init__(folder)
        self.rules = rules

    @property
    def builder(self) -> Builder:
        return replace(super().builder, rules=self.rules)
