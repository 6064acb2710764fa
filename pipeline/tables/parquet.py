"""Arrow to one Parquet object per table, project and day, replaced whole; and back.

An object's bytes are a function of its rows and nothing else. What it was built from stands beside the tables, in one
note per project and day, written after them: so a day is known to be current from its note, and an object whose rows
came out the same is not written again.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.core.arrow_types import BILLED, MONEY, TEXT
from pipeline.core.errors import ConfigError, ObjectMissing
from pipeline.core.models import Period, Row
from pipeline.core.tempfiles import disk_errors
from pipeline.storage import open_store
from pipeline.storage.base import ObjectStore, read_bytes
from pipeline.storage.keys import build_record_key, parse_table_key, table_key, table_prefix
from pipeline.tables.schemas import TABLES, TableSpec

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import date

    import pandas as pd
    import pyarrow.dataset as pads

ROW_GROUP_ROWS = 32 * 1024
"""Constant, whatever pieces rows come in: row groups are part of the bytes. Rows of `cdr` make 30 MB, and the days of a
week are written side by side."""

_CHUNK_BYTES = 2**20
PARTITIONS = pa.schema([pa.field("project", pa.string()), pa.field("day", pa.date32())])


class TableBuildRecord(msgspec.Struct):
    """What one table's day was built from, and the object that came of it."""

    inputs: str
    rows: int
    size_bytes: int
    sha256: str


class DayBuildRecord(msgspec.Struct):
    """What is built of one project and day, by table."""

    tables: dict[str, TableBuildRecord]


_DAY_BUILD_RECORD = msgspec.json.Decoder(DayBuildRecord)


class PartitionWriter:
    """One table's day on its way to the lake: rows come in key order, in pieces of any size. Memory: one row group."""

    def __init__(self, folder: Path, spec: TableSpec, day: date) -> None:
        self._schema = spec.schema
        self.path = folder / f"{spec.name}-{day}.parquet"
        self.rows = 0
        self._waiting: list[pa.Table] = []
        self._waiting_rows = 0
        with disk_errors():
            self._writer = pq.ParquetWriter(
                self.path, self._schema, compression="zstd", compression_level=1, use_dictionary=_repeating(spec)
            )

    def add(self, rows: pa.Table) -> None:
        """Take rows; columns that the table does not have are dropped."""
        self._waiting.append(rows.select(self._schema.names).cast(self._schema))
        self._waiting_rows += rows.num_rows
        while self._waiting_rows >= ROW_GROUP_ROWS:
            self._write_group()

    def close(self) -> None:
        while self._waiting_rows:
            self._write_group()
        with disk_errors():
            self._writer.close()

    def chunks(self) -> Iterator[bytes]:
        with disk_errors(), self.path.open("rb") as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                yield chunk

    def sha256(self) -> str:
        """Of a closed file."""
        digest = hashlib.sha256()
        for chunk in self.chunks():
            digest.update(chunk)
        return digest.hexdigest()

    def _write_group(self) -> None:
        waiting = pa.concat_tables(self._waiting)
        group, rest = waiting.slice(0, ROW_GROUP_ROWS), waiting.slice(ROW_GROUP_ROWS)
        with disk_errors():
            self._writer.write_table(group.combine_chunks(), row_group_size=ROW_GROUP_ROWS)
        self.rows += group.num_rows
        self._waiting, self._waiting_rows = [rest], rest.num_rows


def _repeating(spec: TableSpec) -> list[str]:
    """Columns whose values repeat. A dictionary of others, of ids, times and measures, costs time and space."""
    kinds = {TEXT, BILLED, MONEY}
    return [column.name for column in spec.columns if column.type in kinds and column.name != spec.key[0]]


def replace_partition(
    lake: ObjectStore, table: str, project: str, day: date, file: PartitionWriter, known: TableBuildRecord | None
) -> str:
    """Put a closed file in the place of a table's day, unless the same bytes are there; return their SHA-256."""
    sha256, key = file.sha256(), table_key(table, project, day)
    stored = lake.head(key)
    if known is None or stored is None or (known.sha256, known.size_bytes) != (sha256, stored.size_bytes):
        lake.overwrite(key, file.chunks())
    return sha256


def table_of_rows(spec: TableSpec, rows: Iterable[Row]) -> pa.Table:
    """A few rows as Arrow, typed by the table's schema and nothing else, sorted by key."""
    ordered = sorted(rows, key=lambda row: [_sortable(row[name]) for name in spec.key])
    return pa.Table.from_pylist(ordered, schema=spec.schema)


def read_build_record(lake: ObjectStore, project: str, day: date) -> DayBuildRecord:
    """What is built of a day; nothing when there is no note, or one that cannot be read."""
    try:
        return _DAY_BUILD_RECORD.decode(read_bytes(lake, build_record_key(project, day)))
    except (ObjectMissing, msgspec.DecodeError):
        return DayBuildRecord({})


