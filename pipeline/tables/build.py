"""Build tables from raw responses: find the stale days of a project and build them.

The inputs digest of a day covers the names of all raw responses, manifests and audit records in its input window. It is
stored in the day's build record. A day whose build record has the same digest is not built again.

Building streams: raw responses are read in batches of up to 8,000 documents, sorted by key (on disk if large) and
turned into rows block by block. Memory does not grow with the size of a day.
"""

from __future__ import annotations

import gc
import hashlib
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import partial
from itertools import groupby
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.concurrency import SerialWorkers, map_concurrent, use_jemalloc
from pipeline.core.context import App, ItemResult, chosen_projects, record_item
from pipeline.core.errors import PipelineError, Stopped, StoreUnavailable
from pipeline.core.models import SOURCES, Period, Row, RunResult
from pipeline.core.tempfiles import temp_folder
from pipeline.storage import ObjectStore, raw
from pipeline.storage.audit_records import audit_keys
from pipeline.storage.manifests import manifest_keys, read_entries
from pipeline.tables import parquet, sources
from pipeline.tables.external_sort import ExternalSorter
from pipeline.tables.normalize.drift import Drift
from pipeline.tables.normalize.media import media_rows
from pipeline.tables.normalize.pseudonyms import pseudonymise
from pipeline.tables.normalize.quality import quality_table
from pipeline.tables.normalize.sessions import CONNECTION, SessionFiles, connection_table, session_table
from pipeline.tables.normalize.usage import PART, connection_parts, media_parts, session_parts, usage_table
from pipeline.tables.normalize.versions import split_versions
from pipeline.tables.observations import ObservationCache, sorted_observations
from pipeline.tables.schemas import AUDITS, TABLES, TABLES_VERSION
from pipeline.tables.sources import LATE_ARRIVAL_DAYS, ArchiveReadings

INPUT_WINDOW_DAYS = 2 * LATE_ARRIVAL_DAYS
"""Distance to the raw responses that can affect a day. Its sessions have connections up to LATE_ARRIVAL_DAYS away, and
the responses with those connections are up to LATE_ARRIVAL_DAYS further away."""

_WEEK_DAYS = 7
"""Days are built in fixed weeks that share one input window. The window covers the whole week, even if only some of its
days are built. Otherwise the same raw responses could give different tables."""

_MAX_SEQUENCE_WEEKS = 4
"""A sequence of 4 weeks reads each raw response 1.4 times on average instead of 2.7 times. It is retried as a whole."""

_CONCURRENT_TABLES = 2
"""One is hashed while another is written. More would reserve more memory for upload parts."""

AFFECTED_DAYS = INPUT_WINDOW_DAYS + _WEEK_DAYS - 1
"""Greatest distance between the requested day of a new raw response and a day whose tables it affects."""


