"""One file: URL to vault as a stream, digests on the way; stored only when it is whole and really the file.

An interrupted copy is resumed where the store kept complete parts of it and the file host still has the same file
and sends the rest. Nothing is remembered for that but in the store itself.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count

from pipeline.core.errors import FileError, FileUnavailable, ObjectDiffers
from pipeline.core.models import AT_RISK, ListedFile, MediaItem, StoredMedia
from pipeline.enablex.file_host import Body, FileHost, RangeMismatchError
from pipeline.media.content import ErrorPage, Inspector, Verdict
from pipeline.media.delivery import Delivery
from pipeline.media.probe import is_media, probe
from pipeline.storage import keys
from pipeline.storage.base import Checksums, ObjectStore, Retention, Upload, UploadResult, verify_object
from pipeline.storage.manifests import Entry


class ErrorPageReceived(FileUnavailable):
    """An error page with status 200."""


class _UnverifiedBody(FileError):
    """Neither the protocol nor the content shows that these were all the bytes."""

    def __init__(self, message: str, sha256: str) -> None:
        super().__init__(message)
        self.sha256 = sha256


@dataclass(frozen=True)
class FileArchiver:
    """Copies one project's files into the vault; threads may share it."""

    host: FileHost
    vault: ObjectStore
    now: datetime
    retention: Retention | None = None
    delivery: Delivery | None = None

    def copy(self, item: MediaItem, known: Entry | None = None) -> StoredMedia:
        """Copy one file into the vault. Memory: two parts in a bucket, one chunk in a folder.

        A body whose length the server states is stored as it is; if it does not open, it is marked unreadable. A body
        without a length must be whole by its own account, or come twice with the same SHA-256, and so must empty JSON;
        one that ends too early by its own account is taken, as unreadable, only when little time is left. Objects of
        other bytes under the key stay, and the file takes a numbered name; `known` has those that a manifest names.

        Raises:
            FileError: nothing was stored, or nothing that a manifest will name.
            StoreError: the vault did not take it.
        """
        taken = {version.key for version in known.versions} if known else set()
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
        """Whether the file host now has other bytes for a stored file: by its headers, or else by reading them all.

        Raises FileError as `FileHost.open`; FileGone when it has none.
        """
        with self.host.open(item.file.url) as body:
            if body.total_bytes not in {None, entry.size_bytes}:
                return True
            if body.version_token and (body.etag, body.last_modified) == (entry.etag, entry.last_modified):
                return False
            found = Checksums()
            for chunk in body.chunks:
                found.feed(chunk)
            return found.sha256 != entry.sha256

    def _copy_to(self, key: str, item: MediaItem) -> StoredMedia:
        try:
            try:
                return _Transfer(self, key, item).run()
            except _UnverifiedBody as unproved:
                return _Transfer(self, key, item, expected_sha256=unproved.sha256).run()
        except ErrorPage as page:
            raise ErrorPageReceived(f"an error page instead of the file: {page}") from None


def _media_key(file: ListedFile, number: int) -> str:
    name = keys.numbered_name(file.name, number)
    return keys.media_key(file.project, file.day, file.room_id, file.conf_num, file.kind, name)


