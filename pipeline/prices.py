"""What a unit costs, and a month's lines with their amounts (pure). docs/billing.md explains every rule.

Numbers are decimals, fractions and whole numbers of the smallest unit, never floats: amounts add up exactly, in
whatever order the lines come.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date
from decimal import Decimal
from fractions import Fraction
from itertools import combinations, pairwise
from typing import Annotated, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from pipeline.errors import ConfigError
from pipeline.normalise.arrow import decimals, unscaled
from pipeline.reports.billing import LINE_KEY, MEASURES
from pipeline.reports.billing_month import BillingMonth
from pipeline.schemas import TEXT

UNIT_AMOUNTS = {
    "participant_min": "participant_amount",
    "sip_min": "sip_amount",
    "recording_min": "recording_amount",
    "transcoding_min": "transcoding_amount",
    "storage_gb_months": "storage_amount",
}
"""What may have a price, and the column of what it comes to; column `amount` is their sum."""

AMOUNTS = (*UNIT_AMOUNTS.values(), "amount")

MOST_DECIMALS = 6
_CURRENCY = re.compile(r"([A-Z]{3})?", re.A)
_SHARE_BITS = 31
"""Remainders are compared as fractions of 2**31 of the smallest unit; what is the same then is equal."""

UnitPrice = Annotated[Decimal, Field(ge=0, max_digits=15, decimal_places=9)]
"""Of one unit. At most 15 digits: so many survive a TOML or JSON number, which is read as a float."""


class _Words(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Tier(_Words):
    """The price of each unit up to the month's `up_to`-th; of all further ones in the last tier, which has none."""

    up_to: Annotated[Decimal, Field(gt=0, max_digits=15, decimal_places=9)] | None = None
    price: UnitPrice


class Price(_Words):
    """What a unit costs from `valid_from` to `valid_to` (inclusive days of the billing time zone; left out: always).

    Either one `price`, or `tiers` by the month's quantity of a project. Of one project, or of all that have none.
    """

    project: str | None = None
    valid_from: date | None = None
    valid_to: date | None = None
    price: UnitPrice | None = None
    tiers: tuple[Tier, ...] = ()

    @model_validator(mode="after")
    def _is_clear(self) -> Self:
        if (self.price is None) == (not self.tiers):
            raise ValueError("needs either price or tiers")
        if self.first > self.last:
            raise ValueError(f"valid_from {self.valid_from} is after valid_to {self.valid_to}")
        ends = [tier.up_to for tier in self.tiers[:-1]]
        known = [end for end in ends if end is not None]
        if self.tiers and (len(known) < len(ends) or self.tiers[-1].up_to is not None):
            raise ValueError("every tier but the last needs up_to, and the last has none: it is for all that is more")
        if any(lower >= upper for lower, upper in pairwise(known)):
            raise ValueError(f"tiers must rise: up_to {', '.join(map(str, known))}")
        return self

    @property
    def first(self) -> date:
        return self.valid_from or date.min

    @property
    def last(self) -> date:
        return self.valid_to or date.max

    def cost(self, quantity: Fraction) -> Fraction:
        """What the month's first so many units cost."""
        if self.price is not None:
            return quantity * Fraction(self.price)
        lower, cost = Fraction(0), Fraction(0)
        for tier in self.tiers:
            upper = quantity if tier.up_to is None else min(quantity, Fraction(tier.up_to))
            cost += max(upper - lower, Fraction(0)) * Fraction(tier.price)
            lower = upper
        return cost


def _currency(code: str) -> str:
    if not _CURRENCY.fullmatch(code):
        raise ValueError('must be the three letters of ISO 4217, such as "USD"')
    return code


def _as_list(value: object) -> object:
    """A number or text is the price of all projects, always; a table is a list of one."""
    if isinstance(value, str | int | float | Decimal):
        return [{"price": value}]
    return [value] if isinstance(value, Mapping | Price) else value


