"""EnableX's spellings: what each means, what means nothing, and what cannot be understood."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.arrow_types import BILLED, COUNT, FLAG, MONEY, REAL, TEXT, TIME
from pipeline.tables.normalize import values

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MOMENT = datetime(2024, 3, 9, 14, 2, 31, 337_000, UTC)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
TYPES = [TEXT, FLAG, REAL, COUNT, TIME, BILLED, MONEY]
READERS = [values.text, values.flag, values.real, values.decimal, values.timestamp]


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("nothing", [None, ""])
def test_nothing_is_null(read: Any, nothing: Any) -> None:
    """null and empty text are empty values of EnableX, in every type."""
    assert read(nothing) is None


@pytest.mark.parametrize("column_type", TYPES, ids=str)
@given(value=JSON_VALUES)
def test_a_value_is_read_or_refused_but_never_a_crash(column_type: pa.DataType, value: Any) -> None:
    """Whatever JSON stands in a field, its reader gives a value that the column takes, or raises ValueError."""
    try:
        read = values.reader(column_type)(value)
    except ValueError:
        return
    if column_type == COUNT and read is not None:
        read = int(read)
    assert pa.array([read], column_type).to_pylist() == [read]


@pytest.mark.parametrize("column_type", TYPES, ids=str)
@pytest.mark.parametrize(
    "value",
    [10**400, -(10**400), "9" * 400, 1e308, math.inf, math.nan, [], {}, ["1"], {"a": 1}],
    ids=lambda value: str(value)[:8],
)
def test_monstrous_values_are_refused(column_type: pa.DataType, value: Any) -> None:
    """Numbers beyond all sense and structures are a ValueError for every type; text alone takes a number as text."""
    if column_type == TEXT and not isinstance(value, list | dict):
        assert isinstance(values.text(value), str)
        return
    with pytest.raises(ValueError, match=r"^not "):
        values.reader(column_type)(value)


# --- text ---


@pytest.mark.parametrize(
    ("value", "text"),
    [("room 1", "room 1"), (" ", " "), (7, "7"), (0, "0"), (1.5, "1.5"), (True, "true"), (False, "false")],
)
def test_text_is_kept_and_scalars_are_written_as_json_would(value: Any, text: str) -> None:
    """Text is not trimmed or changed; a number or a flag in a text field reads as JSON writes it."""
    assert values.text(value) == text
    if not isinstance(value, str):
        assert text == json.dumps(value)


def test_a_conference_number_keeps_its_zeros() -> None:
    """A `conf_num` is text: leading zeros are part of it."""
    assert values.text("000170002063") == "000170002063"


# --- flags ---


@pytest.mark.parametrize("value", [True, "true", "TRUE", " True ", 1, "1", "yes"])
def test_these_are_true(value: Any) -> None:
    """Every spelling of true that was documented or observed is true."""
    assert values.flag(value) is True


@pytest.mark.parametrize("value", [False, "false", "FALSE", " False ", 0, "0", "no"])
def test_these_are_false(value: Any) -> None:
    """Every spelling of false is false, above all the text "false", which Python takes for true."""
    assert values.flag(value) is False


@pytest.mark.parametrize("value", ["maybe", "2", 2, -1, "t", "null", [True]])
def test_these_are_no_flags(value: Any) -> None:
    """A flag that cannot be understood is refused instead of guessed."""
    with pytest.raises(ValueError, match="not a flag"):
        values.flag(value)


# --- numbers ---


@given(st.decimals(-(10**6), 10**6, allow_nan=False, allow_infinity=False, places=6))
def test_a_decimal_is_exact(number: Decimal) -> None:
    """An amount written as text is that amount, to the last digit."""
    assert values.decimal(str(number)) == number
    assert values.decimal(f" {number} ") == number


@given(st.floats(-9e6, 9e6))
def test_a_number_is_the_one_that_was_sent(number: float) -> None:
    """A JSON number and the same number as text are one value, and that is the float itself."""
    assert values.real(number) == number
    assert values.real(repr(number)) == number


def test_a_price_is_the_decimal_of_json_and_not_its_binary_float() -> None:
    """0.1 is a tenth, not 0.1000000000000000055."""
    assert values.decimal(0.1) == Decimal("0.1")


@pytest.mark.parametrize("value", [True, False, "twelve", "1,5", "NaN", "Infinity", "-inf", math.nan, 10**7, "1e7"])
def test_these_are_no_numbers(value: Any) -> None:
    """Flags, words, NaN, infinities and absurd magnitudes are refused."""
    with pytest.raises(ValueError, match="not a"):
        values.decimal(value)
    with pytest.raises(ValueError, match="not a"):
        values.real(value)


@pytest.mark.parametrize(("column_type", "places"), [(BILLED, 3), (MONEY, 6)])
def test_decimals_fit_their_column(column_type: pa.DataType, places: int) -> None:
    """A number with more places than its column is rounded to the column's, so that it can be stored."""
    read = values.reader(column_type)("1.23456789")
    assert read == round(Decimal("1.23456789"), places)
    assert pa.array([read], column_type).to_pylist() == [read]


