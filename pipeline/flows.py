"""Start here: what Postroom does, in plain order.

```
nightly = collect, build, copy_media, build what that changed
backfill = collect and build, eight weeks at a time, what is missing of months or years
apply_rooms = the plan of plan_rooms, carried out
audit_media = manifests against the vault, and its record
export_billing = a month's tables as a numbered export, with corrections to the one before
compare_invoice = the vendor's invoice against the tables, the difference explained
status, query, report, plan_rooms, audit_rooms: read only; doctor: tries every part of the set-up
```

Each flow takes an `App`, does its items on the app's executor, and returns an `Outcome`. A failed item is named there
and does not stop the others. Every step may be repeated at any time: what is to be done is computed from the stores.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from datetime import date, datetime, timedelta
from functools import partial
from typing import Any

import pyarrow as pa

from pipeline import auditing, backfilling, copying
from pipeline.alarms import next_runs
from pipeline.app import NOT_TRIED, App, Done, chosen_projects, record_item
from pipeline.checks import as_toml
from pipeline.collecting import Ask, collect_day
from pipeline.core.errors import FileError, FileRefused, PipelineError, Stopped
from pipeline.core.models import DAILY_SOURCES, SOURCES, MediaItem, Outcome, Period, Source, utc_text
from pipeline.doctor import ask_open_questions, examine
from pipeline.media.audit import problem_text
from pipeline.media.plan import Recheck
from pipeline.reports.day import DAY_SQL, DayFacts, day_page
from pipeline.reports.status import (
    day_states,
    is_settled,
    lateness,
    lateness_sql,
    media_states,
    store_sizes,
    unlisted_sql,
)
from pipeline.storage import raw
from pipeline.storage.audit_records import audit_keys
from pipeline.storage.manifests import Entry
from pipeline.tables import parquet
from pipeline.tables.build import AFFECTED_DAYS, Built, Chain, Stretch, builder_for, chains
from pipeline.tables.query import open_query, run_query
from pipeline.tables.schemas import AUDITS, TABLES
from pipeline.workers import on_engine

_ASKED_BY_ROOM = (
    "no answer in time; asked room by room, which misses rooms that nobody lists any more; the next run asks for the"
    " whole day again; raise collect.timeout_s if that does not help"
)


# --- collect: API -> raw ------------------------------------------------------------------------------------------


def collect(
    app: App, period: Period | None = None, *, project: str | None = None, sources: Sequence[Source] = SOURCES
) -> Outcome:
    """Ask EnableX for every day of the period (by default lookback and today) and land each reply.

    Rooms are a snapshot of now: they are asked for when today is in the period.
    """
    period = period or lookback(app)
    today = app.clock().date()
    asks = [
        Ask(source, name, day)
        for day in period
        for name in chosen_projects(app.settings, project)
        for source in sources
        if source in DAILY_SOURCES or day == today
    ]
    return collect_tasks(app, asks)


def collect_tasks(app: App, asks: Iterable[Ask], label: str = "collect") -> Outcome:
    outcome = Outcome("collect")
    at_once = app.settings.collect.concurrency * len(app.settings.projects)  # each client holds its project to its own
    for done in app.each(label, asks, partial(collect_day, app), at_once=at_once, group=lambda ask: ask.project):
        record_item(app, outcome, done, done.result)
        if done.result and "days_split" in done.result:
            outcome.fail(done.item, _ASKED_BY_ROOM)
    return outcome


# --- build: raw -> tables -----------------------------------------------------------------------------------------


def build(
    app: App,
    period: Period | None = None,
    *,
    wanted: Sequence[str] = tuple(TABLES),
    project: str | None = None,
) -> Outcome:
    """Build every stale day of the period (by default of all that was ever landed), each table's day replaced whole."""
    builder = builder_for(app)
    outcome = Outcome("build")
    stale = [builder.stale(name, period, wanted) for name in chosen_projects(app.settings, project)]
    todo = [chain for stretches in stale if stretches for chain in chains(stretches, app.engine.workers)]
    at_once = app.engine.at_once if todo else 1
    for built in app.each("build", todo, on_engine(app, _build_chain), at_once=at_once, group=str):
        for done in _stretches(built):
            record_item(app, outcome, done, done.result.counts if done.result else None)
            outcome.unknown_fields.update(done.result.unknown_fields if done.result else {})
    return outcome


# --- copy-media: archive listings minus manifests -> vault ----------------------------------------------------------


