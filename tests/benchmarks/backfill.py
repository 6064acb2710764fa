"""`make bench`: a year backfilled from an API on this machine, here and on two workers of a Dask cluster.

python -m tests.benchmarks.backfill --days 365 --records 10000
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from datetime import UTC, date, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.benchmarks.records import DAY, records
from tests.support.environ import clean_environ
from tests.support.servers.dask import dask_cluster

_LAST = date(2026, 11, 20)
_NOW = datetime(2026, 11, 30, 2, 15, tzinfo=UTC)


class _Api(BaseHTTPRequestHandler):
    """Answers `/cdr/period/DAY/DAY+1` with one day's records moved to that day, which costs it next to nothing."""

    protocol_version = "HTTP/1.1"
    template: bytes = b""

    def do_GET(self) -> None:
        asked = self.path.split("/period/")[1].split("/")[0] if "/cdr/" in self.path else None
        body = _of_day(self.template, asked) if asked else b'{"result":0,"archive":[]}'
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


def _of_day(template: bytes, day: str) -> bytes:
    """The same records on another day: dates replaced, and ids and sessions with the day's own number in them."""
    number = date.fromisoformat(day).toordinal()
    return template.replace(str(DAY).encode(), day.encode()).replace(b"@@@@@@", b"%06x" % number)


def _template(count: int) -> bytes:
    """One day of records that neither reach into the next day nor share ids or sessions with another day."""
    own = []
    for record in records(count):
        document = json.loads(record)
        document["cdr_id"] = document["cdr_id"][:18] + "@@@@@@"
        document["conf_num"] = "@@@@@@" + document["conf_num"][6:]
        own.append(json.dumps(document, separators=(",", ":")).encode())
    next_day = str(DAY + timedelta(days=1)).encode()
    return (b'{"result":0,"cdr":[' + b",".join(own) + b"]}").replace(next_day, str(DAY).encode())


def _serve(count: int, port: Any) -> None:
    _Api.template = _template(count)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Api)
    port.put(server.server_port)
    server.serve_forever()


def settings(folder: Path, port: int, engine: str) -> Path:
    folder.mkdir()
    config = folder / "postroom.toml"
    config.write_text(
        f'[lake]\nurl = "file:{folder}/lake"\n[vault]\nurl = "file:{folder}/vault"\n'
        f'[run_store]\nurl = "sqlite:///{folder}/ledger.db"\n[collect]\nrequests_per_second = 1000000\n'
        f'[executor]\n{engine}\n[projects.acme]\nbase_url = "http://127.0.0.1:{port}/video/v2"\n'
        'app_id = "bench"\napp_key = "bench"\nto_date_is_inclusive = true\n'
    )
    return config


def backfill(config: Path, days: int) -> dict[str, float]:
    """Wall time, CPU time (its processes, not a cluster's) and peak memory of one `postroom backfill`."""
    first = _LAST - timedelta(days=days - 1)
    command = [sys.executable, "-m", "pipeline", "--config", str(config), "--now", _NOW.isoformat(), "--json"]
    command += ["backfill", "--from", str(first), "--to", str(_LAST)]
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as said, subprocess.Popen(command, stdout=said, env=clean_environ()) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        outcome = json.load(said)
    if process.returncode:
        raise SystemExit(f"backfill failed: {outcome['failed'][:3]}")
    return {
        "wall_s": time.perf_counter() - started,
        "cpu_s": used.ru_utime + used.ru_stime,
        "peak_mb": used.ru_maxrss / 1000,
        "rows": outcome["counts"]["rows"],
    }


def tables(folder: Path) -> dict[str, str]:
    """Every table object, by key, with its SHA-256."""
    root = folder / "lake/tables"
    found = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("backfill", description="A year of CDRs from an API to tables.")
    parser.add_argument("--days", type=int, default=365)
    parser.add_argument("--records", type=int, default=10_000, help="per day")
    parser.add_argument("--engines", default="threads,processes,dask")
    given = parser.parse_args(arguments)
    fresh = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="postroom-bench-")))
        port: Any = fresh.Queue()
        server = fresh.Process(target=_serve, args=(given.records, port), daemon=True)
        server.start()
        stack.callback(server.kill)
        api_port = port.get()
        made: dict[str, dict[str, str]] = {}
        for name in given.engines.split(","):
            with ExitStack() as engine_stack:
                engine = f'backend = "{name}"'
                if name == "dask":
                    cluster = engine_stack.enter_context(dask_cluster(place / "workers"))
                    cluster.add_worker()
                    cluster.add_worker()
                    engine += f'\ndask_address = "{cluster.url}"'
                took = backfill(settings(place / name, api_port, engine), given.days)
            made[name] = tables(place / name)
            print(
                f"{name:<10} {given.days} days x {given.records:,}: {took['wall_s']:6.1f} s wall, "
                f"{took['cpu_s']:6.1f} s CPU, {took['peak_mb']:5.0f} MB at most, {took['rows']:,.0f} rows",
                flush=True,
            )
        first = next(iter(made.values()))
        same = all(objects == first for objects in made.values())
        print(f"tables: {len(first):,} objects, {'byte-identical' if same else 'NOT the same'}")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
