"""Turn one CDR document into one row of `cdr` (pure). `cdr_batch` does the same for up to 8,000 documents.

Source: enablex-api.md section 4 (both documented shapes), 11 and 12 (observed behaviour).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from typing import Any

from pipeline.core.errors import RecordError
from pipeline.core.models import Row
from pipeline.enablex.lenient import REPAIRED
from pipeline.tables.normalize.row_reader import Path, RowReader, path_tree, unknown_paths
from pipeline.tables.schemas import CDR_CONTENT

FIELDS: tuple[tuple[str, Path, Any], ...] = tuple(
    (column.name, tuple(column.path.split(".")), column.type) for column in CDR_CONTENT if column.path
)
"""(column, path in the document, type) of every column that is taken from one path."""

IDENTITY = (
    "conf_num", "app_id", "call_log_id", "call_num", "user_ref", "user_name", "user_ip", "room_id",
    "signal_connected_at", "room_connected_at",
)  # fmt: skip
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
    (REPAIRED,),
)
"""Documented fields without a column: stored in `extra` and not reported as unknown."""

_READER = RowReader(CDR_CONTENT, elsewhere=(*SECRETS, QUALITY))
_DOCUMENTED = path_tree([*(path for _, path, _ in FIELDS), *SECRETS, QUALITY, *WITHOUT_COLUMN])


def cdr_row(document: Any) -> Row:
    """Turn one CDR document into the columns of `cdr` that are read from it (`CDR_CONTENT`).

    Row: one participant's connection. `cdr_id` is null if the document has none. Times: UTC, milliseconds. A value that
    fits no column leaves a null and stays in `extra` under its path, like every field without a column.

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
    return row


def readable_values(document: Any) -> Row:
    """What can be read of a document that is no row; empty if it is not an object."""
    return _READER.row(document) if isinstance(document, dict) else {}


def unknown_fields(document: Any) -> Iterator[Path]:
    """Paths in a document that are not documented."""
    if isinstance(document, dict):
        yield from unknown_paths(document, _DOCUMENTED)


def row_day(row: Row) -> date:
    """The day of a row: the UTC date of `trans_at`, else of its latest time."""
    moment: datetime = next(row[name] for name in TIMES if row[name])
    return moment.astimezone(UTC).date()


def derived_id(values: Sequence[Any], key: bytes) -> str:
    """A key for a document without `cdr_id`, from its `IDENTITY`, and its moment if it has no connect time.

    With a key it is keyed, so that it does not reveal pseudonymised values.
    """
    content = "\x1f".join("" if value is None else str(value) for value in values).encode()
    digest = hmac.new(key, content, hashlib.sha256) if key else hashlib.sha256(content)
    return f"derived-{digest.hexdigest()[:24]}"
