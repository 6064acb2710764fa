"""Sorting more rows than fit: the same as sorting them in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.tables import external_sort
from pipeline.tables.external_sort import ExternalSorter

SCHEMA = pa.schema([("key", pa.string()), ("then", pa.int64()), ("what", pa.string())])
KEYS = st.sampled_from(["", "a", "aa", "b", "é", "\U0001f600", "z\x00", "z"]) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=3
)
ROWS = st.lists(st.tuples(KEYS, st.none() | st.integers(-3, 3)), max_size=60)
SIZES = st.fixed_dictionaries({name: st.integers(1, 7) for name in ("RUN_ROWS", "BATCH_ROWS", "BLOCK_BATCHES")})


@contextmanager
def small(sizes: dict[str, int]) -> Iterator[Path]:
    """A folder, and sizes so small that a few rows are many."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        for name, size in sizes.items():
            patch.setattr(external_sort, name, size)
        yield Path(folder)


def tables_of(rows: list[tuple[str, Any]], size: int) -> list[pa.Table]:
    """Tables of some rows each; `what` numbers the rows."""
    columns = [{"key": key, "then": then, "what": str(at)} for at, (key, then) in enumerate(rows)]
    return [pa.Table.from_pylist(columns[at : at + size], schema=SCHEMA) for at in range(0, len(rows), size)]


def order(row: dict[str, Any]) -> tuple[bytes, bool, int]:
    """By bytes of the key; null comes last."""
    return row["key"].encode(), row["then"] is None, row["then"] or 0


def assert_sorted(blocks: list[pa.Table], rows: list[tuple[str, Any]]) -> None:
    found = [row for block in blocks for row in block.to_pylist()]
    assert [order(row) for row in found] == sorted(order(row) for row in found)
    assert sorted((row["what"], row["key"], row["then"]) for row in found) == sorted(
        (str(at), key, then) for at, (key, then) in enumerate(rows)
    )
    keys = [set(block["key"].to_pylist()) for block in blocks]
    assert sum(map(len, keys)) == len(set().union(*keys))
    assert all(block.schema.equals(SCHEMA) for block in blocks)


@given(ROWS, st.integers(1, 9), SIZES)
def test_all_rows_come_back_in_order(rows: list[tuple[str, Any]], size: int, sizes: dict[str, int]) -> None:
    """Every row comes back once, sorted by `key` and `then`, and no key is in two blocks."""
    with small(sizes) as folder:
        sorting = ExternalSorter(folder / "runs", SCHEMA, "key", "then")
        for table in tables_of(rows, size):
            sorting.add(table)
        assert_sorted(list(sorting.iter_blocks()), rows)


def test_one_huge_key() -> None:
    """A key with more rows than many batches and blocks have is one block, between its neighbours."""
    rows = [("m", at % 11) for at in range(500)] + [("a", 1), ("z", 2)] * 5
    sizes = {"RUN_ROWS": 40, "BATCH_ROWS": 3, "BLOCK_BATCHES": 8}
    with small(sizes) as folder:
        sorting = ExternalSorter(folder / "runs", SCHEMA, "key", "then")
        for table in tables_of(rows, 7):
            sorting.add(table)
        blocks = list(sorting.iter_blocks())
    assert_sorted(blocks, rows)
    assert max(block.num_rows for block in blocks) >= 500


def test_a_block_has_about_block_batches() -> None:
    """With keys that differ, a block is never much more than its batches and one batch of every run."""
    sizes = {"RUN_ROWS": 50, "BATCH_ROWS": 5, "BLOCK_BATCHES": 4}
    rows = [(f"{at * 7919 % 1000:04}", at) for at in range(1000)]
    with small(sizes) as folder:
        sorting = ExternalSorter(folder / "runs", SCHEMA, "key", "then")
        for table in tables_of(rows, 10):
            sorting.add(table)
        blocks = list(sorting.iter_blocks())
    assert_sorted(blocks, rows)
    assert len(blocks) > 10
    assert max(block.num_rows for block in blocks) <= 5 * (4 + 20)


def test_few_rows_never_touch_the_disk(tmp_path: Path) -> None:
    """What fits into one run is sorted in memory."""
    sorting = ExternalSorter(tmp_path / "runs", SCHEMA, "key", "then")
    sorting.add(tables_of([("b", 1), ("a", 2)], 2)[0])
    assert [block["key"].to_pylist() for block in sorting.iter_blocks()] == [["a", "b"]]
    assert list(tmp_path.iterdir()) == []


def test_no_rows_no_blocks(tmp_path: Path) -> None:
    """Nothing added is no block, also when an empty table was added."""
    sorting = ExternalSorter(tmp_path / "runs", SCHEMA, "key", "then")
    sorting.add(SCHEMA.empty_table())
    assert list(sorting.iter_blocks()) == []


def test_other_columns_are_dropped(tmp_path: Path) -> None:
    """Columns that the schema does not name are left out."""
    sorting = ExternalSorter(tmp_path / "runs", SCHEMA, "key", "then")
    sorting.add(tables_of([("a", 1)], 1)[0].append_column("more", pa.array([1])))
    (block,) = sorting.iter_blocks()
    assert block.schema.equals(SCHEMA)


def test_many_runs_become_one() -> None:
    """However many runs there are, few files are open: small ones become larger ones; all rows come back in order."""
    rows = [(f"{at * 7919 % 3000:04}", at) for at in range(3000)]
    sizes = {"RUN_ROWS": 20, "BATCH_ROWS": 5, "BLOCK_BATCHES": 4, "MAX_RUNS": 6}
    with small(sizes) as folder:
        sorting = ExternalSorter(folder / "runs", SCHEMA, "key", "then")
        for table in tables_of(rows, 10):
            sorting.add(table)
        blocks = list(sorting.iter_blocks())
        assert len(list((folder / "runs").iterdir())) <= 6
    assert_sorted(blocks, rows)


@given(st.lists(ROWS, max_size=8), st.integers(1, 9), SIZES, st.integers(2, 4))
def test_rows_of_others_are_taken_as_they_are(
    parts: list[list[tuple[str, Any]]], size: int, sizes: dict[str, int], most_runs: int
) -> None:
    """Two that include the same others, in memory or on disk, each give back all their rows in order."""
    rows = [row for part in parts for row in part]
    with small(sizes | {"MAX_RUNS": most_runs}) as folder:
        others = [ExternalSorter(folder / str(number), SCHEMA, "key", "then") for number in range(len(parts))]
        tables = iter(tables_of(rows, 1))
        for part, other in zip(parts, others, strict=True):
            for _ in part:
                other.add(next(tables))
            other.close()
        for name in ("one", "two"):
            together = ExternalSorter(folder / name, SCHEMA, "key", "then")
            for other in others:
                together.include(other)
            assert_sorted(list(together.iter_blocks()), rows)
