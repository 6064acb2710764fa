"""What the vault says about one project and a stretch of days: landed pages and manifests, read and normalised.

A day's rows are looked for in every page that was asked for up to `REACH_DAYS` before or after it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

import msgspec

from pipeline import landing, layout
from pipeline.errors import RecordError
from pipeline.media.manifest import Entry, Manifest, read_manifest
from pipeline.model import ListedFile, Page, Period, Row, Source
from pipeline.normalise import archives, cdr
from pipeline.normalise.values import timestamp
from pipeline.store.base import ObjectStore, read_bytes

REACH_DAYS = 3
"""How far a document's day may lie from the day that was asked for: sessions over midnight, `to_date` inclusive or not,
a filter on either end of the connection, records written late. EnableX keeps files for three days and lookback is three
by default; a document farther away becomes a reject, so that it is seen."""

_SHOWN_CHARACTERS = 200


@dataclass(frozen=True)
class CdrReadings:
    """Newest versions of all connections seen, by key, and what could not become a row, by the day asked for."""

    rows: list[Row]
    rejects: dict[date, list[Row]]
    documents: int


@dataclass(frozen=True)
class ArchiveReadings:
    """All files listed, and what could not be read, by the day asked for."""

    files: list[ListedFile]
    rejects: dict[date, list[Row]]
    documents: int


def read_cdr(vault: ObjectStore, project: str, period: Period) -> CdrReadings:
    """Connections from the pages asked for in `period`; all of them in memory."""
    observations: list[cdr.Observation] = []
    rejects: dict[date, list[Row]] = {}
    documents = 0
    for page in _pages(vault, "cdr", project, period):
        for ordinal, document in enumerate(landing.read_documents(vault, page)):
            documents += 1
            try:
                row = cdr.cdr_row(_decoded(document))
                _require_reach(cdr.row_day(row), page)
            except RecordError as error:
                rejects.setdefault(page.day, []).append(_reject(page, ordinal, error))
            else:
                observations.append(cdr.Observation(page.asked_at, row))
    return CdrReadings(cdr.newest_versions(observations), rejects, documents)


def read_archives(vault: ObjectStore, project: str, period: Period) -> ArchiveReadings:
    """Listed files from the pages asked for in `period`."""
    records: list[tuple[Page, archives.ArchiveRecord]] = []
    rejects: dict[date, list[Row]] = {}
    documents = 0
    for page in _pages(vault, "archive", project, period):
        for ordinal, document in enumerate(landing.read_documents(vault, page)):
            documents += 1
            try:
                record = archives.archive_record(_decoded(document), page)
                _require_reach(record.ended_at.date(), page)
            except RecordError as error:
                rejects.setdefault(page.day, []).append(_reject(page, ordinal, error))
            else:
                records.append((page, record))
    return ArchiveReadings(archives.listed_files(records), rejects, documents)


def read_entries(vault: ObjectStore, project: str, period: Period) -> dict[tuple[str, str, str], Entry]:
    """What the current manifests of these days say, by (conf_num, kind, name)."""
    entries = {}
    for manifest in current_manifests(vault, project, period):
        for entry in manifest.files:
            entries[manifest.conf_num, entry.kind, entry.name] = entry
    return entries


def current_manifests(vault: ObjectStore, project: str, period: Period) -> Iterator[Manifest]:
    """The last manifest of every session of these days."""
    for day in period:
        current: dict[str, str] = {}
        for stored in vault.list(layout.manifest_prefix(project, day)):
            name = layout.parse_manifest_key(stored.key)
            if name is not None:
                current[name.conf_num] = stored.key
        for key in current.values():
            yield read_manifest(read_bytes(vault, key), key)


def manifest_names(vault: ObjectStore, project: str, day: date) -> list[str]:
    """Keys of all manifests of a day: the list changes whenever a manifest is added."""
    return [stored.key for stored in vault.list(layout.manifest_prefix(project, day))]


def document_days(source: Source, documents: list[msgspec.Raw], asked: date) -> set[date]:
    """The UTC dates that documents speak about; for the receipt of the page they came in."""
    days = set()
    for document in documents:
        day = _document_day(source, document, asked)
        if day is not None:
            days.add(day)
    return days


class _Dated(msgspec.Struct):
    trans_date: Any = None


def _document_day(source: Source, document: msgspec.Raw, asked: date) -> date | None:
    """Quick where `trans_date` is there; otherwise as the row would be filed. None for what becomes a reject."""
    try:
        moment: datetime | None = timestamp(msgspec.json.decode(document, type=_Dated).trans_date)
    except (ValueError, msgspec.DecodeError):
        moment = None
    if moment is not None:
        return moment.date()
    try:
        return cdr.row_day(cdr.cdr_row(_decoded(document))) if source == "cdr" else asked
    except RecordError:
        return None


def _pages(vault: ObjectStore, source: Source, project: str, period: Period) -> Iterator[Page]:
    for day, stems in landing.page_stems(vault, source, project, period).items():
        for stem in stems:
            yield landing.read_page(vault, source, project, day, stem)


def _decoded(document: msgspec.Raw) -> Any:
    try:
        return msgspec.json.decode(document)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RecordError(f"not JSON: {error}") from None


def _require_reach(day: date, page: Page) -> None:
    if abs(day - page.day) > timedelta(days=REACH_DAYS):
        raise RecordError(
            f"more than {REACH_DAYS} days from {page.day}, the day asked for",
            path="trans_date",
            value=str(day),
        )


def _reject(page: Page, ordinal: int, error: RecordError) -> Row:
    shown = None if error.value is None else msgspec.json.encode(error.value).decode()[:_SHOWN_CHARACTERS]
    return {
        "page": page.body_key,
        "ordinal": ordinal,
        "source": page.source,
        "reason": error.reason,
        "path": error.path or None,
        "value": shown,
    }
