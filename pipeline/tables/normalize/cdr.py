"""Turn one CDR document into one row of `cdr` (pure). `cdr_batch` does the same for up to 8,000 documents.

Source: enablex-api.md section 4 (both documented shapes), 11 and 12 (observed behaviour).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from pipeline.core.errors import RecordError
from pipeline.core.models import Row
from pipeline.tables.normalize import values
from pipeline.tables.normalize.row_reader import Path, RowReader, path_tree, unknown_paths
from pipeline.tables.schemas import CDR_CONTENT

FIELDS: tuple[tuple[str, Path, Any], ...] = tuple(
    (column.name, tuple(column.path.split(".")), column.type) for column in CDR_CONTENT if column.path
)
"""(column, path in the document, type) of every column that is taken from one path."""

IDENTITY = ("app_id", "conf_num", "call_log_id", "call_num", "user_ref", "signal_connected_at")
"""Columns that identify a connection without `cdr_id` (section 11.9)."""

TIMES = (
    "trans_at",
    "signal_disconnected_at",
    "room_disconnected_at",
    "signal_connected_at",
    "room_connected_at",
)
"""The first of these that a row has determines its day."""

SECRETS: tuple[Path, ...] = (
    ("user", "token"),
    ("room", "room_details", "sip", "pin"),
    ("room", "room_details", "sip", "meeting_id"),
    ("room", "room_details", "sip", "password"),
    ("room", "room_details", "settings", "live_recording", "url"),
    ("room", "room_details", "settings", "hls_view_url"),
)
"""Never in a table (docs/reference/tables.md); stream addresses contain a token."""

QUALITY: Path = ("stats_quality",)
"""Goes to its own table, `cdr_quality`."""

_SETTINGS = (
    "description", "scheduled_time", "duration", "participants", "moderators", "viewers", "quality", "screen_share",
    "canvas", "abwd", "media_configuration", "active_talker", "max_active_talkers", "encryption", "watermark",
    "single_file_recording", "media_zone", "knock", "wait_for_moderator", "wait_moderator", "role_based_recording",
    "facex", "peep", "audiences", "send_audiences_stats", "live_transcription",
)  # fmt: skip
WITHOUT_COLUMN: tuple[Path, ...] = (
    ("room", "sip"),
    ("room", "room_details", "created"),
    ("room", "room_details", "room_id"),
    ("room", "room_details", "service_id"),
    ("room", "room_details", "data"),
    ("room", "room_details", "sip", "enabled"),
    ("room", "room_details", "settings", "live_recording", "auto_recording"),
    *(("room", "room_details", "settings", name) for name in _SETTINGS),
    ("user", "confName"),
    ("sigserver", "ip"),
    ("$repaired",),
)
"""Documented fields without a column: stored in `extra` and not reported as unknown."""

_READER = RowReader(CDR_CONTENT, elsewhere=(*SECRETS, QUALITY))
_DOCUMENTED = path_tree([*(path for _, path, _ in FIELDS), *SECRETS, QUALITY, *WITHOUT_COLUMN])


def cdr_row(document: Any) -> Row:
    """Turn one CDR document into one row of `cdr`, except for the columns of its history.

    Row: one participant's connection. Key: `cdr_id`. Times: UTC, milliseconds. A value that fits no column leaves a
    null and stays in `extra` under its path, like every field without a column.

    Raises:
        RecordError: not an object, no `conf_num`, or no time at all (section 11.8: nothing else is required).
    """
    if not isinstance(document, dict):
        raise RecordError("not an object", value=document)
    row = _READER.row(document)
    if row["conf_num"] is None:
        raise RecordError("missing or unreadable", path="conf_num", value=document.get("conf_num"))
    if not any(row[name] for name in TIMES):
        raise RecordError("no readable time in the whole document", path="trans_date", value=document.get("trans_date"))
    row["is_sip"] = bool(row["is_sip"])
    row["cdr_id_is_derived"] = row["cdr_id"] is None
    row["cdr_id"] = row["cdr_id"] or derived_id(row)
    row["participant_s"] = participant_s(row)
    row["participant_min"] = whole_minutes(row["participant_s"])
    row["connect_min_looks_like_seconds"] = looks_like_seconds(row["connect_min"], row["participant_s"])
    return row


def unknown_fields(document: Any) -> Iterator[Path]:
    """Paths in a document that are not documented."""
    if isinstance(document, dict):
        yield from unknown_paths(document, _DOCUMENTED)


def row_day(row: Row) -> date:
    """The day of a row: the UTC date of `trans_at`, else of its latest time."""
    moment: datetime = next(row[name] for name in TIMES if row[name])
    return moment.astimezone(UTC).date()


def participant_s(row: Mapping[str, Any]) -> float | None:
    """Exact seconds of a connection: `signal_*` when both ends exist, else `room_*` (section 11.6); never negative."""
    for connected, disconnected in (
        ("signal_connected_at", "signal_disconnected_at"),
        ("room_connected_at", "room_disconnected_at"),
    ):
        start, end = row[connected], row[disconnected]
        if start and end and end >= start:
            return float((end - start).total_seconds())
    return None


def whole_minutes(seconds: float | None) -> Decimal | None:
    """Minutes rounded up (section 10: "per-minute basis"), as billed."""
    return None if seconds is None else Decimal(-(-round(seconds * 1000) // 60_000))


def looks_like_seconds(connect_min: float | None, stay_s: float | None) -> bool | None:
    """Whether minutes far exceed the stay (section 11.7); None if either is unknown."""
    return None if connect_min is None or stay_s is None else connect_min > 1.5 * stay_s / 60 + 2


def derived_id(row: Mapping[str, Any]) -> str:
    """A key for a document without `cdr_id` (section 11.9)."""
    parts = [values.text(row[name]) if isinstance(row[name], str) else str(row[name] or "") for name in IDENTITY]
    return "derived-" + hashlib.sha256("\x1f".join(part or "" for part in parts).encode()).hexdigest()[:24]
