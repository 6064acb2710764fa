"""Prices in force, and the amounts of a month's lines (pure). docs/guide/billing.md explains every rule.

Numbers are decimals, fractions and whole numbers of the smallest unit, never floats: amounts add up exactly, in any
order of the lines.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.billing.line_items import LINE_KEY, MEASURES
from pipeline.billing.month import BillingMonth
from pipeline.core.arrow_types import TEXT
from pipeline.core.settings.prices import AMOUNTS, UNIT_AMOUNTS, Price, Prices
from pipeline.tables.normalize.arrow_ops import decimals, unscaled

_SHARE_BITS = 31
"""Remainders are compared in units of 2**-31 of the smallest unit; equal values are ties."""


def prices_in_month(prices: Prices, projects: Iterable[str], month: BillingMonth) -> dict[str, Any]:
    """The prices in force in a month, as in `controls.json`; empty when no project has any.

    Raises:
        ConfigError: like `Prices.of_days`.
    """
    in_force: dict[str, dict[str, Any]] = {}
    for project in projects:
        by_unit = {unit: prices.of_days(unit, project, month.days) for unit in UNIT_AMOUNTS}
        in_force[project] = {
            unit: [
                price.model_dump(mode="json", exclude_none=True, exclude_defaults=True, exclude={"project"})
                for price in dict.fromkeys(daily)
            ]
            for unit, daily in by_unit.items()
            if daily
        }
    if not any(in_force.values()):
        return {}
    return {"currency": prices.currency, "decimals": prices.decimals, "projects": in_force}


def prices_differ(before: Mapping[str, Any], now: Mapping[str, Any]) -> set[str]:
    """The projects whose prices in force differ; both arguments as `prices_in_month` returns them."""
    projects: set[str] = {*before.get("projects", ()), *now.get("projects", ())}
    if any(before.get(name) != now.get(name) for name in ("currency", "decimals")):
        return projects
    return {name for name in projects if before["projects"].get(name) != now["projects"].get(name)}


def rate(lines: pa.Table, prices: Prices, month: BillingMonth) -> pa.Table:
    """Lines of a month with columns `AMOUNTS` and `currency`, sorted by key; null where there is no price.

    The cost of a day is the difference of the tiered costs of the month's quantity before and after that day; all units
    of a day cost the same. Each line is rounded down. The difference to the project's total for the unit, which is
    rounded to the nearest, is distributed by 1 smallest unit each to the lines with the largest remainders, ties to the
    first line.

    Raises:
        ConfigError: only some days of the month have a price.
    """
    lines = lines.sort_by([(name, "ascending") for name in LINE_KEY])
    day_numbers = (lines["day"].cast(pa.int32()).to_numpy() - (month.first - date(1970, 1, 1)).days).astype(np.int64)
    projects = lines["project"].combine_chunks().dictionary_encode()
    project_numbers = projects.indices.to_numpy()
    amounts = {name: np.zeros(lines.num_rows, np.int64) for name in AMOUNTS}
    is_priced = {name: np.zeros(lines.num_rows, bool) for name in AMOUNTS}
    for unit, name in UNIT_AMOUNTS.items():
        quantities, per_unit = unscaled(lines[unit]), 10 ** MEASURES[unit].scale
        for number, project in enumerate(projects.dictionary.to_pylist()):
            daily, rows = prices.of_days(unit, project, month.days), np.flatnonzero(project_numbers == number)
            if daily:
                units = _amounts(quantities[rows], day_numbers[rows], daily, per_unit, 10**prices.decimals)
                amounts[name][rows] = units
                amounts["amount"][rows] += units
                is_priced[name][rows] = is_priced["amount"][rows] = True
    kind = pa.decimal128(18, prices.decimals)
    for name in AMOUNTS:
        column = pc.if_else(pa.array(is_priced[name]), decimals(amounts[name], kind), pa.scalar(None, kind))
        lines = lines.append_column(name, column)
    return lines.append_column("currency", pa.repeat(pa.scalar(prices.currency, TEXT), lines.num_rows))


def _amounts(
    quantities: np.ndarray, day_numbers: np.ndarray, daily: Sequence[Price], per_unit: int, per_currency: int
) -> np.ndarray:
    """Amounts of the quantities of one project and unit, sorted by day, in smallest units of the currency.

    `quantities` are in smallest units, `per_unit` of which are one unit; a currency unit has `per_currency` smallest
    units. `daily`: the price of each day of the month.
    """
    starts = np.searchsorted(day_numbers, np.arange(len(daily) + 1))
    amounts, shares = np.zeros(len(quantities), np.int64), np.zeros(len(quantities), np.int64)
    before, total = Fraction(0), Fraction(0)
    for price, start, end in zip(daily, starts[:-1], starts[1:], strict=True):
        in_day = quantities[start:end]
        quantity = int(in_day.sum())
        after = before + Fraction(quantity, per_unit)
        cost = (price.cost(after) - price.cost(before)) * per_currency
        if quantity:
            amounts[start:end], shares[start:end] = _rounded_down(in_day, cost / quantity)
        before, total = after, total + cost
    missing = int(total + Fraction(1, 2)) - int(amounts.sum())
    amounts[np.argsort(-shares, kind="stable")[:missing]] += 1
    return amounts


def _rounded_down(quantities: np.ndarray, rate: Fraction) -> tuple[np.ndarray, np.ndarray]:
    """Quantities times a rate: the whole part, and the remainder in `_SHARE_BITS` bits."""
    numerator, denominator = rate.numerator, rate.denominator
    fits = denominator < 2 ** (63 - _SHARE_BITS) and numerator * int(quantities.max()) < 2**63
    numbers = quantities if fits else quantities.astype(object)  # Python integers are unbounded, but slow
    exact = numbers * numerator
    return (exact // denominator).astype(np.int64), (((exact % denominator) << _SHARE_BITS) // denominator).astype(
        np.int64
    )
