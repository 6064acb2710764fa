"""Every job: what it runs, and when it is due (UTC cron expressions of `[schedule]` and `projects.*.nightly`).

| job            | default            | work |
|----------------|--------------------|---|
| media copy     | every 15 minutes   | copies pending files, earliest deadline first, with backoff for failed files |
| nightly        | 02:15 UTC          | collects missing days, builds, copies media; a project may have its own time |
| rooms apply    | hourly             | applies the rooms file |
| rooms snapshot | 23:50 UTC          | collects the rooms at the end of the day, before ad-hoc rooms disappear |
| media audit    | Sundays 03:30 UTC  | compares the vault with its manifests |

The work of a job is computed from the stores when it runs. A missed fire time runs late (no misfire limit), several
missed ones run once (coalesce), and a job never runs concurrently with itself.
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
    """When a job runs, and for which projects. `cron` has five fields, in UTC."""

    name: str
    job: str
    cron: str
    projects: tuple[str, ...]


def job_schedules(settings: Settings) -> list[JobSchedule]:
    """All job schedules, most urgent first. A project with `nightly` has its own nightly job."""
    schedule, projects = settings.schedule, tuple(settings.projects)
    own = {name: project.nightly for name, project in settings.projects.items() if project.nightly}
    shared = tuple(name for name in projects if name not in own)
    return [
        JobSchedule("media copy", "media copy", schedule.copy_media, projects),
        *([JobSchedule("nightly", "nightly", schedule.nightly, shared)] if shared else []),
        *(JobSchedule(f"nightly {name}", "nightly", cron, (name,)) for name, cron in own.items()),
        JobSchedule("rooms apply", "rooms apply", schedule.rooms_apply, projects),
        JobSchedule("rooms snapshot", "rooms snapshot", schedule.rooms_snapshot, projects),
        JobSchedule("media audit", "media audit", schedule.audit_media, projects),
    ]


def cron_trigger(cron: str) -> Any:
    """APScheduler's trigger for a cron expression."""
    from apscheduler.triggers.cron import CronTrigger  # noqa: PLC0415 - few commands need it

    return CronTrigger.from_crontab(cron, UTC)


def is_due(cron: str, last_done: datetime | None, now: datetime) -> bool:
    """Whether a fire time has passed since `last_done`, the start of the last run that was not a total failure."""
    if last_done is None:
        return True
    due_at = cron_trigger(cron).get_next_fire_time(None, last_done + timedelta(seconds=1))
    return due_at is not None and due_at <= now


def next_runs(settings: Settings, now: datetime) -> Mapping[str, datetime | None]:
    """The next fire time of each job schedule; None if there is none."""
    return {job.name: cron_trigger(job.cron).get_next_fire_time(None, now) for job in job_schedules(settings)}


JOBS: Mapping[str, Callable[[App], RunResult]] = {
    "media copy": partial(copy_media, respect_backoff=True),
    "nightly": nightly,
    "rooms apply": apply_rooms,
    "rooms snapshot": partial(collect, sources=("rooms",)),
    "media audit": audit_media,
}
APSCHEDULER_DEFAULTS: dict[str, Any] = {"misfire_grace_time": None, "coalesce": True, "max_instances": 1}
