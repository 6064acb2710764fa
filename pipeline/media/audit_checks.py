"""The rules of an audit: manifests against each other, files against manifests, which files to re-read (pure).

A finding is a row of `audits`, whose `audited_at` is set when the audit is written. What an earlier audit saw of a
session's newest manifest is checked against the chain as well, so that a missing end, or a missing chain, is found.
"""

from __future__ import annotations

import hashlib
import heapq
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from fractions import Fraction
from typing import Protocol

from pipeline.core.errors import FixityError
from pipeline.core.models import Row, utc_text
from pipeline.storage.keys import ManifestName, clean_name, manifest_key, parse_media_key
from pipeline.storage.manifests import Entry, Manifest, read_manifest
from pipeline.tables.schemas import AUDITS

MANIFEST_KIND = "manifest"
"""`kind` of the rows of a session's manifests; no file has this kind (normalize/archives.py)."""

_NEVER = datetime.min.replace(tzinfo=UTC)
_RESTORE = "restore it from a copy"
_NEXT_STEP = {
    "missing": _RESTORE,
    "size_differs": _RESTORE,
    "checksum_differs": f"{_RESTORE}, or audit with --sample 100 if it was written again on purpose",
    "digest_differs": _RESTORE,
    "unreadable": f"check the disk, then {_RESTORE}",
    "manifest_broken": _RESTORE,
}
"""By verdict, of those that are problems."""

FAILURES = tuple(_NEXT_STEP)


class Stated(Protocol):
    """Attributes of an object as a store states them (storage/base.py)."""

    @property
    def size_bytes(self) -> int: ...

    @property
    def crc64nvme(self) -> str | None: ...

    @property
    def etag(self) -> str | None: ...


@dataclass(frozen=True)
class PriorAudit:
    """A manifest as an earlier audit saw it."""

    sha256: str
    at: datetime


@dataclass(frozen=True)
class ManifestedFile:
    """A file that a session's manifests name, as the newest of them does."""

    entry: Entry
    conf_num: str
    revision: int

    def __str__(self) -> str:
        return f"manifest {self.revision:04d} of session {self.conf_num}"


@dataclass(frozen=True)
class ManifestChain:
    """What is to be said of a session's manifests, and every file that any of them names, by key."""

    rows: list[Row]
    named: dict[str, ManifestedFile]


def check_chain(
    project: str, day: date, conf_num: str, contents: Mapping[int, bytes], seen: Mapping[int, PriorAudit]
) -> ManifestChain:
    """Hold all manifests of a session, by revision, against each other, their keys, and what earlier audits saw.

    `conf_num` is the one of the keys. Rows: one for each manifest that is broken or missing (for several missing in a
    row, the first), and one for the newest if it is well.
    """
    return _ChainCheck(project, day, conf_num, contents, seen).run()


