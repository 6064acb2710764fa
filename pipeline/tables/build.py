"""Build tables from raw responses: find the stale days of a project and build them.

The inputs digest of a day covers the names of all raw responses, manifests and audit records in its input window, the
decisions on its records, and settings. It is stored in the day's build record. A day whose build record has the same
digest is not built again.
"""

from __future__ import annotations

import gc
import hashlib
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cache, partial
from itertools import groupby
from pathlib import Path

from pipeline.core.concurrency import map_concurrent, use_jemalloc
from pipeline.core.context import App, ItemResult, chosen_projects, record_item
from pipeline.core.errors import PipelineError, Stopped, StoreUnavailable
from pipeline.core.models import SOURCES, Period, RunResult
from pipeline.core.tempfiles import temp_folder
from pipeline.storage import ObjectStore, raw
from pipeline.storage.audit_records import audit_keys
from pipeline.storage.decisions import read_decisions
from pipeline.storage.manifests import manifest_keys
from pipeline.tables import parquet
from pipeline.tables.batch_builder import BatchBuilder
from pipeline.tables.batches import (
    SESSION_REACH_DAYS,
    BuildBatch,
    BuildContext,
    BuildResult,
    BuildSequence,
    input_window,
    linked_days,
    plan_sequences,
    week_of,
)
from pipeline.tables.normalize.ratings import RatingRules
from pipeline.tables.observations import ObservationCache
from pipeline.tables.record_days import Links, RecordDays
from pipeline.tables.schemas import TABLES, TABLES_VERSION
from pipeline.tables.sources import LONG_CONNECTION_DAYS


@dataclass(frozen=True)
class Builder(BuildContext):
    """Finds stale days and builds them."""

    def stale(self, project: str, period: Period | None, tables: Iterable[str]) -> list[BuildBatch]:
        """Batches of days whose tables are missing or were built from other inputs, oldest first."""
        names = tuple(tables)
        stale_days: dict[date, str] = {}
        stale_tables: dict[date, tuple[str, ...]] = {}
        candidates = self._candidates(project, period)
        if not candidates:
            return []
        links = RecordDays(self.lake, project).links()
        digests = self._digests(project, candidates, links)
        built = {name: parquet.list_partitions(self.lake, name, project) for name in names}
        read_record = partial(parquet.read_build_record, self.lake, project)
        records = map_concurrent(read_record, candidates, self.lake.max_concurrency)
        for day, digest, record in zip(candidates, digests, records, strict=True):
            outdated = tuple(
                name for name in names if not _is_current(record.tables.get(name), built[name].get(day), digest)
            )
            if outdated:
                stale_days[day], stale_tables[day] = digest, outdated
        return [
            BuildBatch(
                project,
                {day: stale_days[day] for day in week},
                {day: stale_tables[day] for day in week},
                tuple(linked_days(week_of(week[0]), links)),
            )
            for week in _by_week(sorted(stale_days))
        ]

    def find_moved(self, results: Iterable[BuildResult], project: str) -> set[date]:
        """Days that have to be built again because EnableX moved records between them, from the results of a build."""
        results = list(results)
        ids = {day: hashes for result in results for day, hashes in result.record_ids.items()}
        moved: dict[int, set[date]] = defaultdict(set)
        for record, days in (entry for result in results for entry in result.moved.items()):
            moved[record] |= days
        return RecordDays(self.lake, project).update(ids, moved)

    def build(
        self, sequence: BuildSequence, is_stopping: Callable[[], bool] = lambda: False
    ) -> Iterator[ItemResult[BuildBatch, BuildResult]]:
        """Build the batches of a sequence in order, each partition replaced whole. Yields one result per batch.

        Raises:
            StoreUnavailable: a store or the space for temporary files cannot be used; later batches are not attempted.
            Stopped: `is_stopping` returned true before the last batch.
        """
        use_jemalloc()
        with temp_folder() as folder:
            cache = ObservationCache(self.vault, folder, self.private_key)
            for number, batch in enumerate(sequence.batches, 1):
                with tempfile.TemporaryDirectory(dir=folder) as batch_folder, _no_garbage_collection():
                    yield self._build_batch(batch, cache, Path(batch_folder))
                if number < len(sequence.batches) and is_stopping():
                    raise Stopped(f"asked to stop; {sequence}: built up to {batch.period.last}")

    def _build_batch(
        self, batch: BuildBatch, cache: ObservationCache, folder: Path
    ) -> ItemResult[BuildBatch, BuildResult]:
        output = BatchBuilder(self, batch, cache, folder)
        try:
            output.build()
            return ItemResult(batch, BuildResult(output.write(), output.unknown, output.record_ids(), output.moved))
        except StoreUnavailable:
            raise
        except PipelineError as error:
            return ItemResult(batch, error=error)

    def _candidates(self, project: str, period: Period | None) -> list[date]:
        """Days of `period` that were collected, that occur in collected documents, or that had an audit; in order."""
        days = set(audit_keys(self.vault, project))
        reach = period.widened(LONG_CONNECTION_DAYS) if period else None
        for source in SOURCES:
            for response in raw.read_receipts(self.vault, source, project, reach):
                near = {day for day in response.days if abs(day - response.day) <= timedelta(days=LONG_CONNECTION_DAYS)}
                days |= {response.day, *near}
        return sorted(day for day in days if period is None or day in period)

    def _digests(self, project: str, days: Sequence[date], links: Links) -> Iterator[str]:
        """The inputs digest of each day, same order; `days` are sorted. Reads listings only."""
        window = Period(input_window(days[0]).first, input_window(days[-1]).last)
        responses = {source: raw.list_responses(self.vault, source, project, window) for source in SOURCES}
        common = [str(TABLES_VERSION), *(str(TABLES[name].schema) for name in TABLES), str(self.retention)]
        common += [*self.private_columns, hashlib.sha256(self.private_key).hexdigest(), str(self.rules)]
        decided = _decided_days(self.lake, project)
        base = hashlib.sha256("\n".join(common).encode())
        audits = audit_keys(self.vault, project)

        @cache  # all days of a week have the same linked days
        def names_around(linked: date) -> list[tuple[date, list[str]]]:
            return sorted(raw.list_responses(self.vault, "cdr", project, input_window(linked)).items())

        for day, manifests in zip(days, manifest_keys(self.vault, project, days), strict=True):
            total = base.copy()
            for near in input_window(day):
                for source in SOURCES:
                    total.update(f"{source} {near} {' '.join(responses[source].get(near, []))}\n".encode())
            for linked in linked_days(week_of(day), links):
                total.update(f"moved {linked} {names_around(linked)}\n".encode())
            total.update("\n".join(manifests).encode())
            total.update("".join(f"\n{key}" for key in audits.get(day, ())).encode())
            total.update("".join(f"\n{decision}" for decision in decided.get(day, ())).encode())
            yield total.hexdigest()


