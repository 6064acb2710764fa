"""Turn values of JSON documents into typed columns (pure): documented forms as a whole column, others one by one.

`values` defines the meaning of a value. Arrow reads only the forms for which its result is the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.arrow_types import BILLED, FLAG, MONEY, REAL, TEXT, TIME
from pipeline.enablex.envelope import UNREADABLE
from pipeline.tables.normalize import values
from pipeline.tables.normalize.arrow_ops import decimals, mask

EMPTY, STRING, ESCAPED, NUMBER, LITERAL, OBJECT, LIST = range(7)
"""Kinds of cells. EMPTY: absent, null or empty text. ESCAPED: text with backslashes. LITERAL: true or false."""


@dataclass(frozen=True)
class Cells:
    """A sequence of values: the kind of each, and its text as in the document (of a STRING without quotes)."""

    kinds: np.ndarray
    texts: pa.Array

    def value(self, at: int) -> Any:
        """One decoded JSON value.

        Raises:
            msgspec.DecodeError: it has an invalid escape.
        """
        text = self.texts[at].as_py()
        return text if text is None or self.kinds[at] == STRING else msgspec.json.decode(text)

    def column(self, column_type: pa.DataType) -> tuple[pa.Array, np.ndarray]:
        """All values as read by `values.reader`, and a mask of unreadable ones, which are null."""
        column = _FAST[column_type](self)
        uncastable = np.zeros(len(self.kinds), bool)
        if column.null_count == np.count_nonzero(self.kinds == EMPTY):
            return column, uncastable
        unread = (self.kinds != EMPTY) & ~mask(pc.is_valid(column))
        read = values.reader(column_type)
        slow: list[Any] = []
        for at in np.flatnonzero(unread).tolist():
            try:
                slow.append(read(self.value(at)))
            except (ValueError, *UNREADABLE):
                slow.append(None)
                uncastable[at] = True
        return pc.replace_with_mask(column, pa.array(unread), pa.array(slow, column_type)), uncastable

    def only(self, *kinds: int) -> pa.Array:
        """The texts of `kinds`; null for others."""
        chosen = np.zeros(LIST + 1, bool)
        chosen[[EMPTY, *kinds]] = True
        fits = chosen[self.kinds]
        return self.texts if fits.all() else pc.if_else(pa.array(fits), self.texts, None)


# Each of these returns null for values that need the slow path.


def _fast_text(cells: Cells) -> pa.Array:
    return cells.only(STRING, LITERAL)


def _fast_flag(cells: Cells) -> pa.Array:
    words = pa.array(["false", "true"], TEXT)  # not at module level: creating an array imports pandas, if installed
    return pc.cast(pc.index_in(cells.only(STRING, LITERAL), words), FLAG)


def _fast_time(cells: Cells) -> pa.Array:
    """Only the documented form, `2024-03-09T14:33:05.120Z`, for which Arrow and `values.timestamp` agree."""
    texts = cells.only(STRING)
    is_usual = pc.and_(pc.equal(pc.binary_length(texts), 24), pc.ends_with(texts, "Z"))
    try:
        moments = pc.cast(pc.if_else(is_usual, texts, None), TIME)
    except pa.ArrowInvalid:
        return pa.nulls(len(texts), TIME)
    ms = pc.cast(moments, pa.int64())
    is_plausible = pc.and_(pc.greater_equal(ms, _PLAUSIBLE_MS[0]), pc.less(ms, _PLAUSIBLE_MS[1]))
    return pc.if_else(is_plausible, moments, None)


_PLAUSIBLE_MS = [int(moment.timestamp() * 1000) for moment in values.PLAUSIBLE]


def _fast_real(cells: Cells) -> pa.Array:
    """Non-negative numbers within the limit of `values.decimal`; negative numbers and -0 have several spellings."""
    try:
        numbers = pc.cast(cells.only(NUMBER), REAL)
    except pa.ArrowInvalid:
        return pa.nulls(len(cells.kinds), REAL)
    floats = pc.fill_null(numbers, 0.0).to_numpy()
    fits = (floats < values.LIMIT) & ~np.signbit(floats)
    return numbers if fits.all() else pc.if_else(pa.array(fits), numbers, None)


def _fast_decimal(column_type: pa.Decimal128Type, cells: Cells) -> pa.Array:
    """Via integers of the smallest unit, if the value is at most 0.25 units from one."""
    numbers = _fast_real(cells)
    scaled = pc.fill_null(numbers, 0.0).to_numpy() * 10**column_type.scale
    whole = np.rint(scaled)
    fits = mask(pc.is_valid(numbers)) & (np.abs(scaled - whole) <= 0.25)
    return pc.if_else(pa.array(fits), decimals(whole.astype(np.int64), column_type), None)


_FAST: dict[pa.DataType, Callable[[Cells], pa.Array]] = {
    TEXT: _fast_text,
    FLAG: _fast_flag,
    TIME: _fast_time,
    REAL: _fast_real,
    BILLED: partial(_fast_decimal, BILLED),
    MONEY: partial(_fast_decimal, MONEY),
}
