"""Copy listed files and recheck copied ones; the file host's response decides the result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    stored_entry,
)
from pipeline.tables import parquet
from pipeline.tables.normalize.values import timestamp
from pipeline.tables.sources import LATE_ARRIVAL_DAYS, ArchiveListingCache, read_archives

_log = structlog.get_logger()

_FILE_ATTEMPTS = 3
"""Within one run; the next run, 15 minutes later, repeats this until the server reports a file as deleted."""

_REFUSAL_GRACE = timedelta(hours=24)
"""This long after its deadline a refusal no longer counts against the credentials, if no fresh file was refused."""

_NEWS = timedelta(hours=24)
"""How long `status` names a lost file."""

_MEMORY = ArchiveListingCache()
"""The scheduler plans every 15 minutes, from responses of which few are new."""

_UPLOADS = ("media/", "raw/", "manifests/", "audits/")
"""Prefixes with interrupted uploads."""


@dataclass(frozen=True)
class MediaPlan:
    """What there is to copy, and which copies to compare with the file host; earliest deadline first.

    `lost`: files that were found to be gone in the last `_NEWS`.
    """

    pending: list[MediaItem]
    rechecks: list[Recheck]
    lost: list[MediaItem]


def media_days(app: App) -> Period:
    """Days whose files may still be there: retention, and a day more for sessions that began the day before."""
    now = app.clock()
    return Period((now - app.retention - timedelta(days=1)).date(), now.date())


def older_pending(app: App, project: str) -> list[Period]:
    """Days before those of fresh listings with files that no server's answer has settled yet, by the `media` table."""
    fresh = media_days(app)
    media = parquet.read_arrow("media", columns=["day", "state"], project=project, lake=app.lake)
    days = {row["day"] for row in media.to_pylist() if row["state"] == "pending" and row["day"] < fresh.first}
    return [Period(day, day) for day in sorted(days)]


def plan(app: App, project: str) -> MediaPlan:
    """Listed files that are not recorded or due for a recheck: of days within retention, and older pending ones."""
    files: dict[tuple[str, str, str], ListedFile] = {}
    for period in (*older_pending(app, project), media_days(app)):
        pages = period.widened(LATE_ARRIVAL_DAYS)
        files |= {file.identity: file for file in read_archives(app.vault, project, pages, _MEMORY).files}
    if not files:
        return MediaPlan([], [], [])
    days = Period(min(file.day for file in files.values()), max(file.day for file in files.values()))
    entries = read_entries(app.vault, project, days)
    began = _first_connected(app, project, days)
    ages = [timedelta(hours=hours) for hours in app.settings.media.recheck_after_hours]
    now = app.clock()
    lost = {identity for identity, entry in entries.items() if entry.state == "lost" and _is_news(entry, now)}
    return MediaPlan(
        plan_media(files.values(), entries, began, app.retention),
        plan_rechecks(files.values(), entries, began, app.retention, ages, now),
        plan_media([file for file in files.values() if file.identity in lost], {}, began, app.retention),
    )


def _is_news(entry: Entry, now: datetime) -> bool:
    at = timestamp(entry.at)
    return at is not None and now - at < _NEWS


def _first_connected(app: App, project: str, days: Period) -> Mapping[str, datetime]:
    sessions = parquet.read_arrow(
        "sessions", days.widened(1), ["conf_num", "first_connected_at"], project=project, lake=app.lake
    ).to_pylist()
    return {session["conf_num"]: session["first_connected_at"].astimezone(UTC) for session in sessions}


def archive_file(app: App, item: MediaItem) -> Entry | FileError:
    """Copy one file and write its manifest; or, when the server reports it as permanently deleted, record that.

    Returns the refusal where, after its deadline, it may mean either that the file is gone or that credentials or host
    are invalid: `resolve_refusal` decides after all others were tried.
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
    return _record(app, item, stored_entry(item.file, stored, now))


def resolve_refusal(
    app: App, item: MediaItem, refusal: FileError, *, is_host_well: bool, is_fresh_refused: bool
) -> Entry | None:
    """A file that was refused after its deadline: lost if the file host is well or it is long past, else still pending.

    `is_host_well`, `is_fresh_refused`: another file of the project was stored in this run, or one that must still be
    there was refused.
    """
    is_long_past = app.clock() >= item.expires_at + _REFUSAL_GRACE and not is_fresh_refused
    return _mark_lost(app, item, refusal) if is_host_well or is_long_past else None


def recheck_file(app: App, recheck: Recheck) -> Entry:
    """Look at a stored file's source again; other bytes there are stored beside the ones that we have."""
    item, entry, now = recheck.item, recheck.entry, app.clock()
    archiver = _archiver(app, item, now)
    try:
        if retrying(_FILE_ATTEMPTS)(archiver.has_changed, item, entry):
            stored = retrying(_FILE_ATTEMPTS)(archiver.copy, item, entry)
            return _record(app, item, stored_entry(item.file, stored, now))
    except FileGone:
        return _record(app, item, deleted_at_source_entry(entry, now))
    return _record(app, item, checked_entry(entry, now))


