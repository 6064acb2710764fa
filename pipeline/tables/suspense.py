"""Rows of table `suspense`: records that are not believed, and documents without a row (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.arrow_types import BILLED, TEXT, TIME
from pipeline.core.models import Row
from pipeline.tables.normalize.arrow_ops import mask
from pipeline.tables.normalize.ratings import (
    UNKNOWN,
    Decisions,
    Rated,
    RatingRules,
    rate,
    stake_min,
    whole_minutes,
)
from pipeline.tables.schemas import CDR_CONTENT, SUSPENSE, arrow_schema
from pipeline.tables.sources import RejectedDocument

DECISIONS = ("open", "released", "excluded")
REJECTED = "rejected"
_FROM_CDR = ("conf_num", "room_id", "owner_ref", "billing_code")
_UNRATED = pa.schema([*arrow_schema(CDR_CONTENT), pa.field("day", pa.date32())])


def suspended(rated: Rated, source_keys: Sequence[str], decisions: Decisions) -> pa.Table:
    """Rows of `SUSPENSE` (and `day`) for the rated newest versions that are in doubt, in the same order.

    `source_keys`: the key of each response by its number, which is in column `response`.
    """
    at = np.flatnonzero(mask(pc.is_valid(rated.rows["suspense"])))
    rows = rated.rows.take(pa.array(at))
    stake_ms, outcome = rated.stake_ms[at], rated.outcome[at]
    responses = rows["response"].to_numpy()
    versions = zip(rows["cdr_id"].to_pylist(), rows["suspense"].to_pylist(), stake_ms.tolist(), strict=True)
    decided = [decisions.get((name, reasons, stake_min(stake))) for name, reasons, stake in versions]
    columns = {
        "suspense_id": rows["cdr_id"],
        **{name: rows[name] for name in _FROM_CDR},
        "reasons": rows["suspense"],
        "detail": pa.nulls(len(at), TEXT),
        "is_held": pa.array(rated.is_held[at]),
        "at_stake_min": pc.if_else(pa.array(stake_ms == UNKNOWN), pa.scalar(None, BILLED), whole_minutes(stake_ms)),
        "began_at": rows["began_at"],
        "source_key": pa.array([source_keys[number] for number in responses.tolist()], TEXT),
        "ordinal": rows["ordinal"],
        "decision": pa.array([DECISIONS[code] for code in outcome.tolist()], TEXT),
        "decided_at": pa.array([decision and decision.decided_at for decision in decided], TIME),
        "decided_because": pa.array([decision and decision.because for decision in decided], TEXT),
    }
    table = pa.table([columns[name] for name in SUSPENSE.schema.names], schema=SUSPENSE.schema)
    return table.append_column("day", rows["day"])


def rejected_rows(
    documents: Iterable[RejectedDocument], day: date, rules: RatingRules, decisions: Decisions
) -> list[Row]:
    """Rows of `SUSPENSE` for documents without a row, of one requested day."""
    documents = list(documents)
    unrated = pa.Table.from_pylist([{**document.values, "day": day} for document in documents], schema=_UNRATED)
    stakes = rate(unrated, rules, {}).stake_ms.tolist()
    return [
        _rejected_row(document, stake_min(stake), decisions) for document, stake in zip(documents, stakes, strict=True)
    ]


def _rejected_row(document: RejectedDocument, at_stake_min: Decimal | None, decisions: Decisions) -> Row:
    decision = decisions.get((document.suspense_id, REJECTED, at_stake_min))
    decision = decision if decision and decision.outcome == "excluded" else None
    return {
        "suspense_id": document.suspense_id,
        **{name: document.values.get(name) for name in _FROM_CDR},
        "reasons": REJECTED,
        "detail": document.detail,
        "is_held": True,
        "at_stake_min": at_stake_min,
        "began_at": None,
        "source_key": document.source_key,
        "ordinal": document.ordinal,
        "decision": decision.outcome if decision else "open",
        "decided_at": decision.decided_at if decision else None,
        "decided_because": decision.because if decision else None,
    }
