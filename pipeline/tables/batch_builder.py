"""Write the tables of one batch: responses to observations, versions, ratings, sessions and usage.

Building streams: raw responses are read in batches of up to 8,000 documents, sorted by key (on disk if large) and
turned into rows block by block. Memory does not grow with the size of a day.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.concurrency import SerialWorkers, map_concurrent
from pipeline.core.models import Row
from pipeline.storage import ObjectStore, raw
from pipeline.storage.audit_records import audit_keys
from pipeline.storage.decisions import read_decisions
from pipeline.storage.manifests import read_entries
from pipeline.tables import parquet, sources
from pipeline.tables.balance import Balance, require_whole_sessions
from pipeline.tables.batches import BuildBatch, BuildContext, input_window
from pipeline.tables.external_sort import ExternalSorter
from pipeline.tables.normalize.arrow_ops import mask
from pipeline.tables.normalize.drift import Drift
from pipeline.tables.normalize.media import media_rows
from pipeline.tables.normalize.pseudonyms import pseudonymise
from pipeline.tables.normalize.quality import quality_table
from pipeline.tables.normalize.ratings import Decision, Decisions, Rated, rate
from pipeline.tables.normalize.sessions import CONNECTION, FILE_SESSION, SessionFiles, connection_table, session_table
from pipeline.tables.normalize.usage import PART, connection_parts, media_parts, session_parts, usage_table
from pipeline.tables.normalize.versions import IS_REPEATED_IN_SESSION, Listings, split_versions
from pipeline.tables.observations import ObservationCache, merged_observations
from pipeline.tables.record_days import id_hashes
from pipeline.tables.schemas import AUDITS, SUSPENSE, TABLES
from pipeline.tables.sources import LATE_ARRIVAL_DAYS, ArchiveReadings, RejectedDocument
from pipeline.tables.suspense import rejected_rows, suspended

_CONCURRENT_TABLES = 2
"""One is hashed while another is written. More would reserve more memory for upload parts."""


@dataclass
class BatchBuilder:
    """Writes the tables of one batch: one file per table and day, rows sorted by key."""

    context: BuildContext
    batch: BuildBatch
    cache: ObservationCache
    folder: Path
    files: dict[tuple[str, date], parquet.PartitionWriter] = field(default_factory=dict)
    rejects: dict[date, list[Row]] = field(default_factory=lambda: defaultdict(list))
    rejected: dict[date, list[RejectedDocument]] = field(default_factory=lambda: defaultdict(list))
    unknown: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    moved: dict[int, set[date]] = field(default_factory=lambda: defaultdict(set))
    hashes: dict[date, list[np.ndarray]] = field(default_factory=lambda: defaultdict(list))
    balance: Balance = field(default_factory=Balance)

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
        vault, project, period = self.context.vault, self.batch.project, self.batch.period
        archive = sources.read_archives(vault, project, self.batch.input_window)
        self._reject(archive.rejects)
        connections = self._connections()
        parts = ExternalSorter(self.folder / "parts", PART, "group", "user_ref")
        sessions = self._sessions(connections, archive, parts)
        media, owners = self._media(archive, sessions)
        parts.add(media_parts(media, owners))
        with SerialWorkers() as workers:
            for block in parts.iter_blocks():
                workers.submit("usage", lambda block: self._add("usage_daily", usage_table(block)), block)
        self.balance.require(project)
        self._snapshots()
        for day in period:
            self._add_rows("rejects", day, self.rejects.get(day, []))

    def write(self) -> Counter[str]:
        """Replace changed partitions, then write the build records. Return the counts."""
        lake, project = self.context.lake, self.batch.project
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
        sha256 = parquet.replace_partition(self.context.lake, name, self.batch.project, day, file, before.get(name))
        return parquet.TableBuildRecord(inputs, file.rows, file.path.stat().st_size, sha256)

    def _connections(self) -> ExternalSorter:
        """Write `cdr`, `cdr_history`, `cdr_quality` and `suspense`; return the newest version of every connection, by
        session."""
        connections = ExternalSorter(self.folder / "connections", CONNECTION, "conf_num", "day", "cdr_id")
        decisions = newest_decisions(self.context.lake, self.batch.project)
        observations, listings = self._observations()
        rejected = self._rejected(decisions)
        with SerialWorkers() as workers:
            for block in observations.iter_blocks():
                newest, earlier = split_versions(block, listings)
                for record, day in _moved(newest, earlier):
                    self.moved[record].add(day)
                rated = rate(newest, self.context.rules, decisions, _marks(newest))
                workers.submit("cdr", self._add_connections, rated.rows)
                workers.submit("changes", self._add, "cdr_history", rate(earlier, self.context.rules, {}).rows)
                workers.submit("quality", self._add_quality, rated.rows)
                workers.submit("suspense", self._add_suspense, rated, decisions)
                workers.submit("connections", connections.add, connection_table(rated))
        for day, rows in rejected.items():
            self._add_rows(SUSPENSE.name, day, rows)
        return connections

    def _observations(self) -> tuple[ExternalSorter, Listings]:
        """Observations from all raw responses of the input window, sorted by `cdr_id` and `seen_at`."""
        vault, project, window = self.context.vault, self.batch.project, self.batch.input_window
        periods = [window, *map(input_window, self.batch.linked)]
        states = {
            name: state for period in periods for name, state in raw.listings(vault, "cdr", project, period).items()
        }
        responses = list(raw.read_named_receipts(vault, "cdr", project, sorted(states)))
        parsed = self.cache.of(responses)
        until_ms = np.zeros(len(self.cache.source_keys), np.int64)
        is_current = np.zeros(len(self.cache.source_keys), bool)
        drift: dict[date, Drift] = {}
        for response, each in zip(responses, parsed, strict=True):
            listing = states[response.day, response.response_id]
            until_ms[each.number] = round(listing.until.timestamp() * 1000)
            is_current[each.number] = listing.is_current
            self._reject({response.day: each.rejects})
            self.unknown.update(each.drift.unknown)
            if listing.is_current:
                self.rejected[response.day] += each.rejected
                drift[response.day] = each.drift  # responses are ordered: the newest one of each day stays
        for day, newest in drift.items():
            self._add_rows("drift", day, newest.rows("cdr"))
        return merged_observations(parsed, self.folder), Listings(until_ms, is_current)

    def _rejected(self, decisions: Decisions) -> dict[date, list[Row]]:
        """Rows of `suspense` for documents without a row; of consecutive requested days, on the first that lists it.

        A request can return documents of the following day too.
        """
        rows: dict[date, list[Row]] = {}
        for day in self.batch.days:
            earlier = {each.suspense_id for each in self.rejected.get(day - timedelta(days=1), ())}
            listed = {each.suspense_id: each for each in self.rejected.get(day, ())}
            own = [each for suspense_id, each in listed.items() if suspense_id not in earlier]
            rows[day] = rejected_rows(own, day, self.context.rules, decisions)
        return rows

    def _add_suspense(self, rated: Rated, decisions: Decisions) -> None:
        self._add(SUSPENSE.name, suspended(rated, self.cache.source_keys, decisions))

    def _add_connections(self, rows: pa.Table) -> None:
        self._add("cdr", rows)
        for day in self.batch.days:
            if ("cdr", day) in self.files:
                of_day = rows["cdr_id"].filter(pc.equal(rows["day"], pa.scalar(day, pa.date32())))
                self.hashes[day].append(id_hashes(of_day))

    def record_ids(self) -> dict[date, np.ndarray]:
        """Hashes of the ids of `cdr` of each built day."""
        return {day: np.concatenate(hashes) for day, hashes in self.hashes.items()}

    def _add_quality(self, connections: pa.Table) -> None:
        self._add("cdr_quality", quality_table(self._in_batch(connections)))

    def _sessions(self, connections: ExternalSorter, archive: ArchiveReadings, parts: ExternalSorter) -> pa.Table:
        """Write `sessions` and add usage to `parts`; return the files (`file`) with the columns of their sessions."""
        files = SessionFiles(archive.files)
        owned = [FILE_SESSION.append(pa.field("file", pa.int64())).empty_table()]
        with SerialWorkers() as workers:
            for block in connections.iter_blocks():
                sessions, owners = session_table(block, files)
                require_whole_sessions(self.batch.project, block, sessions.rows)
                workers.submit("sessions", self._add, "sessions", sessions.rows)
                workers.submit("parts", parts.add, self._in_batch(connection_parts(block, sessions)))
                workers.submit("parts", parts.add, self._in_batch(session_parts(sessions.rows)))
                owned.append(owners)
        return pa.concat_tables(owned)

    def _media(self, archive: ArchiveReadings, owners: pa.Table) -> tuple[list[Row], pa.Table]:
        """Write `media`; return its rows, and `owners` with `file` as an index of these rows."""
        project, period = self.batch.project, self.batch.period
        entries = read_entries(self.context.vault, project, period)
        began = zip(owners["file"].to_pylist(), owners["first_connected_at"].to_pylist(), strict=True)
        started = {archive.files[index].identity: moment for index, moment in began}
        numbers = [index for index, file in enumerate(archive.files) if file.day in period]
        files = [archive.files[index] for index in numbers]
        media = media_rows(files, entries, started, self.context.retention)
        by_day: dict[date, list[Row]] = defaultdict(list)
        for file, row in zip(files, media, strict=True):
            row |= {"day": file.day, "session_began_at": started.get(file.identity)}
            by_day[file.day].append(row)
        for day in period:
            self._add_rows("media", day, by_day.get(day, []))
        at = pc.index_in(owners["file"], pa.array(numbers, pa.int64()))
        is_in_period = pc.is_valid(at)
        owners = owners.set_column(owners.schema.get_field_index("file"), "file", pc.cast(at, pa.int64()))
        return media, owners.filter(is_in_period)

    def _snapshots(self) -> None:
        """Write `chat` from the vault's chat files, and `rooms` from the newest listing of each day."""
        vault, project = self.context.vault, self.batch.project
        for day in self.batch.days:
            for name, read in (("chat", sources.read_chat), ("rooms", sources.read_rooms)):
                if {(name, day), ("rejects", day)} & self.files.keys():
                    rows, rejects = read(vault, project, day)
                    self._add_rows(name, day, rows)
                    self._reject({day: rejects})

    def _audits(self) -> None:
        """Write `audits` from the audit records of each day, in order of time."""
        vault, project = self.context.vault, self.batch.project
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
                self.balance.add(name, day, day_rows)

    def _add_rows(self, name: str, day: date, rows: list[Row]) -> None:
        if (name, day) in self.files:
            self.files[name, day].add(self._pseudonymised(parquet.table_of_rows(TABLES[name], rows)))

    def _pseudonymised(self, rows: pa.Table) -> pa.Table:
        return pseudonymise(rows, self.context.private_columns, self.context.private_key)

    def _in_batch(self, rows: pa.Table) -> pa.Table:
        first, last = (pa.scalar(day, pa.date32()) for day in (self.batch.period.first, self.batch.period.last))
        inside = pc.and_(pc.greater_equal(rows["day"], first), pc.less_equal(rows["day"], last))
        return rows if pc.all(inside).as_py() else rows.filter(inside)


