"""Prices: the example of docs/guide/billing.md, and properties of all prices."""

from __future__ import annotations

import random
import re
import tomllib
from datetime import date
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.billing.line_items import LINES, MEASURES
from pipeline.billing.month import billing_month
from pipeline.billing.pricing import prices_in_month, rate
from pipeline.core.errors import ConfigError
from pipeline.core.settings.prices import AMOUNTS, Price, Prices, Tier
from tests.unit.billing.test_line_items import DOCUMENT, documented

NOVEMBER = billing_month("2026-11", "UTC")
MILLI = Decimal("0.001")


def lines_of(rows: list[dict[str, Any]]) -> pa.Table:
    empty = {name: Decimal(0) if pa.types.is_decimal(kind) else 0 for name, kind in MEASURES.items()}
    return pa.Table.from_pylist([{"project": "acme", **empty, **row} for row in rows], LINES)


def prices_of(*prices: Price, decimals: int = 2) -> Prices:
    return Prices(currency="USD", decimals=decimals, participant_min=prices)


def test_the_worked_example_of_amounts() -> None:
    """The settings of docs/guide/billing.md result in its amounts, in every line."""
    *documented_rows, total = documented("line of")
    settings = re.findall(r"```toml\n(\[billing.prices\].*?)```", DOCUMENT, re.DOTALL)[0]
    prices = Prices.model_validate(tomllib.loads(settings)["billing"]["prices"])
    rows = [
        {"project": "b", "day": date.fromisoformat(day), "owner_ref": owner, "participant_min": Decimal(minutes)}
        for day, owner, minutes, _, _ in documented_rows
    ]
    found = rate(lines_of(rows), prices, NOVEMBER)
    assert found["participant_amount"].to_pylist() == [Decimal(row[4]) for row in documented_rows]
    assert set(found["storage_amount"].to_pylist()) == {0}
    assert found["amount"] == found["participant_amount"]
    assert sum(found["amount"].to_pylist()) == Decimal(total[4])
    assert sum(Decimal(row[3]) for row in documented_rows) == Decimal(total[3])
    assert all(abs(Decimal(row[4]) - Decimal(row[3])) < Decimal("0.01") for row in [*documented_rows, total])
    assert found["currency"].to_pylist() == ["USD"] * 4


unit_prices = st.decimals(0, 10, places=4)


@st.composite
def tiered(draw: st.DrawFn) -> Price:
    """A price with up to four tiers, whose borders are thousandths of a minute."""
    ends = sorted(draw(st.sets(st.integers(1, 900), max_size=3)))
    tiers = [Tier(up_to=end * MILLI, price=draw(unit_prices)) for end in ends]
    return Price(tiers=(*tiers, Tier(price=draw(unit_prices))))


@st.composite
def months(draw: st.DrawFn) -> tuple[Price, Price, list[dict[str, Any]]]:
    """A price up to 14 November and one from the 15th, and lines of some days."""
    keys = draw(st.sets(st.tuples(st.integers(1, 30), st.sampled_from(["north", "south", None])), min_size=1))
    rows = [
        {
            "day": date(2026, 11, day),
            "owner_ref": owner,
            "participant_min": draw(st.integers(0, 300)) * MILLI,
        }
        for day, owner in sorted(keys, key=str)
    ]
    before, after = draw(tiered()), draw(tiered())
    return (
        before.model_copy(update={"valid_to": date(2026, 11, 14)}),
        after.model_copy(update={"valid_from": date(2026, 11, 15)}),
        rows,
    )


def one_by_one(before: Price, after: Price, rows: list[dict[str, Any]]) -> dict[date, Decimal]:
    """The cost of each day, computed per thousandth of a minute, in the order of days."""
    costs: dict[date, Decimal] = {}
    position = 0
    for row in sorted(rows, key=lambda row: row["day"]):
        price = before if row["day"].day < 15 else after
        costs.setdefault(row["day"], Decimal(0))
        for _ in range(int(row["participant_min"] / MILLI)):
            position += 1
            tier = next(tier for tier in price.tiers if tier.up_to is None or position * MILLI <= tier.up_to)
            costs[row["day"]] += tier.price * MILLI
    return costs


