"""Upload of one object: a single PUT if it fits one part, else multipart, filling one part while the previous is sent.

Each part has a checksum that the server verifies. After the last part, the attributes of the object on the server are
compared with the bytes sent. An interrupted upload with a resume token is kept, and the next run resumes it.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import re
from collections.abc import Mapping
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
    UploadOptions,
    UploadResult,
    Verification,
    checksum_object,
    crc_text,
)
from pipeline.storage.s3_client import S3Client, error_code, lock_options, token_digest

MAX_PARTS = 10_000
MAX_PART_BYTES = 5 * 1024 * MIB
"""Limits of S3: parts of one object, bytes of one part."""

_PARTS_PER_SIZE = 900
"""If the size of an object is unknown, the part size doubles every 900 parts: 10,000 parts starting at 5 MiB hold
5 TiB, and a part is at most about 1/1000 of the bytes before it."""

_MARKER = re.compile(r"\.upload-[0-9a-f]{64}$")
UNKNOWN_OPTION = frozenset({"NotImplemented", "InvalidArgument", "InvalidRequest", "XNotImplemented", "501", "400"})
CONFLICT = frozenset({"PreconditionFailed", "412", "ConditionalRequestConflict", "409"})
_INVALID_PARTS = frozenset({"BadDigest", "EntityTooSmall", "InvalidPart", "InvalidPartOrder"})
"""Parts that cannot be completed, because another writer replaced some. The upload is aborted, so no run resumes it."""

_log = structlog.get_logger()


@dataclass(frozen=True)
class Part:
    """A part on the server; its `etag` is an MD5 unless the bucket is encrypted with its own key."""

    number: int
    etag: str
    size_bytes: int
    crc64nvme: str | None = None
    md5: str | None = None
    """MD5 of the bytes sent, computed locally."""


@dataclass(frozen=True)
class Marker:
    """The upload without parts that links another upload to its resume token."""

    key: str
    upload_id: str


@dataclass
class Parts:
    """An unfinished upload: its parts, starting at part 1; and whether the server returns a CRC of the full object."""

    upload_id: str
    parts: list[Part]
    has_crc: bool
    marker: Marker | None = None

    @property
    def size_bytes(self) -> int:
        return sum(part.size_bytes for part in self.parts)

    @property
    def etag(self) -> str:
        """The expected ETag of the object: MD5 of the MD5s of the parts, and their number; "" if one is unknown."""
        digests = [bytes.fromhex(part.md5) for part in self.parts if part.md5]
        return f"{md5_of(b''.join(digests)).hexdigest()}-{len(digests)}" if len(digests) == len(self.parts) else ""


def marker_key(key: str, resume_token: str, upload_id: str) -> str:
    return f"{key}.upload-{hashlib.sha256(f'{token_digest(resume_token)} {upload_id}'.encode()).hexdigest()}"


def is_marker(key: str) -> bool:
    return _MARKER.search(key) is not None


def part_bytes(number: int, min_bytes: int, remaining_bytes: int | None) -> int:
    """Size of part `number` (from 1). If `remaining_bytes` is known, later parts have the same size; else they grow.

    The number of parts stays within the limit, also after a resume with another part size.
    """
    if remaining_bytes is not None:
        even = -(-remaining_bytes // max(1, MAX_PARTS - number + 1))
        return max(min_bytes, -(-even // MIB) * MIB)
    return min(min_bytes << ((number - 1) // _PARTS_PER_SIZE), MAX_PART_BYTES)


class S3Upload:
    """See `pipeline.storage.base.Upload`. Used by one thread; a second thread sends parts."""

    def __init__(
        self,
        store: S3Client,
        key: str,
        options: UploadOptions,
        min_part_bytes: int,
        resumable: Parts | None,
    ) -> None:
        self._store, self._key, self._options = store, key, options
        self._object_headers = lock_options(options.retention)
        if options.content_type:
            self._object_headers["ContentType"] = options.content_type
        if options.resume_token:
            self._object_headers["Metadata"] = {"postroom-label": token_digest(options.resume_token)}
        self._min_part_bytes, self._total = min_part_bytes, options.size_bytes
        self._location = store.location(key)
        self._parts = resumable
        self._set_start(resumable)
        self._unconfirmed = resumable.parts.pop() if resumable and resumable.parts else None
        self.size_bytes = resumable.size_bytes if resumable else 0
        self._is_resumed = self.size_bytes > 0
        self._checksums = Checksums()
        self._block, self._filled = bytearray(), 0
        self._spare: bytearray | None = None
        self._sender: ContextThreadPool | None = None
        self._sending: tuple[Parts, bytearray, Future[Part]] | None = None
        self._is_completed = False

    @property
    def sha256(self) -> str:
        return self._checksums.sha256

    def restart(self) -> None:
        self._abort()
        self._unconfirmed, self._is_resumed, self.size_bytes = None, False, 0
        self._set_start(None)

    def _set_start(self, resumable: Parts | None) -> None:
        self._part_count, uploaded = (len(resumable.parts), resumable.size_bytes) if resumable else (0, 0)
        remaining = None if self._total is None else self._total - uploaded
        self._fixed_part_bytes = (
            None if remaining is None else part_bytes(self._part_count + 1, self._min_part_bytes, remaining)
        )

    def write(self, chunk: bytes) -> None:
        if not self._is_resumed:
            self._options.on_chunk(chunk)
            self._checksums.feed(chunk)
        view = memoryview(chunk)
        while view:
            if self._filled == len(self._block):
                self._next_block()
            end = min(self._filled + len(view), len(self._block))
            count = end - self._filled
            self._block[self._filled : end] = view[:count]
            self._filled, view = end, view[count:]

    def finish(self, *, overwrite: bool = False) -> UploadResult:
        with span("write", {"postroom.key": self._key}):
            if self._part_count == 0:
                self._abort()  # the resumed upload has no complete part
            parts = self._parts
            result = self._finish_parts(parts, overwrite=overwrite) if parts else self._finish_put(overwrite=overwrite)
            self._is_completed = True
            if self._options.retention:
                self._store.lock(self._key, self._options.retention)
            return result

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._sender:
            self._sender.shutdown(wait=True)
        if self._parts and not self._is_completed and not self._options.resume_token:
            self._abort()

    # --- single PUT ---

    def _finish_put(self, *, overwrite: bool) -> UploadResult:
        """PUT with checksum and condition; repeat without those that the server rejects as unknown."""
        checksum = {"ChecksumCRC64NVME": self._checksums.crc64nvme, "ChecksumAlgorithm": "CRC64NVME"}
        condition = {} if overwrite else {"IfNoneMatch": "*"}
        if not overwrite and self._store.head(self._key) is not None:  # some servers ignore the condition
            return self._resolve_existing()
        for headers in ({**checksum, **condition}, condition):
            try:
                return self._put(headers)
            except ClientError as error:
                if error_code(error) not in UNKNOWN_OPTION:
                    return self._conflict(error)
        with self._store.errors(self._key):
            return self._put({})

    def _put(self, headers: Mapping[str, str]) -> UploadResult:
        body, client = self._take_block(), self._store.client
        md5 = md5_of(body)
        try:
            response = client.put_object(
                **self._location, Body=body, ContentMD5=content_md5(md5), **self._object_headers, **headers
            )
        except BotoCoreError as error:
            raise self._store.store_error(error, self._key) from None
        etag = response["ETag"].strip('"')
        return self._verify(ObjectAttributes(len(body), response.get("ChecksumCRC64NVME"), etag), md5.hexdigest())

    # --- multipart ---

    def _next_part_bytes(self) -> int:
        if self._unconfirmed:
            return self._unconfirmed.size_bytes
        return self._fixed_part_bytes or part_bytes(self._part_count + 1, self._min_part_bytes, None)

    def _next_block(self) -> None:
        """Prepare the buffer of the next part, reusing memory, and send the full one.

        A part is sent only when the next one starts, because an object of one part is written by a single PUT.
        """
        if self._filled:
            self._send_part()
        size_bytes = self._next_part_bytes()
        if self._total is not None and not self._unconfirmed:
            size_bytes = min(size_bytes, max(1, self._total - self.size_bytes))
        spare, self._spare = self._spare, None
        self._block = spare if spare is not None and len(spare) == size_bytes else bytearray(size_bytes)
        self._filled = 0

    def _take_block(self) -> bytearray:
        """Truncate the block to the bytes written, and return it."""
        del self._block[self._filled :]
        return self._block

    def _send_part(self) -> None:
        """Wait for the previous part, then send the block in the second thread."""
        if self._unconfirmed:
            self._confirm(self._unconfirmed)
            return
        self._await_part()
        if self._parts is None:
            self._parts = self._create()
        if self._sender is None:
            self._sender = ContextThreadPool(1, "postroom-parts")
        body, self._block, self._filled = self._take_block(), bytearray(), 0
        self._part_count += 1
        self._sending = self._parts, body, self._sender.submit(self._send, self._parts, self._part_count, body)

    def _confirm(self, part: Part) -> None:
        """Compare the last part of a resumed upload with the bytes of the source, instead of sending it."""
        content = self._take_block()
        is_same = part.crc64nvme == crc_text(crc64nvme(content)) or part.etag == md5_of(content).hexdigest()
        if self._parts is None or len(content) != part.size_bytes or not is_same:
            self._abort()
            raise SourceDiffers(
                f"{self._store.url}/{self._key}: the source changed; upload aborted, run again",
                key=self._key,
            )
        self._parts.parts.append(dataclasses.replace(part, md5=md5_of(content).hexdigest()))
        self._unconfirmed, self._block, self._filled = None, bytearray(), 0

    def _await_part(self) -> None:
        if self._sending is not None:
            parts, self._spare, sending = self._sending
            self._sending = None
            parts.parts.append(sending.result())

    def _create(self) -> Parts:
        """Create the upload, then its marker. An upload without a marker is never resumed."""
        client = self._store.client
        checksum = {"ChecksumAlgorithm": "CRC64NVME", "ChecksumType": "FULL_OBJECT"}
        with self._store.errors(self._key):
            try:
                created = client.create_multipart_upload(**self._location, **self._object_headers, **checksum)
            except ClientError as error:
                if error_code(error) not in UNKNOWN_OPTION:
                    raise
                created = client.create_multipart_upload(**self._location, **self._object_headers)
            parts = Parts(created["UploadId"], [], created.get("ChecksumAlgorithm") == "CRC64NVME")
            if self._options.resume_token:
                key = marker_key(self._key, self._options.resume_token, parts.upload_id)
                parts.marker = Marker(key, client.create_multipart_upload(**self._store.location(key))["UploadId"])
        return parts

    def _send(self, parts: Parts, number: int, body: bytes | bytearray) -> Part:
        """Send one part with a checksum, which the server verifies before it accepts the part."""
        crc = crc_text(crc64nvme(body)) if parts.has_crc else None
        md5 = None if parts.has_crc else md5_of(body)
        check = (
            {"ContentMD5": content_md5(md5)} if md5 else {"ChecksumAlgorithm": "CRC64NVME", "ChecksumCRC64NVME": crc}
        )
        _log.debug("upload.part_started", key=self._key, part=number, size_bytes=len(body))
        with self._store.errors(self._key):
            response = self._store.client.upload_part(
                **self._location, UploadId=parts.upload_id, PartNumber=number, Body=body, **check
            )
        return Part(number, response["ETag"].strip('"'), len(body), crc, md5.hexdigest() if md5 else None)

    def _finish_parts(self, parts: Parts, *, overwrite: bool) -> UploadResult:
        if self._filled or self._unconfirmed:
            self._send_part()
        self._await_part()
        if self._is_resumed and self._total not in {None, parts.size_bytes}:
            self._abort()
            raise SourceDiffers(
                f"{self._store.url}/{self._key}: {parts.size_bytes} bytes instead of {self._total}; run again",
                key=self._key,
            )
        if not overwrite and self._store.head(self._key) is not None:  # some servers ignore the condition
            self._abort()
            return self._resolve_existing()
        try:
            self._complete(parts, {} if overwrite else {"IfNoneMatch": "*"})
        except ClientError as error:
            if error_code(error) in CONFLICT | _INVALID_PARTS:
                self._abort()
            elif error_code(error) == "NoSuchUpload":  # completed by another run, or the first response was lost
                self._remove_marker(parts)
                return self._resolve_existing()
            return self._conflict(error)
        self._remove_marker(parts)
        return self._verify_parts(parts)

    def _complete(self, parts: Parts, condition: Mapping[str, str]) -> None:
        """Complete the upload; repeat without the condition if the server rejects it as unknown."""
        part_list = [
            {
                "PartNumber": part.number,
                "ETag": part.etag,
                **({"ChecksumCRC64NVME": part.crc64nvme} if part.crc64nvme else {}),
            }
            for part in parts.parts
        ]
        upload = {**self._location, "UploadId": parts.upload_id, "MultipartUpload": {"Parts": part_list}}
        if parts.has_crc and not self._is_resumed:
            upload |= {"ChecksumCRC64NVME": self._checksums.crc64nvme, "ChecksumType": "FULL_OBJECT"}
        for headers in (condition, {}):
            try:
                self._store.client.complete_multipart_upload(**upload, **headers)
            except ClientError as error:
                if not headers or error_code(error) not in UNKNOWN_OPTION:
                    raise
            except BotoCoreError as error:
                raise self._store.store_error(error, self._key) from None
            else:
                return

    def _verify_parts(self, parts: Parts) -> UploadResult:
        stated = self._store.attributes(self._key)
        if stated is None:
            raise StoreUnavailable(
                f"{self._store.url}/{self._key}: not found after the upload completed; run again", key=self._key
            )
        if self._is_resumed:
            return self._read_back(stated)
        return self._verify(stated, parts.etag)

    # --- verification ---

    def _verify(self, stated: ObjectAttributes, md5: str) -> UploadResult:
        proof = verification_of(self._key, stated, self._checksums, md5)
        return self._checksums.result(proof, stated.etag) if proof else self._read_back(stated)

    def _read_back(self, stated: ObjectAttributes) -> UploadResult:
        """Read the object and compare it with the bytes sent; after a resume, compute its first full digests."""
        downloaded = checksum_object(
            self._store, self._key, self._options.on_chunk if self._is_resumed else lambda _chunk: None
        )
        expected = downloaded if self._is_resumed else self._checksums
        total = self._parts.size_bytes if self._parts else expected.size_bytes
        if downloaded.size_bytes != total:
            raise SizeDiffers(self._key, total, downloaded.size_bytes)
        if downloaded.sha256 != expected.sha256:
            raise DigestDiffers(self._key, expected.sha256, downloaded.sha256)
        if stated.crc64nvme and stated.crc64nvme != downloaded.crc64nvme:
            raise DigestDiffers(self._key, f"CRC64NVME {stated.crc64nvme}, as the store states", downloaded.crc64nvme)
        return downloaded.result("read-back", stated.etag)

    def _conflict(self, error: ClientError) -> UploadResult:
        if error_code(error) in CONFLICT:
            return self._resolve_existing()
        raise self._store.store_error(error, self._key) from None

    def _resolve_existing(self) -> UploadResult:
        """Handle an existing object: success if it has the same bytes, else ObjectDiffers."""
        stated = self._store.attributes(self._key)
        if stated is None:
            raise StoreUnavailable(
                f"{self._store.url}/{self._key}: another process is writing it; run again", key=self._key
            )
        if self._is_resumed:  # the first bytes are no longer available: compare the token
            if self._store.find_completed(self._key, self._options.resume_token) is None:
                raise ObjectDiffers(
                    f"{self._store.url}/{self._key}: exists with other content; not overwritten", key=self._key
                )
            return checksum_object(self._store, self._key, self._options.on_chunk).result("read-back", stated.etag)
        if self._store.is_same(self._key, self._checksums.size_bytes, self._checksums.sha256):
            return self._checksums.result("read-back", stated.etag)
        raise ObjectDiffers(f"{self._store.url}/{self._key}: exists with other content; not overwritten", key=self._key)

    def _abort(self) -> None:
        if self._parts is not None:
            with suppress(ClientError, BotoCoreError):
                self._store.client.abort_multipart_upload(**self._location, UploadId=self._parts.upload_id)
            self._remove_marker(self._parts)
            self._parts = None

    def _remove_marker(self, parts: Parts) -> None:
        if parts.marker is not None:
            with suppress(ClientError, BotoCoreError):  # a leftover marker is removed by `abort_uploads`
                self._store.client.abort_multipart_upload(
                    **self._store.location(parts.marker.key), UploadId=parts.marker.upload_id
                )


def verification_of(key: str, stated: ObjectAttributes, sent: Checksums, md5: str) -> Verification | None:
    """How the attributes verify the bytes sent; None if they contain no comparable checksum.

    A different ETag is no error: with encryption it is no MD5.
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
    """Value of the header Content-MD5."""
    return base64.b64encode(md5.digest()).decode()