def write_build_record(lake: ObjectStore, project: str, day: date, tables: Mapping[str, TableBuildRecord]) -> None:
    """Say what was built; the last step of building a day."""
    note = DayBuildRecord(dict(sorted(tables.items())))
    lake.overwrite(build_record_key(project, day), msgspec.json.format(msgspec.json.encode(note), indent=1))


def list_partitions(lake: ObjectStore, table: str, project: str) -> dict[date, int]:
    """Days of a table that exist, in order, and the sizes of their objects in bytes; from a listing alone."""
    stored = lake.list(table_prefix(table, project))
    return {name.day: one.size_bytes for one in stored if (name := parse_table_key(one.key))}


def table_keys(lake: ObjectStore, table: str) -> list[str]:
    """The keys of a table's objects, in order of project and day; whatever else lies there is left out."""
    return [stored.key for stored in lake.list(table_prefix(table)) if parse_table_key(stored.key)]


def empty_table(table: str) -> pa.Table:
    """A table without rows, with `project` and `day`: what there is before anything was built."""
    return pa.Table.from_batches([], pa.schema([*TABLES[table].schema, *PARTITIONS]))


def dataset(lake: ObjectStore, table: str, keys: Sequence[str] | None = None) -> pads.Dataset:
    """A table (or only the objects of some keys) as a pyarrow dataset with `project` and `day`; empty, but typed,
    when there are none."""
    import pyarrow.dataset as pads  # noqa: PLC0415 - it loads pandas, which takes longer than all else together

    keys = table_keys(lake, table) if keys is None else keys
    if not keys:
        return pads.dataset(empty_table(table))
    filesystem, root = lake.filesystem()
    return pads.dataset(
        [f"{root}/{key}" for key in keys],
        schema=empty_table(table).schema,
        format="parquet",
        filesystem=filesystem,
        partitioning=pads.partitioning(PARTITIONS, flavor="hive"),
        partition_base_dir=f"{root}/{table_prefix(table)}",
    )


def read_arrow(
    table: str,
    days: Period | None = None,
    columns: Sequence[str] | None = None,
    *,
    project: str | None = None,
    lake: ObjectStore | str = "file:./data/lake",
) -> pa.Table:
    """Read a table, or some days and columns of it, as Arrow; sorted by project, day and key.

    Args:
        table: one of `pipeline.tables.schemas.TABLES`.
        days: inclusive UTC dates; all when None.
        columns: names, `project` and `day` among them if wanted; all when None.
        project: one project; all when None.
        lake: a store, or its root URL.

    Raises:
        ConfigError: no such table or column.
    """
    if table not in TABLES:
        raise ConfigError(f'no table "{table}"; there are {", ".join(TABLES)}')
    empty = empty_table(table)
    unknown = set(columns or ()) - set(empty.schema.names)
    if unknown:
        raise ConfigError(f"{table} has no column {', '.join(sorted(unknown))}; see docs/reference/tables.md")
    lake = open_store(lake) if isinstance(lake, str) else lake
    keys = table_keys(lake, table)
    if not keys:
        return empty.select(list(columns)) if columns else empty
    wanted = pc.scalar(True)
    if days is not None:
        wanted &= (pc.field("day") >= days.first) & (pc.field("day") <= days.last)
    if project is not None:
        wanted &= pc.field("project") == project
    order = ["project", "day", *TABLES[table].key]
    read = list(dict.fromkeys([*columns, *order])) if columns else None
    found = (
        dataset(lake, table, keys)
        .to_table(columns=read, filter=wanted)
        .sort_by([(name, "ascending") for name in order])
    )
    return found.select(list(columns)) if columns else found


def read(
    table: str,
    days: Period | None = None,
    columns: Sequence[str] | None = None,
    *,
    project: str | None = None,
    lake: ObjectStore | str = "file:./data/lake",
) -> pd.DataFrame:
    """`read_arrow` as a pandas DataFrame: decimals stay exact, times are UTC, text and flags may be missing.

    Raises:
        ConfigError: no such table or column; pandas is not installed.
    """
    return to_pandas(read_arrow(table, days, columns, project=project, lake=lake))


def to_pandas(rows: pa.Table) -> pd.DataFrame:
    """Arrow as a DataFrame; ConfigError when pandas, which nothing else needs, is not installed."""
    if importlib.util.find_spec("pandas") is None:
        raise ConfigError("pandas is not installed: pip install 'postroom[notebooks]'; read_arrow does without")
    return rows.to_pandas()


def _sortable(value: object) -> tuple[bool, object]:
    return (value is not None, value)
