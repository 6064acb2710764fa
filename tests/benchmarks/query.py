"""`make bench`: usage by owner for a month, asked of 10 million `cdr` rows in 30 days, by `postroom query`.

python -m tests.benchmarks.query --rows 10000000 --rounds 5
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from pipeline.tables.query import run_query
from tests.benchmarks.lake import lake_environ, month_lake

USAGE = """
SELECT owner_ref, count(*) AS connections, sum(participant_min) AS participant_min
FROM cdr WHERE day BETWEEN DATE '2026-11-01' AND DATE '2026-11-30' GROUP BY owner_ref ORDER BY participant_min DESC
"""
ONE_DAY = USAGE.replace("BETWEEN DATE '2026-11-01' AND DATE '2026-11-30'", "= DATE '2026-11-20'")
_BAR_S = 1.0


def command(folder: Path, sql: str) -> None:
    """The whole command, from starting Python to the last printed row."""
    words = [sys.executable, "-m", "pipeline", "query", sql]
    subprocess.run(words, env=lake_environ(folder), check=True, capture_output=True)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("tests.benchmarks.query", description="SQL over a month of CDRs.")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args(arguments)
    with month_lake(given.rows) as (folder, lake):
        took: dict[str, list[tuple[float, float]]] = {}
        for _ in range(given.rounds):
            for label, work in (
                ("usage by owner, a month", lambda: run_query(lake, USAGE)),
                ("usage by owner, a day", lambda: run_query(lake, ONE_DAY)),
                ("a month, as a command", lambda: command(folder, USAGE)),
            ):
                wall, cpu = time.perf_counter(), sum(os.times()[:4])
                work()
                took.setdefault(label, []).append((time.perf_counter() - wall, sum(os.times()[:4]) - cpu))
    for label, times in took.items():
        wall_s, cpu_s = (median(column) for column in zip(*times, strict=True))
        print(f"{label}: {wall_s:.2f} s, {cpu_s:.2f} s of processor; median of {given.rounds}")
    month_s = median(wall for wall, _ in took["usage by owner, a month"])
    print(f"{given.rows:,} rows; the bar of {_BAR_S:g} s is {'met' if month_s < _BAR_S else 'MISSED'}")
    return 0 if month_s < _BAR_S else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
