"""Checks of an audit: manifests against each other, files against manifests, selection of the sample (pure).

A result is a row of `audits`; its `audited_at` is set when the audit is written. The manifest chain is also checked
against prior audits of the session's newest manifest, so that a missing end of the chain, or a missing chain, is found.
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
"""`kind` of the rows of manifests. No file has this kind (tables/normalize/archives.py)."""

_NEVER = datetime.min.replace(tzinfo=UTC)
_RESTORE = "restore it from a copy"
_NEXT_STEP = {
    "missing": _RESTORE,
    "size_differs": _RESTORE,
    "checksum_differs": f"{_RESTORE}, or audit with --sample 100 if it was rewritten on purpose",
    "digest_differs": _RESTORE,
    "unreadable": f"check the disk, then {_RESTORE}",
    "manifest_broken": _RESTORE,
}
"""The next step for each verdict that is a failure."""

FAILURES = tuple(_NEXT_STEP)


class Attributes(Protocol):
    """Attributes of an object that a store returns (storage/base.py)."""

    @property
    def size_bytes(self) -> int: ...

    @property
    def crc64nvme(self) -> str | None: ...

    @property
    def etag(self) -> str | None: ...


@dataclass(frozen=True)
class PriorAudit:
    """A manifest as recorded by an earlier audit."""

    sha256: str
    at: datetime


@dataclass(frozen=True)
class ManifestedFile:
    """A file named by a session's manifests, with its entry in the newest one that names it."""

    entry: Entry
    conf_num: str
    revision: int

    def __str__(self) -> str:
        return f"manifest {self.revision:04d} of session {self.conf_num}"


@dataclass(frozen=True)
class ManifestChain:
    """Rows about a session's manifests, and every file that any of them names, by key."""

    rows: list[Row]
    files: dict[str, ManifestedFile]


def check_chain(
    project: str, day: date, conf_num: str, contents: Mapping[int, bytes], prior: Mapping[int, PriorAudit]
) -> ManifestChain:
    """Check all manifests of a session, by revision, against each other, their keys, and prior audits.

    `conf_num` is the one in the keys. Rows: one per broken or missing manifest (for a range of missing ones, one for
    the first), and one for the newest manifest, if it is valid.
    """
    return _ChainCheck(project, day, conf_num, contents, prior).run()


