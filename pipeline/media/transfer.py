"""Stream one file from its URL to the vault with checksums; it is stored only if it is complete and not an error page.

An interrupted copy is resumed if the store kept uploaded parts and the file host still serves the same file and
supports ranges. The only state for this is in the store.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count

from pipeline.core.errors import FileError, FileUnavailable, ObjectDiffers
from pipeline.core.models import AT_RISK, ListedFile, MediaItem, utc_text
from pipeline.core.urls import public_url
from pipeline.enablex.file_host import Body, FileHost, RangeMismatchError
from pipeline.media.content import ErrorPage, Inspector, Verdict
from pipeline.media.delivery import Delivery
from pipeline.media.probe import is_media, probe
from pipeline.storage import keys
from pipeline.storage.base import Checksums, ObjectStore, Retention, Upload, UploadOptions, UploadResult, verify_object
from pipeline.storage.manifests import Entry


class ErrorPageReceived(FileUnavailable):
    """An error page with status 200."""


class _UnverifiedBody(FileError):
    """Neither the protocol nor the content shows that the body is complete."""

    def __init__(self, message: str, sha256: str) -> None:
        super().__init__(message)
        self.sha256 = sha256


@dataclass(frozen=True)
class FileArchiver:
    """Copies one project's files to the vault. Thread-safe."""

    host: FileHost
    vault: ObjectStore
    now: datetime
    retention: Retention | None = None
    delivery: Delivery | None = None

    def copy(self, item: MediaItem, archived: Entry | None = None) -> Entry:
        """Copy one file to the vault. Memory: 2 parts for a bucket, 1 chunk for a folder.

        A body with a declared length is stored unchanged; if it cannot be opened, it is marked malformed. A body
        without a declared length, or empty JSON, must be complete by its content, or be downloaded twice with the same
        SHA-256. A body without a declared length whose content is truncated is stored, as malformed, only if the file
        is at risk. An existing object with other bytes stays, and the file gets a numbered name. `archived` is the
        manifest entry whose keys are already used.

        Raises:
            FileError: nothing was stored, or no object that a manifest will name.
            StoreError: writing to the vault failed.
        """
        taken = {version.key for version in archived.versions} if archived else set()
        for number in count(1):
            key = _media_key(item.file, number)
            if key in taken:
                continue
            try:
                return self._copy_to(key, item)
            except ObjectDiffers:
                continue
        raise AssertionError("unreachable")

    def has_changed(self, item: MediaItem, entry: Entry) -> bool:
        """Whether the source of an archived file has changed: by size, by ETag and date, or else by downloading it.

        Raises FileError like `FileHost.open`; FileGone when the file no longer exists.
        """
        with self.host.open(item.file.url) as body:
            if body.total_bytes not in {None, entry.size_bytes}:
                return True
            if body.version_token and (body.etag, body.last_modified) == (entry.etag, entry.last_modified):
                return False
            checksums = Checksums()
            for chunk in body.chunks:
                checksums.feed(chunk)
            return checksums.sha256 != entry.sha256

    def _copy_to(self, key: str, item: MediaItem) -> Entry:
        try:
            try:
                return _Transfer(self, key, item).run()
            except _UnverifiedBody as unverified:
                return _Transfer(self, key, item, expected_sha256=unverified.sha256).run()
        except ErrorPage as page:
            raise ErrorPageReceived(f"received an error page instead of the file: {page}") from None


def _media_key(file: ListedFile, number: int) -> str:
    name = keys.numbered_name(file.name, number)
    return keys.media_key(file.project, file.day, file.room_id, file.conf_num, file.kind, name)


