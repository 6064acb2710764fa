"""A bucket as an object store, by boto3; any server that speaks S3.

What a server can do is not assumed but seen in its answers. One that refuses a condition or a checksum is asked without
it. Others pass over such things in silence (Ceph 16: conditions of uploads in parts and in buckets with versions; locks
of uploads in parts and of copies), so there is a look before a new object is written, and after one is locked. A CRC
that is not stated is replaced by the ETag, and an ETag that is no MD5 by reading back.

An upload in parts with a label has a marker beside it: a second upload, never given a part, whose key is the first
one's and a digest of label and upload. Both stand in the server's list of unfinished uploads, so that any host can see
whose bytes an upload holds; nothing has to remember it, and nothing is left when it is done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import pyarrow.fs as pafs
from botocore.exceptions import BotoCoreError, ClientError

from pipeline.core.errors import ConfigError, ObjectDiffers, StoreError
from pipeline.storage.base import (
    MIB,
    ConditionalWriteSupport,
    Retention,
    StoredObject,
)
from pipeline.storage.s3_client import CHANGED, MISSING, S3Client, error_code, label_digest, lock_options
from pipeline.storage.s3_conditions import probe_conditional_writes
from pipeline.storage.s3_multipart import Marker, Part, Parts, S3Upload, is_marker, marker_key

_COPY_PART_BYTES = 1024 * MIB
_COPY_WHOLE_BYTES = 5 * 1024 * MIB
"""Larger objects are copied in parts; S3's limit for one copy."""


