"""Summaries of `status`: missing, provisional and settled days; files by state; sizes of stores."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.status import FileTotals, ObjectTotals, media_states, store_sizes, unlisted_sql
from pipeline.core.arrow_types import COUNT, TEXT
from pipeline.ingest.settlement import DayStates, day_states, is_settled

TODAY = date(2026, 11, 23)
DAYS = st.integers(0, 20).map(lambda back: TODAY - timedelta(days=back))


def collected(day: date, hour: int = 2) -> datetime:
    return datetime(day.year, day.month, day.day, hour, 15, tzinfo=UTC)


@pytest.mark.parametrize(
    ("days_later", "lookback_days", "settled"),
    [
        (0, 3, False),
        (2, 3, False),
        (3, 3, True),
        (4, 3, True),
        (0, 0, False),
        (1, 0, True),
        (1, 1, True),
        (1, 2, False),
    ],
)
def test_a_day_is_settled_after_the_lookback(days_later: int, lookback_days: int, settled: bool) -> None:
    """A day is settled if it was collected `lookback_days` after it, and never on the day itself."""
    day = date(2026, 11, 20)
    assert is_settled(day, collected(day + timedelta(days=days_later)), lookback_days) is settled


def test_a_day_never_collected_is_not_settled() -> None:
    """Age alone does not settle a day."""
    assert is_settled(date(2020, 1, 1), None, 3) is False


def test_days_have_three_states() -> None:
    """Missing and provisional days are listed, settled days are counted."""
    last_collected = {
        date(2026, 11, 18): collected(date(2026, 11, 22)),
        date(2026, 11, 19): collected(date(2026, 11, 22)),
        date(2026, 11, 21): collected(date(2026, 11, 22)),
        TODAY: collected(TODAY),
    }
    assert day_states(last_collected, date(2026, 11, 17), TODAY, 3) == DayStates(
        first="2026-11-17",
        missing=["2026-11-17", "2026-11-20", "2026-11-22"],
        provisional=["2026-11-21", "2026-11-23"],
        settled=2,
    )


def test_without_a_first_day_nothing_is_missing() -> None:
    """A project that was never collected and has no `start_date` has no days."""
    assert day_states({}, None, TODAY, 3) == DayStates(None, [], [], 0)


def test_a_start_date_in_the_future_is_no_error() -> None:
    """A `start_date` after today is one missing day, not an invalid period."""
    assert day_states({}, date(2026, 12, 1), TODAY, 3).missing == ["2026-12-01"]


def test_store_sizes_are_by_kind() -> None:
    """Objects and bytes are counted by the first part of their key."""
    listing = [("raw/a", 3), ("media/project=x/b", 5), ("media/c", 7), ("odd.txt", 1)]
    assert store_sizes(listing) == {
        "media": ObjectTotals(2, 12),
        "odd.txt": ObjectTotals(1, 1),
        "raw": ObjectTotals(1, 3),
    }


@given(st.dictionaries(DAYS, DAYS), st.none() | DAYS, st.integers(0, 10))
def test_every_day_has_one_state(collected_on: dict[date, date], since: date | None, lookback_days: int) -> None:
    """From the first day to today, each day is exactly one of missing, provisional and settled."""
    last_collected = {day: collected(on) for day, on in collected_on.items()}
    states = day_states(last_collected, since, TODAY, lookback_days)
    first = min([day for day in (since, *collected_on) if day], default=None)
    assert states.first == (str(first) if first else None)
    days = {str(first + timedelta(days=offset)) for offset in range((TODAY - first).days + 1)} if first else set()
    assert set(states.missing) == days - {str(day) for day in collected_on}
    assert not set(states.missing) & set(states.provisional)
    assert len(states.missing) + len(states.provisional) + states.settled == len(days)


def test_files_are_counted_by_state() -> None:
    """Files and bytes are counted by state; a file without a size counts as 0 bytes."""
    media = pa.table(
        {"state": ["stored", "pending", "stored", "lost"], "size_bytes": [5, None, 2**40, None]},
        schema=pa.schema([("state", TEXT), ("size_bytes", COUNT)]),
    )
    assert media_states(media) == {
        "lost": FileTotals(1, 0),
        "stored": FileTotals(2, 2**40 + 5),
        "pending": FileTotals(1, 0),
    }


def test_no_files_are_no_states() -> None:
    """An empty table has no states."""
    assert media_states(pa.schema([("state", TEXT), ("size_bytes", COUNT)]).empty_table()) == {}


def test_a_session_is_unlisted_24_hours_after_its_end() -> None:
    """A session counts as unlisted only 24 hours after its end; before, its files may still be listed."""
    now = datetime(2026, 11, 23, 2, 15, tzinfo=UTC)
    assert "ended_at < TIMESTAMPTZ '2026-11-22T02:15:00+00:00'" in unlisted_sql(now)
    assert "day >= DATE '2026-10-23'" in unlisted_sql(now)
