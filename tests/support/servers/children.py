"""Servers as children that never outlive the tests: the kernel ends them when their parent is gone."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

_PATIENCE_S = 60


class NotInstalled(Exception):
    """A program is missing; the message says which."""


def program(name: str | Path) -> str:
    """The path of an installed program."""
    found = shutil.which(name)
    if found is None:
        raise NotInstalled(f"{name} is not there")
    return found


def free_port() -> int:
    """A port of 127.0.0.1 that nobody uses just now, and that no outgoing connection will be given meanwhile."""
    while True:
        port = secrets.choice(range(20_000, 32_000))
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


@contextlib.contextmanager
def child(command: list[str], log: Path, environ: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server, out of reach of the terminal's Ctrl-C; kill it at the end. What it held is lost."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            [program("setpriv"), "--pdeathsig", "KILL", *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environ,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_until(is_ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    """Ask until it is so; RuntimeError with the end of the log when the process ends before, or never gets there."""
    deadline = time.monotonic() + _PATIENCE_S
    while not is_ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{log.name} did not start:\n" + "\n".join(log.read_text().splitlines()[-20:]))
        time.sleep(0.03)


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def environ_of_child(**values: str) -> dict[str, str]:
    """The environment of a server: where programs are, and what it is told; nothing else of this machine."""
    return {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", **values}
