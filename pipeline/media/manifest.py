"""Manifests: which files of a session are in the vault, with size and SHA-256, and which are lost (pure).

One document per session (`conf_num`), numbered from 0001, each written once; the last is current. Each names the
SHA-256 of the one before it, so that a removed or altered manifest shows.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from datetime import date, datetime
from typing import Literal

import msgspec

from pipeline.errors import FixityError
from pipeline.model import ListedFile, StoredMedia, utc_text

State = Literal["stored", "unreadable", "lost"]


class Entry(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One file: stored (whole), unreadable (stored whole, but it does not open), or lost."""

    kind: str
    name: str
    state: State
    at: str
    url: str
    key: str | None = None
    size_bytes: int | None = None
    sha256: str | None = None
    content_type: str | None = None
    etag: str | None = None
    lost_reason: str | None = None
    http_status: int | None = None

    @property
    def identity(self) -> tuple[str, str]:
        return (self.kind, self.name)


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
        content_type=stored.content_type,
        etag=stored.etag,
    )


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
    files.update({entry.identity: entry for entry in entries})
    return Manifest(
        project=file.project,
        day=file.day,
        conf_num=file.conf_num,
        room_id=file.room_id,
        revision=before.revision + 1 if before else 1,
        previous_sha256=hashlib.sha256(previous).hexdigest() if previous is not None else None,
        files=[files[identity] for identity in sorted(files)],
    )


def write_manifest(manifest: Manifest) -> bytes:
    return msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"


def read_manifest(content: bytes, key: str) -> Manifest:
    """Raises FixityError for what is not a manifest: one that cannot be read proves nothing."""
    try:
        return msgspec.json.decode(content, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise FixityError(key, "a manifest", f"something else ({error})") from None


def public_url(url: str) -> str:
    """A URL without user, query and fragment, which may be secrets."""
    plain = re.split(r"[?#]", url, maxsplit=1)[0]
    scheme = re.match(r"(?:[a-z][a-z0-9+.-]*:)?//|", plain, re.IGNORECASE)
    start = scheme.end() if scheme else 0
    authority, slash, path = plain[start:].partition("/")
    return f"{plain[:start]}{authority.rpartition('@')[2]}{slash}{path}"
