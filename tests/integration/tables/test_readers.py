"""The examples of docs/guide/analysts.md, on a lake whose days were built by two versions."""

from __future__ import annotations

import importlib.util
import re
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.storage import LocalStore, keys
from pipeline.tables import read_arrow
from pipeline.tables.query import run_query
from pipeline.tables.schemas import TABLES
from tests.support.paths import ROOT

LAKE = "data/demo/lake"
DAYS = [date(2026, 11, 20) + timedelta(days=n) for n in range(4)]
PROJECTS = ("acme", "acme-2")
SQL = """SELECT project, day, owner_ref, sum(participant_min) AS minutes FROM usage_daily
         WHERE day >= DATE '2026-11-01' GROUP BY ALL ORDER BY ALL"""
Rows = list[tuple[str, date, str | None, Decimal]]


def write_object(lake: LocalStore, table: str, project: str, day: date, rows: pa.Table) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink)
    lake.overwrite(keys.table_key(table, project, day), sink.getvalue().to_pybytes())


@pytest.fixture(params=["oldest", "newest"])
def mixed(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rows:
    """A lake, half of whose days (the oldest, or all but the newest) an earlier version built: without `owner_ref`, and
    with a column that no longer exists. Returns minutes by project, day and owner."""
    monkeypatch.chdir(tmp_path)
    lake, expected = LocalStore(tmp_path / LAKE), []
    earlier = DAYS[:2] if request.param == "oldest" else DAYS[:1] + DAYS[2:3]
    for project in PROJECTS:
        for number, day in enumerate(DAYS):
            for table in ("usage_daily", "media", "cdr"):
                values = {"owner_ref": "tenant-1", "participant_min": Decimal(f"{number}.500"), "is_sip": True}
                spec = TABLES[table]
                row = {name: values.get(name) for name in spec.schema.names}
                rows = pa.Table.from_pylist([row], schema=spec.schema)
                if day in earlier and table == "usage_daily":
                    rows = rows.drop_columns("owner_ref").add_column(0, "gone", pa.array([7]))
                write_object(lake, table, project, day, rows)
            owner = None if day in earlier else "tenant-1"
            expected.append((project, day, owner, Decimal(f"{number}.500")))
    return expected


def examples() -> dict[str, str]:
    """The Python examples of the page by the first library that each of them imports."""
    found = re.findall(r"```python\n(.*?)```", (ROOT / "docs/guide/analysts.md").read_text(), re.DOTALL)
    names = ("pipeline.tables", "duckdb", "pyarrow.parquet", "pandas", "polars")
    assert len(found) == len(names)
    for name, text in zip(names, found, strict=True):
        assert re.search(rf"^(from|import) {re.escape(name)}\b", text, re.M), name
    return dict(zip(names, found, strict=True))


def test_postroom_reads_both_versions_alike(mixed: Rows) -> None:
    """`read`, `read_arrow`, `read_batches` and SQL have null where a day lacks a column, and no column of the past."""
    ran: dict[str, Any] = {}
    exec(examples()["pipeline.tables"], ran)
    usage = ran["usage"]
    assert list(usage.columns) == ["day", "owner_ref", "participant_min"]
    assert [tuple(row) for row in usage.astype(object).where(usage.notna(), None).to_numpy()] == [
        (day, owner, minutes) for _, day, owner, minutes in mixed
    ]
    assert usage["day"].dt.month.to_list() == [11] * len(mixed)
    assert (ran["media"].num_rows, ran["sip"], len(ran["late"])) == (len(DAYS), len(mixed), 0)
    rows = read_arrow("usage_daily", lake=f"file:{LAKE}")
    assert rows.schema.names == [*TABLES["usage_daily"].schema.names, "project", "day"]
    assert [tuple(row.values()) for row in run_query(LocalStore(Path(LAKE)), SQL).to_pylist()] == mixed


@pytest.mark.parametrize("reader", ["duckdb", "pandas", "polars"])
def test_other_readers_read_both_versions_alike(mixed: Rows, reader: str) -> None:
    """With the options of the page DuckDB, pandas and Polars find the same rows, exact and typed."""
    if importlib.util.find_spec(reader) is None:
        pytest.skip(f"{reader} is not installed: `uv pip install {reader}`")
    ran: dict[str, Any] = {}
    if reader != "duckdb":
        exec(examples()["pyarrow.parquet"], ran)
    exec(examples()[reader], ran)
    minutes = ran["minutes"]
    if reader == "duckdb":
        found = [tuple(row.values()) for row in minutes.to_pylist()]
    elif reader == "pandas":
        found = [
            (*(part if isinstance(part, str | date) else None for part in key), total) for key, total in minutes.items()
        ]
    else:
        found = minutes.rows()
    assert sorted(found) == mixed
    assert {type(row[1]) for row in found} == {date}
