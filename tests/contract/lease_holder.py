"""Processes that take a lease, for test_run_store.py.

`lease_holder.py URL turns N MARK PROCESSES`: start PROCESSES processes; each takes and releases the lease N times. The
holder creates the file MARK and removes it before the release; it fails if the file exists. Each process prints its
fencing numbers as one line of JSON.
`lease_holder.py URL hold SECONDS`: take the lease, print it as JSON, and wait until killed.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import time
from pathlib import Path

from pipeline.storage.run_store import RunStore


def hold(url: str, lasts_s: float) -> None:
    lease = RunStore(url).take_lease("media copy", lasts_s)
    assert lease
    print(json.dumps(dataclasses.asdict(lease)), flush=True)
    signal.pause()


def take_turns(url: str, turns: int, mark: str) -> None:
    run_store, fences = RunStore(url), []
    while len(fences) < turns:
        lease = run_store.take_lease("media copy", 30)
        if lease is None:
            time.sleep(0.005)
            continue
        os.close(os.open(mark, os.O_CREAT | os.O_EXCL))  # FileExistsError: two holders
        run_store.renew(lease)
        Path(mark).unlink()
        run_store.release(lease)
        fences.append(lease.fence)
    os.write(1, json.dumps(fences).encode() + b"\n")


if sys.argv[2] == "hold":
    hold(sys.argv[1], float(sys.argv[3]))
children = []
for _ in range(int(sys.argv[5])):  # forked after the imports, which take 1 s, and before the database is opened
    if (child := os.fork()) == 0:
        take_turns(sys.argv[1], int(sys.argv[3]), sys.argv[4])
        os._exit(0)
    children.append(child)
sys.exit(max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