@dataclass
class _ChainCheck:
    project: str
    day: date
    conf_num: str
    contents: Mapping[int, bytes]
    seen: Mapping[int, PriorAudit]
    problems: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    named: dict[str, ManifestedFile] = field(default_factory=dict)

    def run(self) -> ManifestChain:
        digests = {revision: hashlib.sha256(content).hexdigest() for revision, content in self.contents.items()}
        for first, last in _missing(self.contents, max([*self.contents, *self.seen], default=0)):
            self._say_missing(first, last)
        for revision in sorted(self.contents):
            if manifest := self._read(revision):
                self._compare_with_previous(manifest, digests.get(revision - 1))
                self._name_files(manifest)
        for revision, earlier in self.seen.items():
            if digests.get(revision, earlier.sha256) != earlier.sha256:
                self.problems[revision].append(f"it is not as the audit of {utc_text(earlier.at)} saw it")
        told = {*self.problems, *([max(self.contents)] if self.contents else [])}
        return ManifestChain([self._row(revision, digests.get(revision)) for revision in sorted(told)], self.named)

    def _say_missing(self, first: int, last: int) -> None:
        which = f"{first:04d} is" if first == last else f"{first:04d} to {last:04d} are"
        saw = [self.seen[revision].at for revision in self.seen if first <= revision <= last]
        when = f"; the audit of {utc_text(max(saw))} saw {'it' if first == last else 'them'}" if saw else ""
        self.problems[first].append(f"{which} missing{when}")

    def _read(self, revision: int) -> Manifest | None:
        try:
            manifest = read_manifest(self.contents[revision], self._key(revision))
        except (FixityError, RecursionError):
            self.problems[revision].append("it cannot be read")
            return None
        stated = ManifestName(manifest.project, manifest.day, clean_name(manifest.conf_num), manifest.revision)
        if revision < 1 or stated != (self.project, self.day, self.conf_num, revision):
            self.problems[revision].append(
                f"its content is that of {stated.revision:04d} of session {stated.conf_num}"
                f" of {stated.project} on {stated.day}"
            )
            return None
        return manifest

    def _compare_with_previous(self, manifest: Manifest, previous_sha256: str | None) -> None:
        revision = manifest.revision
        if revision == 1:
            if manifest.previous_sha256 is not None:
                self.problems[revision].append("it follows another one, and is the first")
        elif previous_sha256 is not None and manifest.previous_sha256 != previous_sha256:
            self.problems[revision - 1].append(
                f"it is not the one that {revision:04d} follows: one of them was altered"
            )

    def _name_files(self, manifest: Manifest) -> None:
        problems = []
        for version in (version for entry in manifest.files for version in entry.versions):
            key = version.key or ""
            place = parse_media_key(key)
            if place is None or (place.project, place.day, place.conf_num) != (self.project, self.day, self.conf_num):
                problems.append(f"it names {key!r}, which is no place for a file of this session")
                continue
            if version.size_bytes is None or version.sha256 is None:
                problems.append(f"it names {key} without size or SHA-256")
            known = self.named.get(key)
            if known and (known.entry.size_bytes, known.entry.sha256) != (version.size_bytes, version.sha256):
                problems.append(f"it names other bytes for {key} than {known.revision:04d}")
            self.named[key] = ManifestedFile(version, manifest.conf_num, manifest.revision)
        if problems:
            self.problems[manifest.revision] += problems

    def _key(self, revision: int) -> str:
        return manifest_key(self.project, self.day, self.conf_num, revision)

    def _row(self, revision: int, sha256: str | None) -> Row:
        problems = self.problems.get(revision)
        earlier = self.seen.get(revision)
        return _row(
            self._key(revision),
            self.day,
            "manifest_broken" if problems else "ok",
            conf_num=self.conf_num,
            kind=MANIFEST_KIND,
            name=f"{revision:04d}",
            size_bytes=len(self.contents[revision]) if revision in self.contents else None,
            sha256=sha256,
            expected_sha256=earlier.sha256 if earlier else None,
            detail="; ".join(problems) if problems else None,
        )


def _missing(present: Collection[int], last: int) -> Iterator[tuple[int, int]]:
    """The stretches of 1 to `last` that are not there."""
    following = 1
    for number in [*sorted(present), last + 1]:
        if number > following:
            yield following, number - 1
        following = number + 1


def file_row(key: str, day: date, named: ManifestedFile, stated: Stated | None) -> Row:
    """Check a file's attributes in the store against its manifest: presence, size, best common checksum."""
    entry = named.entry
    compared_by, found, expected = _checksums(entry, stated)
    if stated is None:
        verdict, detail = "missing", f"{named} names it ({entry.kind} {entry.name})"
    elif entry.size_bytes not in {None, stated.size_bytes}:
        verdict, detail = "size_differs", f"it has {stated.size_bytes:,} bytes, {named} has {entry.size_bytes:,}"
    elif found != expected:
        verdict, detail = "checksum_differs", f"the store states {compared_by} {found}, {named} has {expected}"
    else:
        verdict, detail = "ok", None
    return _row(
        key,
        day,
        verdict,
        conf_num=named.conf_num,
        kind=entry.kind,
        name=entry.name,
        compared_by=compared_by,
        size_bytes=stated.size_bytes if stated else None,
        expected_size_bytes=entry.size_bytes,
        expected_sha256=entry.sha256,
        detail=detail,
    )


