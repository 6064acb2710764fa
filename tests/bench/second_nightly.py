"""`make bench`: how long a nightly takes that finds nothing new over 30 built days, and what it touches.

python -m tests.bench.second_nightly --days 30 --sessions 200
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pipeline.simulator.server import Simulator
from pipeline.simulator.world import World
from tests.environ import clean_environ

_NOW = datetime(2026, 11, 23, 2, 15, tzinfo=UTC)


def nightly(config: Path) -> tuple[float, dict[str, Any]]:
    """Seconds and outcome of one `postroom nightly` in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "pipeline",
        "--config",
        str(config),
        "--now",
        _NOW.isoformat(),
        "--json",
        "nightly",
    ]
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=clean_environ())
    return time.perf_counter() - started, json.loads(done.stdout)["counts"]


def versions(folder: Path) -> dict[str, int]:
    """Every object of both stores, and when it was last written."""
    found = (path for root in ("lake", "vault") for path in (folder / root).rglob("*"))
    return {str(path): path.stat().st_mtime_ns for path in found if path.is_file()}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("second_nightly", description="A nightly that finds nothing new.")
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--sessions", type=int, default=50, help="per day")
    given = parser.parse_args(arguments)
    world = World(projects=("acme",), sessions_per_day=given.sessions, begin=(_NOW - timedelta(days=given.days)).date())
    with tempfile.TemporaryDirectory(prefix="postroom-bench-") as place, Simulator(world, now=_NOW) as simulator:
        folder = Path(place)
        config = folder / "postroom.toml"
        config.write_text(simulator.settings_toml(place))
        first_s, counts = nightly(config)
        before = versions(folder)
        again_s, again = nightly(config)
        changed = sum(before.get(path) != written for path, written in versions(folder).items())
    print(f"first nightly over {given.days} days: {first_s:.1f} s, {counts['documents']:,} documents")
    print(f"second: {again_s:.2f} s, {again['replies']} replies, {changed} objects written or rewritten")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
