"""Select the files to copy and the archived files to recheck, from listed files and manifest entries (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from pipeline.core.models import ListedFile, MediaItem
from pipeline.storage.manifests import Entry
from pipeline.tables.normalize.media import Entries, FileIdentity, expires_at
from pipeline.tables.normalize.values import timestamp


def plan_media(
    files: Iterable[ListedFile],
    entries: Entries,
    began_at: Mapping[FileIdentity, datetime],
    retention: timedelta,
) -> list[MediaItem]:
    """Listed files that no manifest names, sorted by deadline. `began_at`: when the session of a file began."""
    pending = [
        MediaItem(file, expires_at(file, began_at.get(file.identity), retention))
        for file in files
        if file.identity not in entries
    ]
    return sorted(pending, key=lambda item: (item.expires_at, item.file.project, item.file.identity))


@dataclass(frozen=True)
class Recheck:
    """An archived file to compare with its source again: the copy may be partial, or the source may have changed."""

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
    began_at: Mapping[FileIdentity, datetime],
    retention: timedelta,
    ages: Sequence[timedelta],
    now: datetime,
) -> list[Recheck]:
    """Archived files that have reached one of the ages since their last check, before their deadline; sorted by
    deadline.
    """
    due = [
        Recheck(MediaItem(file, expires_at(file, began_at.get(file.identity), retention)), entry)
        for file in files
        if (entry := entries.get(file.identity)) and _is_due(entry, ages, now)
    ]
    live = [recheck for recheck in due if now < recheck.item.expires_at]
    return sorted(live, key=lambda recheck: (recheck.item.expires_at, str(recheck.item)))


def _is_due(entry: Entry, ages: Sequence[timedelta], now: datetime) -> bool:
    if entry.key is None or entry.gone_at is not None:
        return False
    stored_at, checked_at = timestamp(entry.at), timestamp(entry.checked_at or entry.at)
    return stored_at is not None and checked_at is not None and any(checked_at < stored_at + age <= now for age in ages)
