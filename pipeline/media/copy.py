"""Plan and run copies and rechecks of files; the response of the file host decides the state of each file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

import structlog

from pipeline.core.context import App, chosen_projects, record_item
from pipeline.core.errors import FileError, FileGone, FileRefused
from pipeline.core.models import ListedFile, MediaItem, Period, RunResult
from pipeline.core.retry import retrying
from pipeline.ingest.collect import CollectTask, collect_tasks
from pipeline.media.delivery import Delivery
from pipeline.media.plan import Recheck, plan_media, plan_rechecks
from pipeline.media.transfer import ErrorPageReceived, FileArchiver
from pipeline.storage import Retention
from pipeline.storage.manifests import (
    Entry,
    append_entry,
    checked_entry,
    deleted_at_source_entry,
    lost_entry,
    read_entries,
)
from pipeline.tables import parquet
from pipeline.tables.normalize.sessions import FILE_DAYS, FILE_TOLERANCE
from pipeline.tables.normalize.values import timestamp
from pipeline.tables.sources import LATE_ARRIVAL_DAYS, ArchiveListingCache, read_archives

_log = structlog.get_logger()

_FILE_ATTEMPTS = 3
"""Attempts within one run. Later runs (every 15 minutes by default) retry until the server reports a deleted file."""

_REFUSAL_GRACE = timedelta(hours=24)
"""After this time past its deadline, a refused file counts as lost, unless a file before its deadline was refused."""

_RECENTLY_LOST = timedelta(hours=24)
"""`status` lists files that were lost within this time by name."""

_LISTING_CACHE = ArchiveListingCache()
"""The scheduler plans every 15 minutes, and most raw responses are the same as before."""

_UPLOAD_PREFIXES = ("media/", "raw/", "manifests/", "audits/")
"""Prefixes searched for unfinished multipart uploads."""


@dataclass(frozen=True)
class MediaPlan:
    """Files to copy and archived files to compare with the file host, sorted by deadline.

    `lost`: files that were lost within `_RECENTLY_LOST`.
    """

    pending: list[MediaItem]
    rechecks: list[Recheck]
    lost: list[MediaItem]


def media_days(app: App) -> Period:
    """Days whose files may still exist: the retention, and 1 more day for sessions that began the day before."""
    now = app.clock()
    return Period((now - app.retention - timedelta(days=1)).date(), now.date())


def older_pending(app: App, project: str) -> list[Period]:
    """Days before `media_days` with files that are still `pending` in table `media`."""
    current = media_days(app)
    media = parquet.read_arrow("media", columns=["day", "state"], project=project, lake=app.lake)
    days = {row["day"] for row in media.to_pylist() if row["state"] == "pending" and row["day"] < current.first}
    return [Period(day, day) for day in sorted(days)]


def plan(app: App, project: str) -> MediaPlan:
    """Plan copies and rechecks for one project: days whose files may still exist, and older days with pending files."""
    files: dict[tuple[str, str, str], ListedFile] = {}
    for period in (*older_pending(app, project), media_days(app)):
        response_days = period.widened(LATE_ARRIVAL_DAYS)
        files |= {
            file.identity: file for file in read_archives(app.vault, project, response_days, _LISTING_CACHE).files
        }
    if not files:
        return MediaPlan([], [], [])
    days = Period(min(file.day for file in files.values()), max(file.day for file in files.values()))
    entries = read_entries(app.vault, project, days)
    began_at = _session_starts(app, project, days, files.values())
    ages = [timedelta(hours=hours) for hours in app.settings.media.recheck_after_hours]
    now = app.clock()
    lost = {identity for identity, entry in entries.items() if entry.state == "lost" and _is_recent(entry, now)}
    return MediaPlan(
        plan_media(files.values(), entries, began_at, app.retention),
        plan_rechecks(files.values(), entries, began_at, app.retention, ages, now),
        plan_media([file for file in files.values() if file.identity in lost], {}, began_at, app.retention),
    )


def _is_recent(entry: Entry, now: datetime) -> bool:
    at = timestamp(entry.at)
    return at is not None and now - at < _RECENTLY_LOST


def _session_starts(
    app: App, project: str, days: Period, files: Iterable[ListedFile]
) -> dict[tuple[str, str, str], datetime]:
    """When the session of each file began, for files whose session was built."""
    columns = ["conf_num", "first_connected_at"]
    sessions = parquet.read_arrow("sessions", days.widened(FILE_DAYS + 1), columns, project=project, lake=app.lake)
    starts: dict[str, list[datetime]] = {}
    for session in sessions.sort_by("first_connected_at").to_pylist():
        starts.setdefault(session["conf_num"], []).append(session["first_connected_at"].astimezone(UTC))
    began_at = {}
    for file in files:
        if earlier := [start for start in starts.get(file.conf_num, ()) if start <= file.ended_at + FILE_TOLERANCE]:
            began_at[file.identity] = earlier[-1]
    return began_at


def archive_file(app: App, item: MediaItem) -> Entry | FileError:
    """Copy one file and append its manifest entry.

    If the server reports it as deleted after its deadline, a `lost` entry is appended. Returns the refusal of a file
    after its deadline if the cause is unclear: expired file, invalid credentials or failing host. `resolve_refusal`
    decides after all other files were attempted.
    """
    now = app.clock()
    try:
        stored = retrying(_FILE_ATTEMPTS)(_archiver(app, item, now).copy, item)
    except FileGone as gone:
        if now < item.expires_at:
            raise
        return _mark_lost(app, item, gone)
    except (FileRefused, ErrorPageReceived) as error:
        if now < item.expires_at or (isinstance(error, FileRefused) and error.status is None):
            raise
        return error
    return _record(app, item, stored)


def resolve_refusal(
    app: App, item: MediaItem, refusal: FileError, *, is_host_healthy: bool, is_fresh_refused: bool
) -> Entry | None:
    """Decide about a file that was refused after its deadline: lost, or None if it stays pending.

    It is lost if another file of the project was stored in this run (`is_host_healthy`), or if `_REFUSAL_GRACE` has
    passed and no file before its deadline was refused (`is_fresh_refused`).
    """
    is_past_grace = app.clock() >= item.expires_at + _REFUSAL_GRACE and not is_fresh_refused
    return _mark_lost(app, item, refusal) if is_host_healthy or is_past_grace else None


def recheck_file(app: App, recheck: Recheck) -> Entry:
    """Compare an archived file with its source again; if the source has changed, store it as another version."""
    item, entry, now = recheck.item, recheck.entry, app.clock()
    archiver = _archiver(app, item, now)
    try:
        if retrying(_FILE_ATTEMPTS)(archiver.has_changed, item, entry):
            stored = retrying(_FILE_ATTEMPTS)(archiver.copy, item, entry)
            return _record(app, item, stored)
    except FileGone:
        return _record(app, item, deleted_at_source_entry(entry, now))
    return _record(app, item, checked_entry(entry, now))


def abort_old_uploads(app: App) -> list[str]:
    """Abort unfinished uploads to the vault that are older than the retention plus 1 day; returns their keys."""
    older_than = app.retention + timedelta(days=1)
    return [key for prefix in _UPLOAD_PREFIXES for key in app.vault.abort_uploads(prefix, older_than)]


def _archiver(app: App, item: MediaItem, now: datetime) -> FileArchiver:
    delivery = Delivery(app.delivery_bucket) if app.delivery_bucket else None
    return FileArchiver(app.file_hosts[item.file.project], app.vault, now, lock(app, now), delivery)


def lock(app: App, now: datetime) -> Retention | None:
    """Mode and end of the Object Lock for objects written to the vault now; None without a lock."""
    settings = app.settings.vault.lock
    return None if settings.mode == "off" else Retention(settings.mode, now + timedelta(days=settings.days))


def _mark_lost(app: App, item: MediaItem, refusal: FileError) -> Entry:
    return _record(app, item, lost_entry(item.file, f"{refusal}, after its deadline", refusal.status, app.clock()))


def _record(app: App, item: MediaItem, entry: Entry) -> Entry:
    written = append_entry(app.vault, item.file, entry, lock(app, app.clock()))
    _log.debug("media.recorded", item=str(item), state=written.state, size_bytes=written.size_bytes)
    return written


def copy_media(
    app: App, *, limit: int | None = None, refresh_listings: bool = True, respect_backoff: bool = False
) -> RunResult:
    """Copy every listed file that no manifest names, sorted by deadline; then recheck archived files that are due.

    With `refresh_listings`, the archive listings of `media_days` are collected first. With `respect_backoff` (used by
    the scheduler), files that are backing off after a failure are skipped, except files at risk.
    """
    outcome = RunResult("media copy")
    projects = chosen_projects(app.settings, None)
    if app.settings.vault.lock.mode != "off":
        app.vault.require_lock()
    outcome.add_notice("aborted_uploads", *abort_old_uploads(app))
    if refresh_listings:
        days = media_days(app)
        outcome.merge(collect_tasks(app, [CollectTask("archive", name, day) for day in days for name in projects]))
    plans = [plan(app, name) for name in projects]
    pending = sorted((item for plan in plans for item in plan.pending), key=lambda item: (item.expires_at, str(item)))
    backing_off = app.run_store.backing_off(app.clock()) if respect_backoff else set()
    due = [item for item in pending if str(item) not in backing_off or item.is_at_risk(app.clock())]
    recorded = _copy_pending(app, outcome, due[:limit])
    _recheck(app, outcome, [recheck for plan in plans for recheck in plan.rechecks])
    now = app.clock()
    outcome.at_risk = [item.deadline(now) for item in pending if item not in recorded and item.is_at_risk(now)]
    return outcome


def _copy_pending(app: App, outcome: RunResult, pending: Sequence[MediaItem]) -> set[MediaItem]:
    """Copy files in the given order; returns the ones that are now stored or lost."""
    recorded: dict[MediaItem, Entry] = {}
    refused: set[str] = set()
    unresolved: list[tuple[MediaItem, FileError]] = []
    copy, max_concurrency = app.dispatch(archive_file), app.settings.media.concurrency
    for done in app.map_items(
        "copy media", pending, copy, max_concurrency=max_concurrency, group=lambda item: item.file.project
    ):
        if isinstance(done.result, FileError):
            unresolved.append((done.item, done.result))
        elif done.result:
            recorded[done.item] = done.result
        else:
            record_item(app, outcome, done, None)
            if isinstance(done.error, FileRefused):
                refused.add(done.item.file.project)
    healthy = {item.file.project for item, entry in recorded.items() if entry.key}
    for item, refusal in unresolved:
        project = item.file.project
        if entry := resolve_refusal(
            app, item, refusal, is_host_healthy=project in healthy, is_fresh_refused=project in refused
        ):
            recorded[item] = entry
        else:
            outcome.add_failure(
                item,
                app.redact(
                    f"{refusal} after the deadline: file expired or credentials invalid;"
                    " no other file could confirm which"
                ),
            )
    for item, entry in recorded.items():
        outcome.add_success(**_counts(entry))
        if entry.state == "unreadable":
            outcome.add_notice("malformed", str(item))
        if entry.state == "lost":
            outcome.lost.append(item.deadline(app.clock()))
    app.run_store.forget_attempts([str(item) for item in recorded])
    return set(recorded)


def _counts(entry: Entry) -> dict[str, int]:
    return {
        "files_copied": int(entry.key is not None),
        "bytes_copied": entry.size_bytes or 0,
        "files_adopted": int(entry.adopted_from is not None),
        "malformed": int(entry.state == "unreadable"),
        "lost": int(entry.state == "lost"),
    }


def _recheck(app: App, outcome: RunResult, rechecks: Sequence[Recheck]) -> None:
    """Compare archived files with the file host; changed files are stored as another version."""
    recheck, max_concurrency = partial(recheck_file, app), app.settings.media.concurrency
    results = app.map_items(
        "recheck", rechecks, recheck, max_concurrency=max_concurrency, group=lambda due: due.item.file.project
    )
    for done in results:
        if done.result is None:
            record_item(app, outcome, done, None)
            continue
        has_changed, is_gone = done.result.key != done.item.entry.key, done.result.gone_at is not None
        outcome.add_success(files_rechecked=1, files_changed=int(has_changed), files_gone=int(is_gone))
        if has_changed:
            outcome.add_notice("changed", str(done.item.item))
