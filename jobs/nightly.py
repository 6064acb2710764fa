"""The nightly run: collect missing and provisional days, build, copy media, rebuild the changed days.

Once after each month it also sweeps the month (`pipeline.billing.sweep`).
"""

from __future__ import annotations

from pipeline.billing.sweep import newest_sweep_tasks
from pipeline.core.context import App, chosen_projects
from pipeline.core.models import Period, RunResult
from pipeline.ingest.backfill import missing_days
from pipeline.ingest.collect import CollectTask, collect_tasks
from pipeline.media.copy import copy_media, older_pending
from pipeline.tables.batches import AFFECTED_DAYS
from pipeline.tables.build import build


def nightly(app: App) -> RunResult:
    """Collect missing and provisional days and sweep the last month, build, copy media, and rebuild the days that the
    copies changed.
    """
    outcome = RunResult("nightly")
    projects = chosen_projects(app.settings, None)
    tasks = [CollectTask("rooms", name, app.clock().date()) for name in projects]
    tasks += missing_days(app, projects, policy="nightly")
    tasks += newest_sweep_tasks(app, projects)
    outcome.merge(collect_tasks(app, sorted(set(tasks), key=lambda task: (task.day, task.project, task.source))))
    collected = Period(min(task.day for task in tasks), max(task.day for task in tasks)).widened(AFFECTED_DAYS)
    older = {period for name in app.settings.projects for period in older_pending(app, name)}
    outcome.merge(build(app, collected))
    outcome.merge(copy_media(app, refresh_listings=False))
    for period in (collected, *sorted(older)):
        outcome.merge(build(app, period))
    return outcome
