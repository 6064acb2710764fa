"""Units of a build: batches of days of one week, and sequences of batches; which responses can affect a day."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta

import numpy as np

from pipeline.core.models import Period
from pipeline.storage import ObjectStore
from pipeline.tables.normalize.ratings import NEAR_DAYS, RatingRules
from pipeline.tables.normalize.sessions import CONTEXT_DAYS
from pipeline.tables.record_days import Links, MovedRecords
from pipeline.tables.sources import LATE_ARRIVAL_DAYS, LONG_CONNECTION_DAYS

INPUT_WINDOW_DAYS = max(
    CONTEXT_DAYS[0] + NEAR_DAYS + LONG_CONNECTION_DAYS, CONTEXT_DAYS[1] + NEAR_DAYS + LATE_ARRIVAL_DAYS
)
"""Distance to the raw responses that can affect a day: from its sessions to the starts of the connections that decide
about them, from there to the days of their records, from there to the requested days of the responses."""

SESSION_REACH_DAYS = max(CONTEXT_DAYS) + NEAR_DAYS
"""Greatest distance between the day of a record and the day of a session that it affects."""

_WEEK_DAYS = 7
"""Days are built in fixed weeks that share one input window. The window covers the whole week, even if only some of its
days are built. Otherwise the same raw responses could give different tables."""

_MAX_SEQUENCE_WEEKS = 4
"""A sequence of 4 weeks reads each raw response 1.8 times on average instead of 4.1 times. It is retried as a whole."""

AFFECTED_DAYS = INPUT_WINDOW_DAYS + _WEEK_DAYS - 1
"""Greatest distance between the requested day of a new raw response and a day whose tables it affects."""


def week_of(day: date) -> Period:
    """The fixed week of a day, from Monday to Sunday."""
    monday = date.fromordinal((day.toordinal() - 1) // _WEEK_DAYS * _WEEK_DAYS + 1)
    return Period(monday, monday + timedelta(days=_WEEK_DAYS - 1))


def input_window(day: date) -> Period:
    """The requested days of the raw responses that affect the week of a day."""
    return week_of(day).widened(INPUT_WINDOW_DAYS)


def linked_days(week: Period, links: Links) -> list[date]:
    """Days to or from which records were moved that a week or its sessions have, if its input window lacks a response
    that can have them."""
    window = week.widened(INPUT_WINDOW_DAYS)
    others = {other for day in week.widened(SESSION_REACH_DAYS) for other in links.get(day, ())}
    reach = timedelta(days=LONG_CONNECTION_DAYS)
    return sorted(other for other in others if other - reach not in window or other + reach not in window)


@dataclass(frozen=True)
class BuildContext:
    """Stores and settings of a build."""

    lake: ObjectStore
    vault: ObjectStore
    retention: timedelta
    private_columns: tuple[str, ...] = ()
    private_key: bytes = b""
    rules: RatingRules = field(default_factory=RatingRules)


@dataclass(frozen=True)
class BuildBatch:
    """Days of one week and project that are built together; for each, its inputs digest and the tables to write."""

    project: str
    days: Mapping[date, str]
    tables: Mapping[date, tuple[str, ...]]
    linked: tuple[date, ...] = ()
    """Distant days to which EnableX moved records of the week, or from which it did."""

    @property
    def period(self) -> Period:
        return Period(min(self.days), max(self.days))

    @property
    def input_window(self) -> Period:
        """The requested days of the raw responses that affect this batch."""
        return input_window(min(self.days))

    def __str__(self) -> str:
        return f"{self.project} {self.period.first} to {self.period.last}"


@dataclass(frozen=True)
class BuildSequence:
    """Batches of one project that are built one after the other and read shared raw responses once."""

    batches: tuple[BuildBatch, ...]

    @property
    def project(self) -> str:
        return self.batches[0].project

    def __str__(self) -> str:
        return f"{self.project} {self.batches[0].period.first} to {self.batches[-1].period.last}"


def plan_sequences(batches: Sequence[BuildBatch], workers: int) -> list[BuildSequence]:
    """Divide the ordered batches of one project into sequences of at most 4 batches, one or more per worker.

    Raw responses around the boundary of two sequences are read twice, so longer sequences read less.
    """
    length = max(1, min(_MAX_SEQUENCE_WEEKS, len(batches) // workers))
    return [BuildSequence(tuple(batches[at : at + length])) for at in range(0, len(batches), length)]


@dataclass(frozen=True)
class BuildResult:
    """Counts of a built batch, and the number of occurrences of each undocumented field."""

    counts: Counter[str]
    unknown_fields: Counter[str]
    record_ids: Mapping[date, np.ndarray] = field(default_factory=dict)
    """Hashes of the ids of `cdr` of each day, for the index of moved records."""
    moved: MovedRecords = field(default_factory=dict)
