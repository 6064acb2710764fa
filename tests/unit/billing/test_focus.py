"""FOCUS rows: charges of the first final revision, then signed corrections; days are the billing zone's own."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from typing import Any

import pyarrow as pa

from pipeline.billing.focus import as_text, focus_rows
from pipeline.billing.line_items import LINES, MEASURES
from pipeline.billing.month import billing_month
from pipeline.billing.pricing import rate
from pipeline.core.settings.prices import Prices

NOVEMBER = billing_month("2026-11", "America/New_York")
PRICES = Prices.model_validate({"currency": "USD", "participant_min": "0.004", "storage_gb_months": "0.03"})


def lines_of(*rows: dict[str, Any]) -> pa.Table:
    none = {name: Decimal(0) if pa.types.is_decimal(kind) else 0 for name, kind in MEASURES.items()}
    lines = pa.Table.from_pylist([{**none, "project": "acme", "day": date(2026, 11, 1), **row} for row in rows], LINES)
    return rate(lines, PRICES, NOVEMBER)


BEFORE = lines_of(
    {"owner_ref": "north", "billing_code": 'CC "1"', "room_id": "r1", "participant_min": Decimal(100)},
    {"day": date(2026, 11, 3), "participant_min": Decimal(30), "storage_gb_months": Decimal("1.5")},
)
AFTER = lines_of(
    {"owner_ref": "north", "billing_code": 'CC "1"', "room_id": "r1", "participant_min": Decimal(90)},
    {"day": date(2026, 11, 3), "participant_min": Decimal(30), "storage_gb_months": Decimal("1.5")},
)


def test_charges_and_their_corrections() -> None:
    """A priced unit above 0 is one charge; a change is a signed correction; there is no other row."""
    rows = focus_rows([(1, BEFORE), (2, AFTER)], NOVEMBER, is_provisional=False).to_pylist()
    values = [
        (row["ChargeClass"], row["x_Revision"], row["SkuId"], row["PricingQuantity"], row["BilledCost"]) for row in rows
    ]
    assert values == [
        (None, 1, "participant_min", Decimal(100), Decimal("0.40")),
        (None, 1, "participant_min", Decimal(30), Decimal("0.12")),
        (None, 1, "storage_gb_months", Decimal("1.5"), Decimal("0.05")),
        ("Correction", 2, "participant_min", Decimal(-10), Decimal("-0.04")),
    ]
    for row in rows:
        assert row["BilledCost"] == row["EffectiveCost"] == row["ListCost"] == row["ContractedCost"]
        assert row["ConsumedQuantity"] == row["PricingQuantity"]
    assert json.loads(rows[0]["Tags"]) == {"owner": "north", "billing_code": 'CC "1"'}
    assert json.loads(rows[1]["Tags"]) == {}


def test_days_are_the_zones_own_in_utc() -> None:
    """The day on which clocks go back has 25 hours; periods are whole days and months of the zone, written with a Z."""
    first = as_text(focus_rows([(1, BEFORE)], NOVEMBER, is_provisional=True)).to_pylist()[0]
    assert (first["ChargePeriodStart"], first["ChargePeriodEnd"]) == ("2026-11-01T04:00:00Z", "2026-11-02T05:00:00Z")
    assert (first["BillingPeriodStart"], first["BillingPeriodEnd"]) == ("2026-11-01T04:00:00Z", "2026-12-01T05:00:00Z")
    assert first["x_IsProvisional"] is True


def test_a_month_without_charges_has_all_columns() -> None:
    """Without lines there are no rows, but all columns."""
    rows = focus_rows([(1, BEFORE.slice(0, 0))], NOVEMBER, is_provisional=False)
    assert rows.num_rows == 0
    assert {"BilledCost", "ChargeClass", "InvoiceId", "Tags"} < set(rows.schema.names)
