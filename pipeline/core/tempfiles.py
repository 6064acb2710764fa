"""Temporary folders on the local disk: for replies in transit and for sorting rows."""

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
    """A folder below TMPDIR, removed when the block ends. Folders of killed processes are removed first."""
    with disk_errors():
        _sweep(Path(tempfile.gettempdir()))
        folder = tempfile.mkdtemp(prefix=f"postroom-{socket.gethostname()}-{os.getpid()}-")
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def disk_errors() -> Iterator[None]:
    """Turn disk errors into StoreUnavailable, which names the folder and the next step."""
    try:
        yield
    except OSError as error:
        raise StoreUnavailable(
            f"cannot use {tempfile.gettempdir()} for temporary files: {error.strerror or error}; free space there or"
            " set TMPDIR, then run again; no partial writes"
        ) from None


def is_alive(pid: int) -> bool:
    """Whether a process with this ID exists on this host."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _sweep(folder: Path) -> None:
    """Remove folders of killed processes, because their files may contain personal data."""
    for path in folder.glob("postroom-*"):
        match = _NAME.match(path.name)
        if match and match["host"] == socket.gethostname() and not is_alive(int(match["pid"])):
            shutil.rmtree(path, ignore_errors=True)
