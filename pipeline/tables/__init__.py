"""Schemas, normalization, build and queries of the Parquet tables; `__all__` is public Python.

Requests to EnableX, copying of media files and billing rules do not belong here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.tables.parquet import read, read_arrow, read_batches
    from pipeline.tables.query import sql

__all__ = ["read", "read_arrow", "read_batches", "sql"]


def __getattr__(name: str) -> Any:
    """Import on first use: DuckDB and PyArrow are slow to import, and most modules of this room need neither."""
    if name == "sql":
        from pipeline.tables.query import sql

        return sql
    if name in __all__:
        from pipeline.tables import parquet

        return getattr(parquet, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
