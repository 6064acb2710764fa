"""Observations of connections, as tables and as plain rows."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa

from pipeline.tables.normalize import cdr
from pipeline.tables.sources import OBSERVED
from tests.support.cdrs import BEGIN, NEW, changed

HOUR = timedelta(hours=1)


def observation(document: Any, seen_at: datetime, quality: bytes | None = None) -> dict[str, Any]:
    """One document as one page says it."""
    row = cdr.cdr_row(document)
    return {**row, "day": cdr.row_day(row), "stats_quality": quality, "seen_at": seen_at}


def observed(key: str, hour: int, content: str, quality: bytes | None = None, **changes: Any) -> dict[str, Any]:
    """A connection that says `content` (its user's name), seen at an hour."""
    return observation(changed(NEW, cdr_id=key, user__name=content, **changes), BEGIN + hour * HOUR, quality)


def table(rows: Iterable[dict[str, Any]]) -> pa.Table:
    """Sorted by key and moment; rows of one key and moment keep the order they come in."""
    ordered = sorted(rows, key=lambda row: (row["cdr_id"], row["seen_at"]))
    return pa.Table.from_pylist(ordered, schema=OBSERVED)
