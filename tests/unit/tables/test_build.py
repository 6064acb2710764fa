"""Which days a build takes on after EnableX moved records."""

from __future__ import annotations

from datetime import date, timedelta

from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.models import Period
from pipeline.tables.batches import SESSION_REACH_DAYS
from pipeline.tables.build import periods_around

DAYS = st.sets(st.integers(0, 120).map(lambda offset: date(2026, 9, 1) + timedelta(days=offset)))


@given(DAYS)
def test_days_near_moved_records_are_in_one_period_each(days: set[date]) -> None:
    """Every day within reach of a moved record is built again, once, and no other day is."""
    listed = [day for period in periods_around(days) for day in period]
    assert listed == sorted({near for day in days for near in Period(day, day).widened(SESSION_REACH_DAYS)})
