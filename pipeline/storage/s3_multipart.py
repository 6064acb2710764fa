"""One object on its way to a bucket: in one request while it is small, else part by part, one part ahead of the next.

Each part goes out with a checksum that the server verifies; after the last one the server's own word about the whole
object is compared with what was sent. An interrupted upload with a token is left for the next run to resume.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import re
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

import structlog
from awscrt.checksums import crc64nvme
from botocore.exceptions import BotoCoreError, ClientError

from pipeline.core.concurrency import ContextThreadPool
from pipeline.core.errors import DigestDiffers, ObjectDiffers, SizeDiffers, SourceDiffers, StoreUnavailable
from pipeline.core.tracing import span
from pipeline.storage.base import (
    MIB,
    Checksums,
    ObjectAttributes,
    Retention,
    UploadResult,
    Verification,
    checksum_object,
    crc_text,
)
from pipeline.storage.s3_client import S3Client, error_code, label_digest

MOST_PARTS = 10_000
MOST_PART_BYTES = 5 * 1024 * MIB
"""S3's limits for one object, and for one part."""

_PARTS_PER_SIZE = 900
"""Of an object of unknown size this many parts have one size, the next twice that: 10,000 of 5 MiB and more hold
5 TiB, and one part is never much more than a thousandth of what is there."""

_MARKER = re.compile(r"\.upload-[0-9a-f]{64}$")
UNKNOWN_OPTION = frozenset({"NotImplemented", "InvalidArgument", "InvalidRequest", "XNotImplemented", "501", "400"})
CONFLICT = frozenset({"PreconditionFailed", "412", "ConditionalRequestConflict", "409"})
_UNFIT = frozenset({"BadDigest", "EntityTooSmall", "InvalidPart", "InvalidPartOrder"})
"""Parts that make no object: another writer changed them. They are aborted, or later runs would find them again."""

_log = structlog.get_logger()


@dataclass(frozen=True)
class Part:
    """A part as the server has it; its `etag` is an MD5 where the bucket is not encrypted with a key of its own."""

    number: int
    etag: str
    size_bytes: int
    crc64nvme: str | None = None
    md5: str | None = None
    """Of what was sent, by our own account."""


@dataclass(frozen=True)
class Marker:
    """The upload without parts that identifies the bytes of another upload."""

    key: str
    upload_id: str


@dataclass
class Parts:
    """An unfinished upload: its parts from the first on, and whether the server keeps a CRC of the whole object."""

    upload_id: str
    parts: list[Part]
    states_crc: bool
    marker: Marker | None = None

    @property
    def size_bytes(self) -> int:
        return sum(part.size_bytes for part in self.parts)

    @property
    def etag(self) -> str:
        """The ETag of the object that what was sent makes: the MD5 of the parts' MD5s, and how many; "" if unknown."""
        digests = [bytes.fromhex(part.md5) for part in self.parts if part.md5]
        return f"{md5_of(b''.join(digests)).hexdigest()}-{len(digests)}" if len(digests) == len(self.parts) else ""


def marker_key(key: str, resume_token: str, upload_id: str) -> str:
    return f"{key}.upload-{hashlib.sha256(f'{label_digest(resume_token)} {upload_id}'.encode()).hexdigest()}"


def is_marker(key: str) -> bool:
    return _MARKER.search(key) is not None