@given(months(), st.integers(0, 6), st.randoms(use_true_random=False))
def test_lines_add_up_to_the_month(
    month: tuple[Price, Price, list[dict[str, Any]]], decimals: int, chance: random.Random
) -> None:
    """Lines add up to the cost of the month's units, rounded once; each is within one smallest unit of its share of its
    day; the order of the lines does not matter.
    """
    before, after, rows = month
    prices, smallest = prices_of(before, after, decimals=decimals), Decimal(1).scaleb(-decimals)
    found = rate(lines_of(rows), prices, NOVEMBER)
    costs = one_by_one(before, after, rows)
    assert sum(found["amount"].to_pylist()) == sum(costs.values()).quantize(smallest, ROUND_HALF_UP)
    for row in found.to_pylist():
        day_min = sum((other["participant_min"] for other in rows if other["day"] == row["day"]), Decimal(0))
        share = Fraction(costs[row["day"]] * row["participant_min"]) / Fraction(day_min) if day_min else Fraction(0)
        assert abs(Fraction(row["participant_amount"]) - share) < smallest
    shuffled = list(rows)
    chance.shuffle(shuffled)
    assert rate(lines_of(shuffled), prices, NOVEMBER).equals(found)


def test_amounts_are_exact_at_any_size() -> None:
    """Amounts of 10**11 minutes with nine decimal places are exact: 64 bits do not overflow."""
    minutes, price = [Decimal("123456789012.345"), Decimal("0.001")], Decimal("1.234567891")
    rows = [{"day": NOVEMBER.first, "owner_ref": str(row), "participant_min": used} for row, used in enumerate(minutes)]
    found = rate(lines_of(rows), prices_of(Price(price=price), decimals=4), NOVEMBER)["amount"].to_pylist()
    assert sum(found) == (sum(minutes) * price).quantize(Decimal("0.0001"), ROUND_HALF_UP)
    assert abs(found[0] - minutes[0] * price) < Decimal("0.0001")


@given(tiered(), st.integers(0, 2000), st.integers(0, 2000))
def test_tiers_are_continuous(price: Price, first: int, more: int) -> None:
    """No unit costs more than the dearest tier or less than the cheapest, also across the end of a tier."""
    step = price.cost(Fraction(first + more, 1000)) - price.cost(Fraction(first, 1000))
    asked = [Fraction(tier.price) for tier in price.tiers]
    assert min(asked) * Fraction(more, 1000) <= step <= max(asked) * Fraction(more, 1000)
    assert price.cost(Fraction(0)) == 0


def test_a_project_has_its_own_price_and_tiers() -> None:
    """The price of a project precedes the price of all; each project has its own tiers; without a price it is null."""
    own = Price(project="acme", price=Decimal(2))
    tiers = Price(tiers=(Tier(up_to=Decimal(1), price=Decimal(10)), Tier(price=Decimal(1))))
    rows = [
        {"project": project, "day": NOVEMBER.first, "participant_min": Decimal(2)} for project in ("acme", "b", "c")
    ]
    found = rate(lines_of(rows), prices_of(own, tiers), NOVEMBER)
    assert found["participant_amount"].to_pylist() == [4, 11, 11]
    assert found["recording_amount"].null_count == 3
    alone = rate(lines_of(rows), prices_of(own), NOVEMBER)
    assert alone["amount"].to_pylist() == [4, None, None]
    assert set(AMOUNTS) < set(alone.schema.names)


def test_a_month_with_a_gap_is_refused() -> None:
    """A price on only some days of a month is an error with unit, project and days; a month before the price has no
    amounts.
    """
    prices = prices_of(Price(price=Decimal(1), valid_from=date(2026, 11, 16)))
    with pytest.raises(ConfigError) as caught:
        prices_in_month(prices, ["acme"], NOVEMBER)
    assert str(caught.value).startswith(
        "billing.prices.participant_min: acme has no price on 15 days from 2026-11-01 to 2026-11-15"
    )
    assert prices_in_month(prices, ["acme"], billing_month("2026-10", "UTC")) == {}
    assert prices_in_month(prices, ["acme"], billing_month("2026-12", "UTC")) == {
        "currency": "USD",
        "decimals": 2,
        "projects": {"acme": {"participant_min": [{"price": "1", "valid_from": "2026-11-16"}]}},
    }


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "either price or tiers"),
        ({"price": 1, "tiers": [{"price": 1}]}, "either price or tiers"),
        ({"tiers": [{"up_to": 5, "price": 1}]}, "the last must not have it"),
        ({"tiers": [{"price": 1}, {"price": 2}]}, "every tier but the last needs up_to"),
        ({"tiers": [{"up_to": 5, "price": 1}, {"up_to": 5, "price": 2}, {"price": 3}]}, "tiers must rise: up_to 5, 5"),
        ({"price": 1, "valid_from": "2026-02-02", "valid_to": "2026-02-01"}, "valid_from 2026-02-02 is after"),
        ({"price": "-1"}, "greater than or equal to 0"),
        ({"price": "0.1234567890123456"}, "no more than"),
    ],
)
def test_an_unclear_price_is_refused(values: dict[str, Any], message: str) -> None:
    """An ambiguous or invalid price is refused, with the reason."""
    with pytest.raises(ValidationError) as caught:
        Price.model_validate(values)
    assert message in str(caught.value)
