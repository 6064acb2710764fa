"""Settings of unit prices: tiers, projects, and the days on which a price is valid."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date
from decimal import Decimal
from fractions import Fraction
from itertools import combinations, pairwise
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from pipeline.core.errors import ConfigError

UNIT_AMOUNTS = {
    "participant_min": "participant_amount",
    "sip_min": "sip_amount",
    "recording_min": "recording_amount",
    "transcoding_min": "transcoding_amount",
    "storage_gb_months": "storage_amount",
}
"""Units that can have a price, and the column of their amount; column `amount` is the sum."""

AMOUNTS = (*UNIT_AMOUNTS.values(), "amount")
MAX_DECIMALS = 6
_CURRENCY = re.compile(r"([A-Z]{3})?", re.A)

UnitPrice = Annotated[Decimal, Field(ge=0, max_digits=15, decimal_places=9)]
"""Price of one unit. At most 15 digits: a TOML or JSON number is read as a float, which keeps 15."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Tier(_Section):
    """Price of a month's units up to quantity `up_to`; the last tier has no `up_to` and prices all further units."""

    up_to: Annotated[Decimal, Field(gt=0, max_digits=15, decimal_places=9)] | None = None
    """Quantity of the month at which this tier ends; the last tier has none."""
    price: UnitPrice
    """Price of a unit in this tier."""


class Price(_Section):
    """Price of a unit from `valid_from` to `valid_to` (inclusive days in the billing time zone; default: always).

    Either one `price`, or `tiers` of a project's monthly quantity. For one project, or for all without their own price.
    """

    project: str | None = None
    """Project that the price is for; default: all projects without their own."""
    valid_from: date | None = None
    """First day, in `billing.time_zone`; default: always."""
    valid_to: date | None = None
    """Last day, inclusive."""
    price: UnitPrice | None = None
    """Price of a unit."""
    tiers: tuple[Tier, ...] = ()
    """Graduated prices, instead of `price`."""

    @model_validator(mode="after")
    def _is_clear(self) -> Self:
        if (self.price is None) == (not self.tiers):
            raise ValueError("needs either price or tiers")
        if self.first > self.last:
            raise ValueError(f"valid_from {self.valid_from} is after valid_to {self.valid_to}")
        ends = [tier.up_to for tier in self.tiers[:-1]]
        limits = [end for end in ends if end is not None]
        if self.tiers and (len(limits) < len(ends) or self.tiers[-1].up_to is not None):
            raise ValueError(
                "every tier but the last needs up_to, and the last must not have it: it prices all further units"
            )
        if any(lower >= upper for lower, upper in pairwise(limits)):
            raise ValueError(f"tiers must rise: up_to {', '.join(map(str, limits))}")
        return self

    @property
    def first(self) -> date:
        return self.valid_from or date.min

    @property
    def last(self) -> date:
        return self.valid_to or date.max

    def cost(self, quantity: Fraction) -> Fraction:
        """Cost of a month with this quantity of units."""
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
    """A number or text becomes a price for all projects and days; a table becomes a list of one."""
    if isinstance(value, str | int | float | Decimal):
        return [{"price": value}]
    return [value] if isinstance(value, Mapping | Price) else value


def _unambiguous(prices: tuple[Price, ...]) -> tuple[Price, ...]:
    for price, other in combinations(prices, 2):
        first, last = max(price.first, other.first), min(price.last, other.last)
        if price.project == other.project and first <= last:
            whose = f"project {price.project}" if price.project else "all projects"
            when = "always" if first == date.min else f"on {first}"
            raise ValueError(
                f"two prices of {whose} are valid {when}; set valid_from and valid_to so that they do not overlap"
            )
    return prices


PriceList = Annotated[tuple[Price, ...], BeforeValidator(_as_list), AfterValidator(_unambiguous)]


class Prices(_Section):
    """Unit prices in one currency; amounts are rounded to `decimals` places.

    `sip_min`: for each minute of a SIP or telephone leg, in addition to `participant_min`.
    """

    currency: Annotated[str, AfterValidator(_currency)] = ""
    """ISO 4217 code; required with a price."""
    decimals: int = Field(default=2, ge=0, le=MAX_DECIMALS)
    """Decimal places of amounts."""
    participant_min: PriceList = ()
    """Price of a participant minute."""
    sip_min: PriceList = ()
    """Price of a minute of a SIP or telephone leg, in addition to `participant_min`."""
    recording_min: PriceList = ()
    """Price of a recorded minute."""
    transcoding_min: PriceList = ()
    """Price of a transcoded minute."""
    storage_gb_months: PriceList = ()
    """Price of a gigabyte stored for a month."""

    @model_validator(mode="after")
    def _has_a_currency(self) -> Self:
        if not self.currency and any(prices for _, prices in self.lists()):
            raise ValueError('prices need a currency, such as currency = "USD"')
        return self

    def lists(self) -> Iterator[tuple[str, tuple[Price, ...]]]:
        """Every unit with its prices, in the order of `UNIT_AMOUNTS`."""
        for unit in UNIT_AMOUNTS:
            yield unit, getattr(self, unit)

    def of_days(self, unit: str, project: str, days: Sequence[date]) -> list[Price]:
        """The price of a project's unit on each of the days, in the same order; empty if no day has one.

        Raises:
            ConfigError: only some of the days have a price.
        """
        listed = getattr(self, unit)
        prices = [_in_force(listed, project, day) for day in days]
        in_force = [price for price in prices if price is not None]
        if in_force and len(in_force) < len(days):
            unpriced = [day for day, price in zip(days, prices, strict=True) if price is None]
            raise ConfigError(
                f"billing.prices.{unit}: {project} has no price on {len(unpriced)} days from {unpriced[0]} to"
                f" {unpriced[-1]}, but on other days of {days[0]:%Y-%m}; price every day of the month (0 is valid)"
            )
        return in_force


def _in_force(prices: Iterable[Price], project: str, day: date) -> Price | None:
    """The project's own price on a day, else the price for all projects."""
    valid = [price for price in prices if price.project in {project, None} and price.first <= day <= price.last]
    return next((price for price in valid if price.project), valid[0] if valid else None)
