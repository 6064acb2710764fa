"""When each job is due: cron texts from the settings, moments in UTC. What a job does is in `jobs.timetable`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from pipeline.core.settings.sections import Settings


@dataclass(frozen=True)
class Alarm:
    """One line of the timetable: `cron` is five fields in UTC; `projects` are whom the job is for."""

    name: str
    job: str
    cron: str
    projects: tuple[str, ...]


def alarms(settings: Settings) -> list[Alarm]:
    """Every alarm, the most urgent first; a project with a time of its own has its own nightly."""
    schedule, every = settings.schedule, tuple(settings.projects)
    own = {name: project.nightly for name, project in settings.projects.items() if project.nightly}
    shared = tuple(name for name in every if name not in own)
    return [
        Alarm("copy-media", "copy-media", schedule.copy_media, every),
        *([Alarm("nightly", "nightly", schedule.nightly, shared)] if shared else []),
        *(Alarm(f"nightly {name}", "nightly", cron, (name,)) for name, cron in own.items()),
        Alarm("rooms apply", "rooms apply", schedule.rooms_apply, every),
        Alarm("rooms snapshot", "rooms snapshot", schedule.rooms_snapshot, every),
        Alarm("audit-media", "audit-media", schedule.audit_media, every),
    ]


def trigger(cron: str) -> Any:
    """APScheduler's trigger of a cron text."""
    from apscheduler.triggers.cron import CronTrigger  # noqa: PLC0415 - few commands need it

    return CronTrigger.from_crontab(cron, UTC)


def is_due(cron: str, last_done: datetime | None, now: datetime) -> bool:
    """Whether a moment of the cron text has come since the last run that did something began."""
    if last_done is None:
        return True
    due_at = trigger(cron).get_next_fire_time(None, last_done + timedelta(seconds=1))
    return due_at is not None and due_at <= now


def next_runs(settings: Settings, now: datetime) -> Mapping[str, datetime | None]:
    """The next moment of each alarm; None for one that never comes."""
    return {alarm.name: trigger(alarm.cron).get_next_fire_time(None, now) for alarm in alarms(settings)}
