"""The rule for settled days, and the states of a project's days (pure)."""

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


def settled_on(day: date, lookback_days: int) -> date:
    """The first UTC date on which collecting a day settles it: `lookback_days`, but at least 1, after the day."""
    return day + timedelta(days=max(1, lookback_days))


def is_settled(day: date, last_collected: datetime | None, lookback_days: int) -> bool:
    """Whether a day was last collected late enough that no more late records are expected."""
    return last_collected is not None and last_collected.date() >= settled_on(day, lookback_days)


def day_states(
    last_collected: Mapping[date, datetime], since: date | None, today: date, lookback_days: int
) -> DayStates:
    """Which days are missing (never collected), provisional (may still change), and how many are settled."""
    first = min((day for day in (since, *last_collected) if day is not None), default=None)
    if first is None:
        return DayStates(None, [], [], 0)
    missing: list[str] = []
    provisional: list[str] = []
    settled = 0
    for day in Period(first, max(first, today)):
        if day not in last_collected:
            missing.append(str(day))
        elif is_settled(day, last_collected[day], lookback_days):
            settled += 1
        else:
            provisional.append(str(day))
    return DayStates(str(first), missing, provisional, settled)
