"""Processor time per CDR with schema drift in every record, against that of documented records, in one run.

python -m tests.benchmarks.schema_drift --records 16000
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable

import msgspec
from rich.console import Console
from rich.table import Table

from pipeline.storage.documents import Documents
from pipeline.tables.normalize.cdr_batch import BATCH_DOCUMENTS, RoomDetailsCache, read_batch, split_documents
from tests.benchmarks.records import records

MAX_RATIO = 1.2
"""Of the processor time of a record with a new field to that of a documented one."""

_MINUTES = re.compile(rb'"published_minutes":([0-9.]+)')
KINDS: dict[str, Callable[[bytes, int], bytes]] = {
    "as documented": lambda record, at: record,
    "new field": lambda record, at: record[:-1] + b',"region":"eu"}',
    "new field, each different": lambda record, at: record[:-1] + b',"trace":"%024x"}' % at,
    "new field in usage": lambda record, at: record.replace(b'"usage":{', b'"usage":{"region":"eu",'),
    "text in a number column": lambda record, at: _MINUTES.sub(rb'"published_minutes":"\1 min"', record),
    "new room definition in each": lambda record, at: record.replace(b'"created":"2024', b'"created":"%012d 2024' % at),
}


def cpu_us(texts: list[bytes]) -> float:
    """Processor time per record to split and read them, in microseconds; the best of three."""
    return min(_seconds(texts) for _ in range(3)) / len(texts) * 1e6


def _seconds(texts: list[bytes]) -> float:
    pieces = [texts[at : at + BATCH_DOCUMENTS] for at in range(0, len(texts), BATCH_DOCUMENTS)]
    replies = [bytearray(b",".join([*piece, b"0"])) for piece in pieces]
    rooms = RoomDetailsCache()
    started = time.process_time()
    for piece, reply in zip(pieces, replies, strict=True):
        split = split_documents(reply)
        read_batch(Documents.of([msgspec.Raw(text) for text in piece]) if split is None else split, 0, rooms)
    return time.process_time() - started


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("tests.benchmarks.schema_drift", description="Processor time with schema drift.")
    parser.add_argument("--records", type=int, default=16_000)
    given = parser.parse_args(arguments)
    documented = list(records(given.records))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("", "cpu µs/record", "ratio"):
        table.add_column(heading, justify="left" if not heading else "right")
    found = {
        kind: cpu_us([change(record, at) for at, record in enumerate(documented)]) for kind, change in KINDS.items()
    }
    base = found["as documented"]
    for kind, us in found.items():
        table.add_row(kind, f"{us:.1f}", f"{us / base:.2f}")
    Console().print(table)
    return int(max(us for kind, us in found.items() if kind.startswith("new field")) > MAX_RATIO * base)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