# --- times ---


@pytest.mark.parametrize(
    "value",
    [
        "2024-03-09T14:02:31.337Z",
        " 2024-03-09T14:02:31.337Z ",
        "2024-03-09T14:02:31.337999Z",
        "2024-03-09T19:32:31.337+05:30",
        "2024-03-09 14:02:31.337",
        1709992951337,
        "1709992951337",
        1709992951.337,
        "1709992951.337",
    ],
)
def test_every_spelling_of_a_moment_is_that_moment(value: Any) -> None:
    """ISO with zone or without, Unix seconds or milliseconds, number or text: one moment, UTC, to the millisecond."""
    read = values.timestamp(value)
    assert read == MOMENT
    assert read is not None
    assert read.utcoffset() == timedelta(0)


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00Z", "1970-01-01T00:00:00.000Z", "1999-12-31T23:59:59.999Z",
                                  "2100-01-01T00:00:00Z", "9999-12-31T23:59:59Z"])  # fmt: skip
def test_a_zero_time_is_none(text: str) -> None:
    """Times before 2000 or after 2099 stand for none at all, and are refused."""
    with pytest.raises(ValueError, match="plausible"):
        values.timestamp(text)


def test_a_schedule_without_zone_is_utc() -> None:
    """`settings.scheduled_time` has a space and no zone, and means UTC."""
    assert values.timestamp("2024-03-09 14:00:00") == datetime(2024, 3, 9, 14, tzinfo=UTC)


@given(st.integers(946_684_800_000, 4_102_444_799_999))
def test_milliseconds_are_exact(milliseconds: int) -> None:
    """No millisecond is lost on the way through binary fractions, whichever way the moment is spelled."""
    moment = EPOCH + timedelta(milliseconds=milliseconds)
    assert values.timestamp(milliseconds) == moment
    assert values.timestamp(str(milliseconds)) == moment
    assert values.timestamp(milliseconds / 1000) == moment
    assert values.timestamp(moment.isoformat()) == moment


@given(st.datetimes(datetime(2000, 1, 3), datetime(2099, 12, 29)), st.integers(-14 * 60, 14 * 60))  # noqa: DTZ001
def test_a_time_zone_never_moves_a_moment(local: datetime, offset_min: int) -> None:
    """The same moment in any zone reads the same, cut to the millisecond."""
    moment = local.replace(tzinfo=timezone(timedelta(minutes=offset_min)))
    expected = moment.replace(microsecond=moment.microsecond // 1000 * 1000)
    assert values.timestamp(moment.isoformat()) == expected


@pytest.mark.parametrize(
    "value",
    ["yesterday", "2024-13-09T00:00:00Z", "0", 0, 12, 10**10 - 10**11, 10**13, "99999999", True, ".", " ",
     "0001-01-01T00:00:00+05:00", "9999-12-31T23:59:59-05:00"],
)  # fmt: skip
def test_these_are_no_times(value: Any) -> None:
    """Words, impossible dates and numbers that are neither seconds nor milliseconds are refused."""
    with pytest.raises(ValueError):  # noqa: PT011 - the text of datetime's own errors differs between versions
        values.timestamp(value)
