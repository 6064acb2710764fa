"""Parquet objects: bytes are a function of rows, what did not change is not written, and rows are read in order."""

from __future__ import annotations

import hashlib
from datetime import date, timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.errors import ConfigError
from pipeline.core.models import Period
from pipeline.storage import LocalStore, keys
from pipeline.tables import parquet
from pipeline.tables.parquet import (
    ROW_GROUP_ROWS,
    DayBuildRecord,
    PartitionWriter,
    TableBuildRecord,
    read,
    read_arrow,
    read_batches,
    read_build_record,
    replace_partition,
    table_of_rows,
    write_build_record,
)
from pipeline.tables.schemas import TABLES, TABLES_VERSION
from tests.benchmarks.lake import make_lake
from tests.support.cdrs import NEW, OLD, changed
from tests.support.histories import observation

DAY = date(2024, 3, 9)
CDR = TABLES["cdr"]


def cdr_rows(count: int) -> list[dict[str, Any]]:
    seen = {"revision": 1, "first_seen_at": None, "changed_at": None}
    made = (
        observation(changed((NEW, OLD)[at % 2], cdr_id=f"c{at:05}", user__name=f"n{at % 7}"), None)
        for at in range(count)
    )
    return [{**row, **seen} for row in made]


ROWS = table_of_rows(CDR, cdr_rows(20))


def written(folder: Path, pieces: list[pa.Table]) -> bytes:
    folder.mkdir()
    file = PartitionWriter(folder, CDR, DAY)
    for piece in pieces:
        file.add(piece)
    file.close()
    content = b"".join(file.chunks())
    assert file.rows == sum(piece.num_rows for piece in pieces)
    file.path.unlink()
    folder.rmdir()
    return content


