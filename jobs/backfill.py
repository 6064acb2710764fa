"""Months or years: what is missing, collected and built oldest first, eight weeks at a time."""

from __future__ import annotations

from pipeline.core.context import NOT_TRIED, App, chosen_projects
from pipeline.core.models import Outcome, Period
from pipeline.ingest.backfill import estimate, missing_asks, portions
from pipeline.ingest.collect import collect_tasks
from pipeline.tables.build import AFFECTED_DAYS, build


def plan_backfill(app: App, period: Period, *, project: str | None = None) -> Outcome:
    """What a backfill of the period would ask for, and what that costs; nothing is asked."""
    asks = missing_asks(app, chosen_projects(app.settings, project), period)
    outcome = Outcome("backfill plan", details=estimate(app, asks))
    outcome.succeeded(len(asks), requests=len(asks))
    return outcome


def backfill(app: App, period: Period, *, project: str | None = None) -> Outcome:
    """Collect what is missing of the period and build it, oldest first, eight weeks at a time.

    What is missing is computed from the vault's receipts: run it again to go on, or to try again what failed. When
    eight weeks are given up without one answer, the rest is not tried.
    """
    outcome = Outcome("backfill")
    asks = missing_asks(app, chosen_projects(app.settings, project), period)
    todo = list(portions(asks, period))
    for number, portion in enumerate(todo, start=1):
        collected = collect_tasks(app, portion.asks, f"collect {portion} ({number} of {len(todo)})")
        outcome.absorb(collected)
        if not collected.did and not all(failure.was_tried for failure in collected.failed):
            for ask in (ask for later in todo[number:] for ask in later.asks):
                outcome.fail(ask, NOT_TRIED, was_tried=False)
            break
        if portion.whole:
            built = build(app, portion.whole, project=project)
            built.failed.clear()  # a day that cannot be built is tried again, and named, at the end
            outcome.absorb(built)
    outcome.absorb(build(app, period.widened(AFFECTED_DAYS), project=project))
    return outcome