@dataclass
class _Transfer:
    """One attempt to store one file under one key."""

    archiver: FileArchiver
    key: str
    item: MediaItem
    expected_sha256: str | None = None
    """SHA-256 of an earlier download whose completeness could not be verified."""

    inspector: Inspector = field(init=False)

    def __post_init__(self) -> None:
        self.inspector = Inspector(self.item.file.kind)

    def run(self) -> Entry:
        with ExitStack() as opened:
            body = opened.enter_context(self.archiver.host.open(self.item.file.url))
            is_completed = self._is_completed(body)
            adopted_from = None if is_completed else self._copy_delivered(body)
            if is_completed and self.archiver.retention:
                self.archiver.vault.lock(
                    self.key, self.archiver.retention
                )  # the earlier run may have been interrupted before the lock
            if is_completed or adopted_from:
                written = verify_object(self.archiver.vault, self.key, self.inspector.feed)
            else:
                written = self._stream(body, opened)
        return self._entry(body, written, adopted_from)

    def _is_completed(self, body: Body) -> bool:
        """Whether an earlier run stored the same file but was interrupted before it wrote the manifest.

        Raises ObjectDiffers for an object of another size, without downloading the file.
        """
        existing = self.archiver.vault.head(self.key)
        if existing is None:
            return False
        if body.total_bytes not in {None, existing.size_bytes}:
            raise ObjectDiffers(f"{self.key}: the object exists with other bytes", key=self.key)
        return bool(body.version_token) and self.archiver.vault.find_completed(self.key, body.version_token) is not None

    def _copy_delivered(self, body: Body) -> str | None:
        """Copy the file inside S3 if Recording Delivery has delivered it; returns the URL of the delivered object."""
        delivered = self.archiver.delivery and self.archiver.delivery.find(self.item.file, body, self.archiver.host)
        if not delivered:
            return None
        self.archiver.vault.copy_from(
            delivered.url,
            self.key,
            resume_token=body.version_token,
            etag=delivered.etag,
            retention=self.archiver.retention,
        )
        return delivered.url

    def _stream(self, body: Body, opened: ExitStack) -> UploadResult:
        options = UploadOptions(
            resume_token=body.version_token,
            on_chunk=self.inspector.feed,
            size_bytes=body.total_bytes,
            content_type=body.content_type,
            retention=self.archiver.retention,
        )
        with self.archiver.vault.upload(self.key, options) as upload:
            chunks = self._rest(body, upload, opened).chunks if upload.size_bytes else body.chunks
            for chunk in chunks:
                upload.write(chunk)
            is_empty = body.total_bytes == 0
            if is_empty or not body.is_length_delimited:
                self._require_complete(upload.sha256, is_empty=is_empty)
            elif upload.size_bytes == 0:  # a resumed upload is inspected when the object is verified
                self.inspector.verdict()
            return upload.finish()

    def _rest(self, body: Body, upload: Upload, opened: ExitStack) -> Body:
        """Request the remaining bytes of the file that the first response returned."""
        opened.close()
        host, url, at = self.archiver.host, self.item.file.url, upload.size_bytes
        try:
            rest = opened.enter_context(host.open(url, first_byte=at, validator=body.validator))
        except RangeMismatchError:
            rest = opened.enter_context(host.open(url))
        if rest.first_byte != at:
            upload.restart()
        if rest.total_bytes != body.total_bytes or (rest.first_byte == 0 and rest.version_token != body.version_token):
            raise FileUnavailable("the file changed during the download; the download is retried")
        return rest

    def _require_complete(self, sha256: str, *, is_empty: bool) -> None:
        """Raise if an empty body, or one without a declared length, cannot be verified as complete."""
        verdict = self.inspector.verdict()
        if verdict is Verdict.WHOLE:
            return
        if verdict is Verdict.BROKEN and not is_empty and self.item.expires_at - self.archiver.now >= AT_RISK:
            raise FileUnavailable("the body has no declared length and is truncated, or the file is damaged")
        if self.expected_sha256 is None:
            raise _UnverifiedBody("the body is empty, or has no declared length and no detectable end", sha256)
        if self.expected_sha256 != sha256:
            raise FileUnavailable("two downloads without a declared length returned different bytes")

    def _entry(self, body: Body, written: UploadResult, adopted_from: str | None) -> Entry:
        file, vault, retention = self.item.file, self.archiver.vault, self.archiver.retention
        is_readable, seen = self.inspector.verdict() is not Verdict.BROKEN, None
        if is_media(file.kind, file.name):
            seen = probe(vault, self.key)
            is_readable = is_readable and seen is not None
        return Entry(
            kind=file.kind,
            name=file.name,
            state="stored" if is_readable else "unreadable",
            at=utc_text(self.archiver.now),
            url=public_url(file.url),
            key=self.key,
            size_bytes=written.size_bytes,
            sha256=written.sha256,
            crc64nvme=written.crc64nvme,
            proof=written.proof,
            store_etag=written.etag,
            content_type=body.content_type,
            etag=body.etag,
            last_modified=body.last_modified,
            locked_until=utc_text(retention.until) if retention else None,
            adopted_from=adopted_from,
            probe=seen,
        )