class S3Store(S3Client):
    """An `ObjectStore` below a prefix of a bucket. Threads may share it."""

    max_concurrency = 16

    # --- writing ---

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
        resume_token: str = "",
        on_chunk: Callable[[bytes], None] = lambda _chunk: None,
        size_bytes: int | None = None,
        content_type: str | None = None,
        retention: Retention | None = None,
    ) -> S3Upload:
        options = lock_options(retention)
        if content_type:
            options["ContentType"] = content_type
        if resume_token:
            options["Metadata"] = {"postroom-label": label_digest(resume_token)}
        is_small = size_bytes is not None and size_bytes <= self._part_bytes
        begun = self._begun(key, resume_token) if resume_token and not is_small else None
        return S3Upload(self, key, resume_token, begun, on_chunk, options, self._part_bytes, size_bytes, retention)

    def copy_from(
        self, source: str, key: str, *, resume_token: str, etag: str, retention: Retention | None = None
    ) -> StoredObject:
        bucket, _, name = source.removeprefix("s3://").partition("/")
        origin = {"CopySource": {"Bucket": bucket, "Key": name}, "CopySourceIfMatch": etag}
        options = lock_options(retention)
        if resume_token:
            options["Metadata"] = {"postroom-label": label_digest(resume_token)}
        if self.head(key) is not None:
            raise ObjectDiffers(f"{self.url}/{key}: something is already there and stays", key=key)
        head = self._head_of_source(bucket, name, etag)
        size_bytes, options["ContentType"] = int(head["ContentLength"]), head["ContentType"]
        with self.errors(key):
            if size_bytes <= _COPY_WHOLE_BYTES:
                self.client.copy_object(**self.place(key), **origin, **options, MetadataDirective="REPLACE")
            else:
                self._copy_parts(key, size_bytes, origin, options)
        if retention:
            self.lock(key, retention)
        return StoredObject(key, size_bytes)

    def _head_of_source(self, bucket: str, name: str, etag: str) -> dict[str, Any]:
        try:
            head: dict[str, Any] = self.client.head_object(Bucket=bucket, Key=name, IfMatch=etag)
        except (ClientError, BotoCoreError) as error:
            if error_code(error) in MISSING | CHANGED | {"403"}:
                why = f"{error_code(error)} when asked for ETag {etag}"
                raise StoreError(f"s3://{bucket}/{name} cannot be copied: {why}") from None
            raise self.translated(error, "") from None
        return head

    def _copy_parts(self, key: str, size_bytes: int, origin: dict[str, Any], options: dict[str, Any]) -> None:
        created = self.client.create_multipart_upload(**self.place(key), **options)
        upload = {**self.place(key), "UploadId": created["UploadId"]}
        try:
            parts = []
            for number, first in enumerate(range(0, size_bytes, _COPY_PART_BYTES), start=1):
                last = min(first + _COPY_PART_BYTES, size_bytes) - 1
                copied = self.client.upload_part_copy(
                    **upload, **origin, PartNumber=number, CopySourceRange=f"bytes={first}-{last}"
                )
                parts.append({"PartNumber": number, "ETag": copied["CopyPartResult"]["ETag"]})
            self.client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts})
        except BaseException:
            with suppress(BotoCoreError, ClientError):
                self.client.abort_multipart_upload(**upload)
            raise

    def abort_uploads(self, prefix: str, older_than: timedelta) -> list[str]:
        aborted = []
        for upload, now in self._uploads(prefix):
            if now - upload["Initiated"].replace(microsecond=0) >= older_than:  # as exact as the server's Date
                with self.errors(upload["Key"]), suppress(self.client.exceptions.NoSuchUpload):
                    self.client.abort_multipart_upload(
                        Bucket=self._bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                    )
                    if not is_marker(upload["Key"]):
                        aborted.append(upload["Key"].removeprefix(self._root))
        return aborted

    def _uploads(self, prefix: str) -> Iterator[tuple[dict[str, Any], datetime]]:
        """Unfinished uploads whose key starts so, each with the server's time: no clock of ours is asked."""
        pages = self.client.get_paginator("list_multipart_uploads").paginate(
            Bucket=self._bucket, Prefix=self._root + prefix
        )
        with self.errors(prefix):
            for page in pages:
                date = page["ResponseMetadata"]["HTTPHeaders"].get("date")
                now = parsedate_to_datetime(date) if date else datetime.now(UTC)
                for upload in page.get("Uploads", ()):
                    yield upload, now

    def _begun(self, key: str, resume_token: str) -> Parts | None:
        """Of the unfinished uploads of this key that carry this label, the one that is farthest."""
        uploads = [(upload["Key"].removeprefix(self._root), upload["UploadId"]) for upload, _ in self._uploads(key)]
        markers = dict(uploads)
        found = [
            self._list_parts(key, Parts(upload_id, [], states_crc=False, marker=Marker(marker, markers[marker])))
            for name, upload_id in uploads
            if name == key and (marker := marker_key(key, resume_token, upload_id)) in markers
        ]
        return max((parts for parts in found if parts), key=lambda parts: parts.size_bytes, default=None)

    def _list_parts(self, key: str, parts: Parts) -> Parts | None:
        """Fill in the parts that the server has, from the first on without a gap; None if the upload is no more."""
        pages = self.client.get_paginator("list_parts").paginate(**self.place(key), UploadId=parts.upload_id)
        try:
            for page in pages:
                parts.states_crc = page.get("ChecksumAlgorithm") == "CRC64NVME"
                for part in page.get("Parts", ()):
                    if part["PartNumber"] == len(parts.parts) + 1:
                        etag, crc = part["ETag"].strip('"'), part.get("ChecksumCRC64NVME")
                        parts.parts.append(Part(part["PartNumber"], etag, part["Size"], crc))
        except self.client.exceptions.NoSuchUpload:  # another process has just finished it
            return None
        except (ClientError, BotoCoreError) as error:
            raise self.translated(error, key) from None
        return parts

    # --- reading ---

    def list(self, prefix: str) -> Iterator[StoredObject]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._root + prefix)
        with self.errors(prefix):
            for page in pages:
                for found in page.get("Contents", ()):
                    if not found["Key"].endswith("/"):  # what consoles make to show a folder
                        yield StoredObject(found["Key"].removeprefix(self._root), found["Size"])

    def require_lock(self) -> None:
        try:
            answer = self.client.get_object_lock_configuration(Bucket=self._bucket)
        except ClientError as error:
            if error_code(error) not in {"ObjectLockConfigurationNotFoundError", "404"}:
                raise self.translated(error, "") from None
            answer = {}
        except BotoCoreError as error:
            raise self.translated(error, "") from None
        if answer.get("ObjectLockConfiguration", {}).get("ObjectLockEnabled") != "Enabled":
            raise ConfigError(
                f"vault.lock: bucket {self._bucket} has no Object Lock, so nothing would be kept from deletion;"
                " make a bucket with Object Lock, or set vault.lock.mode to off"
            )

    def probe_conditional_writes(self, key: str, content: bytes) -> ConditionalWriteSupport:
        return probe_conditional_writes(self, key, content)

    def filesystem(self) -> tuple[pafs.FileSystem, str]:
        credentials = self._session.get_credentials()
        frozen = credentials.get_frozen_credentials() if credentials else None
        endpoint = urlsplit(self.client.meta.endpoint_url if self._endpoint_url else "")
        options: dict[str, Any] = {"region": self.client.meta.region_name}
        if endpoint.netloc:
            options |= {"endpoint_override": endpoint.netloc, "scheme": endpoint.scheme}
        if frozen:
            options |= {
                "access_key": frozen.access_key,
                "secret_key": frozen.secret_key,
                "session_token": frozen.token or None,
            }
        return pafs.S3FileSystem(**options), f"{self._bucket}/{self._root}".rstrip("/")
