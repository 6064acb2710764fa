"""SQL over the tables: DuckDB with every table a view, reading only.

The tables come in as pyarrow datasets, so a lake in a bucket needs no DuckDB extension, and conditions on `project` and
`day` skip whole objects.
"""

from __future__ import annotations

import pyarrow as pa

from pipeline.errors import ConfigError
from pipeline.schemas import TABLES
from pipeline.store.base import ObjectStore
from pipeline.tables import dataset

_SETTINGS = (
    "TimeZone = 'UTC'",
    "python_enable_replacements = false",
    "enable_external_access = false",
    "lock_configuration = true",
)


def run_query(lake: ObjectStore, sql: str) -> pa.Table:
    """The result of one SQL statement over the lake's tables, as Arrow.

    The statement cannot touch files or settings: external access is off and locked.

    Raises:
        ConfigError: the statement is wrong; names what DuckDB says.
    """
    import duckdb  # noqa: PLC0415 - 14 MiB and a tenth of a second that only queries need

    with duckdb.connect(":memory:") as connection:
        for table in TABLES:
            connection.register(table, dataset(lake, table))
        for setting in _SETTINGS:
            connection.execute(f"SET {setting}")
        try:
            relation = connection.sql(sql)
            if relation is None:
                raise ConfigError("query: this statement returns no rows; the lake is for reading, begin with SELECT")
            return relation.to_arrow_table()
        except duckdb.Error as error:
            first = str(error).strip().splitlines()[0]
            raise ConfigError(f"query: {first}; tables and columns are in docs/tables.md") from None
