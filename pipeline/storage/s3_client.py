"""The connection to a bucket: location of keys, errors of boto3 as errors of ours, and the answers to HEAD."""

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
    checked_key,
    checksum_object,
)

_CONNECTIONS = 64
MISSING = frozenset({"404", "NoSuchKey", "NotFound", "NoSuchVersion"})
CHANGED = frozenset({"412", "PreconditionFailed"})
_NO_RIGHT = "these credentials may not do that: give them the right (docs/guide/vault.md lists which), or take others"
_NOT_ALONE = "upload aborted by another process; run again"
_NEXT_STEP = {
    "NoSuchBucket": "there is no such bucket: make it, or name another one in the settings",
    "AccessDenied": _NO_RIGHT,
    "403": "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or the profile, and their rights (docs/guide/vault.md)",
    "InvalidAccessKeyId": "the server does not know this access key: check AWS_ACCESS_KEY_ID or the profile",
    "SignatureDoesNotMatch": "the secret key is wrong: check AWS_SECRET_ACCESS_KEY or the profile",
    "ExpiredToken": "the session token has expired: renew it",
    "RequestTimeTooSkewed": "this machine's clock is wrong: set it",
    "QuotaExceeded": "the bucket is full: raise its quota",
    "NoSuchUpload": "another process gave this upload up, or finished it: run again",
    "InvalidPart": _NOT_ALONE,
    "EntityTooSmall": _NOT_ALONE,
}


_REOPENED_AT_MOST = 5


class S3Client:
    """A prefix of a bucket: what store, uploads and the look at conditions share. Threads may share it."""

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
            found: dict[str, Any] = self.client.head_object(**self.place(key), ChecksumMode="ENABLED")
        except ClientError as error:
            if error_code(error) in MISSING:
                return None
            raise self.translated(error, key) from None
        except BotoCoreError as error:
            raise self.translated(error, key) from None
        return found

    def is_same(self, key: str, size_bytes: int, sha256: str) -> bool:
        """Whether the object under the key has these bytes; read from beginning to end if the size is right."""
        found = self.head(key)
        return found is not None and found.size_bytes == size_bytes and checksum_object(self, key).sha256 == sha256

    def lock(self, key: str, retention: Retention) -> None:
        head = self.head_object(key)
        if head is None:
            raise ObjectMissing(f"{self.url}/{key}: no such object", key=key)
        if _is_locked(head, retention):
            return
        wanted = {"Mode": retention.mode.upper(), "RetainUntilDate": retention.until}
        version = {"VersionId": head["VersionId"]} if "VersionId" in head else {}
        with self.errors(key):
            self.client.put_object_retention(**self.place(key), **version, Retention=wanted)
        if not _is_locked(self.head_object(key) or {}, retention):
            raise StoreError(
                f"{self.url}/{key}: is stored, but the server does not say that it is locked until {retention.until};"
                " check the bucket's Object Lock and the right s3:GetObjectRetention",
                key=key,
            )

    def place(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._root + checked_key(key)}

    @contextmanager
    def errors(self, key: str) -> Iterator[None]:
        """What boto3 raises becomes an error of ours."""
        try:
            yield
        except (ClientError, BotoCoreError) as error:
            raise self.translated(error, key) from None

    def translated(self, error: ClientError | BotoCoreError, key: str) -> StoreError:
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
        if code in MISSING:
            return ObjectMissing(f"{where}: no such object", key=key)
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        said = f"cannot use {where}: {code} from the server ({error.operation_name})"
        if code in _NEXT_STEP or status >= 500 or status in {403, 408, 429}:
            step = _NEXT_STEP.get(code, "try again later; nothing was half-written")
            return StoreUnavailable(f"{said}: {step}", key=key)
        return StoreError(f"{said}: {' '.join(str(error.response['Error'].get('Message')).split())}", key=key)


class _Reader(io.RawIOBase):
    """An object as a seekable stream: one request while it is read in order, a new one after a jump or a cut."""

    def __init__(self, store: S3Client, key: str) -> None:
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
                    raise self._store.translated(error, self._key) from None
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
            if error_code(error) in CHANGED:
                message = f"{self._store.url}/{self._key}: was replaced while it was read; run again"
                raise StoreUnavailable(message, key=self._key) from None
            raise self._store.translated(error, self._key) from None
        self._body = answer["Body"]
        if self._etag is None:
            self._etag, self._size_bytes = answer["ETag"], answer["ContentLength"]

    def _drop(self) -> None:
        if self._body is not None:
            with suppress(Exception):
                self._body.close()
            self._body = None


@functools.cache
def _loader() -> Any:
    """boto3's description of S3, which takes longer to read than a store to open."""
    return botocore.loaders.create_loader()


def error_code(error: ClientError | BotoCoreError) -> str:
    """S3's word for what went wrong; for a HEAD only the status; empty when no answer came."""
    return str(error.response["Error"].get("Code")) if isinstance(error, ClientError) else ""


def label_digest(resume_token: str) -> str:
    return hashlib.sha256(resume_token.encode()).hexdigest()


def lock_options(retention: Retention | None) -> dict[str, Any]:
    if retention is None:
        return {}
    return {"ObjectLockMode": retention.mode.upper(), "ObjectLockRetainUntilDate": retention.until}


def _is_locked(head: dict[str, Any], retention: Retention) -> bool:
    """Whether a HEAD states this lock or a stronger one; servers drop fractions of a second."""
    if head.get("ObjectLockMode") not in {"COMPLIANCE", retention.mode.upper()}:
        return False
    return bool(head["ObjectLockRetainUntilDate"] >= retention.until.replace(microsecond=0))


def object_attributes(head: dict[str, Any]) -> ObjectAttributes:
    """Attributes from the answer to a HEAD. A CRC of parts (`COMPOSITE`) is not the object's."""
    is_whole = head.get("ChecksumType", "FULL_OBJECT") == "FULL_OBJECT"
    crc = head.get("ChecksumCRC64NVME") if is_whole else None
    return ObjectAttributes(head["ContentLength"], crc, head["ETag"].strip('"'))
