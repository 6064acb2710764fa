"""Priced lines in FOCUS 1.2, the FinOps Foundation's format for cost and usage (pure). Mapping: docs/guide/billing.md.

The first final revision of a month with prices becomes charges; changes of later final revisions are added as rows of
class `Correction`. Before it, a provisional revision is all charges, because nothing was invoiced yet; after it, its
changes are corrections, and the next final revision replaces them.
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
"""Columns of a charge, sorted by name; `x_` marks columns outside FOCUS."""

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
"""Description, unit, service name, category and subcategory of each priced unit."""


def charges(lines: pa.Table) -> pa.Table:
    """A row of `CHARGES` for each priced unit of each line, except zeros; sorted by line and unit."""
    priced = [CHARGES.empty_table()]
    for unit, name in UNIT_AMOUNTS.items():
        rows = lines.filter(pc.is_valid(lines[name]))
        keys = [rows[key] for key in LINE_KEY]
        units = pa.repeat(pa.scalar(unit, TEXT), rows.num_rows)
        sums = [rows[unit].cast(_QUANTITY), rows[name].cast(_COST)]
        priced.append(pa.table([*keys, units, rows["currency"], *sums], schema=CHARGES))
    return changes(CHARGES.empty_table(), pa.concat_tables(priced))


def changes(before: pa.Table, now: pa.Table) -> pa.Table:
    """Signed differences of two tables of charges; only keys that differ."""
    return differences(before, now, list(_CHARGE_KEY), _ADDED)


def focus_rows(revisions: Sequence[tuple[int, pa.Table]], month: BillingMonth, *, is_provisional: bool) -> pa.Table:
    """Rows of `FOCUS`: the priced lines of the first revision as charges, changes of later revisions as corrections."""
    tables, before = [FOCUS.empty_table()], CHARGES.empty_table()
    for number, (revision, lines) in enumerate(revisions):
        now = charges(lines)
        constants = {
            "ChargeClass": "Correction" if number else None,
            "x_IsProvisional": is_provisional,
            "x_Revision": revision,
        }
        tables.append(_focus(changes(before, now), month, constants))
        before = now
    return pa.concat_tables(tables)


def as_text(rows: pa.Table) -> pa.Table:
    """The rows with times in the text format of FOCUS: 2026-11-01T00:00:00Z."""
    for index, field in enumerate(rows.schema):
        if field.type == _TIME:
            rows = rows.set_column(index, field.name, pc.strftime(rows[field.name], "%Y-%m-%dT%H:%M:%SZ"))
    return rows


def _focus(rows: pa.Table, month: BillingMonth, constants: dict[str, Any]) -> pa.Table:
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
        "ChargePeriodStart": _times(midnights_s[days]),
        "ChargePeriodEnd": _times(midnights_s[days + 1]),
        **dict.fromkeys(("ConsumedQuantity", "PricingQuantity"), rows["quantity"]),
        **dict.fromkeys(("InvoiceIssuerName", "ProviderName", "PublisherName"), _PROVIDER),
        "PricingCategory": "Standard",
        "ResourceId": rows["room_id"],
        "ResourceType": pc.if_else(pc.is_valid(rows["room_id"]), "Room", pa.scalar(None, TEXT)),
        "SkuId": rows["unit"],
        **dict.fromkeys(("SubAccountId", "SubAccountName"), rows["owner_ref"]),
        "Tags": pa.array(list(map(_tags, rows["owner_ref"].to_pylist(), rows["billing_code"].to_pylist())), TEXT),
        **{name: pa.array([texts[index] for texts in described], TEXT) for index, name in enumerate(_DESCRIBED)},
        **constants,
    }
    columns["PricingUnit"] = columns["ConsumedUnit"]
    return pa.table([_column(columns.get(field.name), field.type, rows.num_rows) for field in FOCUS], schema=FOCUS)


_DESCRIBED = ("ChargeDescription", "ConsumedUnit", "ServiceName", "ServiceCategory", "ServiceSubcategory")


def _tags(owner: str | None, billing_code: str | None) -> str:
    tags = {"billing_code": billing_code, "owner": owner}
    return json.dumps({name: value for name, value in tags.items() if value is not None}, ensure_ascii=False)


def _times(seconds: np.ndarray) -> pa.Array:
    return pa.array(seconds).cast(_TIME)


def _column(value: Any, kind: pa.DataType, count: int) -> Any:
    """A column unchanged; any other value repeated in every row."""
    return value if isinstance(value, pa.Array | pa.ChunkedArray) else pa.repeat(pa.scalar(value, kind), count)
