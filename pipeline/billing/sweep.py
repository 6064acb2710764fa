"""The sweep of a month: before its final export each of its days is collected again, when the last one has settled.

So a record that arrived later than the lookback is not missed. The rule is a function of receipts and settings.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date, datetime

from pipeline.billing.month import BillingMonth, month_of
from pipeline.core.context import App, chosen_projects
from pipeline.core.errors import ConfigError
from pipeline.core.models import Period, RunResult
from pipeline.ingest.collect import CollectTask, collect_tasks
from pipeline.ingest.settlement import settled_on
from pipeline.storage import raw
from pipeline.tables.batches import AFFECTED_DAYS
from pipeline.tables.build import build


def sweep_date(month: BillingMonth, lookback_days: int) -> date:
    """The first UTC date on which collecting sweeps a month: `lookback_days`, but at least 1, after its end."""
    return settled_on(month.ends_at.date(), lookback_days)


def unswept(days: Iterable[date], last_collected: Mapping[date, datetime], swept_from: date) -> list[date]:
    """The collected days that were last collected before the sweep date."""
    return [day for day in days if day in last_collected and last_collected[day].date() < swept_from]


def sweep_tasks(app: App, projects: Iterable[str], month: BillingMonth) -> list[CollectTask]:
    """The CDRs of each required day that have to be collected again to sweep a month; none before its sweep date, or if
    `billing.sweep` is false. Days that were never collected are left to `missing_days`.
    """
    swept_from = sweep_date(month, app.settings.collect.lookback_days)
    if not app.settings.billing.sweep or app.clock().date() < swept_from:
        return []
    tasks = []
    for project in projects:
        start_date = app.settings.projects[project].start_date or date.min
        days = [day for day in month.required_days if day >= start_date]
        due = unswept(days, raw.last_collected(app.vault, "cdr", project), swept_from)
        tasks += [CollectTask("cdr", project, day) for day in due]
    return tasks


def newest_sweep_tasks(app: App, projects: Iterable[str]) -> list[CollectTask]:
    """The sweep of the newest month that can be swept, for the nightly run: usually the month before the current one,
    an earlier one before the sweep date.
    """
    month = month_of(app.clock(), app.settings.billing.time_zone).previous
    while app.clock().date() < sweep_date(month, app.settings.collect.lookback_days):
        month = month.previous
    return sweep_tasks(app, projects, month)


def sweep_month(app: App, month: BillingMonth, *, project: str | None = None) -> RunResult:
    """Sweep a month now, and build it.

    Raises:
        ConfigError: before the sweep date, or `billing.sweep` is false.
    """
    outcome, swept_from = RunResult("billing sweep"), sweep_date(month, app.settings.collect.lookback_days)
    if not app.settings.billing.sweep:
        raise ConfigError("billing.sweep is false; a final export needs no sweep")
    if app.clock().date() < swept_from:
        raise ConfigError(f"{month} can be swept from {swept_from} on, when its last day has settled")
    tasks = sweep_tasks(app, chosen_projects(app.settings, project), month)
    outcome.merge(collect_tasks(app, tasks))
    if tasks:
        days = Period(min(task.day for task in tasks), max(task.day for task in tasks))
        outcome.merge(build(app, days.widened(AFFECTED_DAYS), project=project))
    return outcome
