"""A folder as an object store.

Each write goes to a temporary file in `.tmp` under the root, is synced, and then published atomically: by a hard link
for a new object (which fails if the name exists, so only one of two writers succeeds), by a rename for a replacement.
The folder is synced too, so a reported write survives a power cut.
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
    DEFAULT_OPTIONS,
    Checksums,
    ConditionalWriteSupport,
    ObjectAttributes,
    Retention,
    StoredObject,
    UploadOptions,
    UploadResult,
    validate_key,
)

_TEMPORARY = ".tmp"
_TEMPORARY_NAME = re.compile(r"^(?P<host>.+)-(?P<pid>\d+)-[0-9a-f]{32}$")
_NEXT_STEP = {
    errno.ENOSPC: "free space there or move the store, then run again; no partial writes",
    errno.EDQUOT: "raise the quota or move the store, then run again; no partial writes",
    errno.EROFS: "the file system is read-only: remount it or set another path in the settings",
    errno.EACCES: "give this user write permission, or set another path in the settings",
    errno.EPERM: "give this user write permission, or set another path in the settings",
    errno.ENOTDIR: "the path of a folder is a file: set another path in the settings",
}


class LocalStore:
    """An `ObjectStore` in a folder, which is created at the first write."""

    max_concurrency = 1

    def __init__(self, root: Path) -> None:
        self._root = root
        self._sweep()

    @property
    def url(self) -> str:
        return f"file:{self._root}"

    def put_if_absent(self, key: str, content: bytes | Iterable[bytes], *, retention: Retention | None = None) -> int:
        with self.upload(key, UploadOptions(retention=retention)) as upload:
            for chunk in (content,) if isinstance(content, bytes) else content:
                upload.write(chunk)
            return upload.finish().size_bytes

    def overwrite(self, key: str, content: bytes | Iterable[bytes]) -> None:
        with self.upload(key) as upload:
            for chunk in (content,) if isinstance(content, bytes) else content:
                upload.write(chunk)
            upload.finish(overwrite=True)

    def upload(self, key: str, options: UploadOptions = DEFAULT_OPTIONS) -> LocalUpload:
        if options.retention is not None:
            self.require_lock()
        return LocalUpload(self._root, key, options.on_chunk)

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
        raise StoreError(f"cannot copy {source} into {self.url}: a folder has no server-side copy", key=key)

    def abort_uploads(self, prefix: str, older_than: timedelta) -> list[str]:  # noqa: ARG002
        return []  # files of killed processes are removed when a store is opened

    def lock(self, key: str, retention: Retention) -> None:  # noqa: ARG002
        self.require_lock()

    def require_lock(self) -> None:
        raise ConfigError(
            f"vault.lock: {self.url} is a folder, which cannot lock files; use an s3:// vault, or mode off"
        )

    def probe_conditional_writes(self, key: str, content: bytes) -> ConditionalWriteSupport:  # noqa: ARG002
        return ConditionalWriteSupport()  # os.link fails if the name exists

    @contextmanager
    def open(self, key: str) -> Iterator[IO[bytes]]:
        path = self._root / validate_key(key)
        try:
            stream = path.open("rb")
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise ObjectMissing(f"{path}: no such object", key=key) from None
        except OSError as error:
            raise _unavailable(error, path, key) from None
        with stream:
            yield stream

    def head(self, key: str) -> StoredObject | None:
        size_bytes = _size_bytes(f"{self._root}/{validate_key(key)}")
        return None if size_bytes is None else StoredObject(key, size_bytes)

    def attributes(self, key: str) -> ObjectAttributes | None:
        stored = self.head(key)
        return ObjectAttributes(stored.size_bytes) if stored else None

    def list(self, prefix: str) -> Iterator[StoredObject]:
        root = f"{self._root}/"  # str instead of Path, which takes three times as long
        keys: list[str] = []
        for path, folders, names in os.walk(f"{root}{prefix.rpartition('/')[0]}", onerror=_raise_walk_error):
            here = f"{path}/".removeprefix(root).lstrip("/")
            # A prefix may end inside the name of a day: only matching days are walked.
            folders[:] = [name for name in folders if f"{here}{name}/".startswith(prefix[: len(here) + len(name) + 1])]
            keys += [key for name in names if (key := f"{here}{name}").startswith(prefix)]
        for key in sorted(key for key in keys if not key.startswith(_TEMPORARY)):
            if (size_bytes := _size_bytes(f"{root}{key}")) is not None:
                yield StoredObject(key, size_bytes)

    def filesystem(self) -> tuple[pafs.FileSystem, str]:
        return pafs.LocalFileSystem(), str(self._root.resolve())

    def _sweep(self) -> None:
        """Remove temporary files of terminated processes of this host; keep all others."""
        folder = self._root / _TEMPORARY
        try:
            names = os.listdir(folder)  # noqa: PTH208 - Path.iterdir hides the error
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
    """A temporary file, published atomically by `finish`, otherwise removed."""

    def __init__(self, root: Path, key: str, on_chunk: Callable[[bytes], None]) -> None:
        self._key, self._on_chunk = key, on_chunk
        self._target = root / validate_key(key)
        self._path = root / _TEMPORARY / f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex}"
        self._checksums = Checksums()
        with _store_errors(self._target, key):
            self._target.parent.mkdir(parents=True, exist_ok=True)
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = self._path.open("xb")

    @property
    def size_bytes(self) -> int:
        return 0

    @property
    def sha256(self) -> str:
        return self._checksums.sha256

    def restart(self) -> None:
        """Nothing to discard: folders do not resume uploads."""

    def write(self, chunk: bytes) -> None:
        self._on_chunk(chunk)
        self._checksums.feed(chunk)
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
            return self._checksums.result("synced")

    def _link(self) -> None:
        try:
            os.link(self._path, self._target)
        except FileExistsError:
            if not filecmp.cmp(self._path, self._target, shallow=False):
                raise ObjectDiffers(
                    f"{self._target}: exists with other content; not overwritten", key=self._key
                ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # on a full disk, close repeats the first error
            self._stream.close()
        with suppress(OSError):  # otherwise removed when a later process opens the store
            self._path.unlink()


@contextmanager
def _store_errors(path: Path, key: str) -> Iterator[None]:
    """Convert OSError into StoreUnavailable; must not enclose code of the source of the content."""
    try:
        yield
    except OSError as error:
        raise _unavailable(error, path, key) from error


def _size_bytes(path: str) -> int | None:
    """Size of a regular file; None if it does not exist."""
    try:
        status = os.stat(path)  # noqa: PTH116
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _unavailable(error, Path(path), "") from None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _raise_walk_error(error: OSError) -> None:
    """Error handler of `os.walk`: by default it skips unreadable folders, and the listing would be incomplete."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise _unavailable(error, Path(error.filename), "")


def _unavailable(error: OSError, path: Path, key: str) -> StoreUnavailable:
    step = _NEXT_STEP.get(error.errno or 0, "check the disk and run again; no partial writes")
    return StoreUnavailable(f"cannot use {path}: {error.strerror or error}: {step}", key=key)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
