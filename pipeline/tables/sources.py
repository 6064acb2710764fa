"""Read and normalize raw responses, manifests, chat files and audit records of one project.

The rows of a day come from all raw responses requested for a day up to `LATE_ARRIVAL_DAYS` before or after it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.arrow_types import TIME
from pipeline.core.concurrency import map_concurrent
from pipeline.core.errors import ObjectMissing, RecordError
from pipeline.core.models import ListedFile, Period, RawResponse, Row
from pipeline.storage import raw
from pipeline.storage.audit_records import read_audit_record
from pipeline.storage.base import ObjectStore, read_bytes
from pipeline.storage.manifests import current_manifests
from pipeline.tables.normalize import archives, cdr, chat, rooms
from pipeline.tables.normalize.cdr_batch import (
    BATCH_DOCUMENTS,
    OBSERVATION,
    Batch,
    RoomDetailsCache,
    decoded,
    read_batch,
    split_documents,
)
from pipeline.tables.normalize.drift import Drift
from pipeline.tables.normalize.identity import with_derived_ids
from pipeline.tables.schemas import AUDITS

LATE_ARRIVAL_DAYS = 3
"""Greatest distance between the day of a document and the requested day. Reasons for a distance: sessions over
midnight, `to_date` inclusive or exclusive, a filter on either end of the connection, records written late. EnableX
keeps files for 3 days and the default lookback is 3 days. A document further away becomes a reject."""

LONG_CONNECTION_DAYS = 5
"""The same for a connection that began near the requested day: where EnableX filters by connect time, a long connection
is listed days before its record."""

_SHOWN_CHARACTERS = 200
_MAX_CHAT_BYTES = 64 * 2**20
"""A chat file is read into memory; 64 MiB is a week of messages at one per second."""


OBSERVED = pa.schema([*OBSERVATION, pa.field("response", pa.int32()), pa.field("seen_at", TIME)])
"""What one response reports of a connection, the number of the response, and the time of the request."""


@dataclass(frozen=True)
class CdrReadings:
    """Observations (schema `OBSERVED`), rejects, and undocumented fields.

    `rejected` are the documents of the rejects that belong to this day, for table `suspense`.
    """

    rows: pa.Table
    rejects: list[Row]
    rejected: list[RejectedDocument]
    drift: Drift


@dataclass(frozen=True)
class RejectedDocument:
    """A CDR without a row: its id in table `suspense`, why, and what can be read of it (by column of `cdr`)."""

    suspense_id: str
    detail: str
    source_key: str
    ordinal: int
    values: Row


@dataclass(frozen=True)
class ArchiveReadings:
    """All listed files, and rejects by requested day."""

    files: list[ListedFile]
    rejects: dict[date, list[Row]]
    documents: int


def read_cdr(
    vault: ObjectStore, response: RawResponse, room_cache: RoomDetailsCache, *, number: int = 0, key: bytes = b""
) -> Iterator[CdrReadings]:
    """Observations from one response, in batches of up to 8,000 documents; `room_cache` is shared between responses.

    `number` identifies the response in the rows; `key` is that of derived ids.
    """
    ordinal = 0
    for documents in raw.read_documents(vault, response, split_documents):
        for start in range(0, len(documents), BATCH_DOCUMENTS):
            piece = documents[start : start + BATCH_DOCUMENTS]
            batch = read_batch(piece, ordinal, room_cache)
            rows = with_derived_ids(_without_distant(batch, response), key)
            rows = rows.append_column("response", pa.repeat(pa.scalar(number, pa.int32()), rows.num_rows))
            rows = rows.append_column("seen_at", pa.repeat(pa.scalar(response.asked_at, TIME), rows.num_rows))
            rejects = sorted(batch.rejects.items())
            batch.drift.documents = len(piece)
            yield CdrReadings(
                rows,
                [_reject(response.body_key, response.source, at, error) for at, error in rejects],
                [_rejected(piece[at - ordinal], response, at, error) for at, error in rejects if not error.is_foreign],
                batch.drift,
            )
            ordinal += len(piece)


def _without_distant(batch: Batch, response: RawResponse) -> pa.Table:
    """The rows of a batch that can belong to the requested day; others become rejects."""
    rows = batch.rows
    distance = _days_from(rows["day"], response)
    began_near = np.zeros(rows.num_rows, bool)
    for name in ("signal_connected_at", "room_connected_at"):
        days = pc.cast(pc.fill_null(rows[name], pa.scalar(0, TIME)), pa.date32())
        began_near |= _days_from(days, response) <= LATE_ARRIVAL_DAYS
    is_near = (distance <= LATE_ARRIVAL_DAYS) | (began_near & (distance <= LONG_CONNECTION_DAYS))
    if is_near.all():
        return rows
    distant = rows.select(["ordinal", "day"]).filter(pa.array(~is_near)).to_pylist()
    for row, is_own in zip(distant, began_near[~is_near].tolist(), strict=True):
        batch.rejects[row["ordinal"]] = _too_far(row["day"], response, is_foreign=not is_own)
    return rows.filter(pa.array(is_near))


def _days_from(days: pa.ChunkedArray, response: RawResponse) -> np.ndarray:
    distance: np.ndarray = np.abs(days.to_numpy() - np.datetime64(response.day, "D")) // np.timedelta64(1, "D")
    return distance


def _rejected(document: msgspec.Raw, response: RawResponse, ordinal: int, error: RecordError) -> RejectedDocument:
    suspense_id = f"reject-{hashlib.sha256(document).hexdigest()[:24]}"
    detail = f"{error.path}: {error.reason}" if error.path else error.reason
    try:
        values = cdr.readable_values(decoded(document))
    except (RecordError, RecursionError):
        values = {}
    return RejectedDocument(suspense_id, detail, response.body_key, ordinal, values)


@dataclass(frozen=True)
class _ArchiveListing:
    response: RawResponse
    records: list[archives.ArchiveRecord]
    rejects: list[Row]
    documents: int


class ArchiveListingCache:
    """Parsed archive listings, for a process that reads them every 15 minutes: raw responses never change.

    Safe to share between threads. Cached bodies are not verified again, so use it for planning, not for building.
    """

    def __init__(self, max_records: int = 200_000) -> None:
        self._max_records, self._count = max_records, 0
        self._listings: dict[tuple[str, str, date, str], _ArchiveListing] = {}
        self._records: dict[archives.ArchiveRecord, archives.ArchiveRecord] = {}

    def read(self, vault: ObjectStore, project: str, day: date, response_id: str) -> _ArchiveListing:
        """One listing; equal records share one object. Above `max_records` the cache is cleared first."""
        key = (vault.url, project, day, response_id)
        if cached := self._listings.get(key):
            return cached
        listing = _read_archive_listing(vault, project, day, response_id)
        if self._count + len(listing.records) > self._max_records:
            self._listings, self._records, self._count = {}, {}, 0
        shared = [self._records.setdefault(record, record) for record in listing.records]
        self._listings[key] = replace(listing, records=shared)
        self._count += len(shared)
        return listing


def read_archives(
    vault: ObjectStore, project: str, period: Period, cache: ArchiveListingCache | None = None
) -> ArchiveReadings:
    """Listed files from the responses requested for days of `period`; those in `cache` are not read again."""
    readings: list[tuple[RawResponse, archives.ArchiveRecord]] = []
    rejects: dict[date, list[Row]] = {}
    documents = 0
    read = cache.read if cache else _read_archive_listing
    names = raw.iter_response_ids(vault, "archive", project, period)
    for listing in map_concurrent(lambda name: read(vault, project, *name), names, vault.max_concurrency):
        documents += listing.documents
        readings += [(listing.response, record) for record in listing.records]
        if listing.rejects:
            rejects.setdefault(listing.response.day, []).extend(listing.rejects)
    return ArchiveReadings(archives.listed_files(readings), rejects, documents)


def _read_archive_listing(vault: ObjectStore, project: str, day: date, response_id: str) -> _ArchiveListing:
    response = raw.read_receipt(vault, "archive", project, day, response_id)
    records, rejects, ordinal = [], [], -1
    for ordinal, document in enumerate(_documents(vault, response)):
        try:
            record = archives.archive_record(decoded(document), response)
            _require_near(record.ended_at.date(), response)
        except (RecordError, RecursionError) as error:
            rejects.append(_reject(response.body_key, response.source, ordinal, error))
        else:
            records.append(record)
    return _ArchiveListing(response, records, rejects, ordinal + 1)


def read_rooms(vault: ObjectStore, project: str, day: date) -> tuple[list[Row], list[Row]]:
    """Rows of `rooms` and rejects from the newest listing of a day."""
    rows: dict[str, Row] = {}
    rejects = []
    for response in list(raw.read_receipts(vault, "rooms", project, Period(day, day)))[-1:]:
        for ordinal, document in enumerate(_documents(vault, response)):
            try:
                row = rooms.room_row(decoded(document), response.asked_at)
            except (RecordError, RecursionError) as error:
                rejects.append(_reject(response.body_key, response.source, ordinal, error))
            else:
                rows[row["room_id"]] = row
    return list(rows.values()), rejects


def read_chat(vault: ObjectStore, project: str, day: date) -> tuple[list[Row], list[Row]]:
    """Rows of `chat` and rejects from the chat files in the manifests of a day."""
    rows: list[Row] = []
    rejects: list[Row] = []
    for manifest in current_manifests(vault, project, Period(day, day)):
        ordinal = 0
        for entry in manifest.files:
            if entry.kind == "chat" and entry.key is not None:
                for place, message in enumerate(_messages(vault, entry.key, rejects)):
                    try:
                        row = chat.chat_row(message)
                    except (RecordError, RecursionError) as error:
                        rejects.append(_reject(entry.key, "chat", place, error))
                        continue
                    rows.append({"conf_num": manifest.conf_num, "ordinal": ordinal, "name": entry.name, **row})
                    ordinal += 1
    return rows, rejects


def _chat_file(vault: ObjectStore, key: str) -> bytes:
    stored = vault.head(key)
    if stored and stored.size_bytes > _MAX_CHAT_BYTES:
        raise RecordError(f"larger than {_MAX_CHAT_BYTES:,} bytes, the limit for chat files; the file is in the vault")
    return read_bytes(vault, key)


def _messages(vault: ObjectStore, key: str, rejects: list[Row]) -> list[Any]:
    try:
        return chat.chat_messages(_chat_file(vault, key))
    except RecordError as error:
        rejects.append(_reject(key, "chat", 0, error))
    except ObjectMissing:
        rejects.append(_reject(key, "chat", 0, RecordError("the vault no longer has this file")))
    return []


def read_audit(vault: ObjectStore, key: str) -> Iterator[pa.Table]:
    """Rows of one audit record, sorted by key, one batch at a time; columns that its version did not have are null.

    Raises FixityError before the first row if the record was altered.
    """
    yield from map(_as_audits, read_audit_record(vault, key))


def _as_audits(rows: pa.Table) -> pa.Table:
    for column in AUDITS.schema:
        if column.name not in rows.schema.names:
            rows = rows.append_column(column, pa.nulls(rows.num_rows, column.type))
    return rows.select(AUDITS.schema.names).cast(AUDITS.schema)


def _documents(vault: ObjectStore, response: RawResponse) -> Iterator[msgspec.Raw]:
    for documents in raw.read_documents(vault, response):
        yield from documents


def _require_near(day: date, response: RawResponse) -> None:
    if abs(day - response.day) > timedelta(days=LATE_ARRIVAL_DAYS):
        raise _too_far(day, response)


def _too_far(day: date, response: RawResponse, *, is_foreign: bool = True) -> RecordError:
    reason = f"more than {LATE_ARRIVAL_DAYS} days from {response.day}, the day asked for"
    return RecordError(reason, path="trans_date", value=str(day), is_foreign=is_foreign)


def _reject(source_key: str, source: str, ordinal: int, error: RecordError | RecursionError) -> Row:
    if isinstance(error, RecursionError):
        error = RecordError("nested too deeply")
    return {
        "source_key": source_key,
        "ordinal": ordinal,
        "source": source,
        "reason": error.reason,
        "path": error.path or None,
        "value": None if source == "chat" else _shown(error.value),  # chat text stays in the vault
    }


def _shown(value: object) -> str | None:
    """A plain value as JSON; only the kind of objects and lists, because they may contain personal data."""
    if value is None:
        return None
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    return msgspec.json.encode(value).decode()[:_SHOWN_CHARACTERS]
