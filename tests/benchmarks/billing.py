"""`make bench`: a month of 10 million `cdr` rows as a billing export, by `postroom billing export`.

python -m tests.benchmarks.billing --rows 10000000
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.billing.line_items import CDR_COLUMNS
from pipeline.core.arrow_types import BILLED
from pipeline.core.models import Period
from pipeline.storage import ObjectStore
from pipeline.tables.parquet import PartitionWriter, read_arrow, replace_partition
from pipeline.tables.schemas import SESSIONS
from tests.benchmarks.lake import MONTH, lake_environ, month_lake

_BAR_S, _BAR_MIB = 20.0, 1000
_OF_ROOM = ("room_id", "room_name", "owner_ref", "billing_code")


def add_sessions(lake: ObjectStore, day: date) -> None:
    """The sessions of a day's connections, every other one recorded and transcoded."""
    rows = read_arrow("cdr", Period(day, day), lake=lake)
    sums = [(name, "min") for name in (*_OF_ROOM, "room_connected_at")]
    grouped = rows.group_by("conf_num").aggregate([*sums, ("room_disconnected_at", "max"), ("cdr_id", "count")])
    grouped = grouped.sort_by("conf_num")
    began, ended = grouped["room_connected_at_min"], grouped["room_disconnected_at_max"]
    is_recorded = pc.equal(pc.bit_wise_and(pc.cast(grouped["conf_num"], pa.int64()), 1), 0)
    known = {
        "conf_num": grouped["conf_num"],
        **{name: grouped[f"{name}_min"] for name in _OF_ROOM},
        "first_connected_at": began,
        "last_disconnected_at": ended,
        "duration_s": pc.divide(pc.cast(pc.subtract(ended, began), pa.int64()), 1000.0),
        "connections": grouped["cdr_id_count"],
        "is_recorded": is_recorded,
        "is_transcoded": is_recorded,
        "participant_min": pa.nulls(grouped.num_rows, BILLED),
    }
    columns = [known.get(field.name, pa.nulls(grouped.num_rows, field.type)) for field in SESSIONS.schema]
    with tempfile.TemporaryDirectory() as folder:
        file = PartitionWriter(Path(folder), SESSIONS, day)
        file.add(pa.table(columns, schema=SESSIONS.schema))
        file.close()
        replace_partition(lake, "sessions", "acme", day, file, None)


def export(folder: Path) -> tuple[float, dict[str, Any]]:
    """Seconds and outcome of the whole command in a process of its own."""
    environment = {
        **lake_environ(folder),
        "POSTROOM_PROJECTS__ACME__APP_ID": "bench",
        "POSTROOM_PROJECTS__ACME__APP_KEY": "bench",
    }
    command = ["--now", "2026-12-09T02:15:00Z", "--json", "billing", "export", "--month", "2026-11", "--provisional"]
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", *command], env=environment, check=True, capture_output=True
    )
    return time.perf_counter() - started, json.loads(done.stdout)


def read_columns(folder: Path) -> None:
    """The least there is to do: the needed columns, read by pyarrow and let go of."""
    for path in sorted(folder.glob("lake/tables/cdr/*/*/*.parquet")):
        for _ in pq.ParquetFile(path).iter_batches(256 * 1024, columns=list(CDR_COLUMNS)):
            pass


def group_bare(folder: Path) -> None:
    """The lines by DuckDB straight from the Parquet: no zone, no rounding, no sessions, no items, nothing written."""
    with duckdb.connect(config={"threads": 2}) as connection:
        connection.sql(
            "SELECT trans_at::date AS day, owner_ref, billing_code, room_id, count(*), sum(participant_s),"
            " sum(participant_min), sum(connect_billed_min), min(first_seen_at), max(changed_at)"
            f" FROM read_parquet('{folder}/lake/tables/cdr/*/*/*.parquet') GROUP BY ALL ORDER BY ALL"
        ).to_arrow_table()


def told_floor(name: str, floor: Callable[[Path], None], folder: Path) -> str:
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    floor(folder)
    return f"{name}: {time.perf_counter() - began_s:.1f} s, {time.process_time() - began_cpu_s:.1f} s of processor"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("tests.benchmarks.billing", description="A month of CDRs as a billing export.")
    parser.add_argument("--rows", type=int, default=10_000_000)
    given = parser.parse_args(arguments)
    with month_lake(given.rows) as (folder, lake):
        for day in MONTH:
            add_sessions(lake, day)
        took_s, outcome = export(folder)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        floors = [
            told_floor("floor, the needed columns read by pyarrow", read_columns, folder),
            told_floor("floor, DuckDB's bare group-by", group_bare, folder),
        ]
    is_met = took_s < _BAR_S and used.ru_maxrss < _BAR_MIB * 1024
    counts = outcome["projects"]["acme"]
    print(f"{counts['connections']:,} connections, {counts['rows']:,} lines")
    print(
        f"export: {took_s:.1f} s, {used.ru_utime + used.ru_stime:.1f} s of processor, {used.ru_maxrss / 1024:.0f} MiB"
    )
    print(*floors, sep="\n")
    print(f"the bar of {_BAR_S:g} s and {_BAR_MIB} MiB is {'met' if is_met else 'MISSED'}")
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
