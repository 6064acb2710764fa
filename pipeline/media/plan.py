"""Listed files and manifests to rows of `media`, and to what there is to copy (pure).

Source: docs/enablex-api.md section 6.1: files are deleted 72 hours after creation, counted from file creation, session
end or recording depending on the page; so the clock starts at the earliest known moment of the session.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime, timedelta

from pipeline.core.models import ListedFile, MediaItem, Row
from pipeline.core.urls import public_url
from pipeline.normalise.values import timestamp
from pipeline.schemas import MEDIA
from pipeline.storage.manifests import Entry

Entries = Mapping[tuple[str, str, str], Entry]
"""Manifest entries by (conf_num, kind, name)."""


def expires_at(file: ListedFile, first_connected_at: Mapping[str, datetime], retention: timedelta) -> datetime:
    """The earliest credible moment at which EnableX may delete a file: it was there when it was first listed."""
    return min(file.ended_at, file.first_listed_at, first_connected_at.get(file.conf_num, file.ended_at)) + retention


def plan_media(
    files: Iterable[ListedFile],
    entries: Entries,
    first_connected_at: Mapping[str, datetime],
    retention: timedelta,
) -> list[MediaItem]:
    """Listed files that no manifest names, earliest deadline first."""
    waiting = [
        MediaItem(file, expires_at(file, first_connected_at, retention))
        for file in files
        if file.identity not in entries
    ]
    return sorted(waiting, key=lambda item: (item.expires_at, item.file.project, item.file.identity))


@dataclass(frozen=True)
class Recheck:
    """A stored file whose source is to be looked at again: it may have been a part of it, or have changed since."""

    item: MediaItem
    entry: Entry

    @property
    def project(self) -> str:
        return self.item.project

    @property
    def day(self) -> date:
        return self.item.day

    def __str__(self) -> str:
        return f"{self.item} again"


def plan_rechecks(
    files: Iterable[ListedFile],
    entries: Entries,
    first_connected_at: Mapping[str, datetime],
    retention: timedelta,
    ages: Sequence[timedelta],
    now: datetime,
) -> list[Recheck]:
    """Stored files that reached one of these ages since they were last looked at and are still there by our reckoning,
    earliest deadline first."""
    due = [
        Recheck(MediaItem(file, expires_at(file, first_connected_at, retention)), entry)
        for file in files
        if (entry := entries.get(file.identity)) and _is_due(entry, ages, now)
    ]
    live = [recheck for recheck in due if now < recheck.item.expires_at]
    return sorted(live, key=lambda recheck: (recheck.item.expires_at, str(recheck.item)))


def _is_due(entry: Entry, ages: Sequence[timedelta], now: datetime) -> bool:
    if entry.key is None or entry.gone_at is not None:
        return False
    stored_at, seen_at = timestamp(entry.at), timestamp(entry.checked_at or entry.at)
    return stored_at is not None and seen_at is not None and any(seen_at < stored_at + age <= now for age in ages)


def media_rows(
    files: Iterable[ListedFile],
    entries: Entries,
    first_connected_at: Mapping[str, datetime],
    retention: timedelta,
) -> list[Row]:
    """One row of `media` per listed file, in the order of `files`."""
    return [
        _media_row(file, entries.get(file.identity), expires_at(file, first_connected_at, retention)) for file in files
    ]


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
        "state": entry.state if entry else "waiting",
    }
    if entry:
        row |= {
            "key": entry.key,
            "size_bytes": entry.size_bytes,
            "sha256": entry.sha256,
            "crc64nvme": entry.crc64nvme,
            "proof": entry.proof,
            "etag": entry.etag,
            "content_type": entry.content_type,
            "stored_at": timestamp(entry.at) if entry.key else None,
            "locked_until": timestamp(entry.locked_until),
            "adopted_from": entry.adopted_from,
            "versions": len(entry.versions),
            "checked_at": timestamp(entry.checked_at),
            "gone_at": timestamp(entry.gone_at),
            "lost_reason": entry.lost_reason,
        }
        row |= asdict(entry.probe) if entry.probe else {}
    return row
