"""Read a month for its export: sessions, lines and control totals, in batches of bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, datetime
from itertools import accumulate, groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.billing import line_items
from pipeline.billing.line_items import ENCODED_ITEMS, ITEMS, LINES, MEASURES
from pipeline.billing.month import RECORD_REACH_DAYS, BillingMonth
from pipeline.core.concurrency import SerialWorkers, prefetch
from pipeline.core.context import App
from pipeline.core.models import Period
from pipeline.core.tempfiles import disk_errors
from pipeline.storage import raw
from pipeline.storage.base import ObjectStore
from pipeline.storage.keys import table_key
from pipeline.tables import parquet
from pipeline.tables.schemas import TABLES

_BATCH_ROWS = 256 * 1024
"""Rows of `cdr` per batch: about 100 MB in memory with their items."""


@dataclass
class MonthTotals:
    """The month of one project: its items in a file, its lines, and its control totals."""

    project: str
    path: Path
    lines: pa.Table = field(default_factory=LINES.empty_table)
    known_until: datetime | None = None
    collected: dict[str, int] = field(default_factory=dict)
    rejects: int = 0
    cdr_rows: int = 0
    cdr_ms: int = 0
    items: dict[str, Any] = field(default_factory=dict)


@dataclass
class Sessions:
    """The sessions around a day. Each day is read once if days are requested in order."""

    lake: ObjectStore
    project: str
    days: dict[date, pa.Table] = field(default_factory=dict)

    def around(self, day: date) -> pa.Table:
        """Those that can have connections of a partition, or own its files; sorted by `conf_num` and start."""
        near = Period(day, day).widened(RECORD_REACH_DAYS + 1)
        for cached in [cached for cached in self.days if cached < near.first]:
            del self.days[cached]
        sessions = pa.concat_tables([self.of(other) for other in near])
        return sessions.sort_by([("conf_num", "ascending"), ("first_connected_at", "ascending")])

    def of(self, day: date) -> pa.Table:
        if day not in self.days:
            parts = list(table_day(self.lake, "sessions", self.project, day, line_items.SESSION_COLUMNS))
            self.days[day] = pa.concat_tables([_empty("sessions", line_items.SESSION_COLUMNS), *parts])
        return self.days[day]


@dataclass
class _Lines:
    """Aggregates batches of items to lines. Pending lines are merged when they outnumber the merged ones."""

    merged: pa.Table = field(default_factory=LINES.empty_table)
    pending: list[pa.Table] = field(default_factory=list)

    def add(self, items: pa.Table) -> None:
        self.pending.append(line_items.aggregate_lines(items))
        if sum(lines.num_rows for lines in self.pending) > max(self.merged.num_rows, _BATCH_ROWS):
            self.all()

    def all(self) -> pa.Table:
        self.merged, self.pending = line_items.aggregate_lines(pa.concat_tables([self.merged, *self.pending])), []
        return self.merged


def read_month(app: App, folder: Path, project: str, month: BillingMonth) -> MonthTotals:
    """Read the month of one project once; write its items to a file and aggregate them to lines."""
    result = MonthTotals(project, folder / f"items-{project}.parquet")
    rounding, sessions = app.settings.billing.rounding, Sessions(app.lake, project)
    lines, sums = _Lines(), [result.lines]
    with pq.ParquetWriter(result.path, ENCODED_ITEMS, **_ITEMS_PARQUET) as writer, SerialWorkers() as workers:

        def write(items: pa.Table) -> None:
            with disk_errors():
                writer.write_table(items, row_group_size=_BATCH_ROWS)

        def add(items: pa.Table) -> None:
            if items.num_rows:
                workers.submit("items", write, items)
                lines.add(items)
                sums.append(pa.Table.from_pylist([line_items.totals(items)], schema=_SUMS))
                result.known_until = _latest(result.known_until, items)

        for day in month.partition_days:
            around = sessions.around(day)
            for rows in prefetch(table_day(app.lake, "cdr", project, day, line_items.CDR_COLUMNS, line_items.REPEATED)):
                result.cdr_rows += rows.num_rows
                result.cdr_ms += int(line_items.participant_ms(rows).sum())
                add(line_items.connection_items(rows, around, project, month, rounding))
            add(line_items.session_items(sessions.of(day), project, month, rounding))
            for rows in table_day(app.lake, "suspense", project, day, line_items.SUSPENSE_COLUMNS):
                add(line_items.suspense_items(rows, day, around, project, month))
        sessions.days.clear()
        for day in parquet.list_partitions(app.lake, "media", project):
            if day <= month.ends_at.date():
                for rows in table_day(app.lake, "media", project, day, line_items.MEDIA_COLUMNS):
                    add(line_items.file_items(rows, sessions.around(day), project, month))
    result.lines = lines.all()
    result.items = line_items.totals(pa.concat_tables([_SUMS.empty_table(), *sums[1:]]))
    _add_input_totals(app, result, month)
    return result


_SUMS = pa.schema(
    [(name, kind if kind == pa.int64() else pa.decimal128(38, kind.scale)) for name, kind in MEASURES.items()]
)


def _add_input_totals(app: App, result: MonthTotals, month: BillingMonth) -> None:
    """Count the raw responses, documents and rejects of the days whose tables were read."""
    responses = list(raw.read_receipts(app.vault, "cdr", result.project, month.partition_days))
    documents = sum(response.documents for response in responses)
    result.collected = {"pages": len(responses), "documents": documents}
    for day in month.partition_days:
        for rows in table_day(app.lake, "rejects", result.project, day, ("source",)):
            result.rejects += pc.sum(pc.equal(rows["source"], "cdr"), min_count=0).as_py()


def _latest(latest: datetime | None, items: pa.Table) -> datetime | None:
    times = [pc.max(items[name]).as_py() for name in ("first_seen_at", "changed_at")]
    return max((time for time in (latest, *times) if time), default=None)


def table_day(
    lake: ObjectStore, table: str, project: str, day: date, columns: tuple[str, ...], encoded: tuple[str, ...] = ()
) -> Iterator[pa.Table]:
    """One day of a table in batches of about `_BATCH_ROWS`, with dictionaries for `encoded`; empty if not built."""
    key = table_key(table, project, day)
    if lake.head(key) is not None:
        with lake.open(key) as stream:
            yield from _batches(stream, list(columns), encoded)


def _batches(stream: Any, columns: list[str] | None = None, encoded: tuple[str, ...] = ()) -> Iterator[pa.Table]:
    """Batches of whole row groups, because dictionary-encoded batches end at every row group."""
    with pq.ParquetFile(stream, read_dictionary=[name for name in encoded if columns and name in columns]) as file:
        columns = columns or file.schema_arrow.names
        groups = range(file.num_row_groups)
        starts = [0, *accumulate(file.metadata.row_group(at).num_rows for at in groups)]
        for _, batch in groupby(groups, key=lambda at: starts[at] // _BATCH_ROWS):
            yield file.read_row_groups(list(batch), columns=columns).select(columns).combine_chunks()


def _empty(table: str, columns: tuple[str, ...]) -> pa.Table:
    schema = TABLES[table].schema
    return pa.schema([schema.field(name) for name in columns]).empty_table()


_PARQUET: dict[str, Any] = {"compression": "zstd", "compression_level": 1}
_MOSTLY_UNIQUE = {"participant_s", "first_seen_at", "changed_at"}


_ITEMS_PARQUET: dict[str, Any] = {
    **_PARQUET,
    "use_dictionary": [name for name in ITEMS.names if name not in {"item", *_MOSTLY_UNIQUE}],
    "column_encoding": dict.fromkeys(_MOSTLY_UNIQUE, "DELTA_BINARY_PACKED"),
    "store_decimal_as_integer": True,
    "write_statistics": False,
    "store_schema": False,
}
"""Optimized for writing, because only the next revision reads the file, completely. A dictionary of mostly unique
values would be built and discarded."""
