"""Months or years: what is missing, collected and built oldest first, eight weeks at a time."""

from __future__ import annotations

from pipeline.core.context import SKIPPED, App, chosen_projects
from pipeline.core.models import Period, RunResult
from pipeline.ingest.backfill import BackfillPlan, estimate, missing_days, portions
from pipeline.ingest.collect import collect_tasks
from pipeline.tables.build import AFFECTED_DAYS, build


def plan_backfill(app: App, period: Period, *, project: str | None = None) -> RunResult[BackfillPlan]:
    """What a backfill of the period would ask for, and what that costs; nothing is asked."""
    tasks = missing_days(app, chosen_projects(app.settings, project), period)
    outcome = RunResult("backfill plan", details=estimate(app, tasks))
    outcome.add_success(len(tasks), requests=len(tasks))
    return outcome


def backfill(app: App, period: Period, *, project: str | None = None) -> RunResult:
    """Collect what is missing of the period and build it, oldest first, eight weeks at a time.

    What is missing is computed from the vault's receipts: run it again to go on, or to try again what failed. When
    eight weeks are skipped without one response, so is the rest.
    """
    outcome = RunResult("backfill")
    tasks = missing_days(app, chosen_projects(app.settings, project), period)
    todo = list(portions(tasks, period))
    for number, portion in enumerate(todo, start=1):
        collected = collect_tasks(app, portion.tasks, f"collect {portion} ({number} of {len(todo)})")
        outcome.merge(collected)
        if not collected.items_succeeded and not all(failure.attempted for failure in collected.failed):
            for task in (task for later in todo[number:] for task in later.tasks):
                outcome.add_failure(task, SKIPPED, attempted=False)
            break
        if portion.whole:
            built = build(app, portion.whole, project=project)
            built.failed.clear()  # a day that cannot be built is tried again, and named, at the end
            outcome.merge(built)
    outcome.merge(build(app, period.widened(AFFECTED_DAYS), project=project))
    return outcome
