"""A Dask scheduler and workers, each in a process; workers can be killed."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path


class Cluster:
    """One scheduler on loopback. Workers have one thread and no nanny, so that a killed worker is not restarted."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._scheduler, self.url = _start_dask("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
        self.workers: list[subprocess.Popen[str]] = []

    def add_worker(self) -> subprocess.Popen[str]:
        place = ("--local-directory", str(self._folder), "--no-dashboard", "--death-timeout", "60")
        worker, _ = _start_dask("worker", self.url, "--nthreads", "1", "--no-nanny", "--host", "127.0.0.1", *place)
        self.workers.append(worker)
        return worker

    def close(self) -> None:
        for process in (*self.workers, self._scheduler):
            process.kill()
            process.wait()
            if process.stderr:
                process.stderr.close()


@contextlib.contextmanager
def dask_cluster(folder: Path) -> Iterator[Cluster]:
    cluster = Cluster(folder)
    try:
        yield cluster
    finally:
        cluster.close()


def _start_dask(*arguments: str) -> tuple[subprocess.Popen[str], str]:
    """Start `dask ARGUMENTS` and wait until it prints its address (a worker: until it is registered)."""
    command = [sys.executable, "-m", "dask", *arguments]
    environ = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environ)
    assert process.stderr
    prefix = "Scheduler at:" if arguments[0] == "scheduler" else "Registered to:"
    for line in process.stderr:
        if prefix in line:
            threading.Thread(target=process.stderr.read, daemon=True).start()  # keeps the pipe from filling up
            return process, line.split()[-1]
    raise RuntimeError(f"dask {arguments[0]} ended with {process.wait()}")
