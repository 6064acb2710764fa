"""The sweep of a month: when it is due, and which days it collects."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest

from pipeline.billing.month import billing_month, month_of
from pipeline.billing.sweep import sweep_date, unswept


@pytest.mark.parametrize(
    ("zone", "lookback_days", "swept_from"),
    [
        ("UTC", 3, date(2026, 12, 4)),
        ("UTC", 0, date(2026, 12, 2)),
        ("UTC", 60, date(2027, 1, 30)),
        ("Asia/Kolkata", 3, date(2026, 12, 3)),
        ("America/Sao_Paulo", 3, date(2026, 12, 4)),
    ],
)
def test_a_month_is_swept_after_its_end_and_lookback(zone: str, lookback_days: int, swept_from: date) -> None:
    """From the UTC date on which the month ends in its zone plus the lookback, at least 1 day."""
    assert sweep_date(billing_month("2026-11", zone), lookback_days) == swept_from


def test_days_last_collected_before_the_sweep_are_unswept() -> None:
    """On the sweep date or later is swept; a day that was never collected is missing, not unswept."""
    days = [date(2026, 11, day) for day in range(1, 5)]
    times = [datetime(2026, 12, 3, 23, 59, tzinfo=UTC), datetime(2026, 12, 4, tzinfo=UTC)]
    last_collected = {days[0]: times[0], days[1]: times[1], days[2]: times[0].replace(year=2027)}
    assert unswept(days, last_collected, date(2026, 12, 4)) == [days[0]]


def test_months_follow_each_other() -> None:
    """The month of a moment is that of its zone; the months before and after are adjacent, over years too."""
    moment = datetime(2026, 12, 31, 20, tzinfo=UTC)
    assert [str(month_of(moment, zone)) for zone in ("UTC", "Asia/Kolkata")] == ["2026-12", "2027-01"]
    december = month_of(moment, "UTC")
    assert (str(december.previous), str(december.next)) == ("2026-11", "2027-01")
    assert december.next.previous == december
