"""Arrow helpers of the columnar readers: masks, neighbours, exact numbers (pure)."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.arrow_types import COUNT

Column: TypeAlias = Any
"""A `pa.Array` or `pa.ChunkedArray`; pyarrow has no types of its own."""


def mask(flags: Column) -> np.ndarray:
    """Flags without nulls as a numpy mask."""
    values: np.ndarray = flags.to_numpy(zero_copy_only=False) if isinstance(flags, pa.Array) else flags.to_numpy()
    return values


def repeats_before(column: Column) -> np.ndarray:
    """For each row, whether it has the same value as the row before; the column has no nulls."""
    same = np.zeros(len(column), bool)
    if len(column) > 1:
        same[1:] = mask(pc.equal(column.slice(1), column.slice(0, len(column) - 1)))
    return same


def numbered(column: Column) -> tuple[np.ndarray, pa.Array]:
    """The number from 0 of each row's value, and the distinct values; equal values are adjacent."""
    values = column.combine_chunks()
    is_new = ~repeats_before(values)
    return np.cumsum(is_new) - 1, values.filter(pa.array(is_new))


def number_and_time(numbers: np.ndarray, times_ms: np.ndarray) -> np.ndarray:
    """A number from 0 and a time in milliseconds since 1970, below 2**43, as one integer that sorts like both."""
    keys: np.ndarray = numbers.astype(np.int64) * (1 << 43) + times_ms
    return keys


def last_valid(column: Column, starts: np.ndarray) -> Column:
    """For each group of consecutive rows, its last non-null value; `starts` are the first rows of the groups."""
    valid = np.where(mask(pc.is_valid(column)), np.arange(len(column)), -1)
    last = np.maximum.reduceat(valid, starts) if len(starts) else valid
    return column.take(pa.array(last, mask=last < 0))


def decimals(units: np.ndarray, column_type: pa.Decimal128Type) -> pa.Array:
    """Integers in the smallest unit of the type (below 2**63) as decimals."""
    words = np.empty((len(units), 2), np.int64)
    words[:, 0], words[:, 1] = units, units >> 63
    return pa.Array.from_buffers(column_type, len(units), [None, pa.py_buffer(words)])


def unscaled(column: Column) -> np.ndarray:
    """The inverse of `decimals`: integers in the smallest unit of the type; undefined for nulls."""
    words = [np.empty(0, np.int64)]
    for piece in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
        if len(piece):
            words.append(np.frombuffer(piece.buffers()[1], np.int64)[2 * piece.offset :: 2][: len(piece)])
    return np.concatenate(words)


def per_million(numbers: Column) -> Column:
    """Measured numbers as integers in millionths, so that their sums are exact."""
    return pc.cast(pc.round(pc.multiply(numbers, 1e6)), COUNT)
