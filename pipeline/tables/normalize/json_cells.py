"""Turn values of JSON documents into typed columns (pure): documented forms as a whole column, others one by one.

`values` defines the meaning of a value. Arrow reads only the forms for which its result is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.arrow_types import BILLED, FLAG, MONEY, REAL, TEXT, TIME
from pipeline.enablex.lenient import UNREADABLE
from pipeline.tables.normalize import values
from pipeline.tables.normalize.arrow_ops import decimals, mask
from pipeline.tables.normalize.row_reader import Path

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
        distinct, code = self.take(np.flatnonzero(unread)).distinct()
        slow, is_unreadable = _read(distinct, values.reader(column_type))
        uncastable[unread] = is_unreadable[code]
        read = pa.array(slow, column_type).take(pa.array(code))
        return pc.replace_with_mask(column, pa.array(unread), read), uncastable

    def take(self, places: np.ndarray) -> Cells:
        return Cells(self.kinds[places], self.texts.take(pa.array(places)))

    def distinct(self) -> tuple[list[str], np.ndarray]:
        """The distinct values as JSON texts, and the number of the text of each value; no value is empty."""
        is_bare = pa.array(self.kinds == STRING)
        texts = pc.if_else(is_bare, pc.binary_join_element_wise('"', self.texts, '"', ""), self.texts)
        encoded = texts.dictionary_encode()
        return encoded.dictionary.to_pylist(), encoded.indices.to_numpy()

    def only(self, *kinds: int) -> pa.Array:
        """The texts of `kinds`; null for others."""
        chosen = np.zeros(LIST + 1, bool)
        chosen[[EMPTY, *kinds]] = True
        fits = chosen[self.kinds]
        return self.texts if fits.all() else pc.if_else(pa.array(fits), self.texts, None)


def _read(texts: Sequence[str], read: Callable[[Any], Any]) -> tuple[list[Any], np.ndarray]:
    """JSON texts as read by a reader, and a mask of unreadable ones, which are null."""
    found: list[Any] = [None] * len(texts)
    is_unreadable = np.zeros(len(texts), bool)
    for at, text in enumerate(texts):
        try:
            found[at] = read(json_value(text))
        except (ValueError, *UNREADABLE):
            is_unreadable[at] = True
    return found, is_unreadable


def json_value(text: str) -> Any:
    """The value of a JSON text; a string without escapes may have any character.

    Raises:
        msgspec.DecodeError: it is not JSON.
    """
    return text[1:-1] if is_bare(text) else msgspec.json.decode(text)


def is_bare(text: str) -> bool:
    """Whether a JSON text is a string without escapes."""
    return text[:1] == '"' and "\\" not in text


@dataclass(frozen=True)
class Members:
    """Single values of some documents: of documents `documents` at paths `paths[path_at]`.

    At most one value for each document and path.
    """

    documents: np.ndarray
    path_at: np.ndarray
    paths: Sequence[Path]
    cells: Cells

    @classmethod
    def of_cells(cls, paths: Sequence[Path], cells: Cells, chosen: np.ndarray) -> Members:
        """Some of the cells of all documents, path after path; `chosen` is a mask."""
        places = np.flatnonzero(chosen)
        path_at, documents = np.divmod(places, max(1, len(chosen) // len(paths)))
        return cls(documents, path_at, paths, cells.take(places))

    def where(self, chosen: np.ndarray) -> Members:
        """Some of the values; `chosen` is a mask."""
        if chosen.all():
            return self
        places = np.flatnonzero(chosen)
        return Members(self.documents[places], self.path_at[places], self.paths, self.cells.take(places))


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
        moments = pc.cast(pc.if_else(pc.match_substring_regex(texts, _SURE_TIME), texts, None), TIME)
    ms = pc.cast(moments, pa.int64())
    is_plausible = pc.and_(pc.greater_equal(ms, _PLAUSIBLE_MS[0]), pc.less(ms, _PLAUSIBLE_MS[1]))
    return pc.if_else(is_plausible, moments, None)


_SURE_TIME = (
    r"^\d{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\d|30)|02-(?:0[1-9]|1\d|2[0-8]))"
    r"T(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d\.\d{3}Z$"
)
"""Times of the documented form that Arrow can read, except for 29 February. One other time fails a whole column."""

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