def week_of(day: date) -> Period:
    """The fixed week of a day, from Monday to Sunday."""
    monday = date.fromordinal((day.toordinal() - 1) // _WEEK_DAYS * _WEEK_DAYS + 1)
    return Period(monday, monday + timedelta(days=_WEEK_DAYS - 1))


def input_window(day: date) -> Period:
    """The requested days of the raw responses that affect the week of a day."""
    return week_of(day).widened(INPUT_WINDOW_DAYS)


@dataclass(frozen=True)
class BuildBatch:
    """Days of one week and project that are built together; for each, its inputs digest and the tables to write."""

    project: str
    days: Mapping[date, str]
    tables: Mapping[date, tuple[str, ...]]

    @property
    def period(self) -> Period:
        return Period(min(self.days), max(self.days))

    @property
    def input_window(self) -> Period:
        """The requested days of the raw responses that affect this batch."""
        return input_window(min(self.days))

    def __str__(self) -> str:
        return f"{self.project} {self.period.first} to {self.period.last}"


@dataclass(frozen=True)
class BuildSequence:
    """Batches of one project that are built one after the other and read shared raw responses once."""

    batches: tuple[BuildBatch, ...]

    @property
    def project(self) -> str:
        return self.batches[0].project

    def __str__(self) -> str:
        return f"{self.project} {self.batches[0].period.first} to {self.batches[-1].period.last}"


def plan_sequences(batches: Sequence[BuildBatch], workers: int) -> list[BuildSequence]:
    """Divide the ordered batches of one project into sequences of at most 4 batches, one or more per worker.

    Raw responses around the boundary of two sequences are read twice, so longer sequences read less.
    """
    length = max(1, min(_MAX_SEQUENCE_WEEKS, len(batches) // workers))
    return [BuildSequence(tuple(batches[at : at + length])) for at in range(0, len(batches), length)]


@dataclass(frozen=True)
class BuildResult:
    """Counts of a built batch, and the number of occurrences of each undocumented field."""

    counts: Counter[str]
    unknown_fields: Counter[str]


@dataclass(frozen=True)
class Builder:
    """Stores and settings of a build."""

    lake: ObjectStore
    vault: ObjectStore
    retention: timedelta
    private_columns: tuple[str, ...] = ()
    private_key: bytes = b""

    def stale(self, project: str, period: Period | None, tables: Iterable[str]) -> list[BuildBatch]:
        """Batches of days whose tables are missing or were built from other inputs, oldest first."""
        names = tuple(tables)
        stale_days: dict[date, str] = {}
        stale_tables: dict[date, tuple[str, ...]] = {}
        candidates = self._candidates(project, period)
        if not candidates:
            return []
        digests = self._digests(project, candidates)
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
            BuildBatch(project, {day: stale_days[day] for day in week}, {day: stale_tables[day] for day in week})
            for week in _by_week(sorted(stale_days))
        ]

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
            cache = ObservationCache(self.vault, folder)
            for number, batch in enumerate(sequence.batches, 1):
                with tempfile.TemporaryDirectory(dir=folder) as batch_folder, _no_garbage_collection():
                    yield self._build_batch(batch, cache, Path(batch_folder))
                if number < len(sequence.batches) and is_stopping():
                    raise Stopped(f"asked to stop; {sequence}: built up to {batch.period.last}")

    def _build_batch(
        self, batch: BuildBatch, cache: ObservationCache, folder: Path
    ) -> ItemResult[BuildBatch, BuildResult]:
        output = _BatchBuilder(self, batch, cache, folder)
        try:
            output.build()
            return ItemResult(batch, BuildResult(output.write(), output.unknown))
        except StoreUnavailable:
            raise
        except PipelineError as error:
            return ItemResult(batch, error=error)

    def _candidates(self, project: str, period: Period | None) -> list[date]:
        """Days of `period` that were collected, that occur in collected documents, or that had an audit; in order."""
        days = set(audit_keys(self.vault, project))
        reach = period.widened(LATE_ARRIVAL_DAYS) if period else None
        for source in SOURCES:
            for response in raw.read_receipts(self.vault, source, project, reach):
                near = {day for day in response.days if abs(day - response.day) <= timedelta(days=LATE_ARRIVAL_DAYS)}
                days |= {response.day, *near}
        return sorted(day for day in days if period is None or day in period)

    def _digests(self, project: str, days: Sequence[date]) -> Iterator[str]:
        """The inputs digest of each day, same order; `days` are sorted. Reads listings only."""
        window = Period(input_window(days[0]).first, input_window(days[-1]).last)
        responses = {source: raw.list_responses(self.vault, source, project, window) for source in SOURCES}
        common = [str(TABLES_VERSION), *(str(TABLES[name].schema) for name in TABLES), str(self.retention)]
        common += [*self.private_columns, hashlib.sha256(self.private_key).hexdigest()]
        base = hashlib.sha256("\n".join(common).encode())
        audits = audit_keys(self.vault, project)

        for day, manifests in zip(days, manifest_keys(self.vault, project, days), strict=True):
            total = base.copy()
            for near in input_window(day):
                for source in SOURCES:
                    total.update(f"{source} {near} {' '.join(responses[source].get(near, []))}\n".encode())
            total.update("\n".join(manifests).encode())
            total.update("".join(f"\n{key}" for key in audits.get(day, ())).encode())
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


@dataclass
class _BatchBuilder:
    """Writes the tables of one batch: one file per table and day, rows sorted by key."""

    builder: Builder
    batch: BuildBatch
    cache: ObservationCache
    folder: Path
    files: dict[tuple[str, date], parquet.PartitionWriter] = field(default_factory=dict)
    rejects: dict[date, list[Row]] = field(default_factory=lambda: defaultdict(list))
    unknown: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        for day, names in self.batch.tables.items():
            for name in names:
                self.files[name, day] = parquet.PartitionWriter(self.folder, TABLES[name], day)

    def build(self) -> None:
        """Write the rows of every table of the batch to temporary files."""
        if any(name != AUDITS.name for name, _ in self.files):
            self._build_from_responses()
        self._audits()

    def _build_from_responses(self) -> None:
        vault, project, period = self.builder.vault, self.batch.project, self.batch.period
        archive = sources.read_archives(vault, project, self.batch.input_window)
        self._reject(archive.rejects)
        connections = self._connections()
        parts = ExternalSorter(self.folder / "parts", PART, "group", "user_ref")
        sessions = self._sessions(connections, archive, parts)
        media = self._media(archive, sessions)
        parts.add(media_parts(media, sessions))
        with SerialWorkers() as workers:
            for block in parts.iter_blocks():
                workers.submit("usage", lambda block: self._add("usage_daily", usage_table(block)), block)
        self._snapshots()
        for day in period:
            self._add_rows("rejects", day, self.rejects.get(day, []))

    def write(self) -> Counter[str]:
        """Replace changed partitions, then write the build records. Return the counts."""
        lake, project = self.builder.lake, self.batch.project
        self.counts["days_built"] = len(self.batch.days)
        for day, inputs in self.batch.days.items():
            before, names = parquet.read_build_record(lake, project, day).tables, self.batch.tables[day]
            replaced = map_concurrent(partial(self._replace_table, day, inputs, before), names, _CONCURRENT_TABLES)
            now = dict(zip(names, replaced, strict=True))
            for name, table in now.items():
                self.counts["tables_written"] += name not in before or before[name].sha256 != table.sha256
                self.counts["rejects" if name == "rejects" else "rows"] += table.rows
            parquet.write_build_record(lake, project, day, before | now)
        return self.counts

    def _replace_table(
        self, day: date, inputs: str, before: Mapping[str, parquet.TableBuildRecord], name: str
    ) -> parquet.TableBuildRecord:
        """Write one partition to the lake; return its build record."""
        file = self.files[name, day]
        file.close()
        sha256 = parquet.replace_partition(self.builder.lake, name, self.batch.project, day, file, before.get(name))
        return parquet.TableBuildRecord(inputs, file.rows, file.path.stat().st_size, sha256)

    def _connections(self) -> ExternalSorter:
        """Write `cdr`, `cdr_history` and `cdr_quality`; return the newest version of every connection, by session."""
        connections = ExternalSorter(self.folder / "connections", CONNECTION, "conf_num", "day", "cdr_id")
        with SerialWorkers() as workers:
            for block in self._observations().iter_blocks():
                newest, earlier = split_versions(block)
                workers.submit("cdr", self._add, "cdr", newest)
                workers.submit("changes", self._add, "cdr_history", earlier)
                workers.submit("quality", self._add_quality, newest)
                workers.submit("connections", connections.add, connection_table(newest))
        return connections

    def _observations(self) -> ExternalSorter:
        """Observations from all raw responses of the input window, sorted by `cdr_id` and `seen_at`."""
        observations = sorted_observations(self.folder / "observations")
        responses = list(raw.read_receipts(self.builder.vault, "cdr", self.batch.project, self.batch.input_window))
        drift: dict[date, Drift] = {}
        for response, parsed in zip(responses, self.cache.of(responses), strict=True):
            observations.include(parsed.observations)
            self._reject({response.day: parsed.rejects})
            self.unknown.update(parsed.drift.unknown)
            drift[response.day] = parsed.drift  # responses are ordered: the newest one of each day stays
        for day, newest in drift.items():
            self._add_rows("drift", day, newest.rows("cdr"))
        return observations

    def _add_quality(self, connections: pa.Table) -> None:
        self._add("cdr_quality", quality_table(self._in_batch(connections)))

    def _sessions(self, connections: ExternalSorter, archive: ArchiveReadings, parts: ExternalSorter) -> pa.Table:
        """Write `sessions`, add usage to `parts`, and return the `_FILE_SESSION` columns of sessions with files."""
        files = SessionFiles(archive.files)
        with_files = [_FILE_SESSION.empty_table()]
        with SerialWorkers() as workers:
            for block in connections.iter_blocks():
                sessions = session_table(block, files)
                workers.submit("sessions", self._add, "sessions", sessions.rows)
                workers.submit("parts", parts.add, self._in_batch(connection_parts(block, sessions)))
                workers.submit("parts", parts.add, self._in_batch(session_parts(sessions.rows)))
                is_listed = pc.greater(sessions.rows["media_files"], 0)
                with_files.append(sessions.rows.filter(is_listed).select(_FILE_SESSION.names))
        return pa.concat_tables(with_files)

    def _media(self, archive: ArchiveReadings, sessions: pa.Table) -> list[Row]:
        project, period = self.batch.project, self.batch.period
        entries = read_entries(self.builder.vault, project, period)
        started = dict(zip(sessions["conf_num"].to_pylist(), sessions["first_connected_at"].to_pylist(), strict=True))
        files = [file for file in archive.files if file.day in period]
        media = media_rows(files, entries, started, self.builder.retention)
        by_day: dict[date, list[Row]] = defaultdict(list)
        for file, row in zip(files, media, strict=True):
            by_day[file.day].append({**row, "day": file.day})
        for day in period:
            self._add_rows("media", day, by_day.get(day, []))
        return [row for rows in by_day.values() for row in rows]

    def _snapshots(self) -> None:
        """Write `chat` from the vault's chat files, and `rooms` from the newest listing of each day."""
        vault, project = self.builder.vault, self.batch.project
        for day in self.batch.days:
            for name, read in (("chat", sources.read_chat), ("rooms", sources.read_rooms)):
                if {(name, day), ("rejects", day)} & self.files.keys():
                    rows, rejects = read(vault, project, day)
                    self._add_rows(name, day, rows)
                    self._reject({day: rejects})

    def _audits(self) -> None:
        """Write `audits` from the audit records of each day, in order of time."""
        vault, project = self.builder.vault, self.batch.project
        for day in self.batch.days:
            if file := self.files.get((AUDITS.name, day)):
                for key in audit_keys(vault, project, day).get(day, ()):
                    for rows in sources.read_audit(vault, key):
                        file.add(self._pseudonymised(rows))

    def _reject(self, rejects: Mapping[date, list[Row]]) -> None:
        for day, rows in rejects.items():
            if ("rejects", day) in self.files:
                self.rejects[day] += rows

    def _add(self, name: str, rows: pa.Table) -> None:
        """Add rows to the files of their `day`; rows of days outside the batch are dropped."""
        days = rows["day"].unique().to_pylist()
        for day in days:
            if (name, day) in self.files:
                day_rows = rows if len(days) == 1 else rows.filter(pc.equal(rows["day"], pa.scalar(day, pa.date32())))
                self.files[name, day].add(self._pseudonymised(day_rows))

    def _add_rows(self, name: str, day: date, rows: list[Row]) -> None:
        if (name, day) in self.files:
            self.files[name, day].add(self._pseudonymised(parquet.table_of_rows(TABLES[name], rows)))

    def _pseudonymised(self, rows: pa.Table) -> pa.Table:
        return pseudonymise(rows, self.builder.private_columns, self.builder.private_key)

    def _in_batch(self, rows: pa.Table) -> pa.Table:
        first, last = (pa.scalar(day, pa.date32()) for day in (self.batch.period.first, self.batch.period.last))
        inside = pc.and_(pc.greater_equal(rows["day"], first), pc.less_equal(rows["day"], last))
        return rows if pc.all(inside).as_py() else rows.filter(inside)


_FILE_SESSION = pa.schema(
    [
        TABLES["sessions"].schema.field(name)
        for name in ("conf_num", "room_id", "owner_ref", "billing_code", "first_connected_at")
    ]
)
"""Columns that files need of their sessions: owner and start time."""


def _by_week(days: list[date]) -> Iterator[list[date]]:
    for _, week in groupby(days, key=input_window):
        yield list(week)


def builder_for(app: App) -> Builder:
    privacy = app.settings.privacy
    return Builder(app.lake, app.vault, app.retention, privacy.pseudonymise, privacy.key.get_secret_value().encode())


def build(
    app: App,
    period: Period | None = None,
    *,
    wanted: Sequence[str] = tuple(TABLES),
    project: str | None = None,
) -> RunResult:
    """Build every stale day of the period (default: all collected days). Each partition is replaced whole."""
    builder = builder_for(app)
    outcome = RunResult("build")
    stale = [builder.stale(name, period, wanted) for name in chosen_projects(app.settings, project)]
    todo = [sequence for batches in stale if batches for sequence in plan_sequences(batches, app.workers.workers)]
    max_concurrency = app.workers.max_concurrency if todo else 1
    for done in app.map_items("build", todo, app.dispatch(build_sequence), max_concurrency=max_concurrency, group=str):
        skipped = [
            ItemResult[BuildBatch, BuildResult](batch, None, done.error, done.skipped) for batch in done.item.batches
        ]
        for built in done.result or skipped:
            record_item(app, outcome, built, built.result.counts if built.result else None)
            outcome.unknown_fields.update(built.result.unknown_fields if built.result else {})
    return outcome


def build_sequence(app: App, sequence: BuildSequence) -> list[ItemResult[BuildBatch, BuildResult]]:
    """`Builder.build` with the stores of `app`, as a list: what a worker process returns."""
    return list(builder_for(app).build(sequence, app.is_stopping))
