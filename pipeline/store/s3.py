"""A bucket as an object store, by boto3; any server that speaks S3.

What a server can do is not assumed but seen in its answers. One that refuses a condition or a checksum is asked without
it. Others pass over such things in silence (Ceph 16: conditions of uploads in parts and in buckets with versions; locks
of uploads in parts and of copies), so there is a look before a new object is written, and after one is locked. A CRC
that is not stated is replaced by the ETag, and an ETag that is no MD5 by reading back.

An upload in parts with a label has a marker beside it: a second upload, never given a part, whose key is the first
one's and a digest of label and upload. Both stand in the server's list of unfinished uploads, so that any host can tell
whose bytes an upload holds; nothing has to remember it, and nothing is left when it is done.
"""

from __future__ import annotations

import functools
import io
import textwrap
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import IO, Any
from urllib.parse import urlsplit

import boto3
import botocore.loaders
import botocore.session
import pyarrow.fs as pafs
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

from pipeline.core.errors import ConfigError, ObjectDiffers, ObjectMissing, StoreError, StoreUnavailable
from pipeline.store.base import MIB, READ_BYTES, Conditions, Retention, Statement, StoredObject, checked_key, read_back
from pipeline.store.s3_trial import try_conditions
from pipeline.store.s3_upload import Marker, Part, Parts, S3Upload, error_code, is_marker, label_digest, marker_key

_CONNECTIONS = 64
_COPY_PART_BYTES = 1024 * MIB
_COPY_WHOLE_BYTES = 5 * 1024 * MIB
"""Larger objects are copied in parts; S3's limit for one copy."""

_REOPENED_AT_MOST = 5
_MISSING = frozenset({"404", "NoSuchKey", "NotFound", "NoSuchVersion"})
_CHANGED = frozenset({"412", "PreconditionFailed"})
_NO_RIGHT = "these credentials may not do that: give them the right (docs/vault.md lists which), or take others"
_NOT_ALONE = "another process was at the same upload, which was given up: run again"
_NEXT_STEP = {
    "NoSuchBucket": "there is no such bucket: make it, or name another one in the settings",
    "AccessDenied": _NO_RIGHT,
    "403": "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or the profile, and their rights (docs/vault.md)",
    "InvalidAccessKeyId": "the server does not know this access key: check AWS_ACCESS_KEY_ID or the profile",
    "SignatureDoesNotMatch": "the secret key is wrong: check AWS_SECRET_ACCESS_KEY or the profile",
    "ExpiredToken": "the session token has expired: renew it",
    "RequestTimeTooSkewed": "this machine's clock is wrong: set it",
    "QuotaExceeded": "the bucket is full: raise its quota",
    "NoSuchUpload": "another process gave this upload up, or finished it: run again",
    "InvalidPart": _NOT_ALONE,
    "EntityTooSmall": _NOT_ALONE,
}


