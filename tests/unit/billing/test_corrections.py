"""Corrections: the previous revision plus corrections is this revision, also in amounts; each has the right cause."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.billing.corrections import item_corrections, with_amounts
from pipeline.billing.line_items import ITEMS, LINE_KEY, MEASURES, aggregate_lines
from pipeline.billing.month import billing_month
from pipeline.billing.pricing import prices_differ, prices_in_month, rate
from pipeline.core.settings.prices import AMOUNTS, Price, Prices, Tier

NOVEMBER = billing_month("2026-11", "UTC")
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
EARLIER, LATER = NOON.replace(hour=9), NOON.replace(hour=15)
FLAT = Prices(currency="USD", participant_min=[Price(price=Decimal("0.007"))], recording_min=[Price(price=Decimal(1))])
TIERED = Prices(
    currency="USD",
    participant_min=[Price(tiers=(Tier(up_to=Decimal(90), price=Decimal("0.013")), Tier(price=Decimal("0.0041"))))],
)
FINE = FLAT.model_copy(update={"decimals": 5})
EUROS = FLAT.model_copy(update={"currency": "EUR"})
NONE = Prices()


def items_of(rows: list[dict[str, Any]]) -> pa.Table:
    none = {name: Decimal(0) if pa.types.is_decimal(kind) else 0 for name, kind in MEASURES.items()}
    defaults = {"kind": "connection", "day": NOVEMBER.first, "first_seen_at": EARLIER, "changed_at": EARLIER}
    return pa.Table.from_pylist(
        [{**none, **defaults, "project": "acme", "connections": 1, **row} for row in rows], ITEMS
    )


def lines_at(items: pa.Table, prices: Prices) -> pa.Table:
    lines = aggregate_lines(items)
    return rate(lines, prices, NOVEMBER) if prices_in_month(prices, ["acme"], NOVEMBER) else lines


@st.composite
def month_items(draw: st.DrawFn) -> pa.Table:
    """Up to 8 connections of two owners on two days; IDs repeat in both revisions."""
    rows = [
        {
            "item": str(number),
            "owner_ref": draw(st.sampled_from(["north", None])),
            "day": date(2026, 11, draw(st.integers(1, 2))),
            "participant_min": Decimal(draw(st.integers(0, 60))),
            "recording_min": Decimal(draw(st.integers(0, 1))),
        }
        for number in sorted(draw(st.sets(st.integers(1, 8))))
    ]
    return items_of(rows)


def sums(rows: pa.Table) -> Counter[tuple[Any, ...]]:
    """The sum of each measure by line, and of each amount by line and currency, without zeros."""
    return Counter({key: total for key, total in _summed(rows).items() if total})


def _summed(rows: pa.Table) -> Counter[tuple[Any, ...]]:
    totals: Counter[tuple[Any, ...]] = Counter()
    for row in rows.to_pylist():
        line = tuple(row[name] for name in LINE_KEY)
        for name in (*MEASURES, *AMOUNTS):
            key = (*line, row.get("currency")) if name in AMOUNTS else line
            totals[*key, name] += row.get(name) or 0
    return totals


any_prices = st.sampled_from([NONE, FLAT, TIERED, FINE, EUROS])


@settings(max_examples=20)  # each is two exports and their comparison
@given(month_items(), month_items(), any_prices, any_prices)
def test_earlier_lines_and_corrections_are_the_new_lines(
    before: pa.Table, now: pa.Table, prices_before: Prices, prices_now: Prices
) -> None:
    """For any connections and prices, before and now, lines and corrections add up exactly per line and currency; rows
    of kind `amount` are `repriced` exactly when prices changed.
    """
    lines_before, lines_now = lines_at(before, prices_before), lines_at(now, prices_now)
    in_force = [prices_in_month(prices, ["acme"], NOVEMBER) for prices in (prices_before, prices_now)]
    corrected = item_corrections(before, now, {"acme": NOON})
    rows = with_amounts(corrected, lines_before, lines_now, prices_differ(in_force[0], in_force[1]))
    total = _summed(lines_before)
    total.update(_summed(rows))
    assert Counter({key: value for key, value in total.items() if value}) == sums(lines_now)
    assert ("amount" in rows.schema.names) == (prices_before != NONE or prices_now != NONE)
    causes = {row["cause"] for row in rows.to_pylist() if row["kind"] == "amount"}
    assert causes <= {"apportioned" if prices_before == prices_now else "repriced"}


def test_the_same_id_in_another_project_is_another_item() -> None:
    """The same ID in another project, or of a session, is another item."""
    before = [{"item": "1", "participant_min": Decimal(1)}]
    late = {"item": "1", "participant_min": Decimal(2), "first_seen_at": LATER, "changed_at": LATER}
    others = [{**late, "project": "beta"}, {**late, "kind": "session"}]
    rows = item_corrections(items_of(before), items_of([*before, *others]), {"acme": NOON, "beta": NOON})
    assert {(row["project"], row["kind"], row["cause"]) for row in rows.to_pylist()} == {
        ("beta", "connection", "late"), ("acme", "session", "late"),
    }  # fmt: skip


def causes(rows: pa.Table) -> Iterator[tuple[str, str, Decimal]]:
    for row in rows.to_pylist():
        yield row["item"], row["cause"], row["amount"]


def test_a_late_connection_has_its_cost() -> None:
    """Its row has the amount; there is no other row, and no other line changes."""
    before = [{"item": "1", "participant_min": Decimal(100), "owner_ref": "a"}]
    late = {"item": "2", "participant_min": Decimal(200), "owner_ref": "b", "first_seen_at": LATER}
    tables = [items_of(before), items_of([*before, late])]
    lines = [lines_at(items, FLAT) for items in tables]
    rows = with_amounts(item_corrections(*tables, {"acme": NOON}), *lines, ())
    assert list(causes(rows)) == [("2", "late", Decimal("1.40"))]


def test_a_new_price_is_a_cause_of_its_own() -> None:
    """If only a price changed, there is one row per line with the difference, without a connection."""
    items = items_of([{"item": "1", "participant_min": Decimal(100)}])
    lines = [lines_at(items, prices) for prices in (FLAT, TIERED)]
    rows = with_amounts(item_corrections(items, items, {"acme": NOON}), *lines, {"acme"})
    assert list(causes(rows)) == [(None, "repriced", Decimal("0.51"))]


@pytest.mark.parametrize(
    ("first_seen_at", "cause"), [(EARLIER, "repaired"), (NOON.replace(hour=13), "late"), (LATER, "late")]
)
def test_lateness_is_judged_per_project(first_seen_at: datetime, cause: str) -> None:
    """The collection times of another project do not matter; in a project without connections every new one is late."""
    before = items_of([{"item": "1"}, {"item": "2", "project": "globex", "first_seen_at": NOON.replace(hour=14)}])
    new = {"item": "3", "first_seen_at": first_seen_at}
    now = pa.concat_tables([before, items_of([new, {"item": "4", "project": "initech"}])])
    known_until = {"acme": NOON, "globex": NOON.replace(hour=14), "initech": None}
    rows = item_corrections(before, now, known_until)
    assert {row["item"]: row["cause"] for row in rows.to_pylist()} == {"3": cause, "4": "late"}