def copy_media(app: App, *, limit: int | None = None, fresh: bool = True, patient: bool = False) -> Outcome:
    """Copy every listed file that no manifest names, earliest deadline first; then look again at what was copied.

    With `fresh`, archive listings are asked for again first, for as long as their files may live. `patient` as the
    scheduler is, it leaves alone what failed a short while ago; never a file at risk.
    """
    outcome = Outcome("copy-media")
    projects = chosen_projects(app.settings, None)
    if app.settings.vault.lock.mode != "off":
        app.vault.require_lock()
    outcome.notice("aborted_uploads", *copying.abort_old_uploads(app))
    if fresh:
        days = copying.media_days(app)
        outcome.absorb(collect_tasks(app, [Ask("archive", name, day) for day in days for name in projects]))
    plans = [copying.plan(app, name) for name in projects]
    waiting = sorted((item for plan in plans for item in plan.waiting), key=lambda item: (item.expires_at, str(item)))
    resting = app.ledger.resting(app.clock()) if patient else set()
    due = [item for item in waiting if str(item) not in resting or item.is_at_risk(app.clock())]
    settled = _copy_waiting(app, outcome, due[:limit])
    _recheck(app, outcome, [recheck for plan in plans for recheck in plan.rechecks])
    now = app.clock()
    outcome.at_risk = [item.deadline(now) for item in waiting if item not in settled and item.is_at_risk(now)]
    return outcome


def _copy_waiting(app: App, outcome: Outcome, waiting: Sequence[MediaItem]) -> set[MediaItem]:
    """Copy files in order of deadline; those that are stored or lost now."""
    settled: dict[MediaItem, Entry] = {}
    refused: set[str] = set()
    doubts: list[tuple[MediaItem, FileError]] = []
    copy, at_once = on_engine(app, copying.copy_item), app.settings.media.concurrency
    for done in app.each("copy media", waiting, copy, at_once=at_once, group=lambda item: item.file.project):
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
        if entry := copying.settle_doubt(
            app, item, doubt, is_host_well=project in well, is_fresh_refused=project in refused
        ):
            settled[item] = entry
        else:
            outcome.fail(
                item, app.redact(f"{doubt}; gone, or the credentials are at fault: nothing else was to be had")
            )
    for item, entry in settled.items():
        outcome.succeeded(**_amounts(entry))
        if entry.state == "unreadable":
            outcome.notice("unreadable", str(item))
        if entry.state == "lost":
            outcome.lost.append(item.deadline(app.clock()))
    app.ledger.forget_attempts([str(item) for item in settled])
    return set(settled)


def _amounts(entry: Entry) -> dict[str, int]:
    return {
        "files_copied": int(entry.key is not None),
        "bytes_copied": entry.size_bytes or 0,
        "files_adopted": int(entry.adopted_from is not None),
        "unreadable": int(entry.state == "unreadable"),
        "lost": int(entry.state == "lost"),
    }


def _recheck(app: App, outcome: Outcome, rechecks: Sequence[Recheck]) -> None:
    """Compare copies with what the file host has now; other bytes there are stored as well."""
    recheck, at_once = partial(copying.recheck_item, app), app.settings.media.concurrency
    done_all = app.each("look again", rechecks, recheck, at_once=at_once, group=lambda one: one.item.file.project)
    for done in done_all:
        if done.result is None:
            record_item(app, outcome, done, None)
            continue
        has_changed, is_gone = done.result.key != done.item.entry.key, done.result.gone_at is not None
        outcome.succeeded(files_rechecked=1, files_changed=int(has_changed), files_gone=int(is_gone))
        if has_changed:
            outcome.notice("changed", str(done.item.item))


# --- audit-media: manifests against the vault ------------------------------------------------------------------------


def audit_media(
    app: App, period: Period | None = None, *, sample_percent: float = 1, project: str | None = None
) -> Outcome:
    """Hold manifests and files of the period (by default all) against each other; re-read so many percent of the files.

    What was found is kept in the vault, and table `audits` built of it. Nothing is mended.
    """
    outcome = Outcome("audit-media")
    at_once = app.settings.media.concurrency
    audits = [auditing.begin(app, name, period) for name in chosen_projects(app.settings, project)]
    days = [day for audit in audits for day in audit.days]
    for checked in app.each("audit", days, partial(auditing.check_day, app.vault), at_once=at_once, group=str):
        record_item(app, outcome, checked, checked.result)
    sample = [file for audit in audits for file in audit.sample(sample_percent)]
    for read in app.each("read again", sample, partial(auditing.read_again, app.vault), at_once=at_once, group=str):
        record_item(app, outcome, read, read.result)
    for audit in audits:
        rows = audit.rows()
        for problem in auditing.problems(rows):
            outcome.fail(problem["key"], problem_text(problem), project=audit.project)
            outcome.counts["problems"] += 1
        outcome.notice("unexpected", *auditing.unexpected(rows))
        if day := auditing.write_record(app.vault, audit, rows, copying.lock(app, app.clock())):
            outcome.failed += build(app, day, wanted=(AUDITS.name,), project=audit.project).failed
    return outcome


