"""Which files are to be copied or looked at again, and doing it: the file host's answer decides what becomes of one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog

from pipeline.app import App
from pipeline.core.errors import FileError, FileGone, FileRefused
from pipeline.core.models import ListedFile, MediaItem, Period
from pipeline.core.retry import retrying
from pipeline.media.copy import Copier, NotTheFile
from pipeline.media.plan import Recheck, plan_media, plan_rechecks
from pipeline.storage import Retention
from pipeline.storage.manifests import (
    Entry,
    checked_entry,
    gone_entry,
    lost_entry,
    read_entries,
    stored_entry,
    write_entry,
)
from pipeline.tables import parquet
from pipeline.tables.normalize.values import timestamp
from pipeline.tables.sources import REACH_DAYS, ArchiveMemory, read_archives

_log = structlog.get_logger()

_FILE_ATTEMPTS = 3
"""Within one run; the next run, a quarter of an hour later, tries again until the server says that a file is gone."""

_DOUBT = timedelta(hours=24)
"""So long after its deadline a refusal is not held against the credentials any more, if no fresh file was refused."""

_NEWS = timedelta(hours=24)
"""So long `status` speaks of a lost file by name."""

_MEMORY = ArchiveMemory()
"""The scheduler plans every quarter of an hour, from pages of which few are new."""

_UPLOADS = ("media/", "raw/", "manifests/", "audits/")
"""Where uploads that broke off may lie."""


@dataclass(frozen=True)
class MediaPlan:
    """What there is to copy, and which copies to compare with the file host; earliest deadline first.

    `lost`: files that were found to be gone in the last `_NEWS`.
    """

    waiting: list[MediaItem]
    rechecks: list[Recheck]
    lost: list[MediaItem]


def retention(app: App) -> timedelta:
    return timedelta(hours=app.settings.media.retention_hours)


def media_days(app: App) -> Period:
    """Days whose files may still be there: retention, and a day more for sessions that began the day before."""
    now = app.clock()
    return Period((now - retention(app) - timedelta(days=1)).date(), now.date())


def older_waiting(app: App, project: str) -> list[Period]:
    """Days before those of fresh listings with files that no server's answer has settled yet, by the `media` table."""
    fresh = media_days(app)
    media = parquet.read_arrow("media", columns=["day", "state"], project=project, lake=app.lake)
    days = {row["day"] for row in media.to_pylist() if row["state"] == "waiting" and row["day"] < fresh.first}
    return [Period(day, day) for day in sorted(days)]


def plan(app: App, project: str) -> MediaPlan:
    """Files that are listed and not settled, or to be looked at again: of the days that files live, and older ones."""
    files: dict[tuple[str, str, str], ListedFile] = {}
    for period in (*older_waiting(app, project), media_days(app)):
        pages = period.widened(REACH_DAYS)
        files |= {file.identity: file for file in read_archives(app.vault, project, pages, _MEMORY).files}
    if not files:
        return MediaPlan([], [], [])
    days = Period(min(file.day for file in files.values()), max(file.day for file in files.values()))
    entries = read_entries(app.vault, project, days)
    began = _first_connected(app, project, days)
    ages = [timedelta(hours=hours) for hours in app.settings.media.recheck_hours]
    now = app.clock()
    lost = {identity for identity, entry in entries.items() if entry.state == "lost" and _is_news(entry, now)}
    return MediaPlan(
        plan_media(files.values(), entries, began, retention(app)),
        plan_rechecks(files.values(), entries, began, retention(app), ages, now),
        plan_media([file for file in files.values() if file.identity in lost], {}, began, retention(app)),
    )


def _is_news(entry: Entry, now: datetime) -> bool:
    at = timestamp(entry.at)
    return at is not None and now - at < _NEWS


def _first_connected(app: App, project: str, days: Period) -> Mapping[str, datetime]:
    sessions = parquet.read_arrow(
        "sessions", days.widened(1), ["conf_num", "first_connected_at"], project=project, lake=app.lake
    ).to_pylist()
    return {session["conf_num"]: session["first_connected_at"].astimezone(UTC) for session in sessions}


def copy_item(app: App, item: MediaItem) -> Entry | FileError:
    """Copy one file and write its manifest; or, when the server says that it is gone for good, write that.

    Returns the refusal where, after its deadline, it may mean either that the file is gone or that credentials or host
    are at fault: `settle_doubt` knows more when all others have had their turn.
    """
    now = app.clock()
    try:
        stored = retrying(_FILE_ATTEMPTS)(_copier(app, item, now).copy, item)
    except FileGone as gone:
        if now < item.expires_at:
            raise
        return _lose(app, item, gone)
    except (FileRefused, NotTheFile) as error:
        if now < item.expires_at or (isinstance(error, FileRefused) and error.status is None):
            raise
        return error
    return _settle(app, item, stored_entry(item.file, stored, now))


def settle_doubt(
    app: App, item: MediaItem, refusal: FileError, *, is_host_well: bool, is_fresh_refused: bool
) -> Entry | None:
    """A file that was refused after its deadline: lost if the file host is well or it is long past, else still waiting.

    `is_host_well`, `is_fresh_refused`: another file of the project was stored in this run, or one that must still be
    there was refused.
    """
    is_long_past = app.clock() >= item.expires_at + _DOUBT and not is_fresh_refused
    return _lose(app, item, refusal) if is_host_well or is_long_past else None


def recheck_item(app: App, recheck: Recheck) -> Entry:
    """Look at a stored file's source again; other bytes there are stored beside the ones that we have."""
    item, entry, now = recheck.item, recheck.entry, app.clock()
    copier = _copier(app, item, now)
    try:
        if retrying(_FILE_ATTEMPTS)(copier.has_changed, item, entry):
            stored = retrying(_FILE_ATTEMPTS)(copier.copy, item, entry)
            return _settle(app, item, stored_entry(item.file, stored, now))
    except FileGone:
        return _settle(app, item, gone_entry(entry, now))
    return _settle(app, item, checked_entry(entry, now))


def abort_old_uploads(app: App) -> list[str]:
    """Give up uploads to the vault whose source is surely gone; their keys."""
    older_than = retention(app) + timedelta(days=1)
    return [key for prefix in _UPLOADS for key in app.vault.abort_uploads(prefix, older_than)]


def _copier(app: App, item: MediaItem, now: datetime) -> Copier:
    return Copier(app.file_hosts[item.file.project], app.vault, now, lock(app, now), app.delivery)


def lock(app: App, now: datetime) -> Retention | None:
    """Until when what is written to the vault now is to be kept from deletion, and how; None without a lock."""
    chosen = app.settings.vault.lock
    return None if chosen.mode == "off" else Retention(chosen.mode, now + timedelta(days=chosen.days))


def _lose(app: App, item: MediaItem, refusal: FileError) -> Entry:
    return _settle(app, item, lost_entry(item.file, f"{refusal}, after its deadline", refusal.status, app.clock()))


def _settle(app: App, item: MediaItem, entry: Entry) -> Entry:
    written = write_entry(app.vault, item.file, entry, lock(app, app.clock()))
    _log.debug("media.settled", item=str(item), state=written.state, size_bytes=written.size_bytes)
    return written