def part_bytes(number: int, least: int, left: int | None) -> int:
    """Size of part `number` (from 1) and of all after it when `left` bytes remain; when that is unknown, parts grow.

    There are never too many, also after parts of another size.
    """
    if left is not None:
        even = -(-left // max(1, MOST_PARTS - number + 1))
        return max(least, -(-even // MIB) * MIB)
    return min(least << ((number - 1) // _PARTS_PER_SIZE), MOST_PART_BYTES)


class S3Upload:
    """See `pipeline.storage.base.Upload`. Used by one thread; a second one sends."""

    def __init__(
        self,
        store: S3Client,
        key: str,
        resume_token: str,
        begun: Parts | None,
        on_chunk: Callable[[bytes], None],
        options: Mapping[str, Any],
        least_part_bytes: int,
        total_bytes: int | None,
        retention: Retention | None,
    ) -> None:
        self._store, self._key, self._resume_token, self._options = store, key, resume_token, options
        self._on_chunk, self._least, self._total = on_chunk, least_part_bytes, total_bytes
        self._retention = retention
        self._place = store.place(key)
        self._parts = begun
        self._count_from(begun)
        self._unconfirmed = begun.parts.pop() if begun and begun.parts else None
        self.size_bytes = begun.size_bytes if begun else 0
        self._is_resumed = self.size_bytes > 0
        self._tally = Checksums()
        self._block, self._filled = bytearray(), 0
        self._spare: bytearray | None = None
        self._sender: ContextThreadPool | None = None
        self._sending: tuple[Parts, bytearray, Future[Part]] | None = None
        self._is_settled = False

    @property
    def sha256(self) -> str:
        return self._tally.sha256

    def restart(self) -> None:
        self._abort()
        self._unconfirmed, self._is_resumed, self.size_bytes = None, False, 0
        self._count_from(None)

    def _count_from(self, begun: Parts | None) -> None:
        self._taken_parts, there = (len(begun.parts), begun.size_bytes) if begun else (0, 0)
        left = None if self._total is None else self._total - there
        self._alike_bytes = None if left is None else part_bytes(self._taken_parts + 1, self._least, left)

    def write(self, chunk: bytes) -> None:
        if not self._is_resumed:
            self._on_chunk(chunk)
            self._tally.feed(chunk)
        view = memoryview(chunk)
        while view:
            if self._filled == len(self._block):
                self._next_block()
            end = min(self._filled + len(view), len(self._block))
            taken = end - self._filled
            self._block[self._filled : end] = view[:taken]
            self._filled, view = end, view[taken:]

    def finish(self, *, overwrite: bool = False) -> UploadResult:
        with span("write", {"postroom.key": self._key}):
            if self._taken_parts == 0:
                self._abort()  # an earlier upload was interrupted before its first part
            parts = self._parts
            written = (
                self._finish_parts(parts, overwrite=overwrite) if parts else self._finish_whole(overwrite=overwrite)
            )
            self._is_settled = True
            if self._retention:
                self._store.lock(self._key, self._retention)
            return written

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._sender:
            self._sender.shutdown(wait=True)
        if self._parts and not self._is_settled and not self._resume_token:
            self._abort()

    # --- in one request ---

    def _finish_whole(self, *, overwrite: bool) -> UploadResult:
        """Put it with checksum and condition; a server that supports neither gets the request without."""
        checksum = {"ChecksumCRC64NVME": self._tally.crc64nvme, "ChecksumAlgorithm": "CRC64NVME"}
        condition = {} if overwrite else {"IfNoneMatch": "*"}
        if not overwrite and self._store.head(self._key) is not None:  # not every server heeds the condition
            return self._there_already()
        for guards in ({**checksum, **condition}, condition):
            try:
                return self._put(guards)
            except ClientError as error:
                if error_code(error) not in UNKNOWN_OPTION:
                    return self._conflict(error)
        with self._store.errors(self._key):
            return self._put({})

    def _put(self, guards: Mapping[str, str]) -> UploadResult:
        body, client = self._content(), self._store.client
        md5 = md5_of(body)
        try:
            answer = client.put_object(**self._place, Body=body, ContentMD5=content_md5(md5), **self._options, **guards)
        except BotoCoreError as error:
            raise self._store.translated(error, self._key) from None
        etag = answer["ETag"].strip('"')
        return self._checked(ObjectAttributes(len(body), answer.get("ChecksumCRC64NVME"), etag), md5.hexdigest())

    # --- part by part ---

    def _next_part_bytes(self) -> int:
        if self._unconfirmed:
            return self._unconfirmed.size_bytes
        return self._alike_bytes or part_bytes(self._taken_parts + 1, self._least, None)

    def _next_block(self) -> None:
        """Make room for the next part, in memory that was used before: a part is sent when the one after it begins, for
        what fits one part is put whole."""
        if self._filled:
            self._send_part()
        size_bytes = self._next_part_bytes()
        if self._total is not None and not self._unconfirmed:
            size_bytes = min(size_bytes, max(1, self._total - self.size_bytes))
        spare, self._spare = self._spare, None
        self._block = spare if spare is not None and len(spare) == size_bytes else bytearray(size_bytes)
        self._filled = 0

    def _content(self) -> bytearray:
        """What is in the block; the rest of it is gone."""
        del self._block[self._filled :]
        return self._block

    def _send_part(self) -> None:
        """Hand the block to the sending thread; first wait for the part before it."""
        if self._unconfirmed:
            self._confirm(self._unconfirmed)
            return
        self._settle_sending()
        if self._parts is None:
            self._parts = self._begin()
        if self._sender is None:
            self._sender = ContextThreadPool(1, "postroom-parts")
        body, self._block, self._filled = self._content(), bytearray(), 0
        self._taken_parts += 1
        self._sending = self._parts, body, self._sender.submit(self._send, self._parts, self._taken_parts, body)

    def _confirm(self, part: Part) -> None:
        """Compare the last part that was there already with what comes in its place now; it need not be sent."""
        content = self._content()
        is_same = part.crc64nvme == crc_text(crc64nvme(content)) or part.etag == md5_of(content).hexdigest()
        if self._parts is None or len(content) != part.size_bytes or not is_same:
            self._abort()
            raise SourceDiffers(f"{self._store.url}/{self._key}: the source gives other bytes now", key=self._key)
        self._parts.parts.append(dataclasses.replace(part, md5=md5_of(content).hexdigest()))
        self._unconfirmed, self._block, self._filled = None, bytearray(), 0

    def _settle_sending(self) -> None:
        if self._sending is not None:
            parts, self._spare, sending = self._sending
            self._sending = None
            parts.parts.append(sending.result())

    def _begin(self) -> Parts:
        """Create the upload, then its marker: an upload whose marker is missing is never resumed."""
        client = self._store.client
        checksum = {"ChecksumAlgorithm": "CRC64NVME", "ChecksumType": "FULL_OBJECT"}
        with self._store.errors(self._key):
            try:
                created = client.create_multipart_upload(**self._place, **self._options, **checksum)
            except ClientError as error:
                if error_code(error) not in UNKNOWN_OPTION:
                    raise
                created = client.create_multipart_upload(**self._place, **self._options)
            parts = Parts(created["UploadId"], [], created.get("ChecksumAlgorithm") == "CRC64NVME")
            if self._resume_token:
                key = marker_key(self._key, self._resume_token, parts.upload_id)
                parts.marker = Marker(key, client.create_multipart_upload(**self._store.place(key))["UploadId"])
        return parts

    def _send(self, parts: Parts, number: int, body: bytes | bytearray) -> Part:
        """One part; the server verifies it against its checksum before it accepts it."""
        crc = crc_text(crc64nvme(body)) if parts.states_crc else None
        md5 = None if parts.states_crc else md5_of(body)
        check = (
            {"ContentMD5": content_md5(md5)} if md5 else {"ChecksumAlgorithm": "CRC64NVME", "ChecksumCRC64NVME": crc}
        )
        _log.debug("upload.part_started", key=self._key, part=number, size_bytes=len(body))
        with self._store.errors(self._key):
            answer = self._store.client.upload_part(
                **self._place, UploadId=parts.upload_id, PartNumber=number, Body=body, **check
            )
        return Part(number, answer["ETag"].strip('"'), len(body), crc, md5.hexdigest() if md5 else None)

    def _finish_parts(self, parts: Parts, *, overwrite: bool) -> UploadResult:
        if self._filled or self._unconfirmed:
            self._send_part()
        self._settle_sending()
        if self._is_resumed and self._total not in {None, parts.size_bytes}:
            self._abort()
            raise SourceDiffers(f"{self._store.url}/{self._key}: {parts.size_bytes} bytes came together", key=self._key)
        if not overwrite and self._store.head(self._key) is not None:  # as above
            self._abort()
            return self._there_already()
        try:
            self._complete(parts, {} if overwrite else {"IfNoneMatch": "*"})
        except ClientError as error:
            if error_code(error) in CONFLICT | _UNFIT:
                self._abort()
            elif error_code(error) == "NoSuchUpload":  # another run finished it, or a lost answer hides that we did
                self._unmark(parts)
                return self._there_already()
            return self._conflict(error)
        self._unmark(parts)
        return self._checked_parts(parts)

    def _complete(self, parts: Parts, condition: Mapping[str, str]) -> None:
        """Let the object appear; a server that refuses to know the condition is asked without it."""
        listed = [
            {
                "PartNumber": part.number,
                "ETag": part.etag,
                **({"ChecksumCRC64NVME": part.crc64nvme} if part.crc64nvme else {}),
            }
            for part in parts.parts
        ]
        upload = {**self._place, "UploadId": parts.upload_id, "MultipartUpload": {"Parts": listed}}
        if parts.states_crc and not self._is_resumed:
            upload |= {"ChecksumCRC64NVME": self._tally.crc64nvme, "ChecksumType": "FULL_OBJECT"}
        for guards in (condition, {}):
            try:
                self._store.client.complete_multipart_upload(**upload, **guards)
            except ClientError as error:
                if not guards or error_code(error) not in UNKNOWN_OPTION:
                    raise
            except BotoCoreError as error:
                raise self._store.translated(error, self._key) from None
            else:
                return

    def _checked_parts(self, parts: Parts) -> UploadResult:
        stated = self._store.attributes(self._key)
        if stated is None:
            raise StoreUnavailable(
                f"{self._store.url}/{self._key}: stored, and not there a moment later", key=self._key
            )
        if self._is_resumed:
            return self._read_back(stated)
        return self._checked(stated, parts.etag)

    # --- what the server states, against what was sent ---

    def _checked(self, stated: ObjectAttributes, md5: str) -> UploadResult:
        proof = proof_of(self._key, stated, self._tally, md5)
        return self._tally.written(proof, stated.etag) if proof else self._read_back(stated)

    def _read_back(self, stated: ObjectAttributes) -> UploadResult:
        """The whole object as the server gives it back; of a resumed one these are the first digests of all of it."""
        found = checksum_object(self._store, self._key, self._on_chunk if self._is_resumed else lambda _chunk: None)
        expected = found if self._is_resumed else self._tally
        total = self._parts.size_bytes if self._parts else expected.size_bytes
        if found.size_bytes != total:
            raise SizeDiffers(self._key, total, found.size_bytes)
        if found.sha256 != expected.sha256:
            raise DigestDiffers(self._key, expected.sha256, found.sha256)
        if stated.crc64nvme and stated.crc64nvme != found.crc64nvme:
            raise DigestDiffers(self._key, f"CRC64NVME {stated.crc64nvme}, as the store states", found.crc64nvme)
        return found.written("read-back", stated.etag)

    def _conflict(self, error: ClientError) -> UploadResult:
        if error_code(error) in CONFLICT:
            return self._there_already()
        raise self._store.translated(error, self._key) from None

    def _there_already(self) -> UploadResult:
        """The key is taken: by the same bytes, which is success, or by others, which stay."""
        stated = self._store.attributes(self._key)
        if stated is None:
            raise StoreUnavailable(f"{self._store.url}/{self._key}: another writer is at it; run again", key=self._key)
        if self._is_resumed:  # our first bytes are not at hand any more: a label can say whose those are
            if self._store.find_completed(self._key, self._resume_token) is None:
                raise ObjectDiffers(f"{self._store.url}/{self._key}: other bytes are already there", key=self._key)
            return checksum_object(self._store, self._key, self._on_chunk).written("read-back", stated.etag)
        if self._store.is_same(self._key, self._tally.size_bytes, self._tally.sha256):
            return self._tally.written("read-back", stated.etag)
        raise ObjectDiffers(f"{self._store.url}/{self._key}: other bytes are already there and stay", key=self._key)

    def _abort(self) -> None:
        if self._parts is not None:
            with suppress(ClientError, BotoCoreError):
                self._store.client.abort_multipart_upload(**self._place, UploadId=self._parts.upload_id)
            self._unmark(self._parts)
            self._parts = None

    def _unmark(self, parts: Parts) -> None:
        if parts.marker is not None:
            with suppress(ClientError, BotoCoreError):  # a marker left over is aborted with the old uploads
                self._store.client.abort_multipart_upload(
                    **self._store.place(parts.marker.key), UploadId=parts.marker.upload_id
                )


def proof_of(key: str, stated: ObjectAttributes, sent: Checksums, md5: str) -> Verification | None:
    """How the store's attributes prove that it has what was sent; None when they do not.

    An ETag that differs proves nothing: with encryption it is no MD5.
    """
    if stated.size_bytes != sent.size_bytes:
        raise SizeDiffers(key, sent.size_bytes, stated.size_bytes)
    if stated.crc64nvme is not None:
        if stated.crc64nvme != sent.crc64nvme:
            raise DigestDiffers(key, f"CRC64NVME {sent.crc64nvme}", stated.crc64nvme)
        return "crc64nvme"
    return "md5" if stated.etag == md5 else None


def md5_of(content: bytes | bytearray) -> Any:
    return hashlib.md5(content, usedforsecurity=False)


def content_md5(md5: Any) -> str:
    """As S3 wants it in the header Content-MD5."""
    return base64.b64encode(md5.digest()).decode()
