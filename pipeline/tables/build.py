"""Raw to tables for one project and a stretch of days: which days are stale, and building them.

A day's digest covers the names of every page, manifest and audit that can bear on it. It stands in the day's note; a
day whose note has the same digest is not built again.

Building streams: pages are read some thousand documents at a time, sorted by key (on disk where they are many), and
folded into rows block by block, so that memory does not grow with the day.
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
"""Pages that can bear on a day: its sessions have connections up to REACH_DAYS away, whose pages lie as far again."""

_WEEK_DAYS = 7
"""Days are built by fixed weeks, which share one reading of the pages around them. A day sees the pages around its
week, whichever of its days are built: else the same raw could give different tables."""

_MOST_WEEKS = 4
"""A chain of so many reads a page 1.4 times instead of 2.7 times, and can be tried again as a whole."""

_TABLES_AT_ONCE = 2
"""One is hashed while another is written; more would reserve more memory for the parts of uploads."""

AFFECTED_DAYS = INPUT_WINDOW_DAYS + _WEEK_DAYS - 1
"""How far from the day that was asked for a new page can matter."""


def week_of(day: date) -> Period:
    """The fixed week of a day, from Monday to Sunday."""
    monday = date.fromordinal((day.toordinal() - 1) // _WEEK_DAYS * _WEEK_DAYS + 1)
    return Period(monday, monday + timedelta(days=_WEEK_DAYS - 1))


def input_window(day: date) -> Period:
    """The days whose pages bear on the week of a day."""
    return week_of(day).widened(INPUT_WINDOW_DAYS)


@dataclass(frozen=True)
class BuildBatch:
    """Days of one week and project that are built together: for each, its digest and the tables to write."""

    project: str
    days: Mapping[date, str]
    tables: Mapping[date, tuple[str, ...]]

    @property
    def period(self) -> Period:
        return Period(min(self.days), max(self.days))

    @property
    def pages(self) -> Period:
        """The days that were asked for and bear on it."""
        return input_window(min(self.days))

    def __str__(self) -> str:
        return f"{self.project} {self.period.first} to {self.period.last}"


@dataclass(frozen=True)
class BuildSequence:
    """Stretches of one project that are built one after the other, so that pages they share are read once."""

    batches: tuple[BuildBatch, ...]

    @property
    def project(self) -> str:
        return self.batches[0].project

    def __str__(self) -> str:
        return f"{self.project} {self.batches[0].period.first} to {self.batches[-1].period.last}"


def plan_sequences(stretches: Sequence[BuildBatch], workers: int) -> list[BuildSequence]:
    """Stretches of one project, which are in order, in at least one chain for each worker and none too long.

    Where one chain ends and the next begins, pages are read twice: the longer they are, the less is read.
    """
    length = max(1, min(_MOST_WEEKS, len(stretches) // workers))
    return [BuildSequence(tuple(stretches[at : at + length])) for at in range(0, len(stretches), length)]


@dataclass(frozen=True)
class BuildResult:
    """What building a stretch amounted to, and how often each field was seen that no documentation names."""

    counts: Counter[str]
    unknown_fields: Counter[str]


@dataclass(frozen=True)
class Builder:
    """What building needs to know besides the days."""

    lake: ObjectStore
    vault: ObjectStore
    retention: timedelta
    private_columns: tuple[str, ...] = ()
    private_key: bytes = b""

    def stale(self, project: str, period: Period | None, wanted: Iterable[str]) -> list[BuildBatch]:
        """Stretches of days whose tables are missing or were built from other inputs, oldest first."""
        names = tuple(wanted)
        stale_days: dict[date, str] = {}
        stale_tables: dict[date, tuple[str, ...]] = {}
        known = self._candidates(project, period)
        if not known:
            return []
        inputs = self._inputs(project, known)
        built = {name: parquet.list_partitions(self.lake, name, project) for name in names}
        notes = map_concurrent(partial(parquet.read_build_record, self.lake, project), known, self.lake.max_concurrency)
        for day, digest, noted in zip(known, inputs, notes, strict=True):
            note = noted.tables
            outdated = tuple(name for name in names if not _is_current(note.get(name), built[name].get(day), digest))
            if outdated:
                stale_days[day], stale_tables[day] = digest, outdated
        return [
            BuildBatch(project, {day: stale_days[day] for day in run}, {day: stale_tables[day] for day in run})
            for run in _by_week(sorted(stale_days))
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
        """Days that were asked for, that landed documents speak about, or that had an audit; in order, of `period`."""
        days = set(audit_keys(self.vault, project))
        reach = period.widened(LATE_ARRIVAL_DAYS) if period else None
        for source in SOURCES:
            for page in raw.pages(self.vault, source, project, reach):
                near = {day for day in page.days if abs(day - page.day) <= timedelta(days=LATE_ARRIVAL_DAYS)}
                days |= {page.day, *near}
        return sorted(day for day in days if period is None or day in period)

    def _inputs(self, project: str, days: Sequence[date]) -> Iterator[str]:
        """The digest of each of some days, which are in order; from listings alone."""
        around = Period(input_window(days[0]).first, input_window(days[-1]).last)
        pages = {source: raw.list_responses(self.vault, source, project, around) for source in SOURCES}
        common = [str(TABLES_VERSION), *(str(TABLES[name].schema) for name in TABLES), str(self.retention)]
        common += [*self.private_columns, hashlib.sha256(self.private_key).hexdigest()]
        base = hashlib.sha256("\n".join(common).encode())
        audits = audit_keys(self.vault, project)

        for day, manifests in zip(days, manifest_keys(self.vault, project, days), strict=True):
            total = base.copy()
            for near in input_window(day):
                for source in SOURCES:
                    total.update(f"{source} {near} {' '.join(pages[source].get(near, []))}\n".encode())
            total.update("\n".join(manifests).encode())
            total.update("".join(f"\n{key}" for key in audits.get(day, ())).encode())
            yield total.hexdigest()


def _is_current(note: parquet.TableBuildRecord | None, size_bytes: int | None, digest: str) -> bool:
    """Whether a table's day was built from these inputs, and its object is the one that came of it."""
    return note is not None and note.inputs == digest and note.size_bytes == size_bytes


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Thousands of short-lived structs and no cycles: looking for cycles among them costs half of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@dataclass
class _BatchBuilder:
    """The tables of one stretch while they are made: a file for each table and day, rows added in order of key."""

    builder: Builder
    stretch: BuildBatch
    cache: ObservationCache
    folder: Path
    files: dict[tuple[str, date], parquet.PartitionWriter] = field(default_factory=dict)
    rejects: dict[date, list[Row]] = field(default_factory=lambda: defaultdict(list))
    unknown: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        for day, names in self.stretch.tables.items():
            for name in names:
                self.files[name, day] = parquet.PartitionWriter(self.folder, TABLES[name], day)

    def build(self) -> None:
        """Make the rows of every table; complete for the days of the stretch."""
        if any(name != AUDITS.name for name, _ in self.files):
            self._build_from_pages()
        self._audits()

    def _build_from_pages(self) -> None:
        vault, project, period = self.builder.vault, self.stretch.project, self.stretch.period
        archive = sources.read_archives(vault, project, self.stretch.pages)
        self._reject(archive.rejects)
        connections = self._connections()
        parts = ExternalSorter(self.folder / "parts", PART, "group", "user_ref")
        sessions = self._sessions(connections, archive, parts)
        media = self._media(archive, sessions)
        parts.add(media_parts(media, sessions))
        with SerialWorkers() as lanes:
            for block in parts.iter_blocks():
                lanes.submit("usage", lambda block: self._add("usage_daily", usage_table(block)), block)
        self._snapshots()
        for day in period:
            self._add_rows("rejects", day, self.rejects.get(day, []))

    def write(self) -> Counter[str]:
        """Replace what changed, then say what was built from what."""
        lake, project = self.builder.lake, self.stretch.project
        self.counts["days_built"] = len(self.stretch.days)
        for day, inputs in self.stretch.days.items():
            before, names = parquet.read_build_record(lake, project, day).tables, self.stretch.tables[day]
            replaced = map_concurrent(partial(self._replaced, day, inputs, before), names, _TABLES_AT_ONCE)
            now = dict(zip(names, replaced, strict=True))
            for name, table in now.items():
                self.counts["tables_written"] += name not in before or before[name].sha256 != table.sha256
                self.counts["rejects" if name == "rejects" else "rows"] += table.rows
            parquet.write_build_record(lake, project, day, before | now)
        return self.counts

    def _replaced(
        self, day: date, inputs: str, before: Mapping[str, parquet.TableBuildRecord], name: str
    ) -> parquet.TableBuildRecord:
        """Put a table's day into the lake; return what its note has to say."""
        file = self.files[name, day]
        file.close()
        sha256 = parquet.replace_partition(self.builder.lake, name, self.stretch.project, day, file, before.get(name))
        return parquet.TableBuildRecord(inputs, file.rows, file.path.stat().st_size, sha256)

    def _connections(self) -> ExternalSorter:
        """Write `cdr`, `cdr_history`, `cdr_quality`; return all newest connections for their sessions."""
        connections = ExternalSorter(self.folder / "connections", CONNECTION, "conf_num", "day", "cdr_id")
        with SerialWorkers() as lanes:
            for block in self._observations().iter_blocks():
                newest, earlier = split_versions(block)
                lanes.submit("cdr", self._add, "cdr", newest)
                lanes.submit("changes", self._add, "cdr_history", earlier)
                lanes.submit("quality", self._add_quality, newest)
                lanes.submit("connections", connections.add, connection_table(newest))
        return connections

    def _observations(self) -> ExternalSorter:
        """What all pages around the stretch say, sorted by `cdr_id` and moment."""
        observations = sorted_observations(self.folder / "observations")
        pages = list(raw.pages(self.builder.vault, "cdr", self.stretch.project, self.stretch.pages))
        for page, read in zip(pages, self.cache.of(pages), strict=True):
            observations.include(read.observations)
            self._reject({page.day: read.rejects})
            self.unknown.update(read.unknown)
        return observations

    def _add_quality(self, connections: pa.Table) -> None:
        self._add("cdr_quality", quality_table(self._of_stretch(connections)))

    def _sessions(self, connections: ExternalSorter, archive: ArchiveReadings, parts: ExternalSorter) -> pa.Table:
        """Write `sessions`; put into `parts` what usage is made of; return a little of every session with files."""
        files = SessionFiles(archive.files)
        known = [_KNOWN_SESSION.empty_table()]
        with SerialWorkers() as lanes:
            for block in connections.iter_blocks():
                sessions = session_table(block, files)
                lanes.submit("sessions", self._add, "sessions", sessions.rows)
                lanes.submit("parts", parts.add, self._of_stretch(connection_parts(block, sessions)))
                lanes.submit("parts", parts.add, self._of_stretch(session_parts(sessions.rows)))
                is_listed = pc.greater(sessions.rows["media_files"], 0)
                known.append(sessions.rows.filter(is_listed).select(_KNOWN_SESSION.names))
        return pa.concat_tables(known)

    def _media(self, archive: ArchiveReadings, sessions: pa.Table) -> list[Row]:
        project, period = self.stretch.project, self.stretch.period
        entries = read_entries(self.builder.vault, project, period)
        began = dict(zip(sessions["conf_num"].to_pylist(), sessions["first_connected_at"].to_pylist(), strict=True))
        files = [file for file in archive.files if file.day in period]
        media = media_rows(files, entries, began, self.builder.retention)
        by_day: dict[date, list[Row]] = defaultdict(list)
        for file, row in zip(files, media, strict=True):
            by_day[file.day].append({**row, "day": file.day})
        for day in period:
            self._add_rows("media", day, by_day.get(day, []))
        return [row for rows in by_day.values() for row in rows]

    def _snapshots(self) -> None:
        """Write `chat` from the vault's chat files, and `rooms` from the newest listing of each day."""
        vault, project = self.builder.vault, self.stretch.project
        for day in self.stretch.days:
            for name, read in (("chat", sources.read_chat), ("rooms", sources.read_rooms)):
                if {(name, day), ("rejects", day)} & self.files.keys():
                    rows, rejects = read(vault, project, day)
                    self._add_rows(name, day, rows)
                    self._reject({day: rejects})

    def _audits(self) -> None:
        """Write `audits` from the records of each day's audits, one after the other."""
        vault, project = self.builder.vault, self.stretch.project
        for day in self.stretch.days:
            if file := self.files.get((AUDITS.name, day)):
                for key in audit_keys(vault, project, day).get(day, ()):
                    for rows in sources.read_audit(vault, key):
                        file.add(self._private(rows))

    def _reject(self, rejects: Mapping[date, list[Row]]) -> None:
        for day, rows in rejects.items():
            if ("rejects", day) in self.files:
                self.rejects[day] += rows

    def _add(self, name: str, rows: pa.Table) -> None:
        """Add rows, which have a `day`, to the files of their days; days that are not wanted are left out."""
        days = rows["day"].unique().to_pylist()
        for day in days:
            if (name, day) in self.files:
                of_day = rows if len(days) == 1 else rows.filter(pc.equal(rows["day"], pa.scalar(day, pa.date32())))
                self.files[name, day].add(self._private(of_day))

    def _add_rows(self, name: str, day: date, rows: list[Row]) -> None:
        if (name, day) in self.files:
            self.files[name, day].add(self._private(parquet.table_of_rows(TABLES[name], rows)))

    def _private(self, rows: pa.Table) -> pa.Table:
        return pseudonymise(rows, self.builder.private_columns, self.builder.private_key)

    def _of_stretch(self, rows: pa.Table) -> pa.Table:
        first, last = (pa.scalar(day, pa.date32()) for day in (self.stretch.period.first, self.stretch.period.last))
        inside = pc.and_(pc.greater_equal(rows["day"], first), pc.less_equal(rows["day"], last))
        return rows if pc.all(inside).as_py() else rows.filter(inside)


_KNOWN_SESSION = pa.schema(
    [
        TABLES["sessions"].schema.field(name)
        for name in ("conf_num", "room_id", "owner_ref", "billing_code", "first_connected_at")
    ]
)
"""What files need to know of their session: whose it is, and when it began."""


def _by_week(days: list[date]) -> Iterator[list[date]]:
    for _, of_week in groupby(days, key=input_window):
        yield list(of_week)


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
    """Build every stale day of the period (by default of all that was ever landed), each table's day replaced whole."""
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
