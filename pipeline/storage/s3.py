"""A bucket of any S3-compatible server as an object store; uses boto3.

Capabilities of a server are taken from its responses, not assumed. A request with a rejected condition or checksum is
repeated without it. Some servers ignore them silently (Ceph 16, observed: conditions of multipart uploads and in
versioned buckets; locks of multipart uploads and of copies), so a HEAD precedes each new object and follows each lock.
Without a returned CRC the ETag is compared; if the ETag is no MD5, the object is read back.

A multipart upload with a resume token has a marker: a second multipart upload without parts, whose key is the key of
the first and a digest of token and upload id. The server lists both as unfinished uploads, so any host can match an
upload to its source without other state. The marker is removed when the upload ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import pyarrow.fs as pafs
from botocore.exceptions import BotoCoreError, ClientError

from pipeline.core.errors import ConfigError, ObjectDiffers, StoreError
from pipeline.storage.base import (
    DEFAULT_OPTIONS,
    MIB,
    ConditionalWriteSupport,
    Retention,
    StoredObject,
    UploadOptions,
)
from pipeline.storage.s3_client import CHANGED, MISSING, S3Client, error_code, lock_options, token_digest
from pipeline.storage.s3_conditions import probe_conditional_writes
from pipeline.storage.s3_multipart import Marker, Part, Parts, S3Upload, is_marker, marker_key

_COPY_PART_BYTES = 1024 * MIB
_COPY_WHOLE_BYTES = 5 * 1024 * MIB
"""Limit of S3 for one copy request; larger objects are copied in parts."""


class S3Store(S3Client):
    """An `ObjectStore` below a prefix of a bucket. Thread-safe."""

    max_concurrency = 16

    # --- writing ---

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

    def upload(self, key: str, options: UploadOptions = DEFAULT_OPTIONS) -> S3Upload:
        is_small = options.size_bytes is not None and options.size_bytes <= self._part_bytes
        resumable = self._find_resumable(key, options.resume_token) if options.resume_token and not is_small else None
        return S3Upload(self, key, options, self._part_bytes, resumable)

    def copy_from(
        self, source: str, key: str, *, resume_token: str, etag: str, retention: Retention | None = None
    ) -> StoredObject:
        bucket, _, name = source.removeprefix("s3://").partition("/")
        origin = {"CopySource": {"Bucket": bucket, "Key": name}, "CopySourceIfMatch": etag}
        options = lock_options(retention)
        if resume_token:
            options["Metadata"] = {"postroom-label": token_digest(resume_token)}
        if self.head(key) is not None:
            raise ObjectDiffers(f"{self.url}/{key}: exists already; not overwritten", key=key)
        head = self._head_of_source(bucket, name, etag)
        size_bytes, options["ContentType"] = int(head["ContentLength"]), head["ContentType"]
        with self.errors(key):
            if size_bytes <= _COPY_WHOLE_BYTES:
                self.client.copy_object(**self.location(key), **origin, **options, MetadataDirective="REPLACE")
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
                message = f"cannot copy s3://{bucket}/{name}: {error_code(error)} for ETag {etag}"
                raise StoreError(message) from None
            raise self.store_error(error, "") from None
        return head

    def _copy_parts(self, key: str, size_bytes: int, origin: dict[str, Any], options: dict[str, Any]) -> None:
        created = self.client.create_multipart_upload(**self.location(key), **options)
        upload = {**self.location(key), "UploadId": created["UploadId"]}
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
            if now - upload["Initiated"].replace(microsecond=0) >= older_than:  # like Date, in whole seconds
                with self.errors(upload["Key"]), suppress(self.client.exceptions.NoSuchUpload):
                    self.client.abort_multipart_upload(
                        Bucket=self._bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                    )
                    if not is_marker(upload["Key"]):
                        aborted.append(upload["Key"].removeprefix(self._root))
        return aborted

    def _uploads(self, prefix: str) -> Iterator[tuple[dict[str, Any], datetime]]:
        """Unfinished uploads whose key starts with `prefix`, each with the time of the server, not of this host."""
        pages = self.client.get_paginator("list_multipart_uploads").paginate(
            Bucket=self._bucket, Prefix=self._root + prefix
        )
        with self.errors(prefix):
            for page in pages:
                date = page["ResponseMetadata"]["HTTPHeaders"].get("date")
                now = parsedate_to_datetime(date) if date else datetime.now(UTC)
                for upload in page.get("Uploads", ()):
                    yield upload, now

    def _find_resumable(self, key: str, resume_token: str) -> Parts | None:
        """The unfinished upload of this key and token with the most bytes; None without one."""
        uploads = [(upload["Key"].removeprefix(self._root), upload["UploadId"]) for upload, _ in self._uploads(key)]
        markers = dict(uploads)
        candidates = [
            self._list_parts(key, Parts(upload_id, [], has_crc=False, marker=Marker(marker, markers[marker])))
            for name, upload_id in uploads
            if name == key and (marker := marker_key(key, resume_token, upload_id)) in markers
        ]
        return max((parts for parts in candidates if parts), key=lambda parts: parts.size_bytes, default=None)

    def _list_parts(self, key: str, parts: Parts) -> Parts | None:
        """Add the parts on the server, up to the first gap; None if the upload no longer exists."""
        pages = self.client.get_paginator("list_parts").paginate(**self.location(key), UploadId=parts.upload_id)
        try:
            for page in pages:
                parts.has_crc = page.get("ChecksumAlgorithm") == "CRC64NVME"
                for part in page.get("Parts", ()):
                    if part["PartNumber"] == len(parts.parts) + 1:
                        etag, crc = part["ETag"].strip('"'), part.get("ChecksumCRC64NVME")
                        parts.parts.append(Part(part["PartNumber"], etag, part["Size"], crc))
        except self.client.exceptions.NoSuchUpload:  # completed or aborted meanwhile
            return None
        except (ClientError, BotoCoreError) as error:
            raise self.store_error(error, key) from None
        return parts

    # --- reading ---

    def list(self, prefix: str) -> Iterator[StoredObject]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._root + prefix)
        with self.errors(prefix):
            for page in pages:
                for entry in page.get("Contents", ()):
                    if not entry["Key"].endswith("/"):  # folder placeholder created by a console
                        yield StoredObject(entry["Key"].removeprefix(self._root), entry["Size"])

    def require_lock(self) -> None:
        try:
            response = self.client.get_object_lock_configuration(Bucket=self._bucket)
        except ClientError as error:
            if error_code(error) not in {"ObjectLockConfigurationNotFoundError", "404"}:
                raise self.store_error(error, "") from None
            response = {}
        except BotoCoreError as error:
            raise self.store_error(error, "") from None
        if response.get("ObjectLockConfiguration", {}).get("ObjectLockEnabled") != "Enabled":
            raise ConfigError(
                f"vault.lock: bucket {self._bucket} has no Object Lock, so objects could be deleted;"
                " create a bucket with Object Lock, or set vault.lock.mode to off"
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
