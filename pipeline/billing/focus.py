"""Priced lines as FOCUS 1.2, the FinOps Foundation's columns of cost and usage (pure). Mapping: docs/guide/billing.md.

The first final revision of a month with prices is its charges; what later revisions change is added to them as rows of
class `Correction`. Before a month is final, a revision is all charges: nothing was invoiced that could be corrected.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.billing.corrections import differences
from pipeline.billing.line_items import LINE_KEY
from pipeline.billing.month import BillingMonth
from pipeline.core.arrow_types import COUNT, FLAG, TEXT
from pipeline.core.settings.prices import MAX_DECIMALS, UNIT_AMOUNTS

_TIME = pa.timestamp("s", "UTC")
_QUANTITY, _COST = pa.decimal128(18, 9), pa.decimal128(18, MAX_DECIMALS)
_CHARGE_KEY = {**LINE_KEY, "unit": TEXT, "currency": TEXT}
_ADDED = {"quantity": _QUANTITY, "cost": _COST}
CHARGES = pa.schema([*_CHARGE_KEY.items(), *_ADDED.items()])

FOCUS = pa.schema(
    {
        "BilledCost": _COST,
        "BillingAccountId": TEXT,
        "BillingAccountName": TEXT,
        "BillingCurrency": TEXT,
        "BillingPeriodEnd": _TIME,
        "BillingPeriodStart": _TIME,
        "ChargeCategory": TEXT,
        "ChargeClass": TEXT,
        "ChargeDescription": TEXT,
        "ChargeFrequency": TEXT,
        "ChargePeriodEnd": _TIME,
        "ChargePeriodStart": _TIME,
        "ConsumedQuantity": _QUANTITY,
        "ConsumedUnit": TEXT,
        "ContractedCost": _COST,
        "EffectiveCost": _COST,
        "InvoiceId": TEXT,
        "InvoiceIssuerName": TEXT,
        "ListCost": _COST,
        "PricingCategory": TEXT,
        "PricingQuantity": _QUANTITY,
        "PricingUnit": TEXT,
        "ProviderName": TEXT,
        "PublisherName": TEXT,
        "ResourceId": TEXT,
        "ResourceName": TEXT,
        "ResourceType": TEXT,
        "ServiceCategory": TEXT,
        "ServiceName": TEXT,
        "ServiceSubcategory": TEXT,
        "SkuId": TEXT,
        "SubAccountId": TEXT,
        "SubAccountName": TEXT,
        "Tags": TEXT,
        "x_IsProvisional": FLAG,
        "x_Revision": COUNT,
    }.items()
)
"""Columns of a charge, in the order of their names; `x_` marks what FOCUS does not know."""

_PROVIDER = "EnableX"
_VIDEO = ("Video API", "Media", "Media Streaming")
_STORAGE = ("Recording storage", "Storage", "Other (Storage)")
_UNITS = {
    "participant_min": ("Participant minutes", "Minutes", *_VIDEO),
    "sip_min": ("Minutes of SIP and telephone legs", "Minutes", *_VIDEO),
    "recording_min": ("Recorded participant minutes", "Minutes", *_VIDEO),
    "transcoding_min": ("Transcoded session minutes", "Minutes", *_VIDEO),
    "storage_gb_months": ("Storage of recordings", "GB-Months", *_STORAGE),
}
"""Description, unit, service name, category and subcategory of what has a price."""


def charges(lines: pa.Table) -> pa.Table:
    """A row of `CHARGES` for each priced unit of each line that comes to anything; in order of line and unit."""
    priced = [CHARGES.empty_table()]
    for unit, name in UNIT_AMOUNTS.items():
        rows = lines.filter(pc.is_valid(lines[name]))
        keys = [rows[key] for key in LINE_KEY]
        units = pa.repeat(pa.scalar(unit, TEXT), rows.num_rows)
        sums = [rows[unit].cast(_QUANTITY), rows[name].cast(_COST)]
        priced.append(pa.table([*keys, units, rows["currency"], *sums], schema=CHARGES))
    return changes(CHARGES.empty_table(), pa.concat_tables(priced))


def changes(before: pa.Table, now: pa.Table) -> pa.Table:
    """The charges that make of those before those of now, signed; none where nothing changed."""
    return differences(before, now, list(_CHARGE_KEY), _ADDED)


def focus_rows(revisions: Sequence[tuple[int, pa.Table]], month: BillingMonth, *, is_provisional: bool) -> pa.Table:
    """Rows of `FOCUS`: the first revision's priced lines as charges, what each later one changed as corrections."""
    found, before = [FOCUS.empty_table()], CHARGES.empty_table()
    for place, (revision, lines) in enumerate(revisions):
        now = charges(lines)
        changed = changes(before, now)
        known = {
            "ChargeClass": "Correction" if place else None,
            "x_IsProvisional": is_provisional,
            "x_Revision": revision,
        }
        found.append(_focus(changed, month, known))
        before = now
    return pa.concat_tables(found)