# --- nightly: all of it -------------------------------------------------------------------------------------------


def nightly(app: App) -> Outcome:
    """What a cron runs: collect what is missing or may still change, build, copy media, build what that changed."""
    outcome = Outcome("nightly")
    asks = [ask for name in chosen_projects(app.settings, None) for ask in missing_asks(app, name)]
    outcome.absorb(collect_tasks(app, sorted(asks, key=lambda ask: (ask.day, ask.project, ask.source))))
    collected = Period(min(ask.day for ask in asks), max(ask.day for ask in asks)).widened(AFFECTED_DAYS)
    older = {period for name in app.settings.projects for period in copying.older_waiting(app, name)}
    outcome.absorb(build(app, collected))
    outcome.absorb(copy_media(app, fresh=False))
    for period in (collected, *sorted(older)):
        outcome.absorb(build(app, period))
    return outcome


def missing_asks(app: App, project: str) -> list[Ask]:
    """Lookback, today, and every day since the project began that was never asked for after it had settled."""
    covered = lookback(app)
    asks = [Ask("rooms", project, app.clock().date())]
    for source in DAILY_SOURCES:
        asked = raw.last_asked(app.vault, source, project)
        since = app.settings.projects[project].since or min([*asked, covered.first])
        for day in Period(min(since, covered.last), covered.last):
            if day in covered or not is_settled(day, asked.get(day), app.settings.collect.lookback_days):
                asks.append(Ask(source, project, day))
    return asks


# --- backfill: months or years ------------------------------------------------------------------------------------


def plan_backfill(app: App, period: Period, *, project: str | None = None) -> Outcome:
    """What a backfill of the period would ask for, and what that costs; nothing is asked."""
    asks = backfilling.missing_asks(app, chosen_projects(app.settings, project), period)
    outcome = Outcome("backfill plan", details=backfilling.estimate(app, asks))
    outcome.succeeded(len(asks), requests=len(asks))
    return outcome


def backfill(app: App, period: Period, *, project: str | None = None) -> Outcome:
    """Collect what is missing of the period and build it, oldest first, eight weeks at a time.

    What is missing is computed from the vault's receipts: run it again to go on, or to try again what failed. When
    eight weeks are given up without one answer, the rest is not tried.
    """
    outcome = Outcome("backfill")
    asks = backfilling.missing_asks(app, chosen_projects(app.settings, project), period)
    portions = list(backfilling.portions(asks, period))
    for number, portion in enumerate(portions, start=1):
        collected = collect_tasks(app, portion.asks, f"collect {portion} ({number} of {len(portions)})")
        outcome.absorb(collected)
        if not collected.did and not all(failure.was_tried for failure in collected.failed):
            for ask in (ask for later in portions[number:] for ask in later.asks):
                outcome.fail(ask, NOT_TRIED, was_tried=False)
            break
        if portion.whole:
            built = build(app, portion.whole, project=project)
            built.failed.clear()  # a day that cannot be built is tried again, and named, at the end
            outcome.absorb(built)
    outcome.absorb(build(app, period.widened(AFFECTED_DAYS), project=project))
    return outcome


# --- billing export: tables -> a numbered export --------------------------------------------------------------------


# --- rooms: a rooms file -> EnableX --------------------------------------------------------------------------------


# --- reading ------------------------------------------------------------------------------------------------------


def query(app: App, sql: str) -> AbstractContextManager[pa.RecordBatchReader]:
    """The rows that answer one SQL statement over the tables, as they come."""
    return open_query(app.lake, sql)


def report(app: App, day: date) -> str:
    """One day as a page of HTML: usage, hours, lateness, media with deadlines, audits; of every project."""
    lookback_days = app.settings.collect.lookback_days
    settled: dict[str, bool | None] = {}
    for name in chosen_projects(app.settings, None):
        asked = raw.last_asked(app.vault, "cdr", name).get(day)
        settled[name] = is_settled(day, asked, lookback_days) if asked else None
    answers = {name: run_query(app.lake, sql.format(day=day)).to_pylist() for name, sql in DAY_SQL.items()}
    return day_page(DayFacts(day, app.clock(), settled, **answers))


def doctor(app: App, *, probe: bool = False) -> Outcome:
    """Try every part of the set-up; with `probe` also ask the live account what EnableX's documents leave open."""
    outcome = Outcome("doctor")
    found = list(examine(app))
    for check in found:
        if check.ok is False:
            outcome.fail(check.name, f"{check.said}; {check.next_step}")
        else:
            outcome.succeeded(checks_passed=int(check.ok is True), not_tried=int(check.ok is None))
    outcome.details["checks"] = [asdict(check) for check in found]
    if probe:
        answers = ask_open_questions(app)
        outcome.details["answers"] = [asdict(answer) for answer in answers]
        outcome.details["toml"] = as_toml(answers, app.clock())
    return outcome


