"""One line per job: name, trigger, flow. Every option of the alarm clock is said aloud.

What a job has to do is computed from the stores when it runs, never from what the clock remembers: so a missed alarm is
run late (no misfire limit), several missed ones are one (coalesce), and a job never runs beside itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jobs.apply_rooms import apply_rooms
from pipeline import flows
from pipeline.app import App
from pipeline.model import Outcome


@dataclass(frozen=True)
class Job:
    """One alarm: `cron` is five fields in UTC."""

    name: str
    cron: str
    run: Callable[[App], Outcome]


TIMETABLE = (
    Job("copy-media", "*/15 * * * *", flows.copy_media),
    Job("nightly", "15 2 * * *", flows.nightly),
    Job("audit-media", "30 3 * * 0", flows.audit_media),
    Job("rooms apply", "5 * * * *", apply_rooms),
)

ALARM: dict[str, Any] = {"misfire_grace_time": None, "coalesce": True, "max_instances": 1}
