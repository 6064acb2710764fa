"""Observations of connections, as tables and as plain rows."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.tables.normalize import cdr
from pipeline.tables.normalize.identity import with_derived_ids
from pipeline.tables.normalize.versions import Listings
from pipeline.tables.sources import OBSERVED
from tests.support.cdrs import BEGIN, NEW, changed

HOUR = timedelta(hours=1)


def observation(
    document: Any, seen_at: datetime, quality: bytes | None = None, *, response: int = 0, ordinal: int = 0
) -> dict[str, Any]:
    """The row of one document in one raw response."""
    row = cdr.cdr_row(document)
    own = {"day": cdr.row_day(row), "stats_quality": quality, "response": response, "ordinal": ordinal}
    return {**row, **own, "seen_at": seen_at}


def observed(
    key: str, hour: int, content: str, quality: bytes | None = None, *, response: int | None = None, **changes: Any
) -> dict[str, Any]:
    """An observation of a connection in the response of an hour, with `content` as its user's name."""
    document = changed(NEW, cdr_id=key, user__name=content, **changes)
    return observation(document, BEGIN + hour * HOUR, quality, response=hour if response is None else response)


def table(rows: Iterable[dict[str, Any]]) -> pa.Table:
    """Sorted by key and time; rows of the same key and time stay in their order. Missing ids are derived."""
    found = with_derived_ids(pa.Table.from_pylist(list(rows), schema=OBSERVED), b"")
    return found.sort_by([("cdr_id", "ascending"), ("seen_at", "ascending")])


def all_current(responses: int = 99) -> Listings:
    """Every response is the newest one for its requested day; response N was collected at hour N."""
    hours = np.arange(responses) * 3_600_000
    return Listings(round(BEGIN.timestamp() * 1000) + hours, np.ones(responses, bool))
