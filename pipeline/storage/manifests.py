"""Manifests: the files of a session in the vault, with size and SHA-256, and its lost files (pure).

One document per session (`conf_num`) and revision, numbered from 0001 and written once; the last one is current. Each
contains the SHA-256 of its predecessor, so a removed or altered manifest is detected. Stored versions are never
dropped: if EnableX returns other bytes for a file, its entry describes the new bytes and lists the previous versions.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Iterator
from datetime import date, datetime
from itertools import groupby
from typing import Literal

import msgspec
from msgspec.structs import replace

from pipeline.core.concurrency import map_concurrent
from pipeline.core.errors import FixityError, ObjectDiffers
from pipeline.core.models import ListedFile, Period, Probe, utc_text
from pipeline.core.urls import public_url
from pipeline.storage.base import ObjectStore, Retention, list_prefixes, read_bytes
from pipeline.storage.keys import manifest_key, manifest_prefix, parse_manifest_key

State = Literal["stored", "unreadable", "lost"]


class Entry(msgspec.Struct, kw_only=True, omit_defaults=True, frozen=True):
    """One file: stored (completely), unreadable (stored completely, but it cannot be opened), or lost.

    `proof`: how the vault's bytes were verified (`Verification` in base.py). `etag` and `last_modified` come from the
    file host, `store_etag` from the vault. `checked_at`: last time the host still had the same file; `gone_at`: first
    time it returned no file. `earlier`: previous versions with other bytes.
    """

    kind: str
    name: str
    state: State
    at: str
    url: str
    key: str | None = None
    size_bytes: int | None = None
    sha256: str | None = None
    crc64nvme: str | None = None
    proof: str | None = None
    store_etag: str | None = None
    content_type: str | None = None
    etag: str | None = None
    last_modified: str | None = None
    locked_until: str | None = None
    adopted_from: str | None = None
    probe: Probe | None = None
    checked_at: str | None = None
    gone_at: str | None = None
    lost_reason: str | None = None
    http_status: int | None = None
    earlier: tuple[Entry, ...] = ()

    @property
    def identity(self) -> tuple[str, str]:
        return (self.kind, self.name)

    @property
    def versions(self) -> tuple[Entry, ...]:
        """All versions of this file in the vault, oldest first."""
        return (*self.earlier, self) if self.key else self.earlier


class Manifest(msgspec.Struct, kw_only=True):
    """The files of one session at one point in time."""

    format: int = 1
    project: str
    day: date
    conf_num: str
    room_id: str
    revision: int
    previous_sha256: str | None
    files: list[Entry]


_MANIFEST = msgspec.json.Decoder(Manifest)
"""Created at import: msgspec crashes if two threads create a decoder of one dataclass concurrently (observed)."""


def checked_entry(entry: Entry, at: datetime) -> Entry:
    """The entry of a file that the file host still has unchanged."""
    return replace(entry, checked_at=utc_text(at))


def deleted_at_source_entry(entry: Entry, at: datetime) -> Entry:
    """The entry of a file that the file host no longer has."""
    return replace(entry, gone_at=utc_text(at))


def lost_entry(file: ListedFile, reason: str, http_status: int | None, at: datetime) -> Entry:
    return Entry(
        kind=file.kind,
        name=file.name,
        state="lost",
        at=utc_text(at),
        url=public_url(file.url),
        lost_reason=reason,
        http_status=http_status,
    )


def next_manifest(file: ListedFile, entries: Iterable[Entry], previous: bytes | None) -> Manifest:
    """The manifest after `previous` (bytes; None: none) with `entries` added or replaced, sorted by kind and name."""
    current = read_manifest(previous, "previous manifest") if previous is not None else None
    files = {entry.identity: entry for entry in (current.files if current else [])}
    for entry in entries:
        existing = files.get(entry.identity)
        files[entry.identity] = _with_history(existing, entry) if existing else entry
    return Manifest(
        project=file.project,
        day=file.day,
        conf_num=file.conf_num,
        room_id=file.room_id,
        revision=current.revision + 1 if current else 1,
        previous_sha256=hashlib.sha256(previous).hexdigest() if previous is not None else None,
        files=[files[identity] for identity in sorted(files)],
    )


def _with_history(previous: Entry, entry: Entry) -> Entry:
    """Add the stored versions of `previous` to an entry; a stored file never becomes lost."""
    if not previous.versions:
        return entry
    if entry.key is None:
        return replace(previous, gone_at=previous.gone_at or entry.at)
    if entry.key == previous.key:
        return replace(entry, earlier=previous.earlier)
    return replace(entry, earlier=(*previous.earlier, replace(previous, earlier=())))


def write_manifest(manifest: Manifest) -> bytes:
    return msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"


def read_manifest(content: bytes, key: str) -> Manifest:
    """Decode a manifest. Raises FixityError if it is malformed."""
    try:
        return _MANIFEST.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise FixityError(key, "a manifest", f"malformed content ({error})") from None


def read_entries(vault: ObjectStore, project: str, period: Period) -> dict[tuple[str, str, str], Entry]:
    """The entries of the current manifests of a period, by (conf_num, kind, name)."""
    entries = {}
    for manifest in current_manifests(vault, project, period):
        for entry in manifest.files:
            entries[manifest.conf_num, entry.kind, entry.name] = entry
    return entries


def current_manifests(vault: ObjectStore, project: str, period: Period) -> Iterator[Manifest]:
    """The last manifest of every session of a period, sorted by day and key."""
    keys = (stored.key for stored in list_prefixes(vault, [manifest_prefix(project, day) for day in period]))
    names = ((name, key) for key in keys if (name := parse_manifest_key(key)))
    sessions = groupby(names, key=lambda named: (named[0].day, named[0].conf_num))
    newest = (max(revisions, key=lambda named: named[0].revision)[1] for _, revisions in sessions)
    yield from map_concurrent(lambda key: read_manifest(read_bytes(vault, key), key), newest, vault.max_concurrency)


def manifest_keys(vault: ObjectStore, project: str, days: Iterable[date]) -> Iterator[list[str]]:
    """The keys of all manifests of each day, one list per day; a list changes when a manifest is added."""
    prefixes = (manifest_prefix(project, day) for day in days)
    yield from map_concurrent(
        lambda prefix: [stored.key for stored in vault.list(prefix)], prefixes, vault.max_concurrency
    )


def append_entry(vault: ObjectStore, file: ListedFile, entry: Entry, retention: Retention | None = None) -> Entry:
    """Write the next manifest of a session with a file's entry, the last step of a file; return the entry as written.

    Concurrent writers of one session cannot overwrite each other: a writer whose revision exists already retries with
    the next one. Threads of one process use a lock instead.
    """
    with _LOCKS[hash(file.conf_num) % len(_LOCKS)]:
        return _append(vault, file, entry, retention)


_LOCKS = [threading.Lock() for _ in range(64)]
"""Per session: its files often complete concurrently, and each write conflict costs about 6 requests."""


def _append(vault: ObjectStore, file: ListedFile, entry: Entry, retention: Retention | None) -> Entry:
    while True:
        objects = vault.list(manifest_prefix(file.project, file.day, file.conf_num))
        names = [name for stored in objects if (name := parse_manifest_key(stored.key))]
        last = max((name.revision for name in names), default=0)
        newest = manifest_key(file.project, file.day, file.conf_num, last)
        previous = read_bytes(vault, newest) if last else None
        manifest = next_manifest(file, [entry], previous)
        key = manifest_key(file.project, file.day, file.conf_num, manifest.revision)
        try:
            vault.put_if_absent(key, write_manifest(manifest), retention=retention)
        except ObjectDiffers:
            continue
        return next(written for written in manifest.files if written.identity == entry.identity)
