"""`make bench`: one day of CDRs to Parquet, ours against its peers, each in a process of its own, in one run.

python -m tests.benchmarks --records 1000000 --rounds 3 --only postroom,duckdb
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from pipeline.enablex.envelope import Envelope
from pipeline.enablex.protocol import ReplyHead, period_request
from pipeline.storage import LocalStore, raw
from pipeline.tables.document_days import document_days
from tests.benchmarks.contenders import CONTENDERS
from tests.benchmarks.records import DAY, records

_ASKED_AT = datetime(2026, 11, 24, 2, 15, tzinfo=UTC)
_LEFTOVERS = ("lake", "duckdb.parquet", "polars.parquet", "pandas.parquet", "dlt", "dlt-work")


@dataclass(frozen=True)
class Run:
    """One process, from start to end."""

    wall_s: float
    cpu_s: float
    peak_mib: float


def prepare(folder: Path, count: int) -> int:
    """Write the records as lines, and land them as one reply; return their bytes."""
    spool, envelope, size = raw.SpooledBody(partial(document_days, "cdr", asked=DAY)), Envelope("cdr"), 0
    with (folder / "cdr.ndjson").open("wb") as lines:
        opening = b'{"result":"0","cdr":['
        for record in records(count):
            lines.write(record + b"\n")
            size += len(record)
            _take(spool, envelope, opening + record)
            opening = b","
    _take(spool, envelope, b"]}")
    spool.note(envelope.finish())
    head = ReplyHead(period_request("cdr", DAY), 200, {"content-type": "application/json"})
    raw.land(LocalStore(folder / "vault"), raw.RawLocation("cdr", "acme", DAY, _ASKED_AT), head, spool)
    return size


def _take(spool: raw.SpooledBody, envelope: Envelope, chunk: bytes) -> None:
    spool.write(chunk)
    spool.note(envelope.feed(chunk))


def run(name: str, folder: Path) -> Run | None:
    """Run one contender; None when it failed."""
    for leftover in _LEFTOVERS:
        path = folder / leftover
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "tests.benchmarks.contenders", name, str(folder)])
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    wall_s = time.perf_counter() - started
    return None if status else Run(wall_s, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def show(console: Console, count: int, size: int, runs: dict[str, list[Run]]) -> None:
    """Medians, and ratios to ours and to DuckDB's."""
    console.print(f"{count:,} CDRs, {size / 1e6:,.0f} MB of JSON, {os.cpu_count()} cores; medians")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("", "wall s", "cpu s", "peak MiB", "records/s", "postroom / it", "it / duckdb"):
        table.add_column(heading, justify="left" if not heading else "right")
    wall = {name: median(one.wall_s for one in ones) for name, ones in runs.items()}
    for name, ones in runs.items():
        ours, theirs = wall.get("postroom"), wall.get("duckdb")
        table.add_row(
            name,
            f"{wall[name]:.2f}",
            f"{median(one.cpu_s for one in ones):.2f}",
            f"{max(one.peak_mib for one in ones):,.0f}",
            f"{count / wall[name]:,.0f}",
            f"{ours / wall[name]:.2f}" if ours else "",
            f"{wall[name] / theirs:.2f}" if theirs else "",
        )
    console.print(table)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        "tests.benchmarks", description="One day of CDRs to Parquet, ours against its peers."
    )
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3, help="dlt and json_normalize run once")
    parser.add_argument("--only", default=",".join(CONTENDERS), help=f"of {', '.join(CONTENDERS)}")
    given = parser.parse_args(arguments)
    console = Console()
    names = [name for name in given.only.split(",") if importlib.util.find_spec(name) or name not in {"dlt", "polars"}]
    for name in set(given.only.split(",")) - set(names):
        console.print(f"{name} is not installed and left out; `make bench` installs it")
    with tempfile.TemporaryDirectory(prefix="postroom-bench-") as place:
        folder = Path(place)
        size = prepare(folder, given.records)
        runs: dict[str, list[Run]] = {}
        for number in range(given.rounds):
            for name in names:
                if number == 0 or name not in {"dlt", "json_normalize"}:
                    console.print(f"[dim]round {number + 1}: {name}[/]")
                    done = run(name, folder)
                    if done:
                        runs.setdefault(name, []).append(done)
        show(console, given.records, size, runs)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