def _moved(newest: pa.Table, earlier: pa.Table) -> Iterator[tuple[int, date]]:
    """Hash of the id and day of versions of records that moved by more than `LATE_ARRIVAL_DAYS`.

    Responses around the other day can have further versions, outside of the input window.
    """
    at = pc.index_in(earlier["cdr_id"], newest["cdr_id"].combine_chunks())
    days = newest["day"].take(at)
    is_moved = np.abs(days.to_numpy() - earlier["day"].to_numpy()) > np.timedelta64(LATE_ARRIVAL_DAYS, "D")
    if is_moved.any():
        moved = earlier.select(["cdr_id", "day"]).append_column("newest_day", days).filter(pa.array(is_moved))
        hashes = id_hashes(moved["cdr_id"]).tolist()
        for name in ("day", "newest_day"):
            yield from zip(hashes, moved[name].to_pylist(), strict=True)


def _marks(newest: pa.Table) -> dict[str, np.ndarray]:
    """What `rate` must know of rows beyond their content."""
    repeated = newest["repeated"].to_numpy()
    return {
        "is_unlisted": ~mask(newest["is_listed"]),
        "is_repeated": repeated > 0,
        "is_repeated_in_session": repeated == IS_REPEATED_IN_SESSION,
    }


def newest_decisions(lake: ObjectStore, project: str) -> dict[tuple[str, str, Decimal | None], Decision]:
    """The newest decision of each version of a record in suspense."""
    return {
        (record.suspense_id, record.reasons, record.at_stake_min): Decision(
            decision.outcome, decision.decided_at, decision.because
        )
        for decision in read_decisions(lake, project)
        for record in decision.records
    }