def _is_current(record: parquet.TableBuildRecord | None, size_bytes: int | None, digest: str) -> bool:
    """Whether a partition was built from these inputs and its object has the recorded size."""
    return record is not None and record.inputs == digest and record.size_bytes == size_bytes


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Disable cyclic garbage collection: it takes half of the build time, and structs form no cycles."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _decided_days(lake: ObjectStore, project: str) -> dict[date, list[str]]:
    """The decisions that affect each day, as text for its digest."""
    days: dict[date, list[str]] = defaultdict(list)
    for decision in read_decisions(lake, project):
        for record in decision.records:
            text = f"{record.suspense_id} {decision.decided_at} {decision.outcome} {decision.because}"
            for day in Period(record.day, record.day).widened(SESSION_REACH_DAYS):
                days[day].append(text)
    return days


def _by_week(days: list[date]) -> Iterator[list[date]]:
    for _, week in groupby(days, key=input_window):
        yield list(week)


def builder_for(app: App) -> Builder:
    privacy, suspense = app.settings.privacy, app.settings.suspense
    rules = RatingRules(
        round(suspense.max_stay_hours * 3_600_000),
        round(suspense.tolerance_min * 60_000),
        holds_unlisted=suspense.unlisted == "hold",
        skips_system=suspense.system_participants == "skip",
    )
    key = privacy.key.get_secret_value().encode()
    return Builder(app.lake, app.vault, app.retention, privacy.pseudonymise, key, rules)


def build(
    app: App,
    period: Period | None = None,
    *,
    wanted: Sequence[str] = tuple(TABLES),
    project: str | None = None,
) -> RunResult:
    """Build every stale day of the period (default: all collected days). Each partition is replaced whole."""
    outcome = RunResult("build")
    names = chosen_projects(app.settings, project)
    todo: dict[str, Sequence[Period | None]] = {name: [period] for name in names}
    while todo:  # days between which records were moved are built again, from the responses of both
        moved = _build(app, outcome, todo, wanted)
        todo = {name: periods_around(days) for name, days in moved.items()}
    return outcome


def periods_around(days: Iterable[date]) -> list[Period]:
    """Periods with the days whose tables depend on records of these days; in order, no day in two of them."""
    periods: list[Period] = []
    for day in sorted(days):
        near = Period(day, day).widened(SESSION_REACH_DAYS)
        if periods and near.first <= periods[-1].last:  # a day in two periods would be built twice, at the same time
            near = Period(periods.pop().first, near.last)
        periods.append(near)
    return periods


def _build(
    app: App, outcome: RunResult, periods: Mapping[str, Sequence[Period | None]], wanted: Sequence[str]
) -> dict[str, set[date]]:
    """Build the stale days of periods by project; return the days between which records were moved, by project."""
    builder = builder_for(app)
    stale = [
        batches
        for name, chosen in periods.items()
        for period in chosen
        if (batches := builder.stale(name, period, wanted))
    ]
    todo = [sequence for batches in stale for sequence in plan_sequences(batches, app.workers.workers)]
    results: dict[str, list[BuildResult]] = defaultdict(list)
    max_concurrency = app.workers.max_concurrency if todo else 1
    for done in app.map_items("build", todo, app.dispatch(build_sequence), max_concurrency=max_concurrency, group=str):
        skipped = [
            ItemResult[BuildBatch, BuildResult](batch, None, done.error, done.skipped) for batch in done.item.batches
        ]
        for built in done.result or skipped:
            record_item(app, outcome, built, built.result.counts if built.result else None)
            if built.result:
                outcome.unknown_fields.update(built.result.unknown_fields)
                results[built.item.project].append(built.result)
    moved = {project: builder.find_moved(each, project) for project, each in results.items()}
    return {project: days for project, days in moved.items() if days}


def build_sequence(app: App, sequence: BuildSequence) -> list[ItemResult[BuildBatch, BuildResult]]:
    """`Builder.build` with the stores of `app`, as a list: what a worker process returns."""
    return list(builder_for(app).build(sequence, app.is_stopping))