@dataclass
class _Transfer:
    """One try to bring one file under one key."""

    archiver: FileArchiver
    key: str
    item: MediaItem
    expected_sha256: str | None = None
    """Of an earlier download, when that one could not be verified as complete."""

    inspector: Inspector = field(init=False)

    def __post_init__(self) -> None:
        self.inspector = Inspector(self.item.file.kind)

    def run(self) -> StoredMedia:
        with ExitStack() as opened:
            body = opened.enter_context(self.archiver.host.open(self.item.file.url))
            is_there = self._is_left_whole(body)
            adopted_from = None if is_there else self._adopt(body)
            if is_there and self.archiver.retention:
                self.archiver.vault.lock(self.key, self.archiver.retention)  # the run before may not have come to it
            if is_there or adopted_from:
                written = verify_object(self.archiver.vault, self.key, self.inspector.feed)
            else:
                written = self._stream(body, opened)
        return self._stored(body, written, adopted_from)

    def _is_left_whole(self, body: Body) -> bool:
        """Whether an earlier run stored these very bytes and did not come to write the manifest.

        Raises ObjectDiffers for an object of another size: the file need not be downloaded to know that it differs.
        """
        there = self.archiver.vault.head(self.key)
        if there is None:
            return False
        if body.total_bytes not in {None, there.size_bytes}:
            raise ObjectDiffers(f"{self.key}: other bytes are already there", key=self.key)
        return bool(body.version_token) and self.archiver.vault.find_completed(self.key, body.version_token) is not None

    def _adopt(self, body: Body) -> str | None:
        """Copy the file inside S3 if EnableX has already delivered it there; from where."""
        found = self.archiver.delivery and self.archiver.delivery.find(self.item.file, body, self.archiver.host)
        if not found:
            return None
        self.archiver.vault.copy_from(
            found.url, self.key, resume_token=body.version_token, etag=found.etag, retention=self.archiver.retention
        )
        return found.url

    def _stream(self, body: Body, opened: ExitStack) -> UploadResult:
        upload = self.archiver.vault.upload(
            self.key,
            resume_token=body.version_token,
            on_chunk=self.inspector.feed,
            size_bytes=body.total_bytes,
            content_type=body.content_type,
            retention=self.archiver.retention,
        )
        with upload:
            chunks = self._rest(body, upload, opened).chunks if upload.size_bytes else body.chunks
            for chunk in chunks:
                upload.write(chunk)
            is_empty = body.total_bytes == 0
            if is_empty or not body.is_length_delimited:
                self._require_whole(upload.sha256, is_empty=is_empty)
            elif upload.size_bytes == 0:  # else it is inspected when it is read back
                self.inspector.verdict()
            return upload.finish()

    def _rest(self, body: Body, upload: Upload, opened: ExitStack) -> Body:
        """The bytes that the upload lacks, from the file that the first answer spoke of."""
        opened.close()
        host, url, at = self.archiver.host, self.item.file.url, upload.size_bytes
        try:
            rest = opened.enter_context(host.open(url, first_byte=at, validator=body.validator))
        except RangeMismatchError:
            rest = opened.enter_context(host.open(url))
        if rest.first_byte != at:
            upload.restart()
        if rest.total_bytes != body.total_bytes or (rest.first_byte == 0 and rest.version_token != body.version_token):
            raise FileUnavailable("the file changed while it was read; it is read again")
        return rest

    def _require_whole(self, sha256: str, *, is_empty: bool) -> None:
        """Raises when a body without a length, or an empty one, is not known to be all of the file."""
        verdict = self.inspector.verdict()
        if verdict is Verdict.WHOLE:
            return
        if verdict is Verdict.BROKEN and not is_empty and self.item.expires_at - self.archiver.now >= AT_RISK:
            raise FileUnavailable("the body came without a length and was cut short, or the file is damaged")
        if self.expected_sha256 is None:
            raise _UnverifiedBody("empty, or without a length and with a content that does not show its end", sha256)
        if self.expected_sha256 != sha256:
            raise FileUnavailable("two downloads without a length gave different bytes")

    def _stored(self, body: Body, written: UploadResult, adopted_from: str | None) -> StoredMedia:
        file, vault, retention = self.item.file, self.archiver.vault, self.archiver.retention
        is_readable, seen = self.inspector.verdict() is not Verdict.BROKEN, None
        if is_media(file.kind, file.name):
            seen = probe(vault, self.key)
            is_readable = is_readable and seen is not None
        return StoredMedia(
            key=self.key,
            size_bytes=written.size_bytes,
            sha256=written.sha256,
            crc64nvme=written.crc64nvme,
            proof=written.proof,
            store_etag=written.etag,
            content_type=body.content_type,
            etag=body.etag,
            last_modified=body.last_modified,
            locked_until=retention.until if retention else None,
            adopted_from=adopted_from,
            is_readable=is_readable,
            probe=seen,
        )
