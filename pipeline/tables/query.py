"""SQL over the tables: DuckDB with every table a view, reading only.

In a folder DuckDB reads the Parquet itself. In a bucket the tables come in as pyarrow datasets, so that no DuckDB
extension has to be downloaded. Either way conditions on `project` and `day` skip whole objects, unopened.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.fs as pafs

from pipeline.core.errors import ConfigError
from pipeline.core.tempfiles import temp_folder
from pipeline.storage import open_store
from pipeline.storage.base import ObjectStore
from pipeline.tables.parquet import PARTITIONS, dataset, empty_table, table_keys, to_pandas
from pipeline.tables.schemas import TABLES

if TYPE_CHECKING:
    import pandas as pd

_BATCH_ROWS = 100_000
_READS_ONLY = (
    "query: only one read-only statement is allowed (SELECT, WITH, FROM, DESCRIBE, SHOW or SUMMARIZE);"
    " nothing can be written, attached or set"
)
_BUILT_EARLIER = (
    "query: some days were built by an earlier version and lack a column that this one asks for; `postroom build`"
    " builds them again"
)
_DAMAGED = "`postroom build` builds damaged days again"
_SEE_TABLES = "tables and columns are in docs/reference/tables.md"
_GLOB = frozenset("*?[")


def run_query(lake: ObjectStore, sql: str) -> pa.Table:
    """All rows of `open_query`, in memory."""
    with open_query(lake, sql) as rows:
        return rows.read_all()


def sql(statement: str, *, lake: ObjectStore | str = "file:./data/lake") -> pd.DataFrame:
    """The answer to one SQL statement as a pandas DataFrame, for notebooks; `lake` is a store or its root URL."""
    return to_pandas(run_query(open_store(lake) if isinstance(lake, str) else lake, statement))


@contextmanager
def open_query(lake: ObjectStore, sql: str) -> Iterator[pa.RecordBatchReader]:
    """The result of one SQL statement over the lake's tables, batch by batch while DuckDB works.

    The statement can change nothing and reach nothing but the tables: only what selects is run, other files are closed
    to it, and settings are locked. What does not fit into memory is sorted on disk (TMPDIR).

    Raises:
        ConfigError: the statement is wrong, or does more than read; names DuckDB's message. Also while rows are read.
    """
    import duckdb  # noqa: PLC0415 - 14 MiB and a tenth of a second that only queries need

    with temp_folder() as spill, duckdb.connect(":memory:") as connection:
        with _one_line():
            if [statement.type for statement in duckdb.extract_statements(sql)] != [duckdb.StatementType.SELECT]:
                raise ConfigError(_READS_ONLY)
            paths = [path for table in TABLES for path in _add(connection, lake, table, is_named=_may_name(sql, table))]
            for setting, value in (
                ("TimeZone", "UTC"),
                ("python_enable_replacements", False),
                ("temp_directory", str(spill)),
                ("allowed_paths", paths),
                ("enable_external_access", False),
                ("lock_configuration", True),
            ):
                connection.execute(f"SET {setting} = {_literal(value)}")
            found = connection.sql(sql).to_arrow_reader(_BATCH_ROWS)
        yield pa.RecordBatchReader.from_batches(found.schema, _batches(found))


def _batches(found: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
    with _one_line():
        yield from found


def _may_name(sql: str, table: str) -> bool:
    """Whether a statement can read a table: only then is the table looked for. `query` makes names of any text."""
    text = sql.lower()
    return table in text or "query" in text


def _add(connection: Any, lake: ObjectStore, table: str, *, is_named: bool) -> list[str]:
    """Make a table visible, empty when no statement names it; the paths DuckDB must be allowed to open."""
    import duckdb  # noqa: PLC0415 - as above

    keys = table_keys(lake, table) if is_named else []
    if not keys:
        connection.register(table, empty_table(table))
        return []
    filesystem, root = lake.filesystem()
    if not isinstance(filesystem, pafs.LocalFileSystem) or _GLOB & set(root):
        connection.register(table, dataset(lake, table, keys))
        return []
    # The schema of a view is that of the first file: the newest day's, built by the newest version.
    paths = [f"{root}/{key}" for key in sorted(keys, key=lambda key: key.partition("/day=")[2], reverse=True)]
    columns = ", ".join(f'"{name}"' for name in (*TABLES[table].schema.names, *PARTITIONS.names))
    try:
        connection.execute(
            f"CREATE VIEW {table} AS SELECT {columns} FROM read_parquet({_literal(paths)},"  # noqa: S608 - quoted
            " hive_partitioning = true, hive_types = {'project': VARCHAR, 'day': DATE})"
        )
    except duckdb.BinderException:  # no day has all columns yet; pyarrow fills them with nulls
        connection.register(table, dataset(lake, table, keys))
        return []
    return paths


def _literal(value: str | bool | Sequence[str]) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return f"[{', '.join(map(_literal, value))}]"


@contextmanager
def _one_line() -> Iterator[None]:
    """What DuckDB or Arrow raises becomes one line with the next step."""
    import duckdb  # noqa: PLC0415 - as above

    try:
        yield
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        said = str(error).strip().splitlines()[0]
        if "schema mismatch" in said:
            raise ConfigError(_BUILT_EARLIER) from None
        raise ConfigError(f"query: {said}; {_DAMAGED if '.parquet' in said else _SEE_TABLES}") from None
