"""Rows sorted by a key whatever their number: sorted runs on disk, merged block by block.

An external merge sort over Arrow tables. Small inputs never touch the disk. Memory: one run while adding, and while
reading one batch of every run and one block.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.tempfiles import disk_errors

RUN_ROWS = 48 * 1024
"""At about 1 kB a row, a run is sorted in some 90 MB; the fewer there are, the less is held while they are merged."""

BATCH_ROWS = 1024
"""Read at a time from each run: a hundred runs (5 million rows) hold 100 MB."""

MOST_RUNS = 100
"""Number of runs that are merged into a larger one, so that open files and memory hardly grow with the rows."""

_SINK_BYTES = 2**20

BLOCK_BATCHES = 16
"""Approximate number of batches in a block."""


@dataclass(frozen=True)
class _Run:
    """Sorted rows in a file, and the first key of each of its batches."""

    file: Path
    first_keys: tuple[str, ...]


class ExternalSorter:
    """Add tables in any order; get all rows back in blocks sorted by `key`, then by `then`.

    `key` is a text column without nulls; `folder` is made when it is needed, and the caller's to remove. No two blocks
    share a value of `key`, and blocks come in order of it.
    """

    def __init__(self, folder: Path, schema: pa.Schema, key: str, *then: str) -> None:
        self._folder, self._schema, self._key = folder, schema, key
        self._order = [(name, "ascending") for name in (key, *then)]
        self._waiting: list[pa.Table] = []
        self._waiting_rows = 0
        self._runs: list[_Run] = []
        self._files = 0

    def add(self, rows: pa.Table) -> None:
        """Take rows; columns that the schema does not name are dropped."""
        self._waiting.append(rows.select(self._schema.names))
        self._waiting_rows += rows.num_rows
        if self._waiting_rows >= RUN_ROWS:
            self._write_run()

    def close(self) -> None:
        """Nothing more is added: from now on memory holds a few rows at most."""
        if self._waiting_rows > BATCH_ROWS:
            self._write_run()

    def include(self, other: ExternalSorter) -> None:
        """Take the rows of another one in the same order, which is closed and stays as it is."""
        self._runs += other._runs
        for rows in other._waiting:
            self.add(rows)

    def iter_blocks(self) -> Iterator[pa.Table]:
        """All rows in order; to be called when everything was added."""
        if not self._runs:
            if self._waiting_rows:
                yield self._sorted(self._waiting)
            return
        if self._waiting_rows:
            self._write_run()
        while len(self._runs) > MOST_RUNS:
            self._merge_some()
        yield from self._merged(self._runs)

    def remove(self) -> None:
        """Give the space on disk back."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _merged(self, runs: list[_Run]) -> Iterator[pa.Table]:
        """The rows of all runs in blocks, cut where batches begin: about `rows` each, however runs overlap."""
        cuts = sorted({key for run in runs for key in run.first_keys})[BLOCK_BATCHES::BLOCK_BATCHES]
        with disk_errors():
            cursors = [_Cursor(run, self._key) for run in runs]
            for cut in (*cuts, None):
                pieces = [piece for cursor in cursors for piece in cursor.take_below(cut)]
                if pieces:
                    yield self._sorted([pa.Table.from_batches(pieces)])

    def _merge_some(self) -> None:
        """Make one larger run of many; those of others stay."""
        some, rest = self._runs[:MOST_RUNS], self._runs[MOST_RUNS:]
        self._runs = [*rest, self._written(self._merged(some))]
        for run in some:
            if run.file.parent == self._folder:
                run.file.unlink()

    def _write_run(self) -> None:
        rows = self._sorted(self._waiting)
        self._waiting, self._waiting_rows = [], 0
        self._runs.append(self._written([rows]))

    def _written(self, blocks: Iterable[pa.Table]) -> _Run:
        """One run of sorted blocks that follow each other."""
        self._files += 1
        file, first_keys = self._folder / f"run-{self._files}.arrow", []
        self._folder.mkdir(exist_ok=True)
        with disk_errors(), _sink(file) as sink, pa.ipc.new_file(sink, self._schema) as writer:
            for rows in blocks:
                writer.write_table(rows, max_chunksize=BATCH_ROWS)
                first_rows = pa.array(range(0, rows.num_rows, BATCH_ROWS), pa.int64())
                first_keys += rows[self._key].take(first_rows).to_pylist()
        return _Run(file, tuple(first_keys))

    def _sorted(self, tables: list[pa.Table]) -> pa.Table:
        rows = pa.concat_tables(tables).combine_chunks()
        return rows.take(pc.sort_indices(rows, self._order))


def _sink(file: Path) -> pa.BufferedOutputStream:
    """A file that is written in large pieces: a batch has some hundred buffers, most of them small."""
    return pa.BufferedOutputStream(pa.OSFile(str(file), "wb"), _SINK_BYTES)


class _Cursor:
    """Where reading stands in one run: rows that were read with a batch and lie behind the last cut are kept."""

    def __init__(self, run: _Run, key: str) -> None:
        self._reader = pa.ipc.open_file(pa.OSFile(str(run.file), "rb"))
        self._first_keys, self._key = run.first_keys, key
        self._next = 0
        self._kept: list[pa.RecordBatch] = []

    def take_below(self, cut: str | None) -> list[pa.RecordBatch]:
        """The rows whose key is below `cut`, or all that are left."""
        taken, self._kept = self._kept, []
        while self._next < len(self._first_keys) and (cut is None or self._first_keys[self._next] < cut):
            taken.append(self._reader.get_batch(self._next))
            self._next += 1
        if cut is None or not taken:
            return taken
        below = [pc.sum(pc.less(rows[self._key], cut)).as_py() or 0 for rows in taken]
        self._kept = [rows.slice(count) for rows, count in zip(taken, below, strict=True) if count < rows.num_rows]
        return [rows.slice(0, count) for rows, count in zip(taken, below, strict=True) if count]
