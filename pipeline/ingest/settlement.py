"""When a day is settled: the rule, and the states of a project's days by it (pure)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from pipeline.core.models import Period


@dataclass(frozen=True)
class DayStates:
    """Days of a project: first, missing and provisional ones as ISO dates; number of settled ones."""

    first: str | None
    missing: list[str]
    provisional: list[str]
    settled: int


def is_settled(day: date, last_asked: datetime | None, lookback_days: int) -> bool:
    """Whether a day was last collected `lookback_days` (at least 1) after it: no late record is expected."""
    return last_asked is not None and last_asked.date() >= day + timedelta(days=max(1, lookback_days))


def day_states(last_asked: Mapping[date, datetime], since: date | None, today: date, lookback_days: int) -> DayStates:
    """Which days are missing (never collected), provisional (may still change), and how many are settled."""
    first = min((day for day in (since, *last_asked) if day is not None), default=None)
    if first is None:
        return DayStates(None, [], [], 0)
    missing: list[str] = []
    provisional: list[str] = []
    settled = 0
    for day in Period(first, max(first, today)):
        if day not in last_asked:
            missing.append(str(day))
        elif is_settled(day, last_asked[day], lookback_days):
            settled += 1
        else:
            provisional.append(str(day))
    return DayStates(str(first), missing, provisional, settled)