def as_text(rows: pa.Table) -> pa.Table:
    """The rows with moments as FOCUS writes them in text: 2026-11-01T00:00:00Z."""
    for place, field in enumerate(rows.schema):
        if field.type == _TIME:
            rows = rows.set_column(place, field.name, pc.strftime(rows[field.name], "%Y-%m-%dT%H:%M:%SZ"))
    return rows


def _focus(rows: pa.Table, month: BillingMonth, known: dict[str, Any]) -> pa.Table:
    days = rows["day"].cast(pa.int32()).to_numpy() - (month.first - datetime(1970, 1, 1, tzinfo=UTC).date()).days
    described = [_UNITS[unit] for unit in rows["unit"].to_pylist()]
    midnights_s = month.midnights_ms // 1000
    columns: dict[str, Any] = {
        **dict.fromkeys(("BilledCost", "ContractedCost", "EffectiveCost", "ListCost"), rows["cost"]),
        **dict.fromkeys(("BillingAccountId", "BillingAccountName"), rows["project"]),
        "BillingCurrency": rows["currency"],
        "BillingPeriodStart": month.begins_at,
        "BillingPeriodEnd": month.ends_at,
        "ChargeCategory": "Usage",
        "ChargeFrequency": "Usage-Based",
        "ChargePeriodStart": _moments(midnights_s[days]),
        "ChargePeriodEnd": _moments(midnights_s[days + 1]),
        **dict.fromkeys(("ConsumedQuantity", "PricingQuantity"), rows["quantity"]),
        **dict.fromkeys(("InvoiceIssuerName", "ProviderName", "PublisherName"), _PROVIDER),
        "PricingCategory": "Standard",
        "ResourceId": rows["room_id"],
        "ResourceType": pc.if_else(pc.is_valid(rows["room_id"]), "Room", pa.scalar(None, TEXT)),
        "SkuId": rows["unit"],
        **dict.fromkeys(("SubAccountId", "SubAccountName"), rows["owner_ref"]),
        "Tags": pa.array(list(map(_tags, rows["owner_ref"].to_pylist(), rows["billing_code"].to_pylist())), TEXT),
        **{name: pa.array([words[place] for words in described], TEXT) for place, name in enumerate(_DESCRIBED)},
        **known,
    }
    columns["PricingUnit"] = columns["ConsumedUnit"]
    return pa.table([_column(columns.get(field.name), field.type, rows.num_rows) for field in FOCUS], schema=FOCUS)


_DESCRIBED = ("ChargeDescription", "ConsumedUnit", "ServiceName", "ServiceCategory", "ServiceSubcategory")


def _tags(owner: str | None, billing_code: str | None) -> str:
    known = {"billing_code": billing_code, "owner": owner}
    return json.dumps({name: value for name, value in known.items() if value is not None}, ensure_ascii=False)


def _moments(seconds: np.ndarray) -> pa.Array:
    return pa.array(seconds).cast(_TIME)


def _column(value: Any, kind: pa.DataType, count: int) -> Any:
    """A column as it is; anything else in every row."""
    return value if isinstance(value, pa.Array | pa.ChunkedArray) else pa.repeat(pa.scalar(value, kind), count)
