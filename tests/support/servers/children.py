"""Servers as child processes, which the kernel kills when their parent ends."""

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

_START_TIMEOUT_S = 60


class NotInstalled(Exception):
    """A program is missing; the message names it."""


def program(name: str | Path) -> str:
    """The path of an installed program."""
    path = shutil.which(name)
    if path is None:
        raise NotInstalled(f"{name} is not installed")
    return path


def free_port() -> int:
    """A free port of 127.0.0.1 below the range of ports for outgoing connections."""
    while True:
        port = secrets.choice(range(20_000, 32_000))
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


@contextlib.contextmanager
def child(command: list[str], log: Path, environ: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server without the terminal's Ctrl-C; kill it at the end. Its data is not saved."""
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
    """Wait until a server is ready. Raises RuntimeError with the end of the log if it ends or is not ready in 60 s."""
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not is_ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{log.name} did not start:\n" + "\n".join(log.read_text().splitlines()[-20:]))
        time.sleep(0.03)


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def environ_of_child(**values: str) -> dict[str, str]:
    """The environment of a server: PATH, LANG and the given values, no other variables of this machine."""
    return {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", **values}
