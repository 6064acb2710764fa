"""The Arrow types of every stored column. Types are never inferred from data."""

from __future__ import annotations

import pyarrow as pa

TEXT = pa.string()
FLAG = pa.bool_()
COUNT = pa.int64()
REAL = pa.float64()
TIME = pa.timestamp("ms", tz="UTC")
BILLED = pa.decimal128(18, 3)
MONEY = pa.decimal128(18, 6)
