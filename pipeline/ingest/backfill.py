"""What a backfill has to do: the days to ask for, what that costs, and in which portions it is done."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import groupby, product

from pipeline.core.context import App
from pipeline.core.models import DAILY_SOURCES, Period, Source
from pipeline.ingest.collect import CollectTask, lookback
from pipeline.ingest.settlement import is_settled
from pipeline.storage import raw
from pipeline.tables.build import input_window, week_of

_PORTION_DAYS = 56
"""So much is collected before it is built: a killed run loses no more than the building of that."""

_SAMPLE_PAGES = 31
"""The newest pages of each project and source say how large a reply is."""


@dataclass(frozen=True)
class Portion:
    """Days that are asked for together, and the days whose pages are all there afterwards, if any."""

    tasks: tuple[CollectTask, ...]
    whole: Period | None

    def __str__(self) -> str:
        return f"{self.tasks[0].day} to {self.tasks[-1].day}"


def missing_days(app: App, projects: Iterable[str], period: Period) -> list[CollectTask]:
    """Every day of the period up to today that was never asked for, or was asked for while late rows could still come.

    Days inside the lookback that have an answer are left to `nightly`, which asks for them every night.
    """
    lookback_days, today = app.settings.collect.lookback_days, app.clock().date()
    tasks = []
    for project, source in product(projects, DAILY_SOURCES):
        asked = raw.last_collected(app.vault, source, project)
        for day in period:
            can_settle = day + timedelta(days=max(1, lookback_days)) <= today
            done = is_settled(day, asked.get(day), lookback_days) if can_settle else day in asked
            if day <= today and not done:
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


def estimate(app: App, tasks: Iterable[CollectTask]) -> BackfillPlan:
    """What the asks will cost: per project and source and in all.

    `requests`: one for each day; `bytes`: as the newest landed replies to the same question were, null when there are
    none; `seconds`: the pacing budget's share, at least; projects are asked side by side.
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
    known = [row.bytes for row in rows if row.bytes is not None]
    return BackfillPlan(
        missing=rows,
        requests=sum(row.requests for row in rows),
        bytes=sum(known) if len(known) == len(rows) else None,
        seconds=round(max(by_project, default=0) / per_second, 1),
    )


def portions(tasks: Iterable[CollectTask], period: Period) -> Iterator[Portion]:
    """The asks in order of day, eight weeks at a time; `whole` are the days of the period that can be built after each.

    A day can be built when no page that bears on it is still to come; the portions' `whole` follow each other and end
    where the days that wait for pages after the period begin.
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


def _last_whole_day(next_asked: date) -> date:
    """The last day whose pages all lie before a day that is still to be asked for."""
    week = week_of(next_asked)
    while input_window(week.last).last >= next_asked:
        week = week_of(week.first - timedelta(days=1))
    return week.last


def _kind(task: CollectTask) -> tuple[str, Source]:
    return task.project, task.source


def _mean_reply_bytes(app: App, source: Source, project: str) -> float | None:
    stems = raw.list_responses(app.vault, source, project)
    newest: Sequence[tuple[date, str]] = [(day, found[-1]) for day, found in sorted(stems.items())][-_SAMPLE_PAGES:]
    sizes = [raw.read_receipt(app.vault, source, project, day, stem).size_bytes for day, stem in newest]
    return sum(sizes) / len(sizes) if sizes else None


def nightly_asks(app: App, project: str) -> list[CollectTask]:
    """Lookback, today, and every day since the project began that was never asked for after it had settled."""
    covered = lookback(app)
    tasks = [CollectTask("rooms", project, app.clock().date())]
    for source in DAILY_SOURCES:
        asked = raw.last_collected(app.vault, source, project)
        since = app.settings.projects[project].start_date or min([*asked, covered.first])
        for day in Period(min(since, covered.last), covered.last):
            if day in covered or not is_settled(day, asked.get(day), app.settings.collect.lookback_days):
                tasks.append(CollectTask(source, project, day))
    return tasks
