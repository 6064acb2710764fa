"""Every job: what it runs, and when it is due (UTC cron expressions of `[schedule]` and `projects.*.nightly`).

| job            | by default         | runs |
|----------------|--------------------|---|
| media copy     | every 15 minutes   | listed files not yet stored, earliest deadline first; failed files back off |
| nightly        | 02:15 UTC          | every missing day, tables, media; for a project at its own time if it has one |
| rooms apply    | hourly             | rooms as the rooms file has them |
| rooms snapshot | 23:50 UTC          | rooms at the end of the day, before ad-hoc rooms disappear |
| media audit    | Sundays 03:30 UTC  | the vault against its manifests |

The work of a job is computed from the stores when it runs. A missed fire time is run late (no misfire limit), several
missed ones run once (coalesce), and a job never runs beside itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from jobs.nightly import nightly
from jobs.rooms import apply_rooms
from pipeline.core.context import App
from pipeline.core.models import RunResult
from pipeline.core.settings.sections import Settings
from pipeline.ingest.collect import collect
from pipeline.media.audit import audit_media
from pipeline.media.copy import copy_media


@dataclass(frozen=True)
class JobSchedule:
    """When a job runs: `cron` is five fields in UTC; `projects` are those that the job is for."""

    name: str
    job: str
    cron: str
    projects: tuple[str, ...]


def job_schedules(settings: Settings) -> list[JobSchedule]:
    """Every alarm, the most urgent first; a project with a time of its own has its own nightly."""
    schedule, every = settings.schedule, tuple(settings.projects)
    own = {name: project.nightly for name, project in settings.projects.items() if project.nightly}
    shared = tuple(name for name in every if name not in own)
    return [
        JobSchedule("media copy", "media copy", schedule.copy_media, every),
        *([JobSchedule("nightly", "nightly", schedule.nightly, shared)] if shared else []),
        *(JobSchedule(f"nightly {name}", "nightly", cron, (name,)) for name, cron in own.items()),
        JobSchedule("rooms apply", "rooms apply", schedule.rooms_apply, every),
        JobSchedule("rooms snapshot", "rooms snapshot", schedule.rooms_snapshot, every),
        JobSchedule("media audit", "media audit", schedule.audit_media, every),
    ]


def cron_trigger(cron: str) -> Any:
    """APScheduler's trigger of a cron text."""
    from apscheduler.triggers.cron import CronTrigger  # noqa: PLC0415 - few commands need it

    return CronTrigger.from_crontab(cron, UTC)


def is_due(cron: str, last_done: datetime | None, now: datetime) -> bool:
    """Whether a moment of the cron text has come since the last run that did something began."""
    if last_done is None:
        return True
    due_at = cron_trigger(cron).get_next_fire_time(None, last_done + timedelta(seconds=1))
    return due_at is not None and due_at <= now


def next_runs(settings: Settings, now: datetime) -> Mapping[str, datetime | None]:
    """The next moment of each alarm; None for one that never comes."""
    return {job.name: cron_trigger(job.cron).get_next_fire_time(None, now) for job in job_schedules(settings)}


JOBS: Mapping[str, Callable[[App], RunResult]] = {
    "media copy": partial(copy_media, respect_backoff=True),
    "nightly": nightly,
    "rooms apply": apply_rooms,
    "rooms snapshot": partial(collect, sources=("rooms",)),
    "media audit": audit_media,
}
APSCHEDULER_DEFAULTS: dict[str, Any] = {"misfire_grace_time": None, "coalesce": True, "max_instances": 1}
