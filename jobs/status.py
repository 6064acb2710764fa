"""The state of every project from the stores and the run store: days, files, lateness, sizes, next runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from jobs.schedule import next_runs
from pipeline.core.context import App, chosen_projects
from pipeline.core.models import SOURCES, RunResult, utc_text
from pipeline.ingest.settlement import DayStates, day_states
from pipeline.media.copy import MediaPlan, plan
from pipeline.storage import raw
from pipeline.storage.audit_records import audit_keys
from pipeline.tables import parquet
from pipeline.tables.query import run_query


@dataclass(frozen=True)
class FileTotals:
    """Files in one state, and their size."""

    files: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class SuspenseTotals:
    """Open records in suspense with one reason, and whole minutes at stake, as far as known.

    A record with several reasons counts for each.
    """

    records: int
    at_stake_min: int


@dataclass(frozen=True)
class ObjectTotals:
    """Objects of one kind in a store, and their size."""

    objects: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class Lateness:
    """Hours between writing and first collection of a record, over the last 31 days.

    `known_after`: share of the rows by step; `latest_h`, `settled_h`: hours until the last row was first collected, and
    until the last change.
    """

    rows: int
    known_after: dict[str, float]
    latest_h: float
    settled_h: float
    hint: str | None


@dataclass(frozen=True)
class DriftedField:
    """An undocumented field: its path, the first day that has it, and its share of the documents of the last such day.

    `example` is null if the field is empty, a secret, or about a person.
    """

    path: str
    first_day: str
    share: float
    example: str | None


@dataclass(frozen=True)
class ProjectStatus:
    """One project. `last_done`: time of the last response by source, and of the last audit; `media`: files by state;
    `next_deadline`, `hours_left`: of the most urgent pending file; `unlisted`: recorded sessions without a file;
    `suspense`: open records by reason; `drift`: undocumented fields of the last 31 days."""

    days: DayStates
    last_done: dict[str, str]
    media: dict[str, FileTotals]
    pending: int
    at_risk: int
    next_deadline: str | None
    hours_left: float | None
    last_good_runs: dict[str, str]
    lateness: Lateness | None
    unlisted: list[str]
    suspense: dict[str, SuspenseTotals] = field(default_factory=dict)
    drift: list[DriftedField] = field(default_factory=list)


@dataclass(frozen=True)
class StatusReport:
    """Output of `postroom status`. Times are ISO 8601. `stores`: objects by store and kind; empty if not computed."""

    now: str
    projects: dict[str, ProjectStatus]
    stores: dict[str, dict[str, ObjectTotals]] = field(default_factory=dict)
    last_good_runs: dict[str, str] = field(default_factory=dict)
    next_runs: dict[str, str] = field(default_factory=dict)


LATENESS_SQL = """
WITH lately AS (SELECT * FROM cdr WHERE day >= DATE '{first}'),
     days AS (SELECT project, day, min(first_seen_at) AS began FROM lately GROUP BY ALL),
     seen AS (
        SELECT project, coalesce(trans_at, signal_disconnected_at, room_disconnected_at) AS written_at,
               first_seen_at, changed_at
        FROM lately JOIN days USING (project, day) WHERE began < day + INTERVAL 2 DAY),
     late AS (
        SELECT project, epoch(first_seen_at - written_at) / 3600 AS known_h,
               epoch(greatest(first_seen_at, changed_at) - written_at) / 3600 AS settled_h
        FROM seen WHERE written_at IS NOT NULL)
SELECT project, count(*) AS rows, max(known_h) AS latest_h, max(settled_h) AS settled_h,
       {shares}
