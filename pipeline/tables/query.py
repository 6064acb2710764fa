"""Read-only SQL over the tables: DuckDB with one view per table.

From a folder, DuckDB reads the Parquet files directly. From a bucket, tables are registered as pyarrow datasets, so
that no DuckDB extension has to be downloaded. In both cases conditions on `project` and `day` skip objects without
opening them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.fs as pafs

from pipeline.core.arrow_types import BILLED, MONEY, TIME
from pipeline.core.errors import ConfigError
from pipeline.core.tempfiles import temp_folder
from pipeline.storage import open_store
from pipeline.storage.base import ObjectStore
from pipeline.tables.parquet import DataFrameTypes, dataset, empty_table, table_keys, to_pandas
from pipeline.tables.schemas import TABLES

if TYPE_CHECKING:
    import pandas as pd

_BATCH_ROWS = 100_000
_READS_ONLY = (
    "query: only one read-only statement is allowed (SELECT, WITH, FROM, DESCRIBE, SHOW or SUMMARIZE);"
    " it cannot write, attach or set anything"
)
_DAMAGED = "run `postroom build` to build damaged days again"
_SEE_TABLES = "tables and columns are listed in docs/reference/tables.md"
_GLOB = frozenset("*?[")
_DUCKDB_TYPES = {
    pa.string(): "VARCHAR",
    pa.bool_(): "BOOLEAN",
    pa.int64(): "BIGINT",
    pa.float64(): "DOUBLE",
    pa.date32(): "DATE",
    TIME: "TIMESTAMP WITH TIME ZONE",
    BILLED: "DECIMAL(18, 3)",
    MONEY: "DECIMAL(18, 6)",
}


def run_query(lake: ObjectStore, sql: str) -> pa.Table:
    """All rows of `open_query` in memory."""
    with open_query(lake, sql) as rows:
        return rows.read_all()


def sql(
    statement: str, *, lake: ObjectStore | str = "file:./data/lake", dtypes: DataFrameTypes = "arrow"
) -> pd.DataFrame:
    """The result of one SQL statement as a pandas DataFrame, for notebooks.

    `lake` is a store or its root URL; `dtypes` as in `parquet.to_pandas`.
    """
    return to_pandas(run_query(open_store(lake) if isinstance(lake, str) else lake, statement), dtypes)


@contextmanager
def open_query(lake: ObjectStore, sql: str) -> Iterator[pa.RecordBatchReader]:
    """The result of one SQL statement over the tables of the lake, streamed in batches of 100,000 rows.

    The statement cannot change anything or access anything but the tables: only SELECT statements run, other files are
    not accessible, and settings are locked. Data that does not fit into memory is spilled to disk (TMPDIR).

    Raises:
        ConfigError: the statement is invalid or not read-only; with the message of DuckDB. Also while rows are read.
    """
    import duckdb  # noqa: PLC0415 - 14 MiB and 0.1 s that only queries need

    with temp_folder() as spill, duckdb.connect(":memory:") as connection:
        with _one_line_errors():
            if [statement.type for statement in duckdb.extract_statements(sql)] != [duckdb.StatementType.SELECT]:
                raise ConfigError(_READS_ONLY)
            paths = [
                path for table in TABLES for path in _register(connection, lake, table, is_named=_may_name(sql, table))
            ]
            for setting, value in (
                ("TimeZone", "UTC"),
                ("python_enable_replacements", False),
                ("temp_directory", str(spill)),
                ("allowed_paths", paths),
                ("enable_external_access", False),
                ("lock_configuration", True),
            ):
                connection.execute(f"SET {setting} = {_literal(value)}")
            rows = connection.sql(sql).to_arrow_reader(_BATCH_ROWS)
        yield pa.RecordBatchReader.from_batches(rows.schema, _batches(rows))


def _batches(rows: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
    with _one_line_errors():
        yield from rows


def _may_name(sql: str, table: str) -> bool:
    """Whether a statement may read a table; other tables are not listed. The function `query` can build any name."""
    text = sql.lower()
    return table in text or "query" in text


def _register(connection: Any, lake: ObjectStore, table: str, *, is_named: bool) -> list[str]:
    """Register a table, empty if no statement names it; return the paths that DuckDB must be allowed to open."""
    keys = table_keys(lake, table) if is_named else []
    if not keys:
        connection.register(table, empty_table(table))
        return []
    filesystem, root = lake.filesystem()
    if not isinstance(filesystem, pafs.LocalFileSystem) or _GLOB & set(root):
        connection.register(table, dataset(lake, table, keys))
        return []
    paths = [f"{root}/{key}" for key in keys]
    connection.execute(f"CREATE VIEW {table} AS {_view(table, paths)}")
    return paths


def _view(table: str, paths: Sequence[str]) -> str:
    """A statement that reads a table's objects with the columns of this version.

    Days of an earlier version may lack a column, which is null there, or have one more. `union_by_name` would open
    every object to compare them, and without it the first object determines the columns. So the columns are given, and
    no object is opened before it is read. `hive_partitioning` cannot be combined with that, so `project` and `day` are
    cut out of the path; DuckDB skips objects by these expressions as well. A regular expression would be compiled for
    every object.
    """
    columns = TABLES[table].schema
    schema = ", ".join(
        f"'{column.name}': {{name: '{column.name}', type: '{_DUCKDB_TYPES[column.type]}', default_value: NULL}}"
        for column in columns
    )
    names = ", ".join(f'"{name}"' for name in columns.names)
    return (
        f"SELECT {names}, split_part(split_part(filename, '/', -3), '=', 2) AS project,"  # noqa: S608 - quoted
        " CAST(split_part(split_part(filename, '/', -2), '=', 2) AS DATE) AS day"
        f" FROM read_parquet({_literal(paths)}, schema = MAP {{{schema}}}, filename = true)"
    )


def _literal(value: str | bool | Sequence[str]) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return f"[{', '.join(map(_literal, value))}]"


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """Raise errors of DuckDB and Arrow as a ConfigError of one line with the next step."""
    import duckdb  # noqa: PLC0415 - as above

    try:
        yield
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        message = str(error).strip().splitlines()[0]
        raise ConfigError(f"query: {message}; {_DAMAGED if '.parquet' in message else _SEE_TABLES}") from None
