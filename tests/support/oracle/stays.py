"""How long a connection lasted, and why it may not be believed (rules, section 4)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime, timedelta
from fractions import Fraction
from typing import Any, NamedTuple

from tests.support.oracle.inputs import Rules

SAME_ID_TWICE, NOT_LISTED, REJECTED = "same_id_twice", "not_listed", "rejected"


class Stay(NamedTuple):
    """Exact seconds of a connection and the columns that they are from; both None if unknown."""

    seconds: Fraction | None
    source: str | None

    @property
    def is_from_times(self) -> bool:
        return self.source in {"signal", "room"}

    @property
    def minutes(self) -> int | None:
        """Whole minutes, rounded up."""
        return None if self.seconds is None else -(-self.seconds // 60)


def seconds_between(start: datetime, end: datetime) -> Fraction:
    return Fraction((end - start) // timedelta(milliseconds=1), 1000)


def stay(row: Mapping[str, Any], rules: Rules) -> Stay:
    """By signalling, else by room, else the first of EnableX's durations that can be one."""
    for side in ("signal", "room"):
        start, end = row[f"{side}_connected_at"], row[f"{side}_disconnected_at"]
        if start and end and end >= start:
            return Stay(seconds_between(start, end), side)
    for name, unit_s in (("signal_duration_s", 1), ("room_duration_s", 1), ("connect_billed_min", 60)):
        if row[name] is not None and 0 <= Fraction(row[name]) * unit_s <= rules.max_stay_hours * 3600:
            return Stay(Fraction(row[name]) * unit_s, name.removesuffix("_s"))
    return Stay(None, None)


def by_times(row: Mapping[str, Any]) -> Fraction:
    """Exact seconds by the first pair of times that has them; -1 if none has."""
    found = stay({**row, "signal_duration_s": None, "room_duration_s": None, "connect_billed_min": None}, Rules())
    return Fraction(-1) if found.seconds is None else found.seconds


def began_at(row: Mapping[str, Any], day: date, otherwise: datetime) -> datetime:
    """Connect time on the side that the stay is from, else the other one, if it is near the day of the record."""
    has_signal = row["signal_connected_at"] and row["signal_disconnected_at"]
    by_signal = has_signal and row["signal_disconnected_at"] >= row["signal_connected_at"]
    for side in ("signal", "room") if by_signal else ("room", "signal"):
        start: datetime | None = row[f"{side}_connected_at"]
        if start and abs((start.date() - day).days) <= 3:
            return start
    return otherwise


def reasons(row: Mapping[str, Any], found: Stay, rules: Rules) -> dict[str, bool]:
    """Reasons that the row alone gives, and whether each holds the record."""
    result: dict[str, bool] = {}
    if found.seconds is None:
        result["stay_unknown"] = True
    elif not found.is_from_times:
        result["times_missing"] = False
    else:
        if found.seconds > rules.max_stay_hours * 3600:
            result["stay_too_long"] = True
        stated = _stated_s(row, str(found.source))
        limit_s = max(Fraction(rules.tolerance_min * 60), found.seconds / 10)
        if stated is not None and abs(found.seconds - stated) > limit_s:
            result["stay_contradicts"] = True
    if (row["connect_min"] is not None and row["connect_min"] < 0) or not is_plausible_billed(row, found):
        result["vendor_minutes"] = False
    return result


def is_plausible_billed(row: Mapping[str, Any], found: Stay) -> bool:
    """Whether `connect_billed_min` counts in sums; true if there is none."""
    billed = row["connect_billed_min"]
    if billed is None:
        return True
    return billed >= 0 and not exceeds(billed, found)


def exceeds(minutes: Any, found: Stay) -> bool:
    """Minutes of EnableX that exceed 1.5 times the stay plus 2 minutes: they are probably seconds."""
    return found.seconds is not None and Fraction(minutes) > Fraction(3, 2) * found.seconds / 60 + 2


def _stated_s(row: Mapping[str, Any], side: str) -> Fraction | None:
    """The duration that EnableX states beside the times of this side, seconds."""
    for name, unit_s in ((f"{side}_duration_s", 1), ("connect_billed_min", 60)):
        if row[name] is not None and row[name] >= 0:
            return Fraction(row[name]) * unit_s
    return None
