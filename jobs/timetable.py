"""What each job does. When it is due is in the settings (`[schedule]`, and `nightly` of a project).

| job            | by default         | does |
|----------------|--------------------|---|
| copy-media     | every 15 minutes   | what is listed and not yet stored, nearest deadline first; failed files rest |
| nightly        | 02:15 UTC          | every missing day, tables, media; for a project at its own time if it has one |
| rooms apply    | hourly             | rooms as the rooms file says |
| rooms snapshot | 23:50 UTC          | how rooms are at the end of the day, before those made for it are gone |
| audit-media    | Sundays 03:30 UTC  | the vault against its manifests |

What a job has to do is computed from the stores when it runs, never from what the clock remembers: so a missed alarm is
run late (no misfire limit), several missed ones are one (coalesce), and a job never runs beside itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from jobs.apply_rooms import apply_rooms
from pipeline import flows
from pipeline.app import App
from pipeline.core.models import Outcome

JOBS: Mapping[str, Callable[[App], Outcome]] = {
    "copy-media": partial(flows.copy_media, patient=True),
    "nightly": flows.nightly,
    "rooms apply": apply_rooms,
    "rooms snapshot": partial(flows.collect, sources=("rooms",)),
    "audit-media": flows.audit_media,
}

ALARM_CLOCK: dict[str, Any] = {"misfire_grace_time": None, "coalesce": True, "max_instances": 1}
