"""Rows sorted by a key whatever their number: sorted runs on disk, merged block by block.

An external merge sort over Arrow tables. Small inputs never touch the disk. Memory: one run while adding, and while
reading one batch of every run and one block.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.scratch import scratch_errors

RUN_ROWS = 32 * 1024
"""At about 1 kB a row, a run is sorted in some 60 MB."""

BATCH_ROWS = 1024
"""Read at a time from each run: a hundred runs (3 million rows) hold 100 MB."""

BLOCK_ROWS = 32 * 1024
"""A block has at least so many rows, unless it is the last one: less would be all overhead."""


class SortedRuns:
    """Add tables in any order; get all rows back once, in blocks sorted by `key`, then by `then`.

    `key` is a text column without nulls; `folder` is made, and the caller's to remove. No two blocks share a value of
    `key`, and blocks come in order of it.
    """

    def __init__(self, folder: Path, schema: pa.Schema, key: str, *then: str) -> None:
        folder.mkdir()
        self._folder, self._schema, self._key = folder, schema, key
        self._order = [(name, "ascending") for name in (key, *then)]
        self._waiting: list[pa.Table] = []
        self._waiting_rows = 0
        self._files: list[Path] = []

    def add(self, rows: pa.Table) -> None:
        """Take rows; columns that the schema does not name are dropped."""
        self._waiting.append(rows.select(self._schema.names))
        self._waiting_rows += rows.num_rows
        if self._waiting_rows >= RUN_ROWS:
            self._write_run()

    def close(self) -> list[Path]:
        """Write what is still in memory; the runs can then be handed to another `SortedRuns` of the same order."""
        if self._waiting_rows:
            self._write_run()
        return self._files

    def adopt(self, files: Iterable[Path]) -> None:
        """Take over runs that another one wrote."""
        self._files += files

    def blocks(self) -> Iterator[pa.Table]:
        """All rows in order; to be called once, when everything was added."""
        if not self._files:
            if self._waiting_rows:
                yield self._sorted(self._waiting)
            return
        self.close()
        pieces: list[pa.Table] = []
        for found in self._merged():
            pieces += found
            if sum(piece.num_rows for piece in pieces) >= BLOCK_ROWS:
                yield self._sorted(pieces)
                pieces = []
        if pieces:
            yield self._sorted(pieces)

    def _merged(self) -> Iterator[list[pa.Table]]:
        """Pieces of all runs, each time with all rows below some key."""
        with scratch_errors():
            cursors = [_Cursor(file, self._key) for file in self._files]
            while cursors:
                ends = [cursor.last_key for cursor in cursors if cursor.has_more]
                if not ends:
                    yield [cursor.rows for cursor in cursors]
                    return
                bound = min(ends)
                yield [piece for cursor in cursors if (piece := cursor.take_below(bound)).num_rows]
                for cursor in cursors:
                    if cursor.has_more and cursor.last_key == bound:
                        cursor.read_on()  # rows of the bound itself may go on in the next batch
                cursors = [cursor for cursor in cursors if cursor.rows.num_rows or cursor.has_more]

    def _write_run(self) -> None:
        run = self._sorted(self._waiting)
        self._waiting, self._waiting_rows = [], 0
        file = self._folder / f"run-{len(self._files)}.arrow"
        with scratch_errors(), pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, self._schema) as writer:
            writer.write_table(run, max_chunksize=BATCH_ROWS)
        self._files.append(file)

    def _sorted(self, tables: list[pa.Table]) -> pa.Table:
        rows = pa.concat_tables(tables).combine_chunks()
        return rows.take(pc.sort_indices(rows, self._order))


class _Cursor:
    """Where reading stands in one run: `rows` are read and not yet taken."""

    def __init__(self, file: Path, key: str) -> None:
        self._reader = pa.ipc.open_file(pa.OSFile(str(file), "rb"))
        self._key = key
        self._next = 0
        self.rows = self._reader.schema.empty_table()
        self.read_on()

    @property
    def has_more(self) -> bool:
        return bool(self._next < self._reader.num_record_batches)

    @property
    def last_key(self) -> str:
        key: str = self.rows[self._key][-1].as_py()
        return key

    def read_on(self) -> None:
        batch = pa.Table.from_batches([self._reader.get_batch(self._next)])
        self.rows = pa.concat_tables([self.rows, batch]) if self.rows.num_rows else batch
        self._next += 1

    def take_below(self, bound: str) -> pa.Table:
        """The rows whose key is below `bound`; they are gone from here then."""
        below = pc.sum(pc.less(self.rows[self._key], bound)).as_py() or 0
        taken, self.rows = self.rows.slice(0, below), self.rows.slice(below)
        return taken
