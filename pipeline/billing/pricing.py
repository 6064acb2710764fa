"""What a unit costs, and a month's lines with their amounts (pure). docs/guide/billing.md explains every rule.

Numbers are decimals, fractions and whole numbers of the smallest unit, never floats: amounts add up exactly, in
whatever order the lines come.
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
"""Remainders are compared as fractions of 2**31 of the smallest unit; what is the same then is equal."""


def prices_in_month(prices: Prices, projects: Iterable[str], month: BillingMonth) -> dict[str, Any]:
    """The prices in force in a month, as `controls.json` has them; empty when no project has any.

    Raises:
        ConfigError: as `Prices.of_days`.
    """
    in_force: dict[str, dict[str, Any]] = {}
    for project in projects:
        of_units = {unit: prices.of_days(unit, project, month.days) for unit in UNIT_AMOUNTS}
        in_force[project] = {
            unit: [
                price.model_dump(mode="json", exclude_none=True, exclude_defaults=True, exclude={"project"})
                for price in dict.fromkeys(of_unit)
            ]
            for unit, of_unit in of_units.items()
            if of_unit
        }
    if not any(in_force.values()):
        return {}
    return {"currency": prices.currency, "decimals": prices.decimals, "projects": in_force}


def prices_differ(before: Mapping[str, Any], now: Mapping[str, Any]) -> set[str]:
    """The projects whose prices in force are others now; both as `prices_in_month` returns them."""
    projects: set[str] = {*before.get("projects", ()), *now.get("projects", ())}
    if any(before.get(name) != now.get(name) for name in ("currency", "decimals")):
        return projects
    return {name for name in projects if before["projects"].get(name) != now["projects"].get(name)}


def rate(lines: pa.Table, prices: Prices, month: BillingMonth) -> pa.Table:
    """Lines of a month with columns `AMOUNTS` and `currency`, sorted by key; null is what has no price.

    A day's units cost what the tiers ask for between the month's quantity before and after that day, and each unit of
    the day the same. Each line is rounded down, and what then lacks of the project's total for the unit, rounded to
    the nearest, goes by one smallest unit each to the lines with the largest remainders; of equal ones, to the first.

    Raises:
        ConfigError: some days of the month have a price and others none.
    """
    lines = lines.sort_by([(name, "ascending") for name in LINE_KEY])
    day_numbers = (lines["day"].cast(pa.int32()).to_numpy() - (month.first - date(1970, 1, 1)).days).astype(np.int64)
    projects = lines["project"].combine_chunks().dictionary_encode()
    of_project = projects.indices.to_numpy()
    amounts = {name: np.zeros(lines.num_rows, np.int64) for name in AMOUNTS}
    is_priced = {name: np.zeros(lines.num_rows, bool) for name in AMOUNTS}
    for unit, name in UNIT_AMOUNTS.items():
        quantities, per_unit = unscaled(lines[unit]), 10 ** MEASURES[unit].scale
        for number, project in enumerate(projects.dictionary.to_pylist()):
            of_days, rows = prices.of_days(unit, project, month.days), np.flatnonzero(of_project == number)
            if of_days:
                found = _amounts(quantities[rows], day_numbers[rows], of_days, per_unit, 10**prices.decimals)
                amounts[name][rows] = found
                amounts["amount"][rows] += found
                is_priced[name][rows] = is_priced["amount"][rows] = True
    kind = pa.decimal128(18, prices.decimals)
    for name in AMOUNTS:
        told = pc.if_else(pa.array(is_priced[name]), decimals(amounts[name], kind), pa.scalar(None, kind))
        lines = lines.append_column(name, told)
    return lines.append_column("currency", pa.repeat(pa.scalar(prices.currency, TEXT), lines.num_rows))


def _amounts(
    quantities: np.ndarray, day_numbers: np.ndarray, of_days: Sequence[Price], per_unit: int, per_currency: int
) -> np.ndarray:
    """What each quantity of one project and unit, in order of days, comes to, in the currency's smallest units.

    `quantities` count the smallest unit, of which a whole one has `per_unit`; a currency unit has `per_currency`.
    """
    starts = np.searchsorted(day_numbers, np.arange(len(of_days) + 1))
    amounts, shares = np.zeros(len(quantities), np.int64), np.zeros(len(quantities), np.int64)
    before, total = Fraction(0), Fraction(0)
    for price, start, end in zip(of_days, starts[:-1], starts[1:], strict=True):
        of_day = quantities[start:end]
        quantity = int(of_day.sum())
        after = before + Fraction(quantity, per_unit)
        cost = (price.cost(after) - price.cost(before)) * per_currency
        if quantity:
            amounts[start:end], shares[start:end] = _rounded_down(of_day, cost / quantity)
        before, total = after, total + cost
    lacking = int(total + Fraction(1, 2)) - int(amounts.sum())
    amounts[np.argsort(-shares, kind="stable")[:lacking]] += 1
    return amounts


def _rounded_down(quantities: np.ndarray, rate: Fraction) -> tuple[np.ndarray, np.ndarray]:
    """Quantities times a rate: the whole part, and the rest in `_SHARE_BITS` bits."""
    above, below = rate.numerator, rate.denominator
    fits = below < 2 ** (63 - _SHARE_BITS) and above * int(quantities.max()) < 2**63
    numbers = quantities if fits else quantities.astype(object)  # Python's own have no end, and are slow
    exact = numbers * above
    return (exact // below).astype(np.int64), (((exact % below) << _SHARE_BITS) // below).astype(np.int64)