def status(app: App, *, in_full: bool = True) -> Outcome:
    """What is done, missing, at risk, lost: from the stores; the last good runs: from the ledger.

    Lateness and files that are not listed are read from many days of rows, and sizes from the names of all objects: too
    much for every quarter of an hour, so that what is not wanted `in_full` goes without.
    """
    now = app.clock()
    outcome = Outcome("status")
    tries = app.ledger.tries()
    late_rows = run_query(app.lake, lateness_sql(now.date())).to_pylist() if in_full else []
    late = {row["project"]: row for row in late_rows}
    unlisted = run_query(app.lake, unlisted_sql(now)).to_pylist() if in_full else []
    projects = {}
    for name in chosen_projects(app.settings, None):
        media = copying.plan(app, name)
        outcome.lost += [item.deadline(now) for item in media.lost]
        outcome.at_risk += [
            {**item.deadline(now), "failed_tries": tries.get(str(item), 0)}
            for item in media.waiting
            if item.is_at_risk(now)
        ]
        projects[name] = {
            **_days_and_answers(app, name),
            **_files(app, name, media),
            "last_good_runs": _good_runs(app, name),
            "lateness": lateness(late[name], app.settings.collect.lookback_days) if name in late else None,
            "unlisted": [f"{row['day']} {row['conf_num']}" for row in unlisted if row["project"] == name],
        }
    outcome.details = {
        "now": now.isoformat(),
        "projects": projects,
        "stores": {
            name: store_sizes((stored.key, stored.size_bytes) for stored in store.list(""))
            for name, store in (("lake", app.lake), ("vault", app.vault))
            if in_full
        },
        "last_good_runs": dict(app.ledger.last_good_runs()),
        "next_runs": {name: utc_text(moment) for name, moment in next_runs(app.settings, now).items() if moment},
    }
    return outcome


def _days_and_answers(app: App, project: str) -> dict[str, Any]:
    """How the days of a project stand, and when EnableX last answered each question, and the last audit was."""
    asked = {source: raw.last_asked(app.vault, source, project) for source in SOURCES}
    last: dict[str, datetime] = {source: max(moments.values()) for source, moments in asked.items() if moments}
    if audits := audit_keys(app.vault, project):
        last["audit"] = max(audits[max(audits)].values())
    since, lookback_days = app.settings.projects[project].since, app.settings.collect.lookback_days
    return {
        "days": day_states(asked["cdr"], since, app.clock().date(), lookback_days),
        "last_done": {what: moment.isoformat() for what, moment in last.items()},
    }


def _good_runs(app: App, project: str) -> dict[str, str]:
    """When each command last did its work for a project; the `nightly` of its own is one like that of all."""
    newest: dict[str, str] = {}
    for command, ended_at in app.ledger.good_runs(project).items():
        name = command.removesuffix(f" {project}")
        newest[name] = max(ended_at, newest.get(name, ended_at))
    return newest


def _files(app: App, project: str, media: copying.MediaPlan) -> dict[str, Any]:
    """How many files of a project stand how, and the nearest deadline."""
    now, waiting = app.clock(), media.waiting
    columns = ["state", "size_bytes"]
    return {
        "media": media_states(parquet.read_arrow("media", columns=columns, project=project, lake=app.lake)),
        "waiting": len(waiting),
        "at_risk": sum(item.is_at_risk(now) for item in waiting),
        "next_deadline": waiting[0].expires_at.isoformat() if waiting else None,
        "hours_left": waiting[0].deadline(now)["hours_left"] if waiting else None,
    }


# --- what the flows share -----------------------------------------------------------------------------------------


def lookback(app: App) -> Period:
    today = app.clock().date()
    return Period(today - timedelta(days=app.settings.collect.lookback_days), today)


def _build_chain(app: App, chain: Chain) -> list[Built | PipelineError]:
    results = []
    for result in builder_for(app).build(chain):
        results.append(result)
        if app.is_stopping() and len(results) < len(chain.stretches):
            raise Stopped(f"asked to stop; {chain}: built up to {chain.stretches[len(results) - 1].period.last}")
    return results


def _stretches(chain: Done[Chain, list[Built | PipelineError]]) -> Iterator[Done[Stretch, Built]]:
    """What came of each stretch of a chain."""
    stretches = chain.item.stretches
    results: Sequence[Built | PipelineError | None] = chain.result or [chain.error] * len(stretches)
    for stretch, result in zip(stretches, results, strict=True):
        if isinstance(result, Built):
            yield Done(stretch, result)
        else:
            yield Done(stretch, error=result, not_tried=chain.not_tried)
