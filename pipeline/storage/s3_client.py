"""Connection to a bucket: keys, conversion of boto3 errors, HEAD, ranged reads and Object Lock."""

from __future__ import annotations

import functools
import hashlib
import io
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any

import boto3
import botocore.loaders
import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

from pipeline.core.errors import ConfigError, ObjectMissing, StoreError, StoreUnavailable
from pipeline.storage.base import (
    MIB,
    READ_BYTES,
    ObjectAttributes,
    Retention,
    StoredObject,
    checksum_object,
    validate_key,
)

_CONNECTIONS = 64
MISSING = frozenset({"404", "NoSuchKey", "NotFound", "NoSuchVersion"})
CHANGED = frozenset({"412", "PreconditionFailed"})
_NO_PERMISSION = "these credentials lack a permission: grant it (see docs/guide/vault.md) or use other credentials"
_CONCURRENT_UPLOAD = "upload aborted by another process; run again"
_NEXT_STEP = {
    "NoSuchBucket": "the bucket does not exist: create it, or set another one in the settings",
    "AccessDenied": _NO_PERMISSION,
    "403": "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or the profile, and permissions (docs/guide/vault.md)",
    "InvalidAccessKeyId": "the server does not have this access key: check AWS_ACCESS_KEY_ID or the profile",
    "SignatureDoesNotMatch": "the secret key is wrong: check AWS_SECRET_ACCESS_KEY or the profile",
    "ExpiredToken": "the session token has expired: renew it",
    "RequestTimeTooSkewed": "the clock of this machine is wrong: set it",
    "QuotaExceeded": "the bucket is full: raise its quota",
    "NoSuchUpload": "upload aborted or completed by another process; run again",
    "InvalidPart": _CONCURRENT_UPLOAD,
    "EntityTooSmall": _CONCURRENT_UPLOAD,
}


_MAX_REOPENS = 5


class S3Client:
    """A prefix of a bucket: base of the store, used by uploads and the probe of conditional writes. Thread-safe."""

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
            raise ConfigError(f"{self.url}: {error}; check [s3] and the configuration of boto3") from None

    def _config(self) -> Config:
        style = (self._session.get_scoped_config().get("s3") or {}).get("addressing_style")
        return Config(
            connect_timeout=10,
            read_timeout=60,
            max_pool_connections=_CONNECTIONS,
            retries={"mode": "standard", "max_attempts": 4},
            request_checksum_calculation="when_required",  # checksums are sent explicitly
            response_checksum_validation="when_required",
            s3={
                "payload_signing_enabled": False,  # a signed Content-MD5 or CRC takes a third of the time
                "addressing_style": style or ("path" if self._endpoint_url else "auto"),
            },
        )

    @property
    def url(self) -> str:
        return f"s3://{self._bucket}/{self._root}".rstrip("/")

    def find_completed(self, key: str, resume_token: str) -> StoredObject | None:
        head = self.head_object(key)
        if head is None or head["Metadata"].get("postroom-label") != label_digest(resume_token):
            return None
        return StoredObject(key, head["ContentLength"])

    @contextmanager
    def open(self, key: str) -> Iterator[IO[bytes]]:
        with _Reader(self, key) as raw:
            yield io.BufferedReader(raw, READ_BYTES)  # type: ignore[type-var, unused-ignore]

    def head(self, key: str) -> StoredObject | None:
        head = self.head_object(key)
        return StoredObject(key, head["ContentLength"]) if head else None

    def attributes(self, key: str) -> ObjectAttributes | None:
        head = self.head_object(key)
        return object_attributes(head) if head else None

    def head_object(self, key: str) -> dict[str, Any] | None:
        try:
            head: dict[str, Any] = self.client.head_object(**self.location(key), ChecksumMode="ENABLED")
        except ClientError as error:
            if error_code(error) in MISSING:
                return None
            raise self.store_error(error, key) from None
        except BotoCoreError as error:
            raise self.store_error(error, key) from None
        return head

    def is_same(self, key: str, size_bytes: int, sha256: str) -> bool:
        """Whether the object has these bytes. It is read completely if the size matches."""
        stored = self.head(key)
        return stored is not None and stored.size_bytes == size_bytes and checksum_object(self, key).sha256 == sha256

    def lock(self, key: str, retention: Retention) -> None:
        head = self.head_object(key)
        if head is None:
            raise ObjectMissing(f"{self.url}/{key}: no such object", key=key)
        if _is_locked(head, retention):
            return
        lock = {"Mode": retention.mode.upper(), "RetainUntilDate": retention.until}
        version = {"VersionId": head["VersionId"]} if "VersionId" in head else {}
        with self.errors(key):
            self.client.put_object_retention(**self.location(key), **version, Retention=lock)
        if not _is_locked(self.head_object(key) or {}, retention):
            raise StoreError(
                f"{self.url}/{key}: is stored, but the server does not return a lock until {retention.until};"
                " check Object Lock of the bucket and the permission s3:GetObjectRetention",
                key=key,
            )

    def location(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._root + validate_key(key)}

    @contextmanager
    def errors(self, key: str) -> Iterator[None]:
        """Convert errors of boto3."""
        try:
            yield
        except (ClientError, BotoCoreError) as error:
            raise self.store_error(error, key) from None

    def store_error(self, error: ClientError | BotoCoreError, key: str) -> StoreError:
        """Convert an error of boto3: one line with the next step, without signed URLs."""
        where = f"{self.url}/{key.removeprefix(self._root)}"
        if isinstance(error, NoCredentialsError):
            step = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile or role that boto3 finds"
            return StoreUnavailable(f"cannot use {where}: no credentials: {step}", key=key)
        if not isinstance(error, ClientError):
            cause = textwrap.shorten(str(error).split("?")[0], 200, placeholder=" …")
            step = "check [s3] endpoint_url and the network, then run again; no partial writes"
            return StoreUnavailable(f"cannot use {where}: {cause}: {step}", key=key)
        code = error_code(error)
        if code in MISSING:
            return ObjectMissing(f"{where}: no such object", key=key)
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        message = f"cannot use {where}: {code} from the server ({error.operation_name})"
        if code in _NEXT_STEP or status >= 500 or status in {403, 408, 429}:
            step = _NEXT_STEP.get(code, "try again later; no partial writes")
            return StoreUnavailable(f"{message}: {step}", key=key)
        return StoreError(f"{message}: {' '.join(str(error.response['Error'].get('Message')).split())}", key=key)


