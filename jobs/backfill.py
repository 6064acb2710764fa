"""Collect and build a long period: missing days only, oldest first, in portions of eight weeks."""

from __future__ import annotations

from pipeline.core.context import SKIPPED, App, chosen_projects
from pipeline.core.models import Period, RunResult
from pipeline.ingest.backfill import BackfillPlan, estimate, missing_days, portions
from pipeline.ingest.collect import collect_tasks
from pipeline.tables.batches import AFFECTED_DAYS
from pipeline.tables.build import build


def plan_backfill(app: App, period: Period, *, project: str | None = None) -> RunResult[BackfillPlan]:
    """The requests of a backfill of the period, and their estimated cost; sends no request."""
    tasks = missing_days(app, chosen_projects(app.settings, project), period)
    outcome = RunResult("backfill plan", details=estimate(app, tasks))
    outcome.add_success(len(tasks), requests=len(tasks))
    return outcome


def backfill(app: App, period: Period, *, project: str | None = None) -> RunResult:
    """Collect the missing days of the period and build them, oldest first, in portions of eight weeks.

    Missing days are computed from the vault's receipts, so another run resumes it and retries failed days. If a portion
    gets no response and skips items, the later portions are skipped too.
    """
    outcome = RunResult("backfill")
    tasks = missing_days(app, chosen_projects(app.settings, project), period)
    pending = list(portions(tasks, period))
    for number, portion in enumerate(pending, start=1):
        collected = collect_tasks(app, portion.tasks, f"collect {portion} ({number} of {len(pending)})")
        outcome.merge(collected)
        if not collected.items_succeeded and not all(failure.attempted for failure in collected.failed):
            for task in (task for later in pending[number:] for task in later.tasks):
                outcome.add_failure(task, SKIPPED, attempted=False)
            break
        if portion.whole:
            built = build(app, portion.whole, project=project)
            built.failed.clear()  # the last build retries these days and reports their failures
            outcome.merge(built)
    outcome.merge(build(app, period.widened(AFFECTED_DAYS), project=project))
    return outcome
