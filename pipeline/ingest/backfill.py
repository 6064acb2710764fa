"""Plan a backfill: the days to collect, their cost, and the portions to collect them in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import groupby, product
from typing import Literal

from pipeline.core.context import App
from pipeline.core.models import DAILY_SOURCES, Period, Source
from pipeline.ingest.collect import CollectTask, lookback
from pipeline.ingest.settlement import is_settled, settled_on
from pipeline.storage import raw
from pipeline.tables.batches import input_window, week_of

CollectPolicy = Literal["backfill", "nightly"]

_PORTION_DAYS = 56
"""Days collected before each build. A killed run loses at most the build of one portion."""

_SAMPLE_RESPONSES = 31
"""The mean size of the newest raw responses of each project and source is the estimated size of a reply."""


@dataclass(frozen=True)
class Portion:
    """Days collected together, and the days that can be built afterwards (`None` if there are none)."""

    tasks: tuple[CollectTask, ...]
    whole: Period | None

    def __str__(self) -> str:
        return f"{self.tasks[0].day} to {self.tasks[-1].day}"


def missing_days(
    app: App, projects: Iterable[str], period: Period | None = None, *, policy: CollectPolicy = "backfill"
) -> list[CollectTask]:
    """Days up to today that have to be collected, by project, source and day.

    Both policies select days that were never collected, or last collected before they settled although they can
    settle by today. `nightly` also selects today and every day of the lookback; `backfill` leaves those that were
    collected to `nightly`. The default period is the project's start date (or the earliest collected day) to today.
    """
    lookback_days, covered = app.settings.collect.lookback_days, lookback(app)
    today = covered.last
    tasks = []
    for project, source in product(projects, DAILY_SOURCES):
        collected = raw.last_collected(app.vault, source, project)
        for day in period or _days_since_start(app, project, collected, covered):
            if policy == "nightly" and day in covered:
                is_done = False
            elif settled_on(day, lookback_days) <= today:
                is_done = is_settled(day, collected.get(day), lookback_days)
            else:
                is_done = day in collected
            if day <= today and not is_done:
                tasks.append(CollectTask(source, project, day))
    return tasks


@dataclass(frozen=True)
class MissingDays:
    """Missing days of one project and source: first and last day, number of requests, estimated bytes if known."""

    project: str
    source: str
    first: str
    last: str
    requests: int
    bytes: int | None


@dataclass(frozen=True)
class BackfillPlan:
    """What a backfill will request. `bytes` is None when unknown; `seconds` is the least that the rate limit allows."""

    missing: list[MissingDays]
    requests: int
    bytes: int | None
    seconds: float


def _days_since_start(app: App, project: str, collected: Iterable[date], covered: Period) -> Period:
    start = app.settings.projects[project].start_date or min([*collected, covered.first])
    return Period(min(start, covered.last), covered.last)


def estimate(app: App, tasks: Iterable[CollectTask]) -> BackfillPlan:
    """Estimate the cost of collecting: per project and source, and in total.

    `requests`: 1 per day. `bytes`: from the mean size of the newest raw responses of the same project and source; null
    when there are none. `seconds`: a lower bound from the rate limit; projects are collected concurrently.
    """
    per_second = app.settings.collect.requests_per_second
    rows: list[MissingDays] = []
    for (project, source), group in groupby(sorted(tasks, key=_kind), key=_kind):
        days = [task.day for task in group]
        reply_bytes = _mean_reply_bytes(app, source, project)
        rows.append(
            MissingDays(
                project,
                source,
                first=days[0].isoformat(),
                last=days[-1].isoformat(),
                requests=len(days),
                bytes=None if reply_bytes is None else round(reply_bytes * len(days)),
            )
        )
    by_project = [sum(row.requests for row in rows if row.project == name) for name in app.settings.projects]
    sizes = [row.bytes for row in rows if row.bytes is not None]
    return BackfillPlan(
        missing=rows,
        requests=sum(row.requests for row in rows),
        bytes=sum(sizes) if len(sizes) == len(rows) else None,
        seconds=round(max(by_project, default=0) / per_second, 1),
    )


def portions(tasks: Iterable[CollectTask], period: Period) -> Iterator[Portion]:
    """Split the tasks, sorted by day, into portions of 8 weeks with the days that can be built after each.

    A day can be built when all responses in its input window are collected. The `whole` periods of consecutive portions
    are adjacent, and together they cover the period.
    """
    ordered = sorted(tasks, key=lambda task: (task.day, task.project, task.source))
    groups = [
        tuple(group) for _, group in groupby(ordered, key=lambda task: (task.day - date.min).days // _PORTION_DAYS)
    ]
    begin = period.first
    for number, group in enumerate(groups):
        is_last = number + 1 == len(groups)
        end = period.last if is_last else _last_whole_day(groups[number + 1][0].day)
        whole = Period(begin, end) if begin <= end else None
        begin = max(begin, end + timedelta(days=1))
        yield Portion(group, whole)


def _last_whole_day(next_collected: date) -> date:
    """The last day of the newest week whose input window ends before the next day to collect."""
    week = week_of(next_collected)
    while input_window(week.last).last >= next_collected:
        week = week_of(week.first - timedelta(days=1))
    return week.last


def _kind(task: CollectTask) -> tuple[str, Source]:
    return task.project, task.source


def _mean_reply_bytes(app: App, source: Source, project: str) -> float | None:
    listed = raw.list_responses(app.vault, source, project)
    newest: Sequence[tuple[date, str]] = [(day, ids[-1]) for day, ids in sorted(listed.items())][-_SAMPLE_RESPONSES:]
    sizes = [raw.read_receipt(app.vault, source, project, day, response).size_bytes for day, response in newest]
    return sum(sizes) / len(sizes) if sizes else None
