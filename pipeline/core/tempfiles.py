"""Temporary space on this machine's disk: for replies on their way and for rows being sorted."""

from __future__ import annotations

import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.core.errors import StoreUnavailable

_NAME = re.compile(r"^postroom-(?P<host>.+)-(?P<pid>\d+)-[^-]+$")


@contextmanager
def temp_folder() -> Iterator[Path]:
    """A folder under TMPDIR that is removed afterwards. Folders of killed processes are removed first."""
    with disk_errors():
        _sweep(Path(tempfile.gettempdir()))
        folder = tempfile.mkdtemp(prefix=f"postroom-{socket.gethostname()}-{os.getpid()}-")
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def disk_errors() -> Iterator[None]:
    """Errors of the disk become StoreUnavailable, which names the place and the next step."""
    try:
        yield
    except OSError as error:
        raise StoreUnavailable(
            f"cannot use {tempfile.gettempdir()} for temporary files: {error.strerror or error}; free space there or"
            " set TMPDIR, then run again; nothing was half-written"
        ) from None


def is_alive(pid: int) -> bool:
    """Whether this host has such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _sweep(place: Path) -> None:
    """What lies in there speaks about people: it must not outlive a process that was killed."""
    for path in place.glob("postroom-*"):
        match = _NAME.match(path.name)
        if match and match["host"] == socket.gethostname() and not is_alive(int(match["pid"])):
            shutil.rmtree(path, ignore_errors=True)