@settings(max_examples=12)
@given(cuts=st.lists(st.integers(0, ROWS.num_rows), max_size=6), group=st.integers(1, 25))
def test_bytes_are_a_function_of_rows(tmp_path_factory: Any, cuts: list[int], group: int) -> None:
    """However rows are cut into pieces and chunks, the object has the same bytes, with row groups of the same size."""
    folder = tmp_path_factory.getbasetemp() / "day"
    edges = [0, *sorted(cuts), ROWS.num_rows]
    pieces = [ROWS.slice(a, b - a) for a, b in pairwise(edges)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parquet, "ROW_GROUP_ROWS", group)
        content = written(folder, pieces)
        assert content == written(folder, [ROWS])
        assert content == written(folder, [pa.concat_tables(pieces)])
        assert content == written(folder, [pa.Table.from_pylist([row], schema=CDR.schema) for row in ROWS.to_pylist()])
    read = pq.ParquetFile(pa.BufferReader(content))
    assert read.read().equals(ROWS)
    assert read.num_row_groups == -(-ROWS.num_rows // group)


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    """Types and values survive: decimals exact, times in UTC milliseconds, nulls null; more columns are dropped."""
    content = written(tmp_path / "a", [ROWS.append_column("day", pa.nulls(ROWS.num_rows))])
    read = pq.read_table(pa.BufferReader(content))
    assert read.schema.equals(CDR.schema)
    assert read.to_pylist() == ROWS.to_pylist()


def test_a_day_without_rows_is_an_object_too(tmp_path: Path) -> None:
    """An empty day has an object with all columns: it was built, and nothing was there."""
    read = pq.read_table(pa.BufferReader(written(tmp_path / "a", [])))
    assert read.num_rows == 0
    assert read.schema.equals(CDR.schema)


def put(
    lake: LocalStore,
    folder: Path,
    rows: pa.Table,
    known: TableBuildRecord | None = None,
    *,
    project: str = "acme",
    day: date = DAY,
) -> tuple[str, TableBuildRecord]:
    file = PartitionWriter(folder, CDR, day)
    file.add(rows)
    file.close()
    sha256 = replace_partition(lake, "cdr", project, day, file, known)
    return sha256, TableBuildRecord("inputs", file.rows, file.path.stat().st_size, sha256)


def test_equal_bytes_are_not_written_again(tmp_path: Path) -> None:
    """An object that would get the bytes it has stays untouched; one that differs, or is gone, is written."""
    lake, path = LocalStore(tmp_path / "lake"), tmp_path / "lake" / keys.table_key("cdr", "acme", DAY)
    sha256, note = put(lake, tmp_path, ROWS)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == sha256
    before = path.stat()
    assert put(lake, tmp_path, ROWS, note)[0] == sha256
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    other, changed_note = put(lake, tmp_path, ROWS.slice(1), note)
    assert other != sha256
    assert path.stat().st_ino != before.st_ino
    path.unlink()
    assert put(lake, tmp_path, ROWS.slice(1), changed_note)[0] == other
    assert pq.read_table(path).num_rows == ROWS.num_rows - 1


def test_without_a_note_the_object_is_written(tmp_path: Path) -> None:
    """What no note vouches for is written, whatever is there."""
    lake, path = LocalStore(tmp_path / "lake"), tmp_path / "lake" / keys.table_key("cdr", "acme", DAY)
    put(lake, tmp_path, ROWS)
    path.write_bytes(b"something else")
    put(lake, tmp_path, ROWS)
    assert pq.read_table(path, partitioning=None).equals(ROWS)


def test_notes_are_read_back(tmp_path: Path) -> None:
    """A build record states what was written; without one, or with an unreadable one, nothing is built."""
    lake = LocalStore(tmp_path / "lake")
    assert read_build_record(lake, "acme", DAY) == DayBuildRecord({})
    note = {"sessions": TableBuildRecord("i", 1, 2, "s"), "cdr": TableBuildRecord("i", 3, 4, "t")}
    write_build_record(lake, "acme", DAY, note)
    assert read_build_record(lake, "acme", DAY).tables == note
    (tmp_path / "lake" / keys.build_record_key("acme", DAY)).write_text("{")
    assert read_build_record(lake, "acme", DAY) == DayBuildRecord({})


def test_rows_of_rows_are_sorted_by_key() -> None:
    """A few rows become a table in order of its key, unknown first, in any order they come."""
    rows = [
        {"room_id": room, "owner_ref": owner} for room, owner in (("b", None), (None, "x"), ("a", "y"), ("a", None))
    ]
    spec = TABLES["usage_daily"]
    full = [{**dict.fromkeys(spec.schema.names), **row} for row in rows]
    made = table_of_rows(spec, full)
    assert made.equals(table_of_rows(spec, list(reversed(full))))
    assert [(row["room_id"], row["owner_ref"]) for row in made.to_pylist()] == [
        (None, "x"), ("a", None), ("a", "y"), ("b", None),
    ]  # fmt: skip


def test_reading_a_table(tmp_path: Path) -> None:
    """A table is read by day, project and column; an unbuilt one is empty; a wrong name is named."""
    lake = LocalStore(tmp_path / "lake")
    assert read_arrow("cdr", lake=lake).num_rows == 0
    put(lake, tmp_path, ROWS)
    assert read_arrow("cdr", Period(DAY, DAY), ["cdr_id", "day"], project="acme", lake=lake).to_pylist()[0] == {
        "cdr_id": "c00000", "day": DAY,
    }  # fmt: skip
    assert read_arrow("cdr", project="other", lake=lake).num_rows == 0
    assert read_arrow("cdr", Period(date(2024, 3, 10), date(2024, 3, 10)), lake=lake).num_rows == 0
    for call in (lambda: read_arrow("calls", lake=lake), lambda: read_arrow("cdr", columns=["who"], lake=lake)):
        with pytest.raises(ConfigError):
            call()
    assert TABLES_VERSION >= 2


def test_rows_are_read_in_order(tmp_path: Path) -> None:
    """Rows come by project, day and key, whatever columns are chosen: `acme` before `acme-2`, though their keys are
    listed the other way round. Batches have the same rows in the same order, and the columns that were asked for."""
    lake, days = LocalStore(tmp_path / "lake"), [DAY, DAY + timedelta(days=1)]
    for project in ("acme-2", "acme"):
        for day in reversed(days):
            put(lake, tmp_path, ROWS, project=project, day=day)
    rows = read_arrow("cdr", columns=["user_name", "day", "cdr_id", "project"], lake=lake)
    assert rows.schema.names == ["user_name", "day", "cdr_id", "project"]
    assert [(row["project"], row["day"], row["cdr_id"]) for row in rows.to_pylist()] == [
        (project, day, cdr_id)
        for project in ("acme", "acme-2")
        for day in days
        for cdr_id in ROWS["cdr_id"].to_pylist()
    ]
    batches = list(read_batches("cdr", columns=["user_name", "day", "cdr_id", "project"], lake=lake))
    assert pa.Table.from_batches(batches).equals(rows.combine_chunks())
    some = list(read_batches("cdr", Period(days[1], days[1]), project="acme-2", lake=lake.url))
    assert pa.Table.from_batches(some).equals(read_arrow("cdr", Period(days[1], days[1]), project="acme-2", lake=lake))
    assert pa.Table.from_batches(some).select(CDR.schema.names).equals(ROWS)


def test_batches_need_no_memory_for_the_rest(tmp_path: Path) -> None:
    """Read in batches, several days take less than a third of their memory; without an object there is no batch."""
    lake = LocalStore(tmp_path / "lake")
    assert list(read_batches("cdr", lake=lake)) == []
    make_lake(lake, Period(DAY, DAY + timedelta(days=3)), 4 * ROW_GROUP_ROWS)
    before, peak, read_bytes = pa.total_allocated_bytes(), 0, 0
    for batch in read_batches("cdr", lake=lake):
        peak, read_bytes = max(peak, pa.total_allocated_bytes() - before), read_bytes + batch.nbytes
        assert batch.num_rows <= ROW_GROUP_ROWS
    assert 0 < peak < read_bytes / 3


def test_a_data_frame_has_the_types_of_the_table(tmp_path: Path) -> None:
    """In pandas days have `.dt`, decimals stay exact and multiply, flags have nulls; `numpy` gives Python's objects;
    nothing else is a kind of types."""
    lake = LocalStore(tmp_path / "lake")
    rows = [{**dict.fromkeys(CDR.schema.names), "cdr_id": str(n), "is_sip": sip} for n, sip in enumerate((True, None))]
    rows[0]["participant_min"] = Decimal("30.100")
    put(lake, tmp_path, table_of_rows(CDR, rows))
    frame = read("cdr", lake=lake)
    assert frame["day"].dt.strftime("%Y-%m-%d").to_list() == [str(DAY)] * 2
    assert frame["participant_min"].sum() == Decimal("30.100")
    assert (frame["participant_min"] * 0.004).sum() == pytest.approx(0.1204)
    assert (frame["participant_min"] * Decimal("0.004"))[0] == Decimal("0.1204")
    assert frame["is_sip"].sum() == 1
    assert frame["is_sip"].isna().to_list() == [False, True]
    assert frame["participant_min"].astype(float).describe()["count"] == 1
    assert (frame.dtypes == read("cdr", lake=lake, dtypes="arrow").dtypes).all()
    objects = read("cdr", columns=["day", "participant_min", "is_sip"], lake=lake, dtypes="numpy")
    assert objects.to_dict("list") == {
        "day": [DAY] * 2,
        "participant_min": [Decimal("30.100"), None],
        "is_sip": [True, None],
    }
    with pytest.raises(ConfigError, match=r'dtypes "pandas": must be arrow or numpy'):
        read("cdr", lake=lake, dtypes="pandas")  # type: ignore[arg-type]
