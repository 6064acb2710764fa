"""`make bench`: how long a nightly takes that finds nothing new over 30 built days, and what it touches.

python -m tests.benchmarks.second_nightly --days 30 --sessions 200
python -m tests.benchmarks.second_nightly --days 30 --server ceph
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pipeline.enablex.simulator.server import Simulator
from pipeline.enablex.simulator.world import World
from pipeline.storage import ObjectStore, open_store
from pipeline.storage.s3 import S3Store
from tests.support.buckets import config_in_buckets
from tests.support.environ import clean_environ
from tests.support.servers.ceph import ceph_server
from tests.support.servers.localstack import localstack_server
from tests.support.servers.s3 import ENVIRON

SERVERS = {"ceph": ceph_server, "localstack": localstack_server}
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


def versions(stores: Sequence[ObjectStore]) -> dict[str, object]:
    """Every object of both stores, and when it was last written."""
    return {f"{store.url}/{stored.key}": _written(store, stored.key) for store in stores for stored in store.list("")}


def _written(store: ObjectStore, key: str) -> object:
    if isinstance(store, S3Store):
        head = store.head(key)
        return head and head["LastModified"]
    return (Path(store.url.removeprefix("file:")) / key).stat().st_mtime_ns


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("second_nightly", description="A nightly that finds nothing new.")
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--sessions", type=int, default=50, help="per day")
    parser.add_argument("--server", choices=SERVERS, help="keep lake and vault in buckets of this server")
    given = parser.parse_args(arguments)
    world = World(projects=("acme",), sessions_per_day=given.sessions, begin=(_NOW - timedelta(days=given.days)).date())
    with ExitStack() as stack:
        place = stack.enter_context(tempfile.TemporaryDirectory(prefix="postroom-bench-"))
        simulator = stack.enter_context(Simulator(world, now=_NOW))
        config = Path(place) / "postroom.toml"
        config.write_text(simulator.settings_toml(place))
        if given.server:
            os.environ |= ENVIRON
            config_in_buckets(config, stack.enter_context(SERVERS[given.server](Path(place))))
        told = tomllib.loads(config.read_text())
        stores = [open_store(told[root]["url"], **told.get("s3", {})) for root in ("lake", "vault")]
        first_s, counts = nightly(config)
        before = versions(stores)
        again_s, again = nightly(config)
        changed = sum(before.get(key) != written for key, written in versions(stores).items())
    print(f"first nightly over {given.days} days: {first_s:.1f} s, {counts['documents']:,} documents")
    print(f"second: {again_s:.2f} s, {again['replies']} replies, {changed} objects written or rewritten")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