def _unambiguous(prices: tuple[Price, ...]) -> tuple[Price, ...]:
    for one, other in combinations(prices, 2):
        first, last = max(one.first, other.first), min(one.last, other.last)
        if one.project == other.project and first <= last:
            whose = f"project {one.project}" if one.project else "all projects"
            when = "always" if first == date.min else f"on {first}"
            raise ValueError(f"two prices of {whose} are valid {when}; set valid_from and valid_to apart")
    return prices


PriceList = Annotated[tuple[Price, ...], BeforeValidator(_as_list), AfterValidator(_unambiguous)]


class Prices(_Words):
    """What units cost, in one currency; amounts have so many `decimals`.

    `sip_min`: for each minute of a SIP or telephone leg, on top of `participant_min`.
    """

    currency: Annotated[str, AfterValidator(_currency)] = ""
    decimals: int = Field(default=2, ge=0, le=MOST_DECIMALS)
    participant_min: PriceList = ()
    sip_min: PriceList = ()
    recording_min: PriceList = ()
    transcoding_min: PriceList = ()
    storage_gb_months: PriceList = ()

    @model_validator(mode="after")
    def _has_a_currency(self) -> Self:
        if not self.currency and any(prices for _, prices in self.lists()):
            raise ValueError('prices need a currency, such as currency = "USD"')
        return self

    def lists(self) -> Iterator[tuple[str, tuple[Price, ...]]]:
        """Every unit with all its prices."""
        for unit in UNIT_AMOUNTS:
            yield unit, getattr(self, unit)

    def of_days(self, unit: str, project: str, days: Sequence[date]) -> list[Price]:
        """The price of a project's unit on each of the days; empty when there is none on any of them.

        Raises:
            ConfigError: some of the days have a price and others none.
        """
        listed = getattr(self, unit)
        found = [_in_force(listed, project, day) for day in days]
        known = [price for price in found if price is not None]
        if known and len(known) < len(days):
            lacking = [day for day, price in zip(days, found, strict=True) if price is None]
            raise ConfigError(
                f"billing.prices.{unit}: {project} has no price on {len(lacking)} days from {lacking[0]} to"
                f" {lacking[-1]}, but on other days of {days[0]:%Y-%m}; a month needs a price on each day, if only 0"
            )
        return known

    def in_month(self, projects: Iterable[str], month: BillingMonth) -> dict[str, Any]:
        """The prices in force in a month, as `controls.json` tells them; empty when no project has any.

        Raises:
            ConfigError: as `of_days`.
        """
        told: dict[str, dict[str, Any]] = {}
        for project in projects:
            of_units = {unit: self.of_days(unit, project, month.days) for unit in UNIT_AMOUNTS}
            told[project] = {
                unit: [
                    price.model_dump(mode="json", exclude_none=True, exclude_defaults=True, exclude={"project"})
                    for price in dict.fromkeys(prices)
                ]
                for unit, prices in of_units.items()
                if prices
            }
        if not any(told.values()):
            return {}
        return {"currency": self.currency, "decimals": self.decimals, "projects": told}


def prices_differ(before: Mapping[str, Any], now: Mapping[str, Any]) -> set[str]:
    """The projects whose prices in force are others now; both as `Prices.in_month` tells them."""
    projects: set[str] = {*before.get("projects", ()), *now.get("projects", ())}
    if any(before.get(name) != now.get(name) for name in ("currency", "decimals")):
        return projects
    return {name for name in projects if before["projects"].get(name) != now["projects"].get(name)}


def priced(lines: pa.Table, prices: Prices, month: BillingMonth) -> pa.Table:
    """Lines of a month with columns `AMOUNTS` and `currency`, in order of key; null is what has no price.

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


def _in_force(prices: Iterable[Price], project: str, day: date) -> Price | None:
    """The project's own price of the day, else that of all."""
    valid = [price for price in prices if price.project in {project, None} and price.first <= day <= price.last]
    return next((price for price in valid if price.project), valid[0] if valid else None)
