"""Raw responses to typed Parquet, a day at a time, and back out: schemas, normalize, build, read, query.

`read`, `read_arrow` and `sql` are the public Python of Postroom; everything else in the package is private. What fills
the stores (collecting, copying files) does not belong here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.tables.parquet import read, read_arrow
    from pipeline.tables.query import sql

__all__ = ["read", "read_arrow", "sql"]


def __getattr__(name: str) -> Any:
    """Import on first use: DuckDB and PyArrow are slow to load, and most modules of this room need neither."""
    if name == "sql":
        from pipeline.tables.query import sql

        return sql
    if name in __all__:
        from pipeline.tables import parquet

        return getattr(parquet, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