@dataclass
class _ChainCheck:
    project: str
    day: date
    conf_num: str
    contents: Mapping[int, bytes]
    prior: Mapping[int, PriorAudit]
    problems: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    files: dict[str, ManifestedFile] = field(default_factory=dict)

    def run(self) -> ManifestChain:
        digests = {revision: hashlib.sha256(content).hexdigest() for revision, content in self.contents.items()}
        for first, last in _missing(self.contents, max([*self.contents, *self.prior], default=0)):
            self._add_missing(first, last)
        for revision in sorted(self.contents):
            if manifest := self._read(revision):
                self._compare_with_previous(manifest, digests.get(revision - 1))
                self._add_files(manifest)
        for revision, earlier in self.prior.items():
            if digests.get(revision, earlier.sha256) != earlier.sha256:
                self.problems[revision].append(
                    f"it differs from the one that the audit of {utc_text(earlier.at)} recorded"
                )
        reported = {*self.problems, *([max(self.contents)] if self.contents else [])}
        return ManifestChain([self._row(revision, digests.get(revision)) for revision in sorted(reported)], self.files)

    def _add_missing(self, first: int, last: int) -> None:
        which = f"{first:04d} is" if first == last else f"{first:04d} to {last:04d} are"
        recorded = [self.prior[revision].at for revision in self.prior if first <= revision <= last]
        when = (
            f"; the audit of {utc_text(max(recorded))} recorded {'it' if first == last else 'them'}" if recorded else ""
        )
        self.problems[first].append(f"{which} missing{when}")

    def _read(self, revision: int) -> Manifest | None:
        try:
            manifest = read_manifest(self.contents[revision], self._key(revision))
        except (FixityError, RecursionError):
            self.problems[revision].append("it cannot be read")
            return None
        name = ManifestName(manifest.project, manifest.day, clean_name(manifest.conf_num), manifest.revision)
        if revision < 1 or name != (self.project, self.day, self.conf_num, revision):
            self.problems[revision].append(
                f"its content is manifest {name.revision:04d} of session {name.conf_num}"
                f" of {name.project} on {name.day}"
            )
            return None
        return manifest

    def _compare_with_previous(self, manifest: Manifest, previous_sha256: str | None) -> None:
        revision = manifest.revision
        if revision == 1:
            if manifest.previous_sha256 is not None:
                self.problems[revision].append("it is the first, but refers to a previous manifest")
        elif previous_sha256 is not None and manifest.previous_sha256 != previous_sha256:
            self.problems[revision - 1].append(
                f"it is not the previous manifest of {revision:04d}: one of the two was altered"
            )

    def _add_files(self, manifest: Manifest) -> None:
        problems = []
        for version in (version for entry in manifest.files for version in entry.versions):
            key = version.key or ""
            parts = parse_media_key(key)
            if parts is None or (parts.project, parts.day, parts.conf_num) != (self.project, self.day, self.conf_num):
                problems.append(f"it names {key!r}, which is not a key of this session")
                continue
            if version.size_bytes is None or version.sha256 is None:
                problems.append(f"it names {key} without size or SHA-256")
            previous = self.files.get(key)
            if previous and (previous.entry.size_bytes, previous.entry.sha256) != (version.size_bytes, version.sha256):
                problems.append(f"it has another size or SHA-256 for {key} than {previous.revision:04d}")
            self.files[key] = ManifestedFile(version, manifest.conf_num, manifest.revision)
        if problems:
            self.problems[manifest.revision] += problems

    def _key(self, revision: int) -> str:
        return manifest_key(self.project, self.day, self.conf_num, revision)

    def _row(self, revision: int, sha256: str | None) -> Row:
        problems = self.problems.get(revision)
        earlier = self.prior.get(revision)
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
    """Ranges of the numbers from 1 to `last` that are missing, as (first, last)."""
    following = 1
    for number in [*sorted(present), last + 1]:
        if number > following:
            yield following, number - 1
        following = number + 1


def file_row(key: str, day: date, file: ManifestedFile, attributes: Attributes | None) -> Row:
    """Check the object attributes of a file against its manifest: existence, size, and the best common checksum."""
    entry = file.entry
    compared_by, actual, expected = _checksums(entry, attributes)
    if attributes is None:
        verdict, detail = "missing", f"{file} names it ({entry.kind} {entry.name})"
    elif entry.size_bytes not in {None, attributes.size_bytes}:
        verdict, detail = (
            "size_differs",
            f"it has {attributes.size_bytes:,} bytes, {file} states {entry.size_bytes:,}",
        )
    elif actual != expected:
        verdict, detail = "checksum_differs", f"the store states {compared_by} {actual}, {file} states {expected}"
    else:
        verdict, detail = "ok", None
    return _row(
        key,
        day,
        verdict,
        conf_num=file.conf_num,
        kind=entry.kind,
        name=entry.name,
        compared_by=compared_by,
        size_bytes=attributes.size_bytes if attributes else None,
        expected_size_bytes=entry.size_bytes,
        expected_sha256=entry.sha256,
        detail=detail,
    )


def _checksums(entry: Entry, attributes: Attributes | None) -> tuple[str | None, str | None, str | None]:
    """The checksum that can be compared without reading: its name, the store's value and the manifest's value."""
    if attributes is None:
        return None, None, None
    if attributes.crc64nvme and entry.crc64nvme:
        return "crc64nvme", attributes.crc64nvme, entry.crc64nvme
    if attributes.etag and entry.store_etag:
        return "etag", attributes.etag, entry.store_etag
    return "size", None, None


