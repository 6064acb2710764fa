"""Raw responses and manifests of one project and some days, read and normalized.

A day's rows are looked for in every page that was asked for up to `REACH_DAYS` before or after it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from pipeline.core.arrow_types import TIME
from pipeline.core.concurrency import map_concurrent
from pipeline.core.errors import ObjectMissing, RecordError
from pipeline.core.models import ListedFile, Period, RawResponse, Row
from pipeline.storage import raw
from pipeline.storage.audit_records import read_audit_record
from pipeline.storage.base import ObjectStore, read_bytes
from pipeline.storage.manifests import current_manifests
from pipeline.storage.raw import _response_ids, read_receipts
from pipeline.tables.normalize import archives, chat, rooms
from pipeline.tables.normalize.cdr_batch import (
    BATCH_DOCUMENTS,
    OBSERVATION,
    Batch,
    RoomDetailsCache,
    cut_documents,
    decoded,
    read_batch,
)
from pipeline.tables.schemas import AUDITS

LATE_ARRIVAL_DAYS = 3
"""How far a document's day may lie from the day that was asked for: sessions over midnight, `to_date` inclusive or not,
a filter on either end of the connection, records written late. EnableX keeps files for three days and lookback is three
by default; a document farther away becomes a reject, so that it is seen."""

_SHOWN_CHARACTERS = 200
_MOST_CHAT_BYTES = 64 * 2**20
"""A chat file is read whole; at a message a second this is a week of talk."""


OBSERVED = pa.schema([*list(OBSERVATION)[:-1], pa.field("seen_at", TIME)])
"""A row of `cdr` from one response, and when that response was requested."""


@dataclass(frozen=True)
class CdrReadings:
    """Some observations (schema `OBSERVED`), what could not become one, and how often undocumented fields were seen."""

    rows: pa.Table
    rejects: list[Row]
    unknown: Counter[str]


@dataclass(frozen=True)
class ArchiveReadings:
    """All files listed, and what could not be read, by the day asked for."""

    files: list[ListedFile]
    rejects: dict[date, list[Row]]
    documents: int


def read_cdr(vault: ObjectStore, page: RawResponse, met: RoomDetailsCache) -> Iterator[CdrReadings]:
    """Connections of a response, in batches of a few thousand documents; `met` are the rooms of responses before it."""
    ordinal = 0
    for documents in raw.read_documents(vault, page, cut_documents):
        for start in range(0, len(documents), BATCH_DOCUMENTS):
            some = documents[start : start + BATCH_DOCUMENTS]
            batch = read_batch(some, ordinal, met)
            ordinal += len(some)
            yield _observed(batch, page)


def _observed(batch: Batch, page: RawResponse) -> CdrReadings:
    rows = batch.rows
    days = rows["day"].to_numpy()
    is_far = np.abs(days - np.datetime64(page.day, "D")) > np.timedelta64(LATE_ARRIVAL_DAYS, "D")
    if is_far.any():
        for far in rows.filter(pa.array(is_far)).select(["ordinal", "day"]).to_pylist():
            batch.rejects[far["ordinal"]] = _too_far(far["day"], page)
        rows = rows.filter(pa.array(~is_far))
    rows = rows.drop_columns(["ordinal"]).append_column("seen_at", _constant(page.asked_at, rows.num_rows))
    rejects = [_reject(page.body_key, page.source, at, error) for at, error in sorted(batch.rejects.items())]
    return CdrReadings(rows, rejects, batch.unknown)


def _constant(moment: datetime, count: int) -> pa.Array:
    return pa.repeat(pa.scalar(moment, TIME), count)


@dataclass(frozen=True)
class _ArchivePage:
    page: RawResponse
    records: list[archives.ArchiveRecord]
    rejects: list[Row]
    documents: int


class ArchiveListingCache:
    """Parsed archive listings, for a process that plans every 15 minutes: a raw response never changes.

    Threads may share it. Bodies that it remembers are not verified again: for planning, not for building.
    """

    def __init__(self, most_records: int = 200_000) -> None:
        self._most_records, self._count = most_records, 0
        self._pages: dict[tuple[str, str, date, str], _ArchivePage] = {}
        self._records: dict[archives.ArchiveRecord, archives.ArchiveRecord] = {}

    def read(self, vault: ObjectStore, project: str, day: date, response_id: str) -> _ArchivePage:
        """One page; equal records of all pages are one object. When it holds too many it starts again."""
        key = (vault.url, project, day, response_id)
        if known := self._pages.get(key):
            return known
        read = _read_archive_page(vault, project, day, response_id)
        if self._count + len(read.records) > self._most_records:
            self._pages, self._records, self._count = {}, {}, 0
        shared = [self._records.setdefault(record, record) for record in read.records]
        self._pages[key] = replace(read, records=shared)
        self._count += len(shared)
        return read


def read_archives(
    vault: ObjectStore, project: str, period: Period, memory: ArchiveListingCache | None = None
) -> ArchiveReadings:
    """Listed files from the pages asked for in `period`; those in `memory` are not read again."""
    readings: list[tuple[RawResponse, archives.ArchiveRecord]] = []
    rejects: dict[date, list[Row]] = {}
    documents = 0
    read = memory.read if memory else _read_archive_page
    names = _response_ids(vault, "archive", project, period)
    for one in map_concurrent(lambda name: read(vault, project, *name), names, vault.max_concurrency):
        documents += one.documents
        readings += [(one.page, record) for record in one.records]
        if one.rejects:
            rejects.setdefault(one.page.day, []).extend(one.rejects)
    return ArchiveReadings(archives.listed_files(readings), rejects, documents)


def _read_archive_page(vault: ObjectStore, project: str, day: date, response_id: str) -> _ArchivePage:
    page = raw.read_receipt(vault, "archive", project, day, response_id)
    records, rejects, ordinal = [], [], -1
    for ordinal, document in enumerate(_documents(vault, page)):
        try:
            record = archives.archive_record(decoded(document), page)
            _require_reach(record.ended_at.date(), page)
        except (RecordError, RecursionError) as error:
            rejects.append(_reject(page.body_key, page.source, ordinal, error))
        else:
            records.append(record)
    return _ArchivePage(page, records, rejects, ordinal + 1)


def read_rooms(vault: ObjectStore, project: str, day: date) -> tuple[list[Row], list[Row]]:
    """Rows of `rooms` and rejects from the newest listing of a day."""
    rows: dict[str, Row] = {}
    rejects = []
    for page in list(read_receipts(vault, "rooms", project, Period(day, day)))[-1:]:
        for ordinal, document in enumerate(_documents(vault, page)):
            try:
                row = rooms.room_row(decoded(document), page.asked_at)
            except (RecordError, RecursionError) as error:
                rejects.append(_reject(page.body_key, page.source, ordinal, error))
            else:
                rows[row["room_id"]] = row
    return list(rows.values()), rejects


def read_chat(vault: ObjectStore, project: str, day: date) -> tuple[list[Row], list[Row]]:
    """Rows of `chat` and rejects from the chat files that the manifests of a day name."""
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
    if stored and stored.size_bytes > _MOST_CHAT_BYTES:
        raise RecordError(f"larger than {_MOST_CHAT_BYTES:,} bytes: no chat is; the file is in the vault")
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
    """What one audit found, sorted by key, one batch at a time; columns that its version did not have are null.

    Raises FixityError, before the first row, when the record is not the one that was written.
    """
    yield from map(_as_audits, read_audit_record(vault, key))


def _as_audits(rows: pa.Table) -> pa.Table:
    for column in AUDITS.schema:
        if column.name not in rows.schema.names:
            rows = rows.append_column(column, pa.nulls(rows.num_rows, column.type))
    return rows.select(AUDITS.schema.names).cast(AUDITS.schema)


def _documents(vault: ObjectStore, page: RawResponse) -> Iterator[msgspec.Raw]:
    for documents in raw.read_documents(vault, page):
        yield from documents


def _require_reach(day: date, page: RawResponse) -> None:
    if abs(day - page.day) > timedelta(days=LATE_ARRIVAL_DAYS):
        raise _too_far(day, page)


def _too_far(day: date, page: RawResponse) -> RecordError:
    reason = f"more than {LATE_ARRIVAL_DAYS} days from {page.day}, the day asked for"
    return RecordError(reason, path="trans_date", value=str(day))


def _reject(page: str, source: str, ordinal: int, error: RecordError | RecursionError) -> Row:
    if isinstance(error, RecursionError):
        error = RecordError("nested too deeply")
    return {
        "source_key": page,
        "ordinal": ordinal,
        "source": source,
        "reason": error.reason,
        "path": error.path or None,
        "value": None if source == "chat" else _shown(error.value),  # what people wrote stays in the vault
    }


def _shown(value: object) -> str | None:
    """A plain value as it came; of objects and lists only that they are such: there is no telling what they hold."""
    if value is None:
        return None
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    return msgspec.json.encode(value).decode()[:_SHOWN_CHARACTERS]
