"""Values of JSON documents as columns: together where they are as documented, else one by one (pure).

`values` defines what a value means. A column is read by Arrow, which is given only what it reads in the same way.
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

NOTHING, STRING, ESCAPED, NUMBER, LITERAL, OBJECT, LIST = range(7)
"""Kinds of cells. NOTHING: absent, null or empty text. ESCAPED: text with backslashes. LITERAL: true or false."""


@dataclass(frozen=True)
class Cells:
    """Values one after the other: the kind of each, and its text as in the document, of a STRING without its quotes."""

    kinds: np.ndarray
    texts: pa.Array

    def value(self, at: int) -> Any:
        """One value as JSON has it.

        Raises:
            msgspec.DecodeError: it has an escape that stands for no character.
        """
        text = self.texts[at].as_py()
        return text if text is None or self.kinds[at] == STRING else msgspec.json.decode(text)

    def column(self, column_type: pa.DataType) -> tuple[pa.Array, np.ndarray]:
        """All values as `values.reader` reads them, and a mask of those that cannot be read, which are null."""
        column = _FAST[column_type](self)
        misfits = np.zeros(len(self.kinds), bool)
        if column.null_count == np.count_nonzero(self.kinds == NOTHING):
            return column, misfits
        unread = (self.kinds != NOTHING) & ~mask(pc.is_valid(column))
        read = values.reader(column_type)
        found: list[Any] = []
        for at in np.flatnonzero(unread).tolist():
            try:
                found.append(read(self.value(at)))
            except (ValueError, *UNREADABLE):
                found.append(None)
                misfits[at] = True
        return pc.replace_with_mask(column, pa.array(unread), pa.array(found, column_type)), misfits

    def only(self, *kinds: int) -> pa.Array:
        """The texts of some kinds; null for all else."""
        wanted = np.zeros(LIST + 1, bool)
        wanted[[NOTHING, *kinds]] = True
        fits = wanted[self.kinds]
        return self.texts if fits.all() else pc.if_else(pa.array(fits), self.texts, None)


# Each of these leaves null what it is not sure of.


def _fast_text(cells: Cells) -> pa.Array:
    return cells.only(STRING, LITERAL)


def _fast_flag(cells: Cells) -> pa.Array:
    words = pa.array(["false", "true"], TEXT)  # not of the module: making an array loads pandas, if it is there
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
    """Positive numbers within the limit of `values.decimal`; negative ones, zero among them, have spellings of their
    own."""
    try:
        numbers = pc.cast(cells.only(NUMBER), REAL)
    except pa.ArrowInvalid:
        return pa.nulls(len(cells.kinds), REAL)
    found = pc.fill_null(numbers, 0.0).to_numpy()
    fits = (found < values.TOO_MUCH) & ~np.signbit(found)
    return numbers if fits.all() else pc.if_else(pa.array(fits), numbers, None)


def _fast_decimal(column_type: pa.Decimal128Type, cells: Cells) -> pa.Array:
    """By way of whole thousandths or millionths, where no value lies near the middle between two."""
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