class S3Store:
    """An `ObjectStore` below a prefix of a bucket. Threads may share it."""

    at_once = 16

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        *,
        endpoint_url: str | None = None,
        region: str | None = None,
        part_bytes: int = 16 * MIB,
    ) -> None:
        self._bucket, self._part_bytes = bucket, part_bytes
        self._root = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._session = botocore.session.get_session()
        self._session.register_component("data_loader", _loader())
        self._endpoint_url = endpoint_url
        try:
            self.client: Any = boto3.Session(botocore_session=self._session).client(
                "s3", endpoint_url=endpoint_url, region_name=region, config=self._config()
            )
        except (BotoCoreError, ValueError) as error:
            raise ConfigError(f"{self.url}: {error}; see [s3] in the settings and boto3's own configuration") from None

    def _config(self) -> Config:
        style = (self._session.get_scoped_config().get("s3") or {}).get("addressing_style")
        return Config(
            connect_timeout=10,
            read_timeout=60,
            max_pool_connections=_CONNECTIONS,
            retries={"mode": "standard", "max_attempts": 4},
            request_checksum_calculation="when_required",  # checksums are ours to choose, and sent explicitly
            response_checksum_validation="when_required",
            s3={
                "payload_signing_enabled": False,  # Content-MD5 or a CRC is signed instead, at a third of the cost
                "addressing_style": style or ("path" if self._endpoint_url else "auto"),
            },
        )

    @property
    def url(self) -> str:
        return f"s3://{self._bucket}/{self._root}".rstrip("/")

    # --- writing ---

    def put_new(self, key: str, content: bytes | Iterable[bytes], *, retention: Retention | None = None) -> int:
        with self.upload(key, retention=retention) as upload:
            for chunk in (content,) if isinstance(content, bytes) else content:
                upload.write(chunk)
            return upload.finish().size_bytes

    def replace(self, key: str, content: bytes | Iterable[bytes]) -> None:
        with self.upload(key) as upload:
            for chunk in (content,) if isinstance(content, bytes) else content:
                upload.write(chunk)
            upload.finish(replace=True)

    def upload(
        self,
        key: str,
        *,
        label: str = "",
        observe: Callable[[bytes], None] = lambda _chunk: None,
        size_bytes: int | None = None,
        content_type: str | None = None,
        retention: Retention | None = None,
    ) -> S3Upload:
        options = _lock_options(retention)
        if content_type:
            options["ContentType"] = content_type
        if label:
            options["Metadata"] = {"postroom-label": label_digest(label)}
        is_small = size_bytes is not None and size_bytes <= self._part_bytes
        begun = self._begun(key, label) if label and not is_small else None
        return S3Upload(self, key, label, begun, observe, options, self._part_bytes, size_bytes, retention)

    def left_whole(self, key: str, label: str) -> StoredObject | None:
        head = self.head(key)
        if head is None or head["Metadata"].get("postroom-label") != label_digest(label):
            return None
        return StoredObject(key, head["ContentLength"])

    def copy_from(
        self, source: str, key: str, *, label: str, etag: str, retention: Retention | None = None
    ) -> StoredObject:
        bucket, _, name = source.removeprefix("s3://").partition("/")
        origin = {"CopySource": {"Bucket": bucket, "Key": name}, "CopySourceIfMatch": etag}
        options = _lock_options(retention)
        if label:
            options["Metadata"] = {"postroom-label": label_digest(label)}
        if self.stat(key) is not None:
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
            if error_code(error) in _MISSING | _CHANGED | {"403"}:
                why = f"{error_code(error)} when asked for ETag {etag}"
                raise StoreError(f"s3://{bucket}/{name} cannot be copied: {why}") from None
            raise self.told(error, "") from None
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

    def _begun(self, key: str, label: str) -> Parts | None:
        """Of the unfinished uploads of this key that carry this label, the one that is farthest."""
        uploads = [(upload["Key"].removeprefix(self._root), upload["UploadId"]) for upload, _ in self._uploads(key)]
        markers = dict(uploads)
        found = [
            self._list_parts(key, Parts(upload_id, [], states_crc=False, marker=Marker(marker, markers[marker])))
            for name, upload_id in uploads
            if name == key and (marker := marker_key(key, label, upload_id)) in markers
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
        except self.client.exceptions.NoSuchUpload:  # somebody finished it just now
            return None
        except (ClientError, BotoCoreError) as error:
            raise self.told(error, key) from None
        return parts

    # --- reading ---

    @contextmanager
    def open(self, key: str) -> Iterator[IO[bytes]]:
        with _Reader(self, key) as raw:
            yield io.BufferedReader(raw, READ_BYTES)  # type: ignore[type-var, unused-ignore]

    def stat(self, key: str) -> StoredObject | None:
        head = self.head(key)
        return StoredObject(key, head["ContentLength"]) if head else None

    def state(self, key: str) -> Statement | None:
        head = self.head(key)
        return statement(head) if head else None

    def list(self, prefix: str) -> Iterator[StoredObject]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._root + prefix)
        with self.errors(prefix):
            for page in pages:
                for found in page.get("Contents", ()):
                    if not found["Key"].endswith("/"):  # what consoles make to show a folder
                        yield StoredObject(found["Key"].removeprefix(self._root), found["Size"])

    def head(self, key: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = self.client.head_object(**self.place(key), ChecksumMode="ENABLED")
        except ClientError as error:
            if error_code(error) in _MISSING:
                return None
            raise self.told(error, key) from None
        except BotoCoreError as error:
            raise self.told(error, key) from None
        return found

    def is_same(self, key: str, size_bytes: int, sha256: str) -> bool:
        """Whether the object under the key has these bytes; read from beginning to end if the size is right."""
        found = self.stat(key)
        return found is not None and found.size_bytes == size_bytes and read_back(self, key).sha256 == sha256

    def lock(self, key: str, retention: Retention) -> None:
        head = self.head(key)
        if head is None:
            raise ObjectMissing(f"{self.url}/{key}: no such object", key=key)
        if _is_locked(head, retention):
            return
        wanted = {"Mode": retention.mode.upper(), "RetainUntilDate": retention.until}
        version = {"VersionId": head["VersionId"]} if "VersionId" in head else {}
        with self.errors(key):
            self.client.put_object_retention(**self.place(key), **version, Retention=wanted)
        if not _is_locked(self.head(key) or {}, retention):
            raise StoreError(
                f"{self.url}/{key}: is stored, but the server does not say that it is locked until {retention.until};"
                " check the bucket's Object Lock and the right s3:GetObjectRetention",
                key=key,
            )

    def require_lock(self) -> None:
        try:
            answer = self.client.get_object_lock_configuration(Bucket=self._bucket)
        except ClientError as error:
            if error_code(error) not in {"ObjectLockConfigurationNotFoundError", "404"}:
                raise self.told(error, "") from None
            answer = {}
        except BotoCoreError as error:
            raise self.told(error, "") from None
        if answer.get("ObjectLockConfiguration", {}).get("ObjectLockEnabled") != "Enabled":
            raise ConfigError(
                f"vault.lock: bucket {self._bucket} has no Object Lock, so nothing would be kept from deletion;"
                " make a bucket with Object Lock, or set vault.lock.mode to off"
            )

    def try_conditions(self, key: str, content: bytes) -> Conditions:
        return try_conditions(self, key, content)

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

    # --- what uploads share ---

    def place(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._root + checked_key(key)}

    @contextmanager
    def errors(self, key: str) -> Iterator[None]:
        """What boto3 raises becomes an error of ours."""
        try:
            yield
        except (ClientError, BotoCoreError) as error:
            raise self.told(error, key) from None

    def told(self, error: ClientError | BotoCoreError, key: str) -> StoreError:
        """boto3's error as ours: one line, with the next step, and no signed URL in it."""
        where = f"{self.url}/{key.removeprefix(self._root)}"
        if isinstance(error, NoCredentialsError):
            step = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile or role that boto3 finds"
            return StoreUnavailable(f"cannot use {where}: no credentials: {step}", key=key)
        if not isinstance(error, ClientError):
            what = textwrap.shorten(str(error).split("?")[0], 200, placeholder=" …")
            step = "check [s3] endpoint_url and the network, then run again; nothing was half-written"
            return StoreUnavailable(f"cannot use {where}: {what}: {step}", key=key)
        code = error_code(error)
        if code in _MISSING:
            return ObjectMissing(f"{where}: no such object", key=key)
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        said = f"cannot use {where}: {code} from the server ({error.operation_name})"
        if code in _NEXT_STEP or status >= 500 or status in {403, 408, 429}:
            step = _NEXT_STEP.get(code, "try again later; nothing was half-written")
            return StoreUnavailable(f"{said}: {step}", key=key)
        return StoreError(f"{said}: {' '.join(str(error.response['Error'].get('Message')).split())}", key=key)


@functools.cache
def _loader() -> Any:
    """boto3's description of S3, which takes longer to read than a store to open."""
    return botocore.loaders.create_loader()


class _Reader(io.RawIOBase):
    """An object as a seekable stream: one request while it is read in order, a new one after a jump or a cut."""

    def __init__(self, store: S3Store, key: str) -> None:
        self._store, self._key = store, key
        self._at = 0
        self._etag: str | None = None
        self._body: Any = None
        self._size_bytes = 0
        self._reopen()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size_bytes}[whence]
        if base + offset != self._at:
            self._drop()
            self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        if self._at >= self._size_bytes:
            return 0
        for attempt in range(_REOPENED_AT_MOST + 1):
            try:
                if self._body is None:
                    self._reopen()
                chunk = self._body.read(len(buffer))
            except BotoCoreError as error:  # cut on the way: go on from here, in the same version of the object
                self._drop()
                if attempt == _REOPENED_AT_MOST:
                    raise self._store.told(error, self._key) from None
                continue
            if chunk:
                buffer[: len(chunk)] = chunk
                self._at += len(chunk)
                return len(chunk)
            self._drop()
        raise StoreUnavailable(f"{self._store.url}/{self._key}: ends before its size; run again", key=self._key)

    def readall(self) -> bytes:
        buffer, whole = bytearray(READ_BYTES), bytearray()
        while count := self.readinto(buffer):
            whole += buffer[:count]
        return bytes(whole)

    def close(self) -> None:
        self._drop()
        super().close()

    def _reopen(self) -> None:
        options = {"IfMatch": self._etag, "Range": f"bytes={self._at}-"} if self._etag else {}
        try:
            answer = self._store.client.get_object(**self._store.place(self._key), **options)
        except (ClientError, BotoCoreError) as error:
            if error_code(error) in _CHANGED:
                message = f"{self._store.url}/{self._key}: was replaced while it was read; run again"
                raise StoreUnavailable(message, key=self._key) from None
            raise self._store.told(error, self._key) from None
        self._body = answer["Body"]
        if self._etag is None:
            self._etag, self._size_bytes = answer["ETag"], answer["ContentLength"]

    def _drop(self) -> None:
        if self._body is not None:
            with suppress(Exception):
                self._body.close()
            self._body = None


def _lock_options(retention: Retention | None) -> dict[str, Any]:
    if retention is None:
        return {}
    return {"ObjectLockMode": retention.mode.upper(), "ObjectLockRetainUntilDate": retention.until}


def _is_locked(head: dict[str, Any], retention: Retention) -> bool:
    """Whether a HEAD states this lock or a stronger one; servers drop fractions of a second."""
    if head.get("ObjectLockMode") not in {"COMPLIANCE", retention.mode.upper()}:
        return False
    return bool(head["ObjectLockRetainUntilDate"] >= retention.until.replace(microsecond=0))


def statement(head: dict[str, Any]) -> Statement:
    """What the answer to a HEAD says. A CRC of parts (`COMPOSITE`) is not the object's."""
    is_whole = head.get("ChecksumType", "FULL_OBJECT") == "FULL_OBJECT"
    crc = head.get("ChecksumCRC64NVME") if is_whole else None
    return Statement(head["ContentLength"], crc, head["ETag"].strip('"'))