def _checksums(entry: Entry, stated: Stated | None) -> tuple[str | None, str | None, str | None]:
    """What can be compared without reading, its value in the store, and its value in the manifest."""
    if stated is None:
        return None, None, None
    if stated.crc64nvme and entry.crc64nvme:
        return "crc64nvme", stated.crc64nvme, entry.crc64nvme
    if stated.etag and entry.store_etag:
        return "etag", stated.etag, entry.store_etag
    return "size", None, None


def reread_row(row: Row, size_bytes: int, sha256: str) -> Row:
    """A file's row after it was read from beginning to end: its SHA-256 has the last word."""
    session = f"the manifest of session {row['conf_num']} has"
    if size_bytes != row["expected_size_bytes"]:
        verdict, detail = "size_differs", f"it gave {size_bytes:,} bytes, {session} {row['expected_size_bytes']:,}"
    elif sha256 != row["expected_sha256"]:
        verdict, detail = "digest_differs", f"its SHA-256 is {sha256}, {session} {row['expected_sha256']}"
    elif row["verdict"] == "ok":
        verdict, detail = "ok", None
    else:
        verdict, detail = "ok", f"the store's {row['compared_by']} is another one, and the bytes are the same"
    return row | {
        "verdict": verdict,
        "detail": detail,
        "is_content_verified": True,
        "size_bytes": size_bytes,
        "sha256": sha256,
    }


def unreadable_row(row: Row, reason: str) -> Row:
    """A file's row when it could not be read to its end."""
    detail = f"reading {row['kind']} {row['name']} of session {row['conf_num']} was interrupted ({reason})"
    return row | {"verdict": "unreadable", "detail": detail, "is_content_verified": True}


def vanished_row(row: Row) -> Row:
    """A file's row when it was no longer there to be read."""
    detail = f"the manifest of session {row['conf_num']} names it ({row['kind']} {row['name']})"
    return row | {"verdict": "missing", "detail": detail, "size_bytes": None}


def orphan_row(key: str, day: date, size_bytes: int, detail: str) -> Row:
    """An object that no manifest names, or that stands among manifests and is none."""
    place = parse_media_key(key)
    return _row(
        key,
        day,
        "orphan",
        conf_num=place.conf_num if place else None,
        kind=place.kind if place else None,
        name=place.name if place else key.rpartition("/")[2],
        size_bytes=size_bytes,
        detail=detail,
    )


def record_row(key: str, detail: str) -> Row:
    """An earlier audit's own record that is not what was written."""
    return _row(key, None, "digest_differs", kind="audit", name=key.rpartition("/")[2], detail=detail)


def _row(key: str, day: date | None, verdict: str, **values: object) -> Row:
    row: Row = dict.fromkeys(column.name for column in AUDITS.columns)
    return row | {"key": key, "media_day": day, "verdict": verdict, "is_content_verified": False} | values


def can_reread(row: Row) -> bool:
    """Whether reading a file can add anything: it seems intact, or only its ETag differs."""
    is_known = row["expected_sha256"] is not None and row["expected_size_bytes"] is not None
    return row["kind"] != MANIFEST_KIND and is_known and (row["verdict"] == "ok" or is_doubtful(row))


def is_doubtful(row: Row) -> bool:
    """An ETag depends on how an object was sent; if it differs, only reading shows whether the bytes differ."""
    return bool(row["verdict"] == "checksum_differs" and row["compared_by"] == "etag")


def choose_sample(
    keys: Collection[str], doubtful: Iterable[str], last_read: Mapping[str, datetime], percent: float
) -> list[str]:
    """Which files to re-read: `percent` of them, rounded up; never re-read ones first, then the longest ago.

    With the same percentage each time, every file is re-read within 100/percent audits (rounded up). Files in doubt
    (a part of `keys`) come on top, unless nothing is to be read at all.
    """
    if percent == 0:
        return []
    count = math.ceil(Fraction(str(percent)) * len(keys) / 100)
    chosen = heapq.nsmallest(count, keys, key=lambda key: (last_read.get(key, _NEVER), key))
    return [*chosen, *sorted(set(doubtful) - set(chosen))]


def problem_text(row: Row) -> str:
    """What is wrong with an object, where, and the next step: one line."""
    return f"{row['verdict'].replace('_', ' ')}: {row['detail']}; {_NEXT_STEP[row['verdict']]}"