def abort_old_uploads(app: App) -> list[str]:
    """Give up uploads to the vault whose source is surely gone; their keys."""
    older_than = app.retention + timedelta(days=1)
    return [key for prefix in _UPLOADS for key in app.vault.abort_uploads(prefix, older_than)]


def _archiver(app: App, item: MediaItem, now: datetime) -> FileArchiver:
    delivery = Delivery(app.delivery_bucket) if app.delivery_bucket else None
    return FileArchiver(app.file_hosts[item.file.project], app.vault, now, lock(app, now), delivery)


def lock(app: App, now: datetime) -> Retention | None:
    """Until when what is written to the vault now is to be kept from deletion, and how; None without a lock."""
    chosen = app.settings.vault.lock
    return None if chosen.mode == "off" else Retention(chosen.mode, now + timedelta(days=chosen.days))


def _mark_lost(app: App, item: MediaItem, refusal: FileError) -> Entry:
    return _record(app, item, lost_entry(item.file, f"{refusal}, after its deadline", refusal.status, app.clock()))


def _record(app: App, item: MediaItem, entry: Entry) -> Entry:
    written = append_entry(app.vault, item.file, entry, lock(app, app.clock()))
    _log.debug("media.recorded", item=str(item), state=written.state, size_bytes=written.size_bytes)
    return written


def copy_media(
    app: App, *, limit: int | None = None, refresh_listings: bool = True, respect_backoff: bool = False
) -> RunResult:
    """Copy every listed file that no manifest names, earliest deadline first; then recheck copied files.

    With `fresh`, archive listings are asked for again first, for as long as their files may live. `patient` as the
    scheduler is, it leaves alone what failed a short while ago; never a file at risk.
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
    resting = app.run_store.backing_off(app.clock()) if respect_backoff else set()
    due = [item for item in pending if str(item) not in resting or item.is_at_risk(app.clock())]
    settled = _copy_pending(app, outcome, due[:limit])
    _recheck(app, outcome, [recheck for plan in plans for recheck in plan.rechecks])
    now = app.clock()
    outcome.at_risk = [item.deadline(now) for item in pending if item not in settled and item.is_at_risk(now)]
    return outcome


def _copy_pending(app: App, outcome: RunResult, pending: Sequence[MediaItem]) -> set[MediaItem]:
    """Copy files in order of deadline; those that are stored or lost now."""
    settled: dict[MediaItem, Entry] = {}
    refused: set[str] = set()
    doubts: list[tuple[MediaItem, FileError]] = []
    copy, max_concurrency = app.dispatch(archive_file), app.settings.media.concurrency
    for done in app.map_items(
        "copy media", pending, copy, max_concurrency=max_concurrency, group=lambda item: item.file.project
    ):
        if isinstance(done.result, FileError):
            doubts.append((done.item, done.result))
        elif done.result:
            settled[done.item] = done.result
        else:
            record_item(app, outcome, done, None)
            if isinstance(done.error, FileRefused):
                refused.add(done.item.file.project)
    well = {item.file.project for item, entry in settled.items() if entry.key}
    for item, doubt in doubts:
        project = item.file.project
        if entry := resolve_refusal(
            app, item, doubt, is_host_well=project in well, is_fresh_refused=project in refused
        ):
            settled[item] = entry
        else:
            outcome.add_failure(
                item, app.redact(f"{doubt}: file expired or credentials invalid; no other file could confirm which")
            )
    for item, entry in settled.items():
        outcome.add_success(**_amounts(entry))
        if entry.state == "unreadable":
            outcome.add_notice("malformed", str(item))
        if entry.state == "lost":
            outcome.lost.append(item.deadline(app.clock()))
    app.run_store.forget_attempts([str(item) for item in settled])
    return set(settled)


def _amounts(entry: Entry) -> dict[str, int]:
    return {
        "files_copied": int(entry.key is not None),
        "bytes_copied": entry.size_bytes or 0,
        "files_adopted": int(entry.adopted_from is not None),
        "malformed": int(entry.state == "unreadable"),
        "lost": int(entry.state == "lost"),
    }


def _recheck(app: App, outcome: RunResult, rechecks: Sequence[Recheck]) -> None:
    """Compare copies with what the file host has now; other bytes there are stored as well."""
    recheck, max_concurrency = partial(recheck_file, app), app.settings.media.concurrency
    done_all = app.map_items(
        "recheck", rechecks, recheck, max_concurrency=max_concurrency, group=lambda one: one.item.file.project
    )
    for done in done_all:
        if done.result is None:
            record_item(app, outcome, done, None)
            continue
        has_changed, is_gone = done.result.key != done.item.entry.key, done.result.gone_at is not None
        outcome.add_success(files_rechecked=1, files_changed=int(has_changed), files_gone=int(is_gone))
        if has_changed:
            outcome.add_notice("changed", str(done.item.item))