class _Reader(io.RawIOBase):
    """An object as a seekable stream: one GET for sequential reads, a new one after a seek or a lost connection."""

    def __init__(self, store: S3Client, key: str) -> None:
        self._store, self._key = store, key
        self._position = 0
        self._etag: str | None = None
        self._body: Any = None
        self._size_bytes = 0
        self._reopen()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, origin: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size_bytes}[origin]
        if base + offset != self._position:
            self._close_body()
            self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        if self._position >= self._size_bytes:
            return 0
        for attempt in range(_MAX_REOPENS + 1):
            try:
                if self._body is None:
                    self._reopen()
                chunk = self._body.read(len(buffer))
            except BotoCoreError as error:  # connection lost: resume here, if the object is unchanged
                self._close_body()
                if attempt == _MAX_REOPENS:
                    raise self._store.store_error(error, self._key) from None
                continue
            if chunk:
                buffer[: len(chunk)] = chunk
                self._position += len(chunk)
                return len(chunk)
            self._close_body()
        raise StoreUnavailable(
            f"{self._store.url}/{self._key}: the body ends before its size; run again", key=self._key
        )

    def readall(self) -> bytes:
        buffer, content = bytearray(READ_BYTES), bytearray()
        while count := self.readinto(buffer):
            content += buffer[:count]
        return bytes(content)

    def close(self) -> None:
        self._close_body()
        super().close()

    def _reopen(self) -> None:
        options = {"IfMatch": self._etag, "Range": f"bytes={self._position}-"} if self._etag else {}
        try:
            response = self._store.client.get_object(**self._store.location(self._key), **options)
        except (ClientError, BotoCoreError) as error:
            if error_code(error) in CHANGED:
                message = f"{self._store.url}/{self._key}: was replaced during the read; run again"
                raise StoreUnavailable(message, key=self._key) from None
            raise self._store.store_error(error, self._key) from None
        self._body = response["Body"]
        if self._etag is None:
            self._etag, self._size_bytes = response["ETag"], response["ContentLength"]

    def _close_body(self) -> None:
        if self._body is not None:
            with suppress(Exception):
                self._body.close()
            self._body = None


@functools.cache
def _loader() -> Any:
    """The service descriptions of boto3, cached: loading them takes longer than opening a store."""
    return botocore.loaders.create_loader()


def error_code(error: ClientError | BotoCoreError) -> str:
    """The S3 error code; for a HEAD only the status; empty without a response."""
    return str(error.response["Error"].get("Code")) if isinstance(error, ClientError) else ""


def label_digest(resume_token: str) -> str:
    return hashlib.sha256(resume_token.encode()).hexdigest()


def lock_options(retention: Retention | None) -> dict[str, Any]:
    if retention is None:
        return {}
    return {"ObjectLockMode": retention.mode.upper(), "ObjectLockRetainUntilDate": retention.until}


def _is_locked(head: dict[str, Any], retention: Retention) -> bool:
    """Whether a HEAD contains this lock or a stronger one; servers drop fractions of a second."""
    if head.get("ObjectLockMode") not in {"COMPLIANCE", retention.mode.upper()}:
        return False
    return bool(head["ObjectLockRetainUntilDate"] >= retention.until.replace(microsecond=0))


def object_attributes(head: dict[str, Any]) -> ObjectAttributes:
    """Attributes from the response to a HEAD, without a CRC of parts (`COMPOSITE`)."""
    is_whole = head.get("ChecksumType", "FULL_OBJECT") == "FULL_OBJECT"
    crc = head.get("ChecksumCRC64NVME") if is_whole else None
    return ObjectAttributes(head["ContentLength"], crc, head["ETag"].strip('"'))
