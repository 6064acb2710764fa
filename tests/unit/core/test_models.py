"""Periods, deadlines, run results and exit codes."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, date, datetime, timedelta, timezone
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.models import MediaItem, Period, Row, RunResult, utc_text
from tests.support.records import LOCAL_TIMES, listed_file

NOW = datetime(2026, 11, 23, 2, 15, tzinfo=UTC)
DAYS = st.dates(date(2000, 1, 1), date(2099, 12, 31))
SPANS = st.integers(0, 400)


@given(DAYS, SPANS)
def test_a_period_has_every_day_once_and_in_order(first: date, more: int) -> None:
    """Both ends are included, no day is missing, none occurs twice."""
    last = first + timedelta(days=more)
    days = list(Period(first, last))
    assert days[0] == first
    assert days[-1] == last
    assert len(days) == more + 1
    assert all(after - before == timedelta(days=1) for before, after in pairwise(days))


@given(DAYS, SPANS, st.integers(-500, 500))
def test_a_period_contains_exactly_the_days_it_counts(first: date, more: int, offset: int) -> None:
    """`in` and iteration agree."""
    period = Period(first, first + timedelta(days=more))
    day = first + timedelta(days=offset)
    assert (day in period) == (day in list(period))


def test_a_period_runs_forward() -> None:
    """A period that ends before it starts is refused; the message has both days and the correction."""
    with pytest.raises(ValueError, match=r"--from 2026-11-23 is after --to 2026-11-22; swap them"):
        Period(date(2026, 11, 23), date(2026, 11, 22))


def test_widening_adds_days_on_both_sides() -> None:
    """Three days wider means three days earlier and three days later."""
    wide = Period(date(2026, 3, 1), date(2026, 3, 2)).widened(3)
    assert wide == Period(date(2026, 2, 26), date(2026, 3, 5))


@pytest.mark.parametrize(
    ("left", "is_at_risk", "hours"),
    [
        (timedelta(hours=24), False, 24.0),
        (timedelta(hours=24) - timedelta(seconds=1), True, 24.0),
        (timedelta(hours=25), False, 25.0),
        (timedelta(minutes=90), True, 1.5),
        (timedelta(0), True, 0.0),
        (-timedelta(hours=2), True, -2.0),
    ],
)
def test_less_than_a_day_is_a_risk(left: timedelta, is_at_risk: bool, hours: float) -> None:
    """A file is at risk from the first second below 24 hours, and after its deadline."""
    item = MediaItem(listed_file(), NOW + left)
    assert item.is_at_risk(NOW) is is_at_risk
    assert item.deadline(NOW)["hours_left"] == hours


def test_a_deadline_just_passed_is_not_minus_zero() -> None:
    """A minute after the deadline the hours left are 0, not the `-0.0` of arithmetic."""
    hours = MediaItem(listed_file(), NOW - timedelta(minutes=1)).deadline(NOW)["hours_left"]
    assert json.dumps(hours) == "0.0"


def test_a_deadline_names_the_file_and_no_url() -> None:
    """The entry of a file in a run result identifies it and omits its URL, which may be signed."""
    item = MediaItem(listed_file(url="https://portal.enablex.io/a1.mkv?sig=s3cret"), NOW)
    deadline = item.deadline(NOW)
    assert str(item) == "acme/284170002063/recording/a1.mkv"
    assert deadline["expires_at"] == "2026-11-23T02:15:00+00:00"
    assert "s3cret" not in f"{deadline}{item}"


def test_a_file_is_the_same_file_under_another_url() -> None:
    """Identity is session, kind and name: EnableX changes URLs between readings."""
    first, second = listed_file(), listed_file(url="https://elsewhere.example/a1.mkv", room_id="")
    assert first.identity == second.identity == ("284170002063", "recording", "a1.mkv")


def outcome(*, did: int = 0, failed: int = 0, at_risk: int = 0, lost: int = 0, is_staged: bool = False) -> RunResult:
    made = RunResult("nightly", is_staged=is_staged)
    if did:
        made.add_success(did, replies=did)
    for number in range(failed):
        made.add_failure(f"item {number}", "because")
    deadline: Row = MediaItem(listed_file(), NOW).deadline(NOW)
    made.at_risk += [deadline] * at_risk
    made.lost += [deadline] * lost
    return made


@pytest.mark.parametrize(
    ("made", "code"),
    [
        (outcome(), 0),
        (outcome(did=3), 0),
        (outcome(failed=1), 1),
        (outcome(did=3, failed=1), 3),
        (outcome(did=3, at_risk=1), 4),
        (outcome(did=3, lost=1), 4),
        (outcome(failed=1, at_risk=1), 4),
        (outcome(did=3, at_risk=1, lost=1, is_staged=True), 0),
        (outcome(did=3, failed=1, lost=1, is_staged=True), 3),
        (outcome(failed=1, lost=1, is_staged=True), 1),
    ],
)
def test_the_most_urgent_thing_is_the_exit_code(made: RunResult, code: int) -> None:
    """0 done, 1 all failed, 3 some failed, 4 at risk or lost (takes precedence, except in a demonstration)."""
    assert made.exit_code == code
    assert made.ok is (code == 0)
    assert made.to_dict()["ok"] is (code == 0)


def test_an_outcome_takes_over_all_of_its_steps() -> None:
    """Counts are added, and every failure, deadline and loss of a step is kept."""
    whole = outcome(did=2, failed=1)
    whole.merge(outcome(did=3, failed=2, at_risk=1, lost=2))
    assert whole.counts == {"replies": 5}
    assert (whole.items_succeeded, len(whole.failed), len(whole.at_risk), len(whole.lost)) == (5, 3, 1, 2)


@dataclasses.dataclass(frozen=True)
class Days:
    """Details of a command; `output` is left out of the JSON while it is None."""

    days: list[str]
    hours_left: float | None
    output: str | None = None


def test_an_outcome_as_json_has_what_the_design_promises() -> None:
    """`command`, `ok`, `counts`, `failed`, `at_risk`, `lost` and the details of the command, in plain JSON."""
    made = outcome(did=1, failed=1, at_risk=1)
    made = made.with_details(Days(["2026-11-22"], None))
    text = json.loads(json.dumps(made.to_dict()))
    assert list(text) == ["command", "ok", "counts", "failed", "at_risk", "lost", "days", "hours_left"]
    assert text["failed"] == [{"item": "item 0", "error": "because"}]


@given(LOCAL_TIMES, st.integers(-14, 14))
def test_text_of_a_moment_is_utc_to_the_millisecond(local: datetime, hours: int) -> None:
    """Any time zone becomes the same moment in EnableX's format, `2024-03-09T14:02:31.337Z`."""
    moment = local.replace(tzinfo=timezone(timedelta(hours=hours)))
    text = utc_text(moment)
    assert len(text) == len("2024-03-09T14:02:31.337Z")
    assert text.endswith("Z")
    assert timedelta(0) <= moment - datetime.fromisoformat(text) < timedelta(milliseconds=1)


@pytest.mark.parametrize(
    "record", [Period(date(2026, 1, 1), date(2026, 1, 2)), listed_file(), MediaItem(listed_file(), NOW)]
)
def test_records_do_not_change(record: object) -> None:
    """Records are frozen after their validation."""
    field = dataclasses.fields(record)[0].name  # type: ignore[arg-type]
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(record, field, None)