FROM late GROUP BY project
"""
"""Days first collected two days or more after their start (a backfill) are left out: they do not measure lateness."""

LATENESS_DAYS = 31
_LATENESS_STEPS_H = {"1 h": 1, "6 h": 6, "1 day": 24, "2 days": 48, "3 days": 72}


def lateness_sql(today: date) -> str:
    """One row per project: hours between writing and first collection of the rows of the last 31 days."""
    shares = ", ".join(f"avg((known_h <= {hours})::INT) AS within_{hours}_h" for hours in _LATENESS_STEPS_H.values())
    return LATENESS_SQL.format(first=today - timedelta(days=LATENESS_DAYS), shares=shares)


def lateness(row: Mapping[str, Any], lookback_days: int) -> Lateness:
    """One row of `lateness_sql`, rounded. `hint` is set if rows changed on the last day of the lookback or later."""
    is_short = row["settled_h"] > (lookback_days - 1) * 24
    return Lateness(
        rows=row["rows"],
        known_after={step: round(row[f"within_{hours}_h"], 4) for step, hours in _LATENESS_STEPS_H.items()},
        latest_h=round(row["latest_h"], 1),
        settled_h=round(row["settled_h"], 1),
        hint=f"rows arrived or changed up to {row['settled_h'] / 24:.1f} days after they were written;"
        f" collect.lookback_days = {lookback_days} may be too short"
        if is_short
        else None,
    )


UNLISTED_SQL = """
WITH recorded AS (
        SELECT project, conf_num, min(day) AS day,
               max(coalesce(signal_disconnected_at, room_disconnected_at, trans_at)) AS ended_at
        FROM cdr WHERE room_auto_recording AND day >= DATE '{first}' GROUP BY project, conf_num),
     listed AS (SELECT DISTINCT project, conf_num FROM media WHERE day >= DATE '{first}')
SELECT project, day, conf_num FROM recorded ANTI JOIN listed USING (project, conf_num)
WHERE ended_at < TIMESTAMPTZ '{ended_before}' ORDER BY project, day, conf_num
"""

_LISTED_WITHIN = timedelta(hours=24)
"""An archive record may appear hours after its session (enablex-api.md section 12)."""


def unlisted_sql(now: datetime) -> str:
    """Sessions of the last 31 days, in rooms with automatic recording, without a listed file 24 h after their end."""
    first = now.date() - timedelta(days=LATENESS_DAYS)
    return UNLISTED_SQL.format(first=first, ended_before=(now - _LISTED_WITHIN).isoformat())


DRIFT_SQL = """
SELECT project, path, min(day) AS first_day, arg_max(share, day) AS share,
       arg_max(example, day) AS example
