"""The contract of a place for objects. There is no delete.

Keys are `/`-separated, relative, without `.` and `..` parts. An object appears whole or not at all: a reader never
sees half a write, and a writer that is killed leaves nothing under the key.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain
from typing import IO, Literal, Protocol, Self

import pyarrow.fs as pafs

from pipeline.core.concurrency import map_concurrent
from pipeline.core.errors import DigestDiffers, ObjectMissing, SizeDiffers, StoreError

Verification = Literal["crc64nvme", "md5", "read-back", "synced"]
"""Why a written object is known to be what was sent: the store stated the same full-object CRC64NVME, or the same MD5
(of a multipart object: of its parts' MD5s); or it was read back and had the same SHA-256; or, in a folder, the
operating system said that it is on the disk."""

READ_BYTES = 2**20
MIB = 2**20


@dataclass(frozen=True, order=True)
class StoredObject:
    """One object of a listing."""

    key: str
    size_bytes: int


@dataclass(frozen=True)
class ObjectAttributes:
    """Attributes that the store states; `crc64nvme` (base64, of the whole object) and `etag` where it has them."""

    size_bytes: int
    crc64nvme: str | None = None
    etag: str | None = None


@dataclass(frozen=True)
class UploadResult:
    """An object after its last byte: what it is, and why that is known."""

    size_bytes: int
    sha256: str
    crc64nvme: str
    proof: Verification
    etag: str | None = None
    """As the store states it, for later comparisons."""


@dataclass(frozen=True)
class Retention:
    """Until when nobody can delete or overwrite an object's version; `governance` can be lifted by a special right."""

    mode: Literal["governance", "compliance"]
    until: datetime


@dataclass(frozen=True)
class ConditionalWriteSupport:
    """Whether a store itself refuses to put over what is there: in one request, and as an upload in parts."""

    by_put: bool = True
    by_parts: bool = True


class Checksums:
    """Size, SHA-256 and CRC64NVME of bytes as they come by."""

    def __init__(self) -> None:
        from awscrt.checksums import crc64nvme  # noqa: PLC0415 - a library of megabytes, for what is written or read whole

        self._sha256 = hashlib.sha256()
        self._crc64nvme, self._crc_of = 0, crc64nvme
        self.size_bytes = 0

    def feed(self, chunk: bytes) -> None:
        self._sha256.update(chunk)
        self._crc64nvme = self._crc_of(chunk, self._crc64nvme)
        self.size_bytes += len(chunk)

    def written(self, proof: Verification, etag: str | None = None) -> UploadResult:
        return UploadResult(self.size_bytes, self.sha256, self.crc64nvme, proof, etag)

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    @property
    def crc64nvme(self) -> str:
        return crc_text(self._crc64nvme)


def crc_text(crc: int) -> str:
    """A CRC64NVME as S3 writes it: base64 of its eight bytes, most significant first."""
    return base64.b64encode(crc.to_bytes(8)).decode()


class Upload(Protocol):
    """An upload in progress. Leaving the context without `finish` keeps what can be resumed, and drops the rest."""

    @property
    def size_bytes(self) -> int:
        """Where to begin writing: 0, or, of a resumed upload, where its last complete part begins."""

    @property
    def sha256(self) -> str:
        """Of what was written so far; not available for a resumed upload."""

    def write(self, chunk: bytes) -> None:
        """Take the next bytes. Memory: two parts.

        Of a resumed upload, the first bytes are those of its last part: compared, not sent.

        Raises:
            SourceDiffers: they differ. The upload was aborted; another attempt starts from the beginning.
        """

    def restart(self) -> None:
        """Give up what is there already: `size_bytes` is 0 from now on."""

    def finish(self) -> UploadResult:
        """Complete the object, then compare the store's attributes with what was sent.

        Raises:
            ObjectDiffers: other bytes are under the key; they stay. The same bytes are success.
            FixityError: the store did not keep what was sent.
        """

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class ObjectStore(Protocol):
    """A folder, or a bucket."""

    max_concurrency: int
    """Concurrent small requests that are useful: a bucket takes about 30 ms for each, a folder none."""

    @property
    def url(self) -> str:
        """Where this store is, for people; no secrets."""

    def put_if_absent(self, key: str, content: bytes | Iterable[bytes], *, retention: Retention | None = None) -> int:
        """Write an object that must not exist yet; return its size in bytes.

        The same bytes already being there is success. When `content` raises, nothing is stored and the error
        comes out. Memory: one chunk at a time; in a bucket two parts.

        Raises:
            ObjectDiffers: other bytes are there; they stay.
            StoreUnavailable: disk full, read-only, permission, no connection.
        """

    def overwrite(self, key: str, content: bytes | Iterable[bytes]) -> None:
        """Write an object, in one step, over whatever was there. Memory as in `put_if_absent`."""

    def upload(
        self,
        key: str,
        *,
        resume_token: str = "",
        on_chunk: Callable[[bytes], None] = lambda _chunk: None,
        size_bytes: int | None = None,
        content_type: str | None = None,
        retention: Retention | None = None,
    ) -> Upload:
        """Begin an object that must not exist yet, or resume an upload of the same key and token.

        `resume_token` identifies the bytes (file and version): an interrupted upload with the same token is resumed,
        on any host; without a token it is not. `on_chunk` sees every byte once, in order: as it is written, or,
        of a resumed upload, as the finished object is read back. `size_bytes` if it is known.
        """

    def find_completed(self, key: str, resume_token: str) -> StoredObject | None:
        """The object under the key, if an upload with this token finished it; None where a store keeps no tokens."""

    def copy_from(
        self, source: str, key: str, *, resume_token: str, etag: str, retention: Retention | None = None
    ) -> StoredObject:
        """Copy an object of another place (`s3://bucket/key`, as long as it has this ETag) inside the store.

        Raises:
            ObjectDiffers: something is under the key already; it stays.
            StoreError: this store cannot copy from there.
        """

    def abort_uploads(self, prefix: str, older_than: timedelta) -> list[str]:
        """Abort uploads that began longer ago than this, by the store's own clock; return their keys."""

    def open(self, key: str) -> AbstractContextManager[IO[bytes]]:
        """Open an object for reading (seekable). Raises ObjectMissing."""

    def head(self, key: str) -> StoredObject | None:
        """One object, or None when there is none."""

    def attributes(self, key: str) -> ObjectAttributes | None:
        """Attributes of one object as the store states them, with checksums; None when there is none."""

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """All objects whose key starts with `prefix`, sorted by key."""

    def lock(self, key: str, retention: Retention) -> None:
        """Lock an object at least until `retention.until`, as the store states it; a longer lock stays.

        Raises StoreError when it is not. Uploads and copies with a retention do this themselves.
        """

    def require_lock(self) -> None:
        """Raises ConfigError when this store cannot lock objects."""

    def probe_conditional_writes(self, key: str, content: bytes) -> ConditionalWriteSupport:
        """Put the same bytes over an object that has them already, asking the store to refuse that; whether it does."""

    def filesystem(self) -> tuple[pafs.FileSystem, str]:
        """For pyarrow datasets: a file system, and the path of this store's root in it."""


class Readable(Protocol):
    """What objects can be read from."""

    def open(self, key: str) -> AbstractContextManager[IO[bytes]]: ...


def listed(store: ObjectStore, prefixes: Iterable[str]) -> Iterator[StoredObject]:
    """All objects of several prefixes, one prefix after the other; some are requested concurrently."""
    return chain.from_iterable(map_concurrent(lambda prefix: list(store.list(prefix)), prefixes, store.max_concurrency))


def read_bytes(store: ObjectStore, key: str) -> bytes:
    """A whole object in memory: for small ones."""
    with store.open(key) as stream:
        return stream.read()


def checksum_object(store: Readable, key: str, on_chunk: Callable[[bytes], None] = lambda _chunk: None) -> Checksums:
    """Read an object from beginning to end; what it is. Memory: one chunk."""
    tally = Checksums()
    with store.open(key) as stream:
        while chunk := stream.read(READ_BYTES):
            tally.feed(chunk)
            on_chunk(chunk)
    return tally


def verify_object(
    store: ObjectStore, key: str, on_chunk: Callable[[bytes], None] = lambda _chunk: None
) -> UploadResult:
    """Read an object completely and compare its attributes as the store states them with the bytes read.

    Raises ObjectMissing; FixityError when the store contradicts itself.
    """
    stated = store.attributes(key)
    if stated is None:
        raise ObjectMissing(f"{store.url}/{key}: no such object", key=key)
    found = checksum_object(store, key, on_chunk)
    if found.size_bytes != stated.size_bytes:
        raise SizeDiffers(key, stated.size_bytes, found.size_bytes)
    if stated.crc64nvme not in {None, found.crc64nvme}:
        raise DigestDiffers(key, f"CRC64NVME {stated.crc64nvme}, as the store states", found.crc64nvme)
    return found.written("read-back", stated.etag)


def checked_key(key: str) -> str:
    """The key itself; StoreError for one that could lead astray."""
    if not key or any(part in {"", ".", ".."} for part in key.split("/")) or "\0" in key:
        raise StoreError(f"not a usable key: {key!r}", key=key)
    return key
