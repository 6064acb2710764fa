"""Rows to Arrow to one Parquet object per table, project and day, replaced whole; and back.

The digest of a day's inputs stands in the object's own metadata, so whether a day has to be built again is read from
the object itself, and a reader never sees the one without the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from pipeline import layout
from pipeline.errors import ConfigError, ObjectMissing
from pipeline.model import Period, Row
from pipeline.schemas import TABLES, TableSpec
from pipeline.store import open_store
from pipeline.store.base import ObjectStore

if TYPE_CHECKING:
    from datetime import date

    import pandas as pd

_INPUTS = b"postroom.inputs"
_ROW_GROUP_ROWS = 128 * 1024
_PARTITION_FIELDS = [pa.field("project", pa.string()), pa.field("day", pa.date32())]
_PARTITIONING = pads.partitioning(pa.schema(_PARTITION_FIELDS), flavor="hive")


def write_day(lake: ObjectStore, spec: TableSpec, project: str, day: date, rows: Iterable[Row], inputs: str) -> int:
    """Replace one table's day; return its number of rows. The same rows and inputs give the same bytes."""
    table = arrow_table(spec, rows, inputs)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", compression_level=1, row_group_size=_ROW_GROUP_ROWS)
    lake.replace(layout.table_key(spec.name, project, day), sink.getvalue().to_pybytes())
    return int(table.num_rows)


def arrow_table(spec: TableSpec, rows: Iterable[Row], inputs: str = "") -> pa.Table:
    """Rows as Arrow, typed by the table's schema and nothing else, sorted by key."""
    ordered = sorted(rows, key=lambda row: [_sortable(row[name]) for name in spec.key])
    schema = spec.schema.with_metadata({_INPUTS: inputs.encode()})
    return pa.Table.from_pylist(ordered, schema=schema)


def inputs_of_day(lake: ObjectStore, table: str, project: str, day: date) -> str | None:
    """The digest a day was built from; None when it was not built (or is not ours)."""
    try:
        with lake.open(layout.table_key(table, project, day)) as stream:
            metadata = pq.read_schema(stream).metadata or {}
    except (ObjectMissing, pa.ArrowInvalid):
        return None
    found = metadata.get(_INPUTS)
    return found.decode() if found else None


def built_days(lake: ObjectStore, table: str, project: str) -> list[date]:
    """Days of a table that exist, in order; from a listing alone."""
    names = (layout.parse_table_key(stored.key) for stored in lake.list(layout.table_prefix(table, project)))
    return sorted(name.day for name in names if name)


def dataset(lake: ObjectStore, table: str) -> pads.Dataset:
    """A table as a pyarrow dataset with `project` and `day`; empty, but typed, when nothing was built yet."""
    schema = pa.schema([*TABLES[table].schema, *_PARTITION_FIELDS])
    keys = [stored.key for stored in lake.list(layout.table_prefix(table)) if layout.parse_table_key(stored.key)]
    if not keys:
        return pads.dataset(pa.Table.from_pylist([], schema=schema))
    filesystem, root = lake.filesystem()
    return pads.dataset(
        [f"{root}/{key}" for key in keys],
        schema=schema,
        format="parquet",
        filesystem=filesystem,
        partitioning=_PARTITIONING,
        partition_base_dir=f"{root}/{layout.table_prefix(table)}",
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
        table: one of `pipeline.schemas.TABLES`.
        days: inclusive UTC dates; all when None.
        columns: names, `project` and `day` among them if wanted; all when None.
        project: one project; all when None.
        lake: a store, or its root URL.

    Raises:
        ConfigError: no such table or column.
    """
    if table not in TABLES:
        raise ConfigError(f'no table "{table}"; there are {", ".join(TABLES)}')
    source = dataset(open_store(lake) if isinstance(lake, str) else lake, table)
    unknown = set(columns or ()) - set(source.schema.names)
    if unknown:
        raise ConfigError(f"{table} has no column {', '.join(sorted(unknown))}; see docs/tables.md")
    wanted = pc.scalar(True)
    if days is not None:
        wanted &= (pc.field("day") >= days.first) & (pc.field("day") <= days.last)
    if project is not None:
        wanted &= pc.field("project") == project
    order = [(name, "ascending") for name in ("project", "day", *TABLES[table].key)]
    found = source.to_table(filter=wanted).sort_by(order)
    return found.select(list(columns)) if columns else found


def read(
    table: str,
    days: Period | None = None,
    columns: Sequence[str] | None = None,
    *,
    project: str | None = None,
    lake: ObjectStore | str = "file:./data/lake",
) -> pd.DataFrame:
    """`read_arrow` as a pandas DataFrame: decimals stay exact, times are UTC, text and flags may be missing."""
    return read_arrow(table, days, columns, project=project, lake=lake).to_pandas()


def _sortable(value: object) -> tuple[bool, object]:
    return (value is not None, value)
