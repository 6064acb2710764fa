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
    """The row of one document in one raw response."""
    row = cdr.cdr_row(document)
    return {**row, "day": cdr.row_day(row), "stats_quality": quality, "seen_at": seen_at}


def observed(key: str, hour: int, content: str, quality: bytes | None = None, **changes: Any) -> dict[str, Any]:
    """An observation of a connection at an hour, with `content` as its user's name."""
    return observation(changed(NEW, cdr_id=key, user__name=content, **changes), BEGIN + hour * HOUR, quality)


def table(rows: Iterable[dict[str, Any]]) -> pa.Table:
    """Sorted by key and time; rows of the same key and time stay in their order."""
    ordered = sorted(rows, key=lambda row: (row["cdr_id"], row["seen_at"]))
    return pa.Table.from_pylist(ordered, schema=OBSERVED)
