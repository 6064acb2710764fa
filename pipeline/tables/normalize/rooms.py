"""Turn room documents into rows of `rooms` (pure).

Source: enablex-api.md section 9.4. Numbers are returned as text and text as numbers (observed). Dial-in secrets
(`sip.pin`, `sip.meeting_id`) and stream addresses are never stored in a table.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pipeline.core.errors import RecordError
from pipeline.core.models import Row
from pipeline.tables.normalize.row_reader import RowReader
from pipeline.tables.schemas import ROOMS

_READER = RowReader(
    ROOMS.columns,
    elsewhere=(
        ("sip", "pin"),
        ("sip", "meeting_id"),
        ("settings", "live_recording", "url"),
        ("settings", "hls_view_url"),
    ),
)


def room_row(document: Any, seen_at: datetime) -> Row:
    """Turn one room document into one row.

    Raises:
        RecordError: not an object, or no `room_id`.
    """
    if not isinstance(document, dict):
        raise RecordError("not an object", value=document)
    row = {**_READER.row(document), "seen_at": seen_at}
    if row["room_id"] is None:
        raise RecordError("missing or unreadable", path="room_id", value=document.get("room_id"))
    return row
