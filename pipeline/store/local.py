"""A folder as an object store.

Every write goes to a temporary file in `.tmp` under the root, is synced, and then takes its name in one step: a hard
link for a new object (the link fails when the name is taken, so two writers cannot both win), a rename for a
replacement. The folder is synced too, so that a power cut cannot undo a write that was reported.
"""

from __future__ import annotations

import errno
import filecmp
import os
import re
import socket
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO
from uuid import uuid4

import pyarrow.fs as pafs

from pipeline.errors import ObjectDiffers, ObjectMissing, StoreError, StoreUnavailable
from pipeline.scratch import is_alive
from pipeline.store.base import StoredObject

_TEMPORARY = ".tmp"
_TEMPORARY_NAME = re.compile(r"^(?P<host>.+)-(?P<pid>\d+)-[0-9a-f]{32}$")
_NEXT_STEP = {
    errno.ENOSPC: "free space there or move the store, then run again; nothing was half-written",
    errno.EDQUOT: "raise the quota or move the store, then run again; nothing was half-written",
    errno.EROFS: "the file system is read-only: remount it or choose another place in the settings",
    errno.EACCES: "give this user the right to write there, or choose another place in the settings",
    errno.EPERM: "give this user the right to write there, or choose another place in the settings",
    errno.ENOTDIR: "a file stands where a folder is needed: choose another place in the settings",
}


class LocalStore:
    """An `ObjectStore` in a folder, which is made at the first write."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._sweep()

    @property
    def url(self) -> str:
        return f"file:{self._root}"

    def put_new(self, key: str, content: bytes | Iterable[bytes]) -> int:
        target = self._path(key)
        with self._temporary(key, content) as temporary:
            try:
                os.link(temporary, target)
            except FileExistsError:
                if not filecmp.cmp(temporary, target, shallow=False):
                    raise ObjectDiffers(f"{target}: other bytes are already there and stay", key=key) from None
            size_bytes = temporary.stat().st_size
        _sync_folder(target.parent)
        return size_bytes

    def replace(self, key: str, content: bytes | Iterable[bytes]) -> None:
        target = self._path(key)
        with self._temporary(key, content) as temporary:
            temporary.replace(target)
        _sync_folder(target.parent)

    @contextmanager
    def open(self, key: str) -> Iterator[IO[bytes]]:
        path = self._path(key)
        try:
            stream = path.open("rb")
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise ObjectMissing(f"{path}: no such object", key=key) from None
        except OSError as error:
            raise _unavailable(error, path, key) from None
        with stream:
            yield stream

    def stat(self, key: str) -> StoredObject | None:
        try:
            found = self._path(key).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return StoredObject(key, found.st_size) if stat.S_ISREG(found.st_mode) else None

    def list(self, prefix: str) -> Iterator[StoredObject]:
        folder = self._root / prefix.rpartition("/")[0]
        keys = (Path(at, name).relative_to(self._root).as_posix() for at, _, names in os.walk(folder) for name in names)
        for key in sorted(key for key in keys if key.startswith(prefix) and not key.startswith(_TEMPORARY)):
            if stored := self.stat(key):
                yield stored

    def filesystem(self) -> tuple[pafs.FileSystem, str]:
        return pafs.LocalFileSystem(), str(self._root.resolve())

    def _path(self, key: str) -> Path:
        if not key or any(part in {"", ".", ".."} for part in key.split("/")) or "\0" in key:
            raise StoreError(f"not a usable key: {key!r}", key=key)
        return self._root / key

    @contextmanager
    def _temporary(self, key: str, content: bytes | Iterable[bytes]) -> Iterator[Path]:
        """A synced temporary file with `content`, gone afterwards whatever happens; the target's folder exists."""
        path = self._root / _TEMPORARY / f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex}"
        try:
            self._path(key).parent.mkdir(parents=True, exist_ok=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            stream = path.open("xb")
        except OSError as error:
            raise _unavailable(error, self._path(key), key) from None
        try:
            _write_synced(stream, content, path, key)
            with _store_errors(self._path(key), key):
                yield path
        finally:
            path.unlink(missing_ok=True)

    def _sweep(self) -> None:
        """Remove temporary files of processes of this host that are no more; others are left alone."""
        folder = self._root / _TEMPORARY
        for path in folder.iterdir() if folder.is_dir() else ():
            match = _TEMPORARY_NAME.match(path.name)
            if match and match["host"] == socket.gethostname() and not is_alive(int(match["pid"])):
                with suppress(OSError):
                    path.unlink()


def _write_synced(stream: IO[bytes], content: bytes | Iterable[bytes], path: Path, key: str) -> None:
    try:
        for chunk in (content,) if isinstance(content, bytes) else content:
            with _store_errors(path, key):
                stream.write(chunk)
        with _store_errors(path, key):
            stream.flush()
            os.fsync(stream.fileno())
    finally:
        with suppress(OSError):  # what was written is synced; on a full disk closing only repeats the first error
            stream.close()


@contextmanager
def _store_errors(path: Path, key: str) -> Iterator[None]:
    """Operating-system errors become StoreUnavailable; errors of whoever produces the content stay themselves."""
    try:
        yield
    except OSError as error:
        raise _unavailable(error, path, key) from error


def _unavailable(error: OSError, path: Path, key: str) -> StoreUnavailable:
    step = _NEXT_STEP.get(error.errno or 0, "check the disk and run again; nothing was half-written")
    return StoreUnavailable(f"cannot use {path}: {error.strerror or error}: {step}", key=key)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