def reread_row(row: Row, size_bytes: int, sha256: str) -> Row:
    """The row of a file after it was read completely: its SHA-256 decides."""
    session = f"the manifest of session {row['conf_num']} states"
    if size_bytes != row["expected_size_bytes"]:
        verdict, detail = (
            "size_differs",
            f"{size_bytes:,} bytes were read, {session} {row['expected_size_bytes']:,}",
        )
    elif sha256 != row["expected_sha256"]:
        verdict, detail = "digest_differs", f"its SHA-256 is {sha256}, {session} {row['expected_sha256']}"
    elif row["verdict"] == "ok":
        verdict, detail = "ok", None
    else:
        verdict, detail = "ok", f"the store's {row['compared_by']} differs, but the bytes are the same"
    return row | {
        "verdict": verdict,
        "detail": detail,
        "is_content_verified": True,
        "size_bytes": size_bytes,
        "sha256": sha256,
    }


def unreadable_row(row: Row, reason: str) -> Row:
    """The row of a file that could not be read completely."""
    detail = f"reading {row['kind']} {row['name']} of session {row['conf_num']} failed ({reason})"
    return row | {"verdict": "unreadable", "detail": detail, "is_content_verified": True}


def vanished_row(row: Row) -> Row:
    """The row of a file that was deleted before it could be read."""
    detail = f"the manifest of session {row['conf_num']} names it ({row['kind']} {row['name']})"
    return row | {"verdict": "missing", "detail": detail, "size_bytes": None}


def orphan_row(key: str, day: date, size_bytes: int, detail: str) -> Row:
    """The row of an object that no manifest names, or of one among the manifests that is not a manifest."""
    parts = parse_media_key(key)
    return _row(
        key,
        day,
        "orphan",
        conf_num=parts.conf_num if parts else None,
        kind=parts.kind if parts else None,
        name=parts.name if parts else key.rpartition("/")[2],
        size_bytes=size_bytes,
        detail=detail,
    )


def record_row(key: str, detail: str) -> Row:
    """The row of an audit record that was altered after it was written."""
    return _row(key, None, "digest_differs", kind="audit", name=key.rpartition("/")[2], detail=detail)


def _row(key: str, day: date | None, verdict: str, **values: object) -> Row:
    row: Row = dict.fromkeys(column.name for column in AUDITS.columns)
    return row | {"key": key, "media_day": day, "verdict": verdict, "is_content_verified": False} | values


def can_reread(row: Row) -> bool:
    """Whether a file can be checked further by reading: it has no problem so far, or only another ETag."""
    has_digest = row["expected_sha256"] is not None and row["expected_size_bytes"] is not None
    return row["kind"] != MANIFEST_KIND and has_digest and (row["verdict"] == "ok" or is_doubtful(row))


def is_doubtful(row: Row) -> bool:
    """Whether only the ETag differs. It depends on the size of the upload's parts, so the bytes must be read."""
    return bool(row["verdict"] == "checksum_differs" and row["compared_by"] == "etag")


def choose_sample(
    keys: Collection[str], doubtful: Iterable[str], last_read: Mapping[str, datetime], percent: float
) -> list[str]:
    """Select the files to read: `percent` of `keys`, rounded up; first the never read ones, then the least recent.

    With the same percentage each time, every file is read within 100/percent audits (rounded up). `doubtful` files (a
    subset of `keys`) are added, unless `percent` is 0.
    """
    if percent == 0:
        return []
    count = math.ceil(Fraction(str(percent)) * len(keys) / 100)
    chosen = heapq.nsmallest(count, keys, key=lambda key: (last_read.get(key, _NEVER), key))
    return [*chosen, *sorted(set(doubtful) - set(chosen))]


def problem_text(row: Row) -> str:
    """The problem of an object and the next step, on one line."""
    return f"{row['verdict'].replace('_', ' ')}: {row['detail']}; {_NEXT_STEP[row['verdict']]}"
