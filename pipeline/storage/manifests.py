"""Manifests: which files of a session are in the vault, with size and SHA-256, and which are lost (pure).

One document per session (`conf_num`), numbered from 0001, each written once; the last is current. Each names the
SHA-256 of the one before it, so that a removed or altered manifest shows. What was once stored stays named: when
EnableX gives other bytes for a file, the entry is of the newer ones and names the earlier ones too.
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
from pipeline.core.models import ListedFile, Period, Probe, StoredMedia, utc_text
from pipeline.core.urls import public_url
from pipeline.storage.base import ObjectStore, Retention, listed, read_bytes
from pipeline.storage.keys import manifest_key, manifest_prefix, parse_manifest_key

State = Literal["stored", "unreadable", "lost"]


class Entry(msgspec.Struct, kw_only=True, omit_defaults=True, frozen=True):
    """One file: stored (whole), unreadable (stored whole, but it does not open), or lost.

    `etag` and `last_modified` are the file host's, `store_etag` is the vault's. `checked_at`: when the host was last
    seen to have the same file still; `gone_at`: when it first said that it has none. `earlier`: other bytes before.
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
        """Everything of this file that is in the vault, the oldest first."""
        return (*self.earlier, self) if self.key else self.earlier


class Manifest(msgspec.Struct, kw_only=True):
    """Everything known about the files of one session at one moment."""

    format: int = 1
    project: str
    day: date
    conf_num: str
    room_id: str
    revision: int
    previous_sha256: str | None
    files: list[Entry]


_MANIFEST = msgspec.json.Decoder(Manifest)
"""Made once, before there are threads: msgspec crashes when two of them make one for a dataclass at the same time."""


def stored_entry(file: ListedFile, stored: StoredMedia, at: datetime) -> Entry:
    return Entry(
        kind=file.kind,
        name=file.name,
        state="stored" if stored.is_readable else "unreadable",
        at=utc_text(at),
        url=public_url(file.url),
        key=stored.key,
        size_bytes=stored.size_bytes,
        sha256=stored.sha256,
        crc64nvme=stored.crc64nvme,
        proof=stored.proof,
        store_etag=stored.store_etag,
        content_type=stored.content_type,
        etag=stored.etag,
        last_modified=stored.last_modified,
        locked_until=utc_text(stored.locked_until) if stored.locked_until else None,
        adopted_from=stored.adopted_from,
        probe=stored.probe,
    )


def checked_entry(entry: Entry, at: datetime) -> Entry:
    """The same file, seen again at the file host."""
    return replace(entry, checked_at=utc_text(at))


def deleted_at_source_entry(entry: Entry, at: datetime) -> Entry:
    """The same file, which the file host no longer has."""
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
    """The manifest after `previous` (its bytes, or None for the first) with `entries` added or replaced, sorted."""
    before = read_manifest(previous, "previous manifest") if previous is not None else None
    files = {entry.identity: entry for entry in (before.files if before else [])}
    for entry in entries:
        known = files.get(entry.identity)
        files[entry.identity] = _after(known, entry) if known else entry
    return Manifest(
        project=file.project,
        day=file.day,
        conf_num=file.conf_num,
        room_id=file.room_id,
        revision=before.revision + 1 if before else 1,
        previous_sha256=hashlib.sha256(previous).hexdigest() if previous is not None else None,
        files=[files[identity] for identity in sorted(files)],
    )


def _after(known: Entry, entry: Entry) -> Entry:
    """An entry with all that was stored of its file before; what is in the vault is never lost."""
    if not known.versions:
        return entry
    if entry.key is None:
        return replace(known, gone_at=known.gone_at or entry.at)
    if entry.key == known.key:
        return replace(entry, earlier=known.earlier)
    return replace(entry, earlier=(*known.earlier, replace(known, earlier=())))


def write_manifest(manifest: Manifest) -> bytes:
    return msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"


def read_manifest(content: bytes, key: str) -> Manifest:
    """Raises FixityError for what is not a manifest: one that cannot be read proves nothing."""
    try:
        return _MANIFEST.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise FixityError(key, "a manifest", f"something else ({error})") from None


def read_entries(vault: ObjectStore, project: str, period: Period) -> dict[tuple[str, str, str], Entry]:
    """What the current manifests of these days say, by (conf_num, kind, name)."""
    entries = {}
    for manifest in current_manifests(vault, project, period):
        for entry in manifest.files:
            entries[manifest.conf_num, entry.kind, entry.name] = entry
    return entries


def current_manifests(vault: ObjectStore, project: str, period: Period) -> Iterator[Manifest]:
    """The last manifest of every session of these days, in order of day and key."""
    keys = (stored.key for stored in listed(vault, [manifest_prefix(project, day) for day in period]))
    names = ((name, key) for key in keys if (name := parse_manifest_key(key)))
    sessions = groupby(names, key=lambda named: (named[0].day, named[0].conf_num))
    newest = (max(of_session, key=lambda named: named[0].revision)[1] for _, of_session in sessions)
    yield from map_concurrent(lambda key: read_manifest(read_bytes(vault, key), key), newest, vault.max_concurrency)


def manifest_keys(vault: ObjectStore, project: str, days: Iterable[date]) -> Iterator[list[str]]:
    """For each of some days: the keys of all its manifests, a list that changes whenever one is added."""
    prefixes = (manifest_prefix(project, day) for day in days)
    yield from map_concurrent(
        lambda prefix: [stored.key for stored in vault.list(prefix)], prefixes, vault.max_concurrency
    )


def append_entry(vault: ObjectStore, file: ListedFile, entry: Entry, retention: Retention | None = None) -> Entry:
    """Add a file to its session's manifest, as the next number: the last thing done for a file. The entry as it is now.

    Two writers of one session cannot overwrite each other: the later one finds the number taken and takes the next.
    Threads of one process take turns instead.
    """
    with _TURNS[hash(file.conf_num) % len(_TURNS)]:
        return _write_next(vault, file, entry, retention)


_TURNS = [threading.Lock() for _ in range(64)]
"""By session: files of one are often done at the same time, and each lost race costs half a dozen requests."""


def _write_next(vault: ObjectStore, file: ListedFile, entry: Entry, retention: Retention | None) -> Entry:
    while True:
        stored = vault.list(manifest_prefix(file.project, file.day, file.conf_num))
        names = [name for one in stored if (name := parse_manifest_key(one.key))]
        last = max((name.revision for name in names), default=0)
        newest = manifest_key(file.project, file.day, file.conf_num, last)
        previous = read_bytes(vault, newest) if last else None
        manifest = next_manifest(file, [entry], previous)
        key = manifest_key(file.project, file.day, file.conf_num, manifest.revision)
        try:
            vault.put_if_absent(key, write_manifest(manifest), retention=retention)
        except ObjectDiffers:
            continue
        return next(known for known in manifest.files if known.identity == entry.identity)
