"""The contract of a place for objects. There is no delete.

Keys are `/`-separated, relative, without `.` and `..` parts. An object appears whole or not at all: a reader never
sees half a write, and a writer that is killed leaves nothing under the key.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import IO, Protocol

import pyarrow.fs as pafs


@dataclass(frozen=True, order=True)
class StoredObject:
    """What a listing says about one object."""

    key: str
    size_bytes: int


class ObjectStore(Protocol):
    """A folder, or a bucket."""

    @property
    def url(self) -> str:
        """Where this store is, for people; no secrets."""

    def put_new(self, key: str, content: bytes | Iterable[bytes]) -> int:
        """Write an object that must not exist yet; return its size in bytes.

        The same bytes already being there is success. When `content` raises, nothing is stored and the error
        comes out. Memory: one chunk at a time.

        Raises:
            ObjectDiffers: other bytes are there; they stay.
            StoreUnavailable: disk full, read-only, permission.
        """

    def replace(self, key: str, content: bytes | Iterable[bytes]) -> None:
        """Write an object, in one step, over whatever was there. Memory: one chunk at a time."""

    def open(self, key: str) -> AbstractContextManager[IO[bytes]]:
        """Open an object for reading (seekable). Raises ObjectMissing."""

    def stat(self, key: str) -> StoredObject | None:
        """One object, or None when there is none."""

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """All objects whose key starts with `prefix`, in order of key."""

    def filesystem(self) -> tuple[pafs.FileSystem, str]:
        """For pyarrow datasets: a file system, and the path of this store's root in it."""


def read_bytes(store: ObjectStore, key: str) -> bytes:
    """A whole object in memory: for small ones."""
    with store.open(key) as stream:
        return stream.read()
