"""Cells and rows in which tables of the product differ from those of the oracle."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any

from tests.support.oracle import KEYS

_TOLERANCE = 1e-9
"""Of floats: sums of the product are exact, and rounded once."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Difference:
    """One cell, or one row (`column` empty), that differs."""

    table: str
    key: tuple[Any, ...]
    column: str
    product: Any
    oracle: Any

    def __str__(self) -> str:
        key = ", ".join(str(part) for part in self.key)
        return f"{self.table} [{key}] {self.column or 'row'}: product {self.product!s}, oracle {self.oracle!s}"


def compare(table: str, product: Iterable[Row], oracle: Iterable[Row]) -> list[Difference]:
    """Rows that one side lacks or has twice, and cells that differ, sorted by key."""
    ours, theirs = _by_key(table, product), _by_key(table, oracle)
    found = []
    for key in sorted({*ours, *theirs}, key=str):
        here, there = ours.get(key, []), theirs.get(key, [])
        if len(here) != 1 or len(there) != 1:
            found.append(Difference(table, key, "", f"{len(here)} rows", f"{len(there)} rows"))
            continue
        for column, value in there[0].items():
            if column not in here[0]:
                found.append(Difference(table, key, column, "no column", value))
            elif not _is_equal(table, column, here[0][column], value):
                found.append(Difference(table, key, column, here[0][column], value))
    return found


def _by_key(table: str, rows: Iterable[Row]) -> dict[tuple[Any, ...], list[Row]]:
    result: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        key = tuple(row[name] for name in KEYS[table])
        if table != "lines" or any(
            value for name, value in row.items() if name not in KEYS[table] and name != "project"
        ):
            result[key].append(row)
    return result


def _is_equal(table: str, column: str, product: Any, oracle: Any) -> bool:
    if product is None or oracle is None:
        return product is oracle
    if table == "rejects" and column == "reason":
        return str(product).startswith(oracle) or (oracle == "no readable time" and oracle in product)
    if column == "extra":
        return bool(json.loads(product) == oracle)
    if isinstance(product, float) or isinstance(oracle, Fraction):
        return math.isclose(float(product), float(oracle), rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)
    if isinstance(product, Decimal | int) and isinstance(oracle, Decimal | int):
        return Decimal(product) == Decimal(oracle)
    return bool(product == oracle)
