"""The object store contract. It has no delete.

Keys are relative and `/`-separated, without `.` and `..` parts. Writes are atomic: readers never see a partial object,
and a killed writer leaves nothing under the key.
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
"""How a written object was verified against the bytes sent: the store returned the same full-object CRC64NVME, or the
same MD5 (of a multipart object: the MD5 of its parts' MD5s); it was read back and had the same SHA-256; or fsync
succeeded (folders)."""

READ_BYTES = 2**20
MIB = 2**20


@dataclass(frozen=True, order=True)
class StoredObject:
    """One object of a listing."""

    key: str
    size_bytes: int


@dataclass(frozen=True)
class ObjectAttributes:
    """An object as its store states it; `crc64nvme` (base64, of the full object) and `etag` if the store has them."""

    size_bytes: int
    crc64nvme: str | None = None
    etag: str | None = None


@dataclass(frozen=True)
class UploadResult:
    """A completely written object, and how it was verified."""

    size_bytes: int
    sha256: str
    crc64nvme: str
    proof: Verification
    etag: str | None = None
    """As returned by the store; used for later comparisons."""


@dataclass(frozen=True)
class Retention:
    """Object Lock of an object version: it cannot be deleted before `until`.

    `governance` can be bypassed with a special permission, `compliance` cannot.
    """

    mode: Literal["governance", "compliance"]
    until: datetime


@dataclass(frozen=True)
class UploadOptions:
    """Options of one upload; a folder uses `on_chunk` only, and refuses `retention`."""

    resume_token: str = ""
    """Identifies the bytes (file and version): an interrupted upload with the same token is resumed, on any host;
    without a token it is not."""

    on_chunk: Callable[[bytes], None] = lambda _chunk: None
    """Receives every byte once, in order: when it is written, or, after a resume, when the finished object is read
    back."""

    size_bytes: int | None = None
    """If known in advance."""

    content_type: str | None = None
    retention: Retention | None = None


DEFAULT_OPTIONS = UploadOptions()


@dataclass(frozen=True)
class ConditionalWriteSupport:
    """Whether a store refuses to overwrite an existing object: by a single PUT, and by a multipart upload."""

    by_put: bool = True
    by_parts: bool = True


class Checksums:
    """Size, SHA-256 and CRC64NVME of a stream of bytes."""

    def __init__(self) -> None:
        from awscrt.checksums import crc64nvme  # noqa: PLC0415 - several megabytes; not every command needs it

        self._sha256 = hashlib.sha256()
        self._crc64nvme, self._crc_of = 0, crc64nvme
        self.size_bytes = 0

    def feed(self, chunk: bytes) -> None:
        self._sha256.update(chunk)
        self._crc64nvme = self._crc_of(chunk, self._crc64nvme)
        self.size_bytes += len(chunk)

    def result(self, proof: Verification, etag: str | None = None) -> UploadResult:
        return UploadResult(self.size_bytes, self.sha256, self.crc64nvme, proof, etag)

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    @property
    def crc64nvme(self) -> str:
        return crc_text(self._crc64nvme)


def crc_text(crc: int) -> str:
    """A CRC64NVME as S3 formats it: base64 of its 8 bytes, big-endian."""
    return base64.b64encode(crc.to_bytes(8)).decode()


class Upload(Protocol):
    """An upload in progress. Leaving the context without `finish` keeps a resumable upload and discards any other."""

    @property
    def size_bytes(self) -> int:
        """Offset at which to start writing: 0, or, for a resumed upload, the start of its last complete part."""

    @property
    def sha256(self) -> str:
        """SHA-256 of the bytes written so far; not available for a resumed upload."""

    def write(self, chunk: bytes) -> None:
        """Write the next bytes. Memory: two parts.

        The first bytes of a resumed upload repeat its last part: they are compared, not sent.

        Raises:
            SourceDiffers: the repeated bytes differ. The upload was aborted; the next attempt starts from zero.
        """

    def restart(self) -> None:
        """Discard the bytes uploaded so far: `size_bytes` becomes 0."""

    def finish(self) -> UploadResult:
        """Complete the upload, then compare the object as stated by the store with the bytes sent.

        An existing object with the same bytes is success.

        Raises:
            ObjectDiffers: the key has an object with other bytes, which is not changed.
            FixityError: the stored object differs from the bytes sent.
        """

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class ObjectStore(Protocol):
    """A folder, or a bucket."""

    max_concurrency: int
    """Useful number of concurrent small requests: one takes about 30 ms in a bucket, almost nothing in a folder."""

    @property
    def url(self) -> str:
        """Location of this store for messages; contains no secrets."""

    def put_if_absent(self, key: str, content: bytes | Iterable[bytes], *, retention: Retention | None = None) -> int:
        """Write an object that must not exist yet; return its size in bytes.

        An existing object with the same bytes is success. If `content` raises, nothing is stored and the error
        propagates. Memory: one chunk; in a bucket two parts.

        Raises:
            ObjectDiffers: the key has an object with other bytes, which is not changed.
            StoreUnavailable: disk full, read-only, permission denied, no connection.
        """

    def overwrite(self, key: str, content: bytes | Iterable[bytes]) -> None:
        """Write an object atomically, replacing an existing one. Memory as in `put_if_absent`."""

    def upload(self, key: str, options: UploadOptions = DEFAULT_OPTIONS) -> Upload:
        """Start an object that must not exist yet, or resume an upload with the same key and resume token."""

    def find_completed(self, key: str, resume_token: str) -> StoredObject | None:
        """The object under the key if an upload with this token completed it; None also if the store has no tokens."""

    def copy_from(
        self, source: str, key: str, *, resume_token: str, etag: str, retention: Retention | None = None
    ) -> StoredObject:
        """Copy an object of another bucket (`s3://bucket/key`) server-side, on condition that it has this ETag.

        Raises:
            ObjectDiffers: the key has an object already, which is not changed.
            StoreError: this store cannot copy from that source.
        """

    def abort_uploads(self, prefix: str, older_than: timedelta) -> list[str]:
        """Abort uploads that started more than `older_than` ago, by the store's clock; return their keys."""

    def open(self, key: str) -> AbstractContextManager[IO[bytes]]:
        """Open an object for reading (seekable). Raises ObjectMissing."""

    def head(self, key: str) -> StoredObject | None:
        """One object, or None if it does not exist."""

    def attributes(self, key: str) -> ObjectAttributes | None:
        """One object as the store states it, with checksums; None if it does not exist."""

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """All objects whose key starts with `prefix`, sorted by key."""

    def lock(self, key: str, retention: Retention) -> None:
        """Lock an object for at least `retention` and check the lock that the store states; a longer lock stays.

        Raises StoreError if the object is not locked. Uploads and copies with a retention call this themselves.
        """

    def require_lock(self) -> None:
        """Raise ConfigError if this store cannot lock objects."""

    def probe_conditional_writes(self, key: str, content: bytes) -> ConditionalWriteSupport:
        """Write an object conditionally over its own bytes, by PUT and by multipart; return which the store refused."""

    def filesystem(self) -> tuple[pafs.FileSystem, str]:
        """A file system for pyarrow datasets, and the path of this store's root in it."""


class Readable(Protocol):
    """A store that objects can be read from."""

    def open(self, key: str) -> AbstractContextManager[IO[bytes]]: ...


def list_prefixes(store: ObjectStore, prefixes: Iterable[str]) -> Iterator[StoredObject]:
    """All objects of several prefixes, in the order of `prefixes`; listings run concurrently."""
    return chain.from_iterable(map_concurrent(lambda prefix: list(store.list(prefix)), prefixes, store.max_concurrency))


def read_bytes(store: ObjectStore, key: str) -> bytes:
    """Read a small object into memory."""
    with store.open(key) as stream:
        return stream.read()


def checksum_object(store: Readable, key: str, on_chunk: Callable[[bytes], None] = lambda _chunk: None) -> Checksums:
    """Read an object completely and compute its checksums. Memory: one chunk."""
    checksums = Checksums()
    with store.open(key) as stream:
        while chunk := stream.read(READ_BYTES):
            checksums.feed(chunk)
            on_chunk(chunk)
    return checksums


def verify_object(
    store: ObjectStore, key: str, on_chunk: Callable[[bytes], None] = lambda _chunk: None
) -> UploadResult:
    """Read an object completely and compare it with the size and checksum that the store states.

    Raises ObjectMissing; FixityError if they differ.
    """
    stated = store.attributes(key)
    if stated is None:
        raise ObjectMissing(f"{store.url}/{key}: no such object", key=key)
    checksums = checksum_object(store, key, on_chunk)
    if checksums.size_bytes != stated.size_bytes:
        raise SizeDiffers(key, stated.size_bytes, checksums.size_bytes)
    if stated.crc64nvme not in {None, checksums.crc64nvme}:
        raise DigestDiffers(key, f"CRC64NVME {stated.crc64nvme}, as the store states", checksums.crc64nvme)
    return checksums.result("read-back", stated.etag)


def validate_key(key: str) -> str:
    """Return the key. Raises StoreError if it is empty or could leave the root of the store."""
    if not key or any(part in {"", ".", ".."} for part in key.split("/")) or "\0" in key:
        raise StoreError(f"invalid object key: {key!r}", key=key)
    return key
