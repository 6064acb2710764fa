"""Write and read the Parquet partitions: one object per table, project and day, replaced whole.

The bytes of an object depend only on its rows and on the version of pyarrow, which is in its footer. The inputs of a
partition are recorded in one build record per project and day, written after the tables. A build record shows whether a
day is current, and an object whose bytes are the same is not written again.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import msgspec
import pyarrow as pa
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
"""Fixed, because row groups are part of the bytes. One row group of `cdr` takes 30 MB, and the 7 days of a week are
written concurrently."""

_CHUNK_BYTES = 2**20
DataFrameTypes = Literal["arrow", "numpy"]
PARTITIONS = pa.schema([pa.field("project", pa.string()), pa.field("day", pa.date32())])


class TableBuildRecord(msgspec.Struct):
    """Inputs digest of one partition, and row count, size and SHA-256 of its object."""

    inputs: str
    rows: int
    size_bytes: int
    sha256: str


class DayBuildRecord(msgspec.Struct):
    """Build records of one project and day, by table."""

    tables: dict[str, TableBuildRecord]


_DAY_BUILD_RECORD = msgspec.json.Decoder(DayBuildRecord)


class PartitionWriter:
    """Writes one partition to a local file. Rows are added in key order, in pieces of any size. Memory: 1 row group."""

    def __init__(self, folder: Path, spec: TableSpec, day: date) -> None:
        self._schema = spec.schema
        self.path = folder / f"{spec.name}-{day}.parquet"
        self.rows = 0
        self._buffered: list[pa.Table] = []
        self._buffered_rows = 0
        with disk_errors():
            self._writer = pq.ParquetWriter(
                self.path,
                self._schema,
                compression="zstd",
                compression_level=1,
                use_dictionary=_dictionary_columns(spec),
            )

    def add(self, rows: pa.Table) -> None:
        """Add rows; columns outside the table are dropped."""
        self._buffered.append(rows.select(self._schema.names).cast(self._schema))
        self._buffered_rows += rows.num_rows
        while self._buffered_rows >= ROW_GROUP_ROWS:
            self._write_group()

    def close(self) -> None:
        while self._buffered_rows:
            self._write_group()
        with disk_errors():
            self._writer.close()

    def chunks(self) -> Iterator[bytes]:
        with disk_errors(), self.path.open("rb") as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                yield chunk

    def sha256(self) -> str:
        """SHA-256 of the closed file, hex."""
        digest = hashlib.sha256()
        for chunk in self.chunks():
            digest.update(chunk)
        return digest.hexdigest()

    def _write_group(self) -> None:
        buffered = pa.concat_tables(self._buffered)
        group, rest = buffered.slice(0, ROW_GROUP_ROWS), buffered.slice(ROW_GROUP_ROWS)
        with disk_errors():
            self._writer.write_table(group.combine_chunks(), row_group_size=ROW_GROUP_ROWS)
        self.rows += group.num_rows
        self._buffered, self._buffered_rows = [rest], rest.num_rows


def _dictionary_columns(spec: TableSpec) -> list[str]:
    """Columns whose values repeat. For ids, times and measures a dictionary costs time and space."""
    kinds = {TEXT, BILLED, MONEY}
    return [column.name for column in spec.columns if column.type in kinds and column.name != spec.key[0]]


def replace_partition(
    lake: ObjectStore, table: str, project: str, day: date, file: PartitionWriter, record: TableBuildRecord | None
) -> str:
    """Replace a partition with a closed file, unless it has the same bytes already; return the SHA-256.

    `record` is the earlier build record of the partition.
    """
    sha256, key = file.sha256(), table_key(table, project, day)
    stored = lake.head(key)
    if record is None or stored is None or (record.sha256, record.size_bytes) != (sha256, stored.size_bytes):
        lake.overwrite(key, file.chunks())
    return sha256


def table_of_rows(spec: TableSpec, rows: Iterable[Row]) -> pa.Table:
    """Rows as Arrow with the schema of the table, sorted by key."""
    ordered = sorted(rows, key=lambda row: [_sortable(row[name]) for name in spec.key])
    return pa.Table.from_pylist(ordered, schema=spec.schema)


def read_build_record(lake: ObjectStore, project: str, day: date) -> DayBuildRecord:
    """The build record of a day; empty if missing or unreadable."""
    try:
        return _DAY_BUILD_RECORD.decode(read_bytes(lake, build_record_key(project, day)))
    except (ObjectMissing, msgspec.DecodeError):
        return DayBuildRecord({})


def write_build_record(lake: ObjectStore, project: str, day: date, tables: Mapping[str, TableBuildRecord]) -> None:
    """Write the build record of a day; the last step of building it."""
    record = DayBuildRecord(dict(sorted(tables.items())))
    lake.overwrite(build_record_key(project, day), msgspec.json.format(msgspec.json.encode(record), indent=1))


def list_partitions(lake: ObjectStore, table: str, project: str) -> dict[date, int]:
    """Existing days of a table, in order, with the size of each object in bytes; from one listing."""
    stored = lake.list(table_prefix(table, project))
    return {name.day: entry.size_bytes for entry in stored if (name := parse_table_key(entry.key))}


def table_keys(lake: ObjectStore, table: str, *, project: str | None = None, days: Period | None = None) -> list[str]:
    """Keys of the objects of a table, of one project or of all, sorted by project and day; foreign objects are
    ignored."""
    names = [name for stored in lake.list(table_prefix(table, project or "")) if (name := parse_table_key(stored.key))]
    # Not the order of keys: "acme-2/" is listed before "acme/".
    chosen = sorted(name for name in names if days is None or name.day in days)
    return [table_key(*name) for name in chosen]


def empty_table(table: str) -> pa.Table:
    """A table without rows, with the partition columns `project` and `day`."""
    return pa.Table.from_batches([], pa.schema([*TABLES[table].schema, *PARTITIONS]))


def dataset(lake: ObjectStore, table: str, keys: Sequence[str] | None = None) -> pads.Dataset:
    """A table (or the objects `keys` of it) as a pyarrow dataset with `project` and `day`; empty, but typed, without
    objects."""
    import pyarrow.dataset as pads  # noqa: PLC0415 - it imports pandas, which takes longer than all other imports

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
    """Read a table, optionally limited to days and columns, as Arrow; sorted by project, day and key, null first.

    A column that a day lacks, because an earlier version built it, is null there.

    Args:
        table: one of `pipeline.tables.schemas.TABLES`.
        days: inclusive UTC dates; all when None.
        columns: names, which may include `project` and `day`; all when None.
        project: one project; all when None.
        lake: a store, or its root URL.

    Raises:
        ConfigError: the table or a column does not exist.
    """
    found, names = _chosen(table, days, columns, project, lake)
    return found.select(names) if isinstance(found, pa.Table) else found.to_table(columns=names)


def read_batches(
    table: str,
    days: Period | None = None,
    columns: Sequence[str] | None = None,
    *,
    project: str | None = None,
    lake: ObjectStore | str = "file:./data/lake",
) -> Iterator[pa.RecordBatch]:
    """`read_arrow` in batches of at most 32,768 rows, same order, for what does not fit into memory.

    Memory: one compressed object (a day of one project) and a few batches of 30 MB at most.

    Raises:
        ConfigError: the table or a column does not exist.
    """
    found, names = _chosen(table, days, columns, project, lake)
    if isinstance(found, pa.Table):
        return iter(())
    batches: Iterator[pa.RecordBatch] = found.to_batches(
        columns=names, batch_size=ROW_GROUP_ROWS, batch_readahead=1, fragment_readahead=1
    )
    return batches


def read(
    table: str,
    days: Period | None = None,
    columns: Sequence[str] | None = None,
    *,
    project: str | None = None,
    lake: ObjectStore | str = "file:./data/lake",
    dtypes: DataFrameTypes = "arrow",
) -> pd.DataFrame:
    """`read_arrow` as a pandas DataFrame; `dtypes` as in `to_pandas`.

    Raises:
        ConfigError: the table or a column does not exist, or pandas is not installed.
    """
    return to_pandas(read_arrow(table, days, columns, project=project, lake=lake), dtypes)


def _chosen(
    table: str, days: Period | None, columns: Sequence[str] | None, project: str | None, lake: ObjectStore | str
) -> tuple[pa.Table | pads.Dataset, list[str]]:
    """The objects and columns to read; a table without rows if there is no object.

    pyarrow reads rows in the order of objects, and those are sorted by key.
    """
    if table not in TABLES:
        raise ConfigError(f'no table "{table}"; tables are {", ".join(TABLES)}')
    empty = empty_table(table)
    unknown = set(columns or ()) - set(empty.schema.names)
    if unknown:
        raise ConfigError(f"{table} has no column {', '.join(sorted(unknown))}; see docs/reference/tables.md")
    lake = open_store(lake) if isinstance(lake, str) else lake
    keys = table_keys(lake, table, project=project, days=days)
    return dataset(lake, table, keys) if keys else empty, list(columns) if columns else empty.schema.names


def to_pandas(rows: pa.Table, dtypes: DataFrameTypes = "arrow") -> pd.DataFrame:
    """Arrow as a DataFrame.

    `dtypes`: `arrow` keeps the types of Arrow (`pandas.ArrowDtype`): exact decimals, dates with `.dt`, nullable
    flags. `numpy` has Python objects instead of these.

    Raises:
        ConfigError: another `dtypes`, or pandas, an optional dependency, is not installed.
    """
    if dtypes not in get_args(DataFrameTypes):
        raise ConfigError(f'dtypes "{dtypes}": must be {" or ".join(get_args(DataFrameTypes))}')
    if importlib.util.find_spec("pandas") is None:
        raise ConfigError("pandas is not installed: pip install 'postroom[notebooks]', or use read_arrow")
    import pandas as pd  # noqa: PLC0415 - an optional dependency

    return rows.to_pandas(types_mapper=pd.ArrowDtype if dtypes == "arrow" else None)


def _sortable(value: object) -> tuple[bool, object]:
    return (value is not None, value)
