"""A billing month: the days of a time zone as UTC times (pure)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa

from pipeline.core.models import Period

RECORD_REACH_DAYS = 3
"""A connection that began more than this many days before or after its record counts on the day of the record. So a
month reads a bounded number of days, and each connection is in exactly one month."""

_LONGEST_SESSION = timedelta(days=1)
_MONTH = re.compile(r"(\d{4})-(0[1-9]|1[0-2])", re.A)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


@dataclass(frozen=True)
class BillingMonth:
    """The days of a month in an IANA time zone. `first` is the first of the month."""

    first: date
    zone: str = "UTC"

    def __str__(self) -> str:
        return f"{self.first:%Y-%m}"

    @property
    def previous(self) -> BillingMonth:
        return BillingMonth((self.first - timedelta(days=1)).replace(day=1), self.zone)

    @property
    def next(self) -> BillingMonth:
        return BillingMonth(self.days[-1] + timedelta(days=1), self.zone)

    @cached_property
    def days(self) -> tuple[date, ...]:
        next_first = (self.first + timedelta(days=31)).replace(day=1)
        return tuple(Period(self.first, next_first - timedelta(days=1)))

    @cached_property
    def midnights_ms(self) -> np.ndarray:
        """Start of each day, and end of the last one: milliseconds since 1970, UTC."""
        days = (*self.days, self.days[-1] + timedelta(days=1))
        return np.array([(_midnight(day, self.zone) - _EPOCH) // _MILLISECOND for day in days], np.int64)

    @property
    def begins_at(self) -> datetime:
        return _midnight(self.first, self.zone)

    @property
    def ends_at(self) -> datetime:
        """The first instant after the month."""
        return _midnight(self.days[-1] + timedelta(days=1), self.zone)

    @property
    def required_days(self) -> Period:
        """UTC days that must be collected: those of the month, and those on which its last sessions can end."""
        return Period(self.begins_at.date(), (self.ends_at + _LONGEST_SESSION - _MILLISECOND).date())

    @property
    def partition_days(self) -> Period:
        """UTC days whose partitions can contain connections of the month."""
        return Period(self.begins_at.date(), (self.ends_at - _MILLISECOND).date()).widened(RECORD_REACH_DAYS)

    def day_numbers(self, times_ms: np.ndarray) -> np.ndarray:
        """For each time (milliseconds, UTC) the number of its day in the month, from 0; -1 outside of the month."""
        numbers = np.searchsorted(self.midnights_ms, times_ms, side="right") - 1
        day_numbers: np.ndarray = np.where(numbers < len(self.days), numbers, -1)
        return day_numbers

    def dates(self, day_numbers: np.ndarray) -> pa.Array:
        """Day numbers in the month as dates."""
        first = (self.first - _EPOCH.date()).days
        return pa.array((day_numbers + first).astype(np.int32)).cast(pa.date32())


def month_of(moment: datetime, zone: str) -> BillingMonth:
    """The month that contains a moment."""
    return BillingMonth(moment.astimezone(ZoneInfo(zone)).date().replace(day=1), zone)


def billing_month(text: str, zone: str) -> BillingMonth:
    """Parse a month such as `2026-11`; raises ValueError for anything else."""
    match = _MONTH.fullmatch(text)
    if match is None or match[1] == "0000":
        raise ValueError(f"{text}: not a month; write it as 2026-11")
    return BillingMonth(date(int(match[1]), int(match[2]), 1), zone)


def _midnight(day: date, zone: str) -> datetime:
    """UTC start of a local day; if the zone skips midnight, the first instant after the gap."""
    return datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(zone)).astimezone(UTC)
