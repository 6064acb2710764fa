"""External merge sort over Arrow tables: sorted runs on disk, merged block by block.

Small inputs stay in memory. Memory: one run while adding; one batch of every run and one block while reading.
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
"""At about 1 kB per row, sorting a run takes about 90 MB. Fewer runs need less memory during the merge."""

BATCH_ROWS = 1024
"""Rows read at a time from each run: 100 runs (5 million rows) take 100 MB."""

MAX_RUNS = 100
"""This number of runs is merged into a larger run, which bounds open files and memory."""

_SINK_BYTES = 2**20

BLOCK_BATCHES = 16
"""Approximate number of batches per block."""


@dataclass(frozen=True)
class _Run:
    """Sorted rows in a file, and the first key of each of its batches."""

    file: Path
    first_keys: tuple[str, ...]


class ExternalSorter:
    """Sorts added tables by `key`, then by `then`, and returns the rows in blocks.

    `key` is a text column without nulls. `folder` is created when needed and removed by the caller. Blocks are sorted
    by `key`, and no two blocks share a value of it.
    """

    def __init__(self, folder: Path, schema: pa.Schema, key: str, *then: str) -> None:
        self._folder, self._schema, self._key = folder, schema, key
        self._order = [(name, "ascending") for name in (key, *then)]
        self._buffered: list[pa.Table] = []
        self._buffered_rows = 0
        self._runs: list[_Run] = []
        self._files = 0

    def add(self, rows: pa.Table) -> None:
        """Add rows; columns outside the schema are dropped."""
        self._buffered.append(rows.select(self._schema.names))
        self._buffered_rows += rows.num_rows
        if self._buffered_rows >= RUN_ROWS:
            self._write_run()

    def close(self) -> None:
        """End adding: at most 1,024 rows stay in memory."""
        if self._buffered_rows > BATCH_ROWS:
            self._write_run()

    def include(self, other: ExternalSorter) -> None:
        """Add the rows of a closed sorter with the same order, which stays unchanged."""
        self._runs += other._runs
        for rows in other._buffered:
            self.add(rows)

    def iter_blocks(self) -> Iterator[pa.Table]:
        """All rows, sorted. Call after the last `add`."""
        if not self._runs:
            if self._buffered_rows:
                yield self._sorted(self._buffered)
            return
        if self._buffered_rows:
            self._write_run()
        while len(self._runs) > MAX_RUNS:
            self._merge_some()
        yield from self._merged(self._runs)

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _merged(self, runs: list[_Run]) -> Iterator[pa.Table]:
        """The rows of all runs in blocks of about BLOCK_BATCHES batches, cut at first keys of batches."""
        cuts = sorted({key for run in runs for key in run.first_keys})[BLOCK_BATCHES::BLOCK_BATCHES]
        with disk_errors():
            cursors = [_Cursor(run, self._key) for run in runs]
            for cut in (*cuts, None):
                pieces = [piece for cursor in cursors for piece in cursor.take_below(cut)]
                if pieces:
                    yield self._sorted([pa.Table.from_batches(pieces)])

    def _merge_some(self) -> None:
        """Merge MAX_RUNS runs into one; files that belong to other sorters are kept."""
        merged, rest = self._runs[:MAX_RUNS], self._runs[MAX_RUNS:]
        self._runs = [*rest, self._write(self._merged(merged))]
        for run in merged:
            if run.file.parent == self._folder:
                run.file.unlink()

    def _write_run(self) -> None:
        rows = self._sorted(self._buffered)
        self._buffered, self._buffered_rows = [], 0
        self._runs.append(self._write([rows]))

    def _write(self, blocks: Iterable[pa.Table]) -> _Run:
        """Write consecutive sorted blocks as one run."""
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
    """A file with a 1 MiB write buffer: a batch has hundreds of buffers, most of them small."""
    return pa.BufferedOutputStream(pa.OSFile(str(file), "wb"), _SINK_BYTES)


class _Cursor:
    """Read position in one run; rows of the last batch beyond the last cut are kept."""

    def __init__(self, run: _Run, key: str) -> None:
        self._reader = pa.ipc.open_file(pa.OSFile(str(run.file), "rb"))
        self._first_keys, self._key = run.first_keys, key
        self._next = 0
        self._remaining: list[pa.RecordBatch] = []

    def take_below(self, cut: str | None) -> list[pa.RecordBatch]:
        """The remaining rows whose key is below `cut`, or all remaining rows."""
        taken, self._remaining = self._remaining, []
        while self._next < len(self._first_keys) and (cut is None or self._first_keys[self._next] < cut):
            taken.append(self._reader.get_batch(self._next))
            self._next += 1
        if cut is None or not taken:
            return taken
        below = [pc.sum(pc.less(rows[self._key], cut)).as_py() or 0 for rows in taken]
        self._remaining = [rows.slice(count) for rows, count in zip(taken, below, strict=True) if count < rows.num_rows]
        return [rows.slice(0, count) for rows, count in zip(taken, below, strict=True) if count]
