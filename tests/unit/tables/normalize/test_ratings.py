"""Ratings: what of a record is believed, for how long, and why another one is in suspense."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import RecordError
from pipeline.tables.normalize import cdr
from pipeline.tables.normalize.ratings import (
    REASONS,
    UNKNOWN,
    Decision,
    Decisions,
    Rated,
    RatingRules,
    ended_ms,
    rate,
    stake_min,
)
from pipeline.tables.schemas import CDR
from tests.support.api_calls import rated, unrated
from tests.support.cdrs import DROP, NEW, OLD, changed, documents, utc

BEGIN = datetime(2024, 3, 10, tzinfo=UTC)
BEGIN_MS = round(BEGIN.timestamp() * 1000)
HOUR_MS = 3_600_000
NOTHING = dict.fromkeys(("sigserver", "room", "usage"), DROP)


def one(document: Any, rules: RatingRules | None = None, **marks: bool) -> tuple[dict[str, Any], Rated]:
    """The row of one document, with what `suspense` needs."""
    found = rate(
        unrated([cdr.cdr_row(document)]), rules or RatingRules(), {}, {k: np.array([v]) for k, v in marks.items()}
    )
    (row,) = found.rows.to_pylist()
    return row, found


def timed(stay_ms: int | None, *, side: str = "sigserver", **changes: Any) -> dict[str, Any]:
    """A document with times on one side only, and no durations."""
    times = {} if stay_ms is None else {f"{side}__connect_dt": BEGIN_MS, f"{side}__disconnect_dt": BEGIN_MS + stay_ms}
    return changed(NEW, trans_date=BEGIN_MS, **{**NOTHING, **times, **changes})


def reasons(document: Any, rules: RatingRules | None = None, **marks: bool) -> str | None:
    text: str | None = one(document, rules, **marks)[0]["suspense"]
    return text


# --- the stay ---

MS = st.none() | st.integers(0, 8 * 10**7)


@given(MS, MS, MS, MS)
def test_the_stay_is_exact_and_never_negative(sig_in: Any, sig_out: Any, room_in: Any, room_out: Any) -> None:
    """Seconds are of `sigserver.*` when both ends exist in order, else of `room.*`, else unknown; minutes round up."""
    ends = {"sigserver__connect_dt": sig_in, "sigserver__disconnect_dt": sig_out, "room__connect_dt": room_in,
            "room__disconnect_dt": room_out}  # fmt: skip
    times = {path: None if ms is None else BEGIN_MS + ms for path, ms in ends.items()}
    row, _ = one(changed(NEW, trans_date=BEGIN_MS, **{**NOTHING, **times}))
    stays = [
        (side, end - start)
        for side, start, end in (("signal", sig_in, sig_out), ("room", room_in, room_out))
        if start is not None and end is not None and end >= start
    ]
    if not stays:
        assert row["participant_s"] is row["participant_min"] is row["participant_s_from"] is None
        assert row["suspense"] == "stay_unknown"
        return
    side, stay_ms = stays[0]
    assert row["participant_s"] == float(Fraction(stay_ms, 1000))
    assert row["participant_min"] == -(-stay_ms // 60_000)
    assert (row["participant_s_from"], row["suspense"]) == (side, None)


@pytest.mark.parametrize(
    ("ms", "minutes"), [(0, 0), (1, 1), (59_999, 1), (60_000, 1), (60_001, 2), (119_999, 2), (120_000, 2)]
)
def test_a_begun_minute_is_a_minute(ms: int, minutes: int) -> None:
    """Billing is per minute: a millisecond over is a whole one more, a full minute is not."""
    row, found = one(timed(ms))
    assert row["participant_min"] == stake_min(int(found.stake_ms[0])) == minutes


DURATION = st.none() | st.integers(-5, 30 * 3600)


@given(DURATION, DURATION, DURATION)
def test_without_times_the_first_duration_that_can_be_is_used(signal: Any, room: Any, billed: Any) -> None:
    """`sigserver.duration`, else `room.duration`, else `connect_minutes_cal`; not a negative one or one above 24 hours.
    The record is rated and in suspense.
    """
    document = changed(NEW, **{**NOTHING, "sigserver__duration": signal, "room__duration": room,
                               "usage__connect_minutes_cal": billed})  # fmt: skip
    durations = {"signal_duration": signal, "room_duration": room, "connect_billed_min": billed and billed * 60}
    usable = [(name, s) for name, s in durations.items() if s is not None and 0 <= s <= 24 * 3600]
    row, found = one(document)
    if not usable:
        assert (row["participant_s"], found.is_held.tolist()) == (None, [True])
        assert "stay_unknown" in row["suspense"].split(", ")
        return
    assert (row["participant_s_from"], row["participant_s"]) == usable[0]
    assert "times_missing" in row["suspense"].split(", ")
    assert not found.is_held[0]


# --- what is held ---


def test_one_absurd_time_stamp_bills_nothing() -> None:
    """An end of 2062 is no stay of 36 years: the record is held, and its minutes are at stake."""
    end = "2062-11-20T10:30:00.000Z"
    row, found = one(changed(NEW, sigserver__disconnect_dt=end, room__disconnect_dt=end))
    assert row["suspense"] == "stay_contradicts, stay_too_long"
    assert row["participant_s"] is row["participant_min"] is None
    assert row["participant_s_from"] == "signal"
    assert (found.is_held.tolist(), int(found.stake_ms[0]) > 10**12) == ([True], True)


@pytest.mark.parametrize(
    ("hours", "rules", "expected"),
    [
        (24, RatingRules(), None),
        (24 + 1 / HOUR_MS, RatingRules(), "stay_too_long"),
        (30, RatingRules(max_stay_ms=48 * HOUR_MS), None),
        (2, RatingRules(max_stay_ms=HOUR_MS), "stay_too_long"),
    ],
)
@pytest.mark.parametrize("side", ["sigserver", "room"])
def test_a_stay_is_held_only_above_the_limit(hours: float, rules: RatingRules, expected: Any, side: str) -> None:
    """A stay of exactly `max_stay_hours` is believed, a millisecond more is not."""
    assert reasons(timed(round(hours * HOUR_MS), side=side), rules) == expected


@pytest.mark.parametrize(
    ("stay_min", "stated_min", "is_held"),
    [(30, 30, False), (30, 40, False), (30, 40.01, True), (30, 20, False), (30, 19.99, True), (5, 0, False),
     (200, 220, False), (200, 220.01, True), (200, 180, False), (200, 179.99, True), (30, -1, False)],
)  # fmt: skip
@pytest.mark.parametrize("where", ["sigserver", "room", "usage"])
def test_a_stay_that_contradicts_a_duration_is_held(
    stay_min: float, stated_min: float, is_held: bool, where: str
) -> None:
    """A stay may differ from the duration of its side, or else from the billed minutes, by 10 minutes or a tenth."""
    side = "room" if where == "room" else "sigserver"
    stated = {"usage__connect_minutes_cal": stated_min} if where == "usage" else {f"{side}__duration": stated_min * 60}
    row, found = one(timed(round(stay_min * 60_000), side=side, **stated))
    assert found.is_held[0] == is_held
    assert ("stay_contradicts" in (row["suspense"] or "")) == is_held
    assert (row["participant_min"] is None) == is_held
    assert found.stake_ms[0] == stay_min * 60_000


def test_only_the_duration_of_the_same_side_is_compared() -> None:
    """The time in the room differs from that in signalling: a stay from one is not compared with the other."""
    far: dict[str, Any] = {"room__duration": 0, "usage__connect_minutes_cal": 0}
    assert reasons(timed(HOUR_MS, sigserver__duration=3600, **far)) is None
    assert reasons(timed(HOUR_MS, usage__connect_minutes_cal=0)) == "stay_contradicts"


def test_the_tolerance_is_a_setting() -> None:
    """With a tolerance of 0 minutes a tenth of the stay is still tolerated."""
    strict = RatingRules(tolerance_ms=0)
    assert reasons(timed(60_000 * 100, sigserver__duration=110 * 60), strict) is None
    assert reasons(timed(60_000 * 100, sigserver__duration=111 * 60), strict) == "stay_contradicts"


@given(documents())
def test_held_records_have_no_minutes(document: Any) -> None:
    """Of any document: reasons are known and sorted; a held or unknown stay has no minutes, another one has its own."""
    try:
        row, found = one(document)
    except RecordError:
        return
    named = row["suspense"].split(", ") if row["suspense"] else []
    assert named == sorted(set(named))
    assert set(named) <= set(REASONS)
    assert bool(found.is_held[0]) == bool({"stay_too_long", "stay_contradicts", "stay_unknown"} & set(named))
    assert (row["participant_s"] is None) == (row["participant_min"] is None) == bool(found.is_held[0])
    if row["participant_s"] is not None:
        assert 0 <= row["participant_s"] <= 24 * 3600
    assert abs(row["began_at"].date() - row["day"]) <= timedelta(days=3)


# --- EnableX's own minutes ---


@pytest.mark.parametrize(
    ("minutes", "is_absurd"), [(-0.001, True), (0, False), (31, False), (47, False), (47.001, True), (1800, True)]
)
def test_absurd_billed_minutes_are_in_suspense_and_not_held(minutes: float, is_absurd: bool) -> None:
    """Negative `connect_minutes_cal`, and more than 1.5 times the stay plus two, is reported; the stay counts."""
    row, found = one(timed(30 * 60_000, sigserver__duration=1800, usage__connect_minutes_cal=minutes))
    assert row["suspense"] == ("vendor_minutes" if is_absurd else None)
    assert (row["participant_min"], found.is_held.tolist()) == (30, [False])
    assert row["connect_billed_min"] == Decimal(str(minutes))


def test_negative_connected_minutes_are_in_suspense() -> None:
    """Negative `connect_minutes` is reported as well; `connect_minutes` that are seconds are only flagged (11.7)."""
    document = timed(30 * 60_000, sigserver__duration=1800)
    assert reasons(changed(document, usage__connect_minutes=-1)) == "vendor_minutes"
    assert reasons(changed(document, usage__connect_minutes=1800)) is None


@given(st.integers(0, 10**7), st.integers(0, 200_000) | st.floats(0, 1e6))
def test_minutes_that_look_like_seconds_are_flagged(stay_ms: int, minutes: float) -> None:
    """`connect_min_looks_like_seconds` is true exactly when the value is above 1.5 times the stay plus two (11.7)."""
    row, _ = one(timed(stay_ms, usage__connect_minutes=minutes))
    assert row["connect_min_looks_like_seconds"] is (minutes > 1.5 * row["participant_s"] / 60 + 2)


@pytest.mark.parametrize(
    "unknown", [{"usage__connect_minutes": None}, {"sigserver": None, "room": None, "usage__connect_minutes_cal": None}]
)
def test_nothing_to_compare_is_no_suspicion(unknown: dict[str, Any]) -> None:
    """Without connected minutes, or without a stay, nothing looks like seconds."""
    assert not one(changed(NEW, **unknown))[0]["connect_min_looks_like_seconds"]


# --- marks ---


@pytest.mark.parametrize(
    ("marks", "rules", "text", "is_held"),
    [
        ({"is_unlisted": True}, RatingRules(), "not_listed", False),
        ({"is_unlisted": True}, RatingRules(holds_unlisted=True), "not_listed", True),
        ({"is_repeated": True}, RatingRules(), "same_id_twice", False),
        ({"is_repeated": True, "is_repeated_in_session": True}, RatingRules(), "same_id_twice", True),
        ({"is_unlisted": True, "is_repeated": True}, RatingRules(), "not_listed, same_id_twice", False),
    ],
)
def test_marks_are_reasons(marks: dict[str, bool], rules: RatingRules, text: str, is_held: bool) -> None:
    """Records that are no longer listed, or whose id names another record too, are in suspense, and held by rule."""
    row, found = one(NEW, rules, **marks)
    assert (row["suspense"], found.is_held.tolist()) == (text, [is_held])
    assert row["participant_min"] == (None if is_held else 31)


# --- when it began and ended ---

DAY = date(2024, 3, 10)
NOON = datetime(2024, 3, 10, 12, tzinfo=UTC)
SIGNAL = {"sigserver__connect_dt": NOON - timedelta(hours=2), "sigserver__disconnect_dt": NOON}
ROOM = {"room__connect_dt": NOON - timedelta(hours=3), "room__disconnect_dt": NOON}
FAR, JUST_NEAR = NOON - timedelta(days=4), datetime(2024, 3, 7, tzinfo=UTC)


@pytest.mark.parametrize(
    ("times", "began_at"),
    [
        ({**SIGNAL, **ROOM}, SIGNAL["sigserver__connect_dt"]),
        ({**SIGNAL, **ROOM, "sigserver__disconnect_dt": None}, ROOM["room__connect_dt"]),
        ({**SIGNAL, **ROOM, "sigserver__disconnect_dt": NOON - timedelta(hours=4)}, ROOM["room__connect_dt"]),
        ({**SIGNAL, "sigserver__disconnect_dt": None}, SIGNAL["sigserver__connect_dt"]),
        ({"room__connect_dt": ROOM["room__connect_dt"]}, ROOM["room__connect_dt"]),
        ({}, NOON),
        ({"room__connect_dt": FAR}, NOON),
        ({"room__connect_dt": JUST_NEAR}, JUST_NEAR),
        ({"room__connect_dt": JUST_NEAR - timedelta(milliseconds=1)}, NOON),
        ({**SIGNAL, **ROOM, "sigserver__connect_dt": FAR}, ROOM["room__connect_dt"]),
        ({**SIGNAL, "sigserver__disconnect_dt": None, "room__connect_dt": FAR}, SIGNAL["sigserver__connect_dt"]),
        ({"trans_date": None, "room__disconnect_dt": NOON + timedelta(hours=1)}, NOON + timedelta(hours=1)),
        ({"trans_date": None, **SIGNAL}, SIGNAL["sigserver__connect_dt"]),
    ],
    ids=["signal", "half a signal", "reversed signal", "signal without end", "room", "record", "too early", "just near",
         "just too early", "far signal", "far room", "end only", "no trans_date"],
)  # fmt: skip
def test_a_connection_began_at_the_time_that_its_stay_counts(
    times: dict[str, datetime | None], began_at: datetime
) -> None:
    """From the signalling times if both are there in order, else from the room's, else from signalling's connect time,
    else from the record; never from a time more than 3 days from the record's day.
    """
    given = {path: moment and utc(moment) for path, moment in {"trans_date": NOON, **times}.items()}
    assert one(changed(NEW, **{**NOTHING, **given}))[0]["began_at"] == began_at


@pytest.mark.parametrize(
    ("times", "ended"),
    [
        ({**SIGNAL, **ROOM}, NOON),
        ({**SIGNAL, **ROOM, "room__disconnect_dt": NOON + timedelta(hours=1)}, NOON + timedelta(hours=1)),
        ({**SIGNAL, "trans_date": NOON + timedelta(hours=5)}, NOON),
        ({"room__connect_dt": ROOM["room__connect_dt"]}, NOON),
        ({"room__connect_dt": NOON + timedelta(hours=5)}, NOON + timedelta(hours=5)),
        ({**SIGNAL, "room__disconnect_dt": NOON + timedelta(days=9)}, NOON),
        ({**SIGNAL, "sigserver__disconnect_dt": NOON + timedelta(days=2)}, NOON - timedelta(hours=2)),
    ],
    ids=["both", "later side", "late record", "no end", "begins after its record", "far end", "stay not believed"],
)
def test_a_connection_ended_at_its_latest_believed_time(times: dict[str, datetime], ended: datetime) -> None:
    """The latest end within 3 days, not before the begin; else the record's time; a stay too long to be believed has
    no end.
    """
    given = {path: utc(moment) for path, moment in {"trans_date": NOON, **times}.items()}
    found = rated([changed(NEW, **{**NOTHING, **given})])
    assert ended_ms(found.rows).tolist() == [round(ended.timestamp() * 1000)]


# --- participants of EnableX itself ---

SYSTEM = changed(
    NEW,
    user__agent="Mozilla/5.0 HeadlessChrome/119.0",
    **{f"published_track__{name}": False for name in NEW["published_track"]},
)


@pytest.mark.parametrize(
    ("document", "is_system"),
    [
        (SYSTEM, True),
        (changed(SYSTEM, user__agent="headlesschrome"), True),
        (changed(SYSTEM, published_track=None), True),
        (changed(SYSTEM, published_track__audio="true"), False),
        (changed(SYSTEM, user__agent="Mozilla/5.0"), False),
        (changed(SYSTEM, user__agent=None), False),
        (OLD, False),
    ],
)
def test_a_headless_agent_that_publishes_nothing_is_a_system(document: Any, is_system: bool) -> None:
    """Participants that EnableX adds are flagged (section 12); whether they are billed is a setting."""
    for rules, skips in ((RatingRules(), False), (RatingRules(skips_system=True), True)):
        row, found = one(document, rules)
        assert row["is_system"] is is_system
        assert (row["participant_min"] is None) == (is_system and skips)
        assert (row["suspense"], found.is_held.tolist()) == (None, [False])


# --- decisions ---

ABSURD = timed(25 * HOUR_MS, cdr_id="absurd")


def decided(outcome: Any, text: str = "stay_too_long", minutes: int | None = 25 * 60) -> Decisions:
    at_stake = None if minutes is None else Decimal(minutes)
    return {("absurd", text, at_stake): Decision(outcome, BEGIN, "asked the customer")}


def test_a_released_record_is_rated() -> None:
    """A record that was released counts its minutes; its reasons stay visible."""
    found = rated([ABSURD, NEW], decisions=decided("released"))
    assert found.rows["participant_min"].to_pylist() == [25 * 60, 31]
    assert found.rows["participant_s_from"].to_pylist() == ["signal", "signal"]
    assert found.rows["suspense"].to_pylist() == ["stay_too_long", None]
    assert found.outcome.tolist() == [1, 0]


def test_an_excluded_record_counts_nothing() -> None:
    """A record that was excluded has no minutes, whether it was held or not."""
    found = rated([ABSURD], decisions=decided("excluded"))
    assert (found.rows["participant_s"].to_pylist(), found.outcome.tolist()) == ([None], [2])
    missing = changed(NEW, cdr_id="absurd", **NOTHING, room__duration=60)
    assert rated([missing]).rows["participant_min"].to_pylist() == [1]
    found = rated([missing], decisions=decided("excluded", "times_missing", 1))
    assert found.rows["participant_min"].to_pylist() == [None]


@pytest.mark.parametrize(
    ("text", "minutes"), [("stay_unknown", 1500), ("stay_too_long", 1499), ("stay_too_long", None)]
)
def test_a_decision_holds_for_what_was_decided(text: str, minutes: int | None) -> None:
    """For other reasons or other minutes at stake the record is open again and held."""
    found = rated([ABSURD], decisions=decided("released", text, minutes))
    assert (found.rows["participant_s"].to_pylist(), found.outcome.tolist()) == ([None], [0])


def test_a_record_without_reasons_has_no_decision() -> None:
    """A correction that makes a record believable takes it out of suspense; an earlier decision changes nothing."""
    fine = timed(HOUR_MS, cdr_id="absurd")
    assert rated([fine], decisions=decided("excluded")).rows["participant_min"].to_pylist() == [60]


def test_a_release_of_an_unknown_stay_has_nothing_to_bill() -> None:
    """A record without stay and duration can be released, and still has no minutes."""
    found = rated([timed(None, cdr_id="absurd")], decisions=decided("released", "stay_unknown", None))
    assert (found.rows["participant_min"].to_pylist(), found.outcome.tolist()) == ([None], [1])
    assert stake_min(UNKNOWN) is None


def test_rows_have_the_types_of_their_table() -> None:
    """All rated columns have the types of `cdr`, also without rows."""
    for found in (rated([NEW, OLD, ABSURD]), rated([])):
        for name in (set(found.rows.schema.names) & set(CDR.schema.names)) - {"day"}:
            assert found.rows.schema.field(name).type == CDR.schema.field(name).type, name
        assert isinstance(found.rows, pa.Table)


def test_a_missing_disconnect_time_is_not_a_stay_of_the_other_side() -> None:
    """Times of one side are never combined with those of the other."""
    mixed = changed(
        NEW, trans_date=BEGIN_MS, **NOTHING, room__connect_dt=BEGIN_MS, sigserver__disconnect_dt=BEGIN_MS + 1000
    )
    assert reasons(mixed) == "stay_unknown"
    assert reasons(changed(mixed, room=DROP)) == "stay_unknown"
