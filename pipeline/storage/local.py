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
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import IO, Self
from uuid import uuid4

import pyarrow.fs as pafs

from pipeline.core.errors import ConfigError, ObjectDiffers, ObjectMissing, StoreError, StoreUnavailable
from pipeline.core.tempfiles import is_alive
from pipeline.core.tracing import span
from pipeline.storage.base import (
    Checksums,
    ConditionalWriteSupport,
    ObjectAttributes,
    Retention,
    StoredObject,
    UploadResult,
    checked_key,
)

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

    max_concurrency = 1

    def __init__(self, root: Path) -> None:
        self._root = root
        self._sweep()

    @property
    def url(self) -> str:
        return f"file:{self._root}"

    def put_if_absent(self, key: str, content: bytes | Iterable[bytes], *, retention: Retention | None = None) -> int:
        with self.upload(key, retention=retention) as upload:
            for chunk in (content,) if isinstance(content, bytes) else content:
                upload.write(chunk)
            return upload.finish().size_bytes

    def overwrite(self, key: str, content: bytes | Iterable[bytes]) -> None:
        with self.upload(key) as upload:
            for chunk in (content,) if isinstance(content, bytes) else content:
                upload.write(chunk)
            upload.finish(overwrite=True)

    def upload(
        self,
        key: str,
        *,
        resume_token: str = "",  # noqa: ARG002 - an interrupted file is written from the beginning
        on_chunk: Callable[[bytes], None] = lambda _chunk: None,
        size_bytes: int | None = None,  # noqa: ARG002
        content_type: str | None = None,  # noqa: ARG002
        retention: Retention | None = None,
    ) -> LocalUpload:
        if retention is not None:
            self.require_lock()
        return LocalUpload(self._root, key, on_chunk)

    def find_completed(self, key: str, resume_token: str) -> StoredObject | None:  # noqa: ARG002
        return None

    def copy_from(
        self,
        source: str,
        key: str,
        *,
        resume_token: str,  # noqa: ARG002
        etag: str,  # noqa: ARG002
        retention: Retention | None = None,  # noqa: ARG002
    ) -> StoredObject:
        raise StoreError(f"{source} cannot be copied into {self.url}", key=key)

    def abort_uploads(self, prefix: str, older_than: timedelta) -> list[str]:  # noqa: ARG002
        return []  # what a killed process left is swept when a store is opened

    def lock(self, key: str, retention: Retention) -> None:  # noqa: ARG002
        self.require_lock()

    def require_lock(self) -> None:
        raise ConfigError(
            f"vault.lock: {self.url} is a folder, which cannot lock files; use an s3:// vault, or mode off"
        )

    def probe_conditional_writes(self, key: str, content: bytes) -> ConditionalWriteSupport:  # noqa: ARG002
        return ConditionalWriteSupport()  # a name that is taken cannot be linked

    @contextmanager
    def open(self, key: str) -> Iterator[IO[bytes]]:
        path = self._root / checked_key(key)
        try:
            stream = path.open("rb")
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise ObjectMissing(f"{path}: no such object", key=key) from None
        except OSError as error:
            raise _unavailable(error, path, key) from None
        with stream:
            yield stream

    def head(self, key: str) -> StoredObject | None:
        size_bytes = _size_bytes(f"{self._root}/{checked_key(key)}")
        return None if size_bytes is None else StoredObject(key, size_bytes)

    def attributes(self, key: str) -> ObjectAttributes | None:
        found = self.head(key)
        return ObjectAttributes(found.size_bytes) if found else None

    def list(self, prefix: str) -> Iterator[StoredObject]:
        root = f"{self._root}/"  # text and not Path: a vault has many objects, and Path takes three times as long
        found: list[str] = []
        for at, folders, names in os.walk(f"{root}{prefix.rpartition('/')[0]}", onerror=_unlisted):
            here = f"{at}/".removeprefix(root).lstrip("/")
            # A prefix may end within a day's name: the other days are not walked.
            folders[:] = [name for name in folders if f"{here}{name}/".startswith(prefix[: len(here) + len(name) + 1])]
            found += [key for name in names if (key := f"{here}{name}").startswith(prefix)]
        for key in sorted(key for key in found if not key.startswith(_TEMPORARY)):
            if (size_bytes := _size_bytes(f"{root}{key}")) is not None:
                yield StoredObject(key, size_bytes)

    def filesystem(self) -> tuple[pafs.FileSystem, str]:
        return pafs.LocalFileSystem(), str(self._root.resolve())

    def _sweep(self) -> None:
        """Remove temporary files of processes of this host that are no more; others are left alone."""
        folder = self._root / _TEMPORARY
        try:
            names = os.listdir(folder)  # noqa: PTH208 - a Path does not say what went wrong
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise _unavailable(error, folder, "") from None
        for name in names:
            match = _TEMPORARY_NAME.match(name)
            if match and match["host"] == socket.gethostname() and not is_alive(int(match["pid"])):
                with suppress(OSError):
                    (folder / name).unlink()


class LocalUpload:
    """A temporary file that takes its name in one step; gone when it does not."""

    def __init__(self, root: Path, key: str, on_chunk: Callable[[bytes], None]) -> None:
        self._key, self._on_chunk = key, on_chunk
        self._target = root / checked_key(key)
        self._path = root / _TEMPORARY / f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex}"
        self._tally = Checksums()
        with _store_errors(self._target, key):
            self._target.parent.mkdir(parents=True, exist_ok=True)
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = self._path.open("xb")

    @property
    def size_bytes(self) -> int:
        return 0

    @property
    def sha256(self) -> str:
        return self._tally.sha256

    def restart(self) -> None:
        """There is never anything already."""

    def write(self, chunk: bytes) -> None:
        self._on_chunk(chunk)
        self._tally.feed(chunk)
        with _store_errors(self._path, self._key):
            self._stream.write(chunk)

    def finish(self, *, overwrite: bool = False) -> UploadResult:
        with span("write", {"postroom.key": self._key}):
            with _store_errors(self._path, self._key):
                self._stream.flush()
                os.fsync(self._stream.fileno())
                self._stream.close()
            with _store_errors(self._target, self._key):
                if overwrite:
                    self._path.replace(self._target)
                else:
                    self._link()
                _sync_folder(self._target.parent)
            return self._tally.written("synced")

    def _link(self) -> None:
        try:
            os.link(self._path, self._target)
        except FileExistsError:
            if not filecmp.cmp(self._path, self._target, shallow=False):
                raise ObjectDiffers(f"{self._target}: other bytes are already there and stay", key=self._key) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # on a full disk closing only repeats the first error
            self._stream.close()
        with suppress(OSError):  # it is swept when a later process opens the store
            self._path.unlink()


@contextmanager
def _store_errors(path: Path, key: str) -> Iterator[None]:
    """Operating-system errors become StoreUnavailable; errors of whoever produces the content stay themselves."""
    try:
        yield
    except OSError as error:
        raise _unavailable(error, path, key) from error


def _size_bytes(path: str) -> int | None:
    """Of a regular file; None where there is none."""
    try:
        found = os.stat(path)  # noqa: PTH116
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _unavailable(error, Path(path), "") from None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def _unlisted(error: OSError) -> None:
    """What `os.walk` does with a folder that it cannot read. To leave it out would be to say that nothing is there."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise _unavailable(error, Path(error.filename), "")


def _unavailable(error: OSError, path: Path, key: str) -> StoreUnavailable:
    step = _NEXT_STEP.get(error.errno or 0, "check the disk and run again; nothing was half-written")
    return StoreUnavailable(f"cannot use {path}: {error.strerror or error}: {step}", key=key)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
