"""Parse the spellings of EnableX's values; no other module does (pure).

Each function returns None for an empty value (null, missing, empty text) and raises ValueError for a value that it
cannot parse; the caller keeps the original. Observed: flags as "true"/"false" and 1/0, numbers as text.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

import pyarrow as pa

from pipeline.core.arrow_types import BILLED, COUNT, FLAG, MONEY, REAL, TEXT, TIME

PLAUSIBLE = (datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))
"""A time outside this range is no time, for example the zero time of a programming language."""

LIMIT = 10**7
"""Minutes (19 years), seconds (4 months), prices and bitrates are below this; larger numbers are not parsed. Sums of
numbers below it fit their columns."""

_TRUE = {"true", "1", "yes"}
_FALSE = {"false", "0", "no"}
_EPOCH_RANGE_S = (10**8, 10**10)
"""Numbers in this range are Unix seconds (1973 to 2286); 1,000 times larger numbers are milliseconds."""


def text(value: Any) -> str | None:
    """Text unchanged, numbers and flags as in JSON."""
    if value is None or value == "":
        return None
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    raise ValueError("not text")


def flag(value: Any) -> bool | None:
    """true/false, "true"/"false", 1/0."""
    if value is None or value == "":
        return None
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError("not a flag")


def real(value: Any) -> float | None:
    """A finite number, or text with one."""
    number = decimal(value)
    return None if number is None else float(number)


def decimal(value: Any) -> Decimal | None:
    """A finite number exactly as written (a float in its shortest decimal form)."""
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("not a number")
    try:
        number = Decimal(str(value).strip())
    except InvalidOperation:
        raise ValueError("not a number") from None
    if not number.is_finite() or abs(number) >= LIMIT:
        raise ValueError("not a finite, sensible number")
    return number


def timestamp(value: Any) -> datetime | None:
    """ISO 8601 (documented: UTC, milliseconds, Z), "YYYY-MM-DD HH:MM:SS" in UTC, or Unix seconds or milliseconds."""
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("not a time")
    if isinstance(value, str) and not value.strip().replace(".", "", 1).isdecimal():
        moment = _from_iso(value.strip())
    else:
        moment = _from_epoch(_float(value))
    if not PLAUSIBLE[0] <= moment < PLAUSIBLE[1]:
        raise ValueError("not a plausible time")
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def _from_iso(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
        return moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)
    except OverflowError:
        raise ValueError("not a time") from None


def _float(value: float | str) -> float:
    try:
        return float(value)
    except OverflowError:
        raise ValueError("not a time") from None


def _from_epoch(number: float) -> datetime:
    low, high = _EPOCH_RANGE_S
    if low <= number < high:
        return datetime.fromtimestamp(number, UTC)
    if low * 1000 <= number < high * 1000:
        return datetime.fromtimestamp(number / 1000, UTC)
    raise ValueError("not a time")


def reader(column_type: pa.DataType) -> Callable[[Any], Any]:
    """The function that reads a value for a column of this type."""
    return _READERS[column_type]


_READERS: dict[pa.DataType, Callable[[Any], Any]] = {
    TEXT: text,
    FLAG: flag,
    REAL: real,
    COUNT: decimal,
    TIME: timestamp,
    BILLED: lambda value: _rounded(decimal(value), BILLED.scale),
    MONEY: lambda value: _rounded(decimal(value), MONEY.scale),
}


def _rounded(number: Decimal | None, places: int) -> Decimal | None:
    return None if number is None else round(number, places)
