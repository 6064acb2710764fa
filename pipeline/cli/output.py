"""Write rows as CSV, JSON or Parquet, to a stream or atomically to a file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import msgspec
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from pipeline.core.errors import ConfigError


def write_rows(rows: pa.RecordBatchReader, form: str, stream: IO[bytes]) -> int:
    """Write rows in a format of `FORMS`, batch by batch; returns their number.

    Raises:
        ConfigError: the format cannot represent the rows.
    """
    try:
        return FORMS[form](checked(rows, form), stream)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ConfigError(f"query: {form} cannot represent these rows: {error}; use another --format") from None


def checked(rows: pa.RecordBatchReader, form: str) -> pa.RecordBatchReader:
    """The same rows. Raises ConfigError if columns share a name and the format would lose one of them."""
    names = rows.schema.names
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated and form != "csv":
        raise ConfigError(f"query: repeated column names: {', '.join(repeated)}; rename columns with AS")
    return rows


def first_rows(rows: pa.RecordBatchReader, limit: int) -> tuple[pa.Table, bool]:
    """At most `limit` rows, and whether there are more."""
    batches, count = [], 0
    for batch in rows:
        batches.append(batch)
        count += batch.num_rows
        if count > limit:
            break
    return pa.Table.from_batches(batches, rows.schema).slice(0, limit), count > limit


def _write_csv(rows: pa.RecordBatchReader, stream: IO[bytes]) -> int:
    with pacsv.CSVWriter(stream, rows.schema) as writer:
        return _count(rows, writer.write_batch)


def _write_parquet(rows: pa.RecordBatchReader, stream: IO[bytes]) -> int:
    with pq.ParquetWriter(stream, rows.schema, compression="zstd") as writer:
        return _count(rows, writer.write_batch)


def _write_json(rows: pa.RecordBatchReader, stream: IO[bytes]) -> int:
    """A list of objects, one per line. Decimals are strings, so that they stay exact; times are ISO 8601."""
    encoder, begin = msgspec.json.Encoder(), b"[\n"

    def write(batch: pa.RecordBatch) -> None:
        nonlocal begin
        for row in batch.to_pylist():
            stream.write(begin + encoder.encode(row))
            begin = b",\n"

    count = _count(rows, write)
    stream.write(b"\n]\n" if count else b"[]\n")
    return count


def _count(rows: pa.RecordBatchReader, write: Callable[[pa.RecordBatch], None]) -> int:
    count = 0
    for batch in rows:
        write(batch)
        count += batch.num_rows
    return count


FORMS: dict[str, Callable[[pa.RecordBatchReader, IO[bytes]], int]] = {
    "csv": _write_csv,
    "json": _write_json,
    "parquet": _write_parquet,
}


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A stream whose bytes replace the file at the end of the block; after an error the file is unchanged.

    Raises:
        ConfigError: the file cannot be written, with the reason.
    """
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        with temporary.open("wb") as stream:
            yield stream
        temporary.replace(path)
    except OSError as error:
        raise ConfigError(f"--output {path}: cannot be written: {error.strerror or error}") from None
    finally:
        temporary.unlink(missing_ok=True)