FROM drift GROUP BY project, source, path HAVING max(day) >= DATE '{first}' ORDER BY project, source, path
"""


def drifted_fields(rows: Iterable[Mapping[str, Any]], project: str) -> list[DriftedField]:
    """The rows of `DRIFT_SQL` of one project."""
    return [
        DriftedField(row["path"], str(row["first_day"]), round(row["share"], 4), row["example"])
        for row in rows
        if row["project"] == project
    ]


def store_sizes(listing: Iterable[tuple[str, int]]) -> dict[str, ObjectTotals]:
    """Objects and bytes by kind (the first part of the key), from (key, size) in any order."""
    objects: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for key, size_bytes in listing:
        kind = key.partition("/")[0]
        objects[kind] += 1
        sizes[kind] += size_bytes
    return {kind: ObjectTotals(objects[kind], sizes[kind]) for kind in sorted(objects)}


def media_states(media: pa.Table) -> dict[str, FileTotals]:
    """Files and bytes by state, from columns `state` and `size_bytes` of `media`."""
    totals = {}
    for state in sorted(media["state"].unique().to_pylist()):
        sizes = media["size_bytes"].filter(pc.equal(media["state"], state))
        totals[state] = FileTotals(len(sizes), pc.sum(sizes).as_py() or 0)
    return totals


def suspense_by_reason(suspense: pa.Table) -> dict[str, SuspenseTotals]:
    """Open records and minutes by reason, from columns `decision`, `reasons` and `at_stake_min` of `suspense`."""
    records: Counter[str] = Counter()
    minutes: Counter[str] = Counter()
    for row in suspense.to_pylist():
        for reason in row["reasons"].split(", ") if row["decision"] == "open" else ():
            records[reason] += 1
            minutes[reason] += int(row["at_stake_min"] or 0)
    return {reason: SuspenseTotals(records[reason], minutes[reason]) for reason in sorted(records)}


def status(app: App, *, in_full: bool = True) -> RunResult[StatusReport]:
    """Days and files from the stores; last successful runs from the run store.

    Lateness and unlisted sessions need 31 days of rows, undocumented fields all days, and sizes a listing of all
    objects. This is too slow for every 15 minutes, so they are read only if `in_full`.
    """
    now = app.clock()
    outcome = RunResult("status")
    attempts = app.run_store.attempts()
    lateness_rows = run_query(app.lake, lateness_sql(now.date())).to_pylist() if in_full else []
    late = {row["project"]: row for row in lateness_rows}
    unlisted = run_query(app.lake, unlisted_sql(now)).to_pylist() if in_full else []
    drift_sql = DRIFT_SQL.format(first=now.date() - timedelta(days=LATENESS_DAYS))
    drift = run_query(app.lake, drift_sql).to_pylist() if in_full else []
    projects = {}
    for name in chosen_projects(app.settings, None):
        media = plan(app, name)
        outcome.lost += [item.deadline(now) for item in media.lost]
        outcome.at_risk += [
            {**item.deadline(now), "failed_tries": attempts.get(str(item), 0)}
            for item in media.pending
            if item.is_at_risk(now)
        ]
        projects[name] = _project_status(
            app,
            name,
            media,
            lateness=lateness(late[name], app.settings.collect.lookback_days) if name in late else None,
            unlisted=[f"{row['day']} {row['conf_num']}" for row in unlisted if row["project"] == name],
            drift=drifted_fields(drift, name),
        )
    report = StatusReport(
        now=now.isoformat(),
        projects=projects,
        stores={
            name: store_sizes((listed.key, listed.size_bytes) for listed in store.list(""))
            for name, store in (("lake", app.lake), ("vault", app.vault))
            if in_full
        },
        last_good_runs=dict(app.run_store.last_successes_by_command()),
        next_runs={name: utc_text(moment) for name, moment in next_runs(app.settings, now).items() if moment},
    )
    return outcome.with_details(report)


def _project_status(
    app: App,
    project: str,
    media: MediaPlan,
    *,
    lateness: Lateness | None,
    unlisted: list[str],
    drift: list[DriftedField],
) -> ProjectStatus:
    collected = {source: raw.last_collected(app.vault, source, project) for source in SOURCES}
    last_done: dict[str, datetime] = {source: max(times.values()) for source, times in collected.items() if times}
    if audits := audit_keys(app.vault, project):
        last_done["audit"] = max(audits[max(audits)].values())
    start_date, lookback_days = app.settings.projects[project].start_date, app.settings.collect.lookback_days
    now, pending, columns = app.clock(), media.pending, ["state", "size_bytes"]
    suspense = parquet.read_arrow(
        "suspense", columns=["decision", "reasons", "at_stake_min"], project=project, lake=app.lake
    )
    return ProjectStatus(
        days=day_states(collected["cdr"], start_date, now.date(), lookback_days),
        last_done={what: moment.isoformat() for what, moment in last_done.items()},
        media=media_states(parquet.read_arrow("media", columns=columns, project=project, lake=app.lake)),
        pending=len(pending),
        at_risk=sum(item.is_at_risk(now) for item in pending),
        next_deadline=pending[0].expires_at.isoformat() if pending else None,
        hours_left=pending[0].deadline(now)["hours_left"] if pending else None,
        last_good_runs=_last_successes(app, project),
        lateness=lateness,
        unlisted=unlisted,
        suspense=suspense_by_reason(suspense),
        drift=drift,
    )


def _last_successes(app: App, project: str) -> dict[str, str]:
    """Time of the last success of each command for a project; its own `nightly` counts as `nightly`."""
    newest: dict[str, str] = {}
    for command, ended_at in app.run_store.last_successes(project).items():
        name = command.removesuffix(f" {project}")
        newest[name] = max(ended_at, newest.get(name, ended_at))
    return newest
