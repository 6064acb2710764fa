"""Request a day from EnableX and land the response; a day that times out is collected room by room."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from functools import partial

import structlog

from pipeline.core.context import App, chosen_projects, record_item
from pipeline.core.errors import ApiError, CredentialsRefused, Refused, TimedOut, UnreadableReply
from pipeline.core.models import DAILY_SOURCES, SOURCES, Period, RunResult, Source
from pipeline.enablex.client import UnreadableAnswer
from pipeline.enablex.protocol import Request, period_request, room_period_requests, rooms_request
from pipeline.storage import raw
from pipeline.tables import parquet
from pipeline.tables.document_days import document_days
from pipeline.tables.sources import read_rooms

_log = structlog.get_logger()

_RECENT_ROOMS_DAYS = 31
"""Rooms used or listed within this many days before the day are included when the day is split by room."""


@dataclass(frozen=True)
class CollectTask:
    """One day of one source of one project: the item of `collect`."""

    source: Source
    project: str
    day: date

    def __str__(self) -> str:
        return f"{self.project}/{self.source}/{self.day}"


def collect_day(app: App, task: CollectTask) -> Mapping[str, int]:
    """Request a day and land the response; returns counts (`replies`, `new_pages`, `documents`, `days_split`)."""
    inclusive = app.settings.projects[task.project].to_date_is_inclusive
    is_rooms = task.source == "rooms"
    request = rooms_request() if is_rooms else period_request(task.source, task.day, to_date_is_inclusive=inclusive)
    try:
        return _collect_reply(app, task, request)
    except TimedOut:
        if task.source not in DAILY_SOURCES:
            raise
    return _collect_by_room(app, task)


def _collect_reply(app: App, task: CollectTask, request: Request, *, is_part: bool = False) -> Mapping[str, int]:
    location = raw.RawLocation(task.source, task.project, task.day, app.clock())
    spool = partial(raw.SpooledBody, partial(document_days, task.source, asked=task.day))
    try:
        reply = app.clients[task.project].fetch(request, spool)
    except UnreadableAnswer as error:
        kept = _keep_unreadable(app, location, error)
        raise UnreadableReply(f"{error}; {kept}", endpoint=error.endpoint, status=error.status) from None
    is_new = raw.land(app.vault, location, reply.head, reply.sink, is_part=is_part)
    documents = reply.sink.documents
    _log.debug("response.landed", item=str(task), request=str(request), documents=documents, is_new=is_new)
    return {"replies": 1, "new_pages": int(is_new), "documents": documents if is_new else 0}


def _keep_unreadable(app: App, location: raw.RawLocation, error: UnreadableAnswer) -> str:
    """Land the documents before the break as a part, which does not make the day collected; or keep the evidence."""
    if not (error.broken and error.sink.documents):
        return f"kept as {raw.land_unreadable(app.vault, location, error.head, error.sink)}"
    raw.land(app.vault, location, error.head, error.sink, broken=error.broken)
    return f"{error.sink.documents} documents before the break are kept provisionally; the day stays unsettled"


def _collect_by_room(app: App, task: CollectTask) -> Mapping[str, int]:
    """Collect a day room by room.

    Rooms that are neither listed now nor seen in the last 31 days are missed. Therefore the day does not count as
    collected, and every later run requests the whole day first.
    """
    rooms = _recent_rooms(app, task)
    _log.warning("collect.split_by_room", item=str(task), rooms=len(rooms), why="request timed out")
    counts: Counter[str] = Counter(days_split=1)
    failed: list[ApiError] = []
    for room_id in rooms:
        try:
            counts.update(_collect_room(app, task, room_id))
        except CredentialsRefused:
            raise
        except ApiError as error:
            failed.append(error)
    if failed:
        raise Refused(f"requests for {len(failed)} of {len(rooms)} rooms failed; first error: {failed[0]}")
    return counts


def _collect_room(app: App, task: CollectTask, room_id: str) -> Mapping[str, int]:
    documented, observed = room_period_requests(task.source, room_id, task.day)
    try:
        return _collect_reply(app, task, documented, is_part=True)
    except Refused as error:
        if error.status != 404:
            raise
        return _collect_reply(app, task, observed, is_part=True)


def _recent_rooms(app: App, task: CollectTask) -> list[str]:
    """IDs of rooms listed now (this response is landed too), listed recently, or present in `cdr` or `media`."""
    today = app.clock().date()
    _collect_reply(app, replace(task, source="rooms", day=today), rooms_request())
    period = Period(min(task.day, today) - timedelta(days=_RECENT_ROOMS_DAYS), today)
    room_ids = {row["room_id"] for day in period for row in read_rooms(app.vault, task.project, day)[0]}
    for table in ("cdr", "media"):
        column = parquet.read_arrow(table, period, ["room_id"], project=task.project, lake=app.lake)["room_id"]
        room_ids |= set(column.unique().to_pylist())
    return sorted(room_ids - {None})


_SPLIT_BY_ROOM = (
    "request timed out; split by room. Rooms that no longer exist are not covered. The next run requests the whole day"
    " again; if it still times out, raise collect.timeout_s"
)


def collect(
    app: App, period: Period | None = None, *, project: str | None = None, sources: Sequence[Source] = SOURCES
) -> RunResult:
    """Request every day of the period from EnableX and land the responses. Default: the lookback and today.

    The list of rooms is a snapshot: it is collected only if today is in the period.
    """
    period = period or lookback(app)
    today = app.clock().date()
    tasks = [
        CollectTask(source, name, day)
        for day in period
        for name in chosen_projects(app.settings, project)
        for source in sources
        if source in DAILY_SOURCES or day == today
    ]
    return collect_tasks(app, tasks)


def collect_tasks(app: App, tasks: Iterable[CollectTask], label: str = "collect") -> RunResult:
    outcome = RunResult("collect")
    # each project's client keeps to the limits of its project
    max_concurrency = app.settings.collect.concurrency * len(app.settings.projects)
    for done in app.map_items(
        label, tasks, partial(collect_day, app), max_concurrency=max_concurrency, group=lambda task: task.project
    ):
        record_item(app, outcome, done, done.result)
        if done.result and "days_split" in done.result:
            outcome.add_failure(done.item, _SPLIT_BY_ROOM)
    return outcome


def lookback(app: App) -> Period:
    today = app.clock().date()
    return Period(today - timedelta(days=app.settings.collect.lookback_days), today)
