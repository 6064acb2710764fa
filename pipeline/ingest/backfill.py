"""What a backfill has to do: the days to ask for, what that costs, and in which portions it is done."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import groupby, product
from typing import Any, Literal

from pipeline.core.context import App
from pipeline.core.models import DAILY_SOURCES, Period, Source
from pipeline.ingest.collect import CollectTask, lookback
from pipeline.ingest.settlement import is_settled, settled_on
from pipeline.storage import raw
from pipeline.tables.build import input_window, week_of

CollectPolicy = Literal["backfill", "nightly"]

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


def _days_since_start(app: App, project: str, collected: Iterable[date], covered: Period) -> Period:
    start = app.settings.projects[project].start_date or min([*collected, covered.first])
    return Period(min(start, covered.last), covered.last)


def estimate(app: App, tasks: Iterable[CollectTask]) -> dict[str, Any]:
    """What the asks will cost: per project and source and in all.

    `requests`: one for each day; `bytes`: as the newest landed replies to the same question were, null when there are
    none; `seconds`: the pacing budget's share, at least; projects are asked side by side.
    """
    per_second = app.settings.collect.requests_per_second
    rows: list[dict[str, Any]] = []
    for (project, source), group in groupby(sorted(tasks, key=_kind), key=_kind):
        days = [task.day for task in group]
        reply_bytes = _mean_reply_bytes(app, source, project)
        rows.append(
            {
                "project": project,
                "source": source,
                "first": days[0].isoformat(),
                "last": days[-1].isoformat(),
                "requests": len(days),
                "bytes": None if reply_bytes is None else round(reply_bytes * len(days)),
            }
        )
    by_project = [sum(row["requests"] for row in rows if row["project"] == name) for name in app.settings.projects]
    known = [row["bytes"] for row in rows if row["bytes"] is not None]
    return {
        "missing": rows,
        "requests": sum(row["requests"] for row in rows),
        "bytes": sum(known) if len(known) == len(rows) else None,
        "seconds": round(max(by_project, default=0) / per_second, 1),
    }


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
