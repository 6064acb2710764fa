"""Turn listed files and manifest entries into rows of `media` (pure).

Source: enablex-api.md section 6.1: files are deleted 72 hours after creation, counted from file creation, session end
or recording, depending on the documentation page. Retention is therefore counted from the earliest known time of
the session.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import datetime, timedelta

from pipeline.core.models import ListedFile, Row
from pipeline.core.urls import public_url
from pipeline.storage.manifests import Entry
from pipeline.tables.normalize.values import timestamp
from pipeline.tables.schemas import MEDIA

FileIdentity = tuple[str, str, str]
"""(conf_num, kind, name)"""

Entries = Mapping[FileIdentity, Entry]
"""Manifest entries by file."""


def expires_at(file: ListedFile, session_began_at: datetime | None, retention: timedelta) -> datetime:
    """The earliest time at which EnableX may delete a file; it existed when it was first listed."""
    return min(file.ended_at, file.first_listed_at, session_began_at or file.ended_at) + retention


def media_rows(
    files: Iterable[ListedFile],
    entries: Entries,
    began_at: Mapping[FileIdentity, datetime],
    retention: timedelta,
) -> list[Row]:
    """One row of `media` per listed file, in the order of `files`; `began_at`: when the session of a file began."""
    return [
        _media_row(file, entries.get(file.identity), expires_at(file, began_at.get(file.identity), retention))
        for file in files
    ]


_STATES = {"unreadable": "malformed"}
"""States with another name in manifests (format 1)."""


def _media_row(file: ListedFile, entry: Entry | None, expires: datetime) -> Row:
    row: Row = dict.fromkeys(column.name for column in MEDIA.columns)
    row |= {
        "conf_num": file.conf_num,
        "room_id": file.room_id or None,
        "kind": file.kind,
        "name": file.name,
        "url": public_url(file.url),
        "first_listed_at": file.first_listed_at,
        "expires_at": expires,
        "state": _STATES.get(entry.state, entry.state) if entry else "pending",
    }
    if entry:
        row |= {
            "key": entry.key,
            "size_bytes": entry.size_bytes,
            "sha256": entry.sha256,
            "crc64nvme": entry.crc64nvme,
            "verified_by": entry.proof,
            "etag": entry.etag,
            "content_type": entry.content_type,
            "stored_at": timestamp(entry.at) if entry.key else None,
            "locked_until": timestamp(entry.locked_until),
            "copied_from": entry.adopted_from,
            "version_count": len(entry.versions),
            "source_checked_at": timestamp(entry.checked_at),
            "deleted_at_source": timestamp(entry.gone_at),
            "lost_reason": entry.lost_reason,
        }
        row |= asdict(entry.probe) if entry.probe else {}
    return row
