"""The UTC dates of raw documents, determined while a response lands and recorded in its receipt."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import date

import msgspec

from pipeline.core.errors import RecordError
from pipeline.core.models import Source
from pipeline.enablex.lenient import UNREADABLE, repaired
from pipeline.tables.normalize import cdr
from pipeline.tables.normalize.cdr_batch import decoded
from pipeline.tables.normalize.values import timestamp


def document_days(source: Source, documents: Sequence[msgspec.Raw], asked: date) -> set[date]:
    """The UTC dates of the documents of one response. `asked` is the requested day."""
    dated, others = _dated(documents)
    days = _documented_days(dated.values())
    if days is None:
        days = set()
        for at, times in dated.items():
            of_document = _documented_days([times])
            days |= _document_days(source, documents[at], asked) if of_document is None else of_document
    return days.union(*(_document_days(source, documents[at], asked) for at in others))


class _Connected(msgspec.Struct):
    connect_dt: str | None = None


class _Dated(msgspec.Struct):
    trans_date: str | None = None
    room: _Connected | None = None
    sigserver: _Connected | None = None


_DATED = msgspec.json.Decoder(_Dated)
_DOCUMENTED_TIME = re.compile(r"^(\d{4}-\d\d-\d\d)T(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d\.\d{3}Z$", re.MULTILINE | re.ASCII)


def _dated(documents: Sequence[msgspec.Raw]) -> tuple[dict[int, _Dated], list[int]]:
    """The times of documents by place, and the places of documents that cannot be read this way."""
    try:
        return dict(enumerate(map(_DATED.decode, documents))), []
    except UNREADABLE:
        pass
    dated: dict[int, _Dated] = {}
    others = []
    for at, document in enumerate(documents):
        try:
            dated[at] = _DATED.decode(document)
        except UNREADABLE:
            others.append(at)
    return dated, others


def _documented_days(dated: Iterable[_Dated]) -> set[date] | None:
    """The dates of documents whose times all have the documented form; None if any has another form."""
    texts = [document.trans_date for document in dated]
    if not all(texts):
        return None
    texts += [
        side.connect_dt
        for document in dated
        for side in (document.room, document.sigserver)
        if side and side.connect_dt
    ]
    lines = "\n".join(map(str, texts))
    dates = _DOCUMENTED_TIME.findall(lines)
    if not len(dates) == len(texts) == lines.count("\n") + bool(texts):
        return None
    try:
        return {moment.date() for day in set(dates) if (moment := timestamp(day))}
    except ValueError:
        return None


def _document_days(source: Source, document: msgspec.Raw, asked: date) -> set[date]:
    """The day of a document and, for a connection, the day it started; empty for a document that becomes a reject."""
    try:
        dated = _repaired_times(document)
        written_at = timestamp(dated.trans_date)
        started = {day for side in (dated.room, dated.sigserver) if side and (day := _day(side.connect_dt))}
    except (ValueError, RecursionError):
        return _irregular_document_days(source, document, asked)
    return _irregular_document_days(source, document, asked) if written_at is None else {written_at.date(), *started}


def _repaired_times(document: msgspec.Raw) -> _Dated:
    try:
        return _DATED.decode(document)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _DATED.decode(repaired(bytes(document)) or b"")


def _irregular_document_days(source: Source, document: msgspec.Raw, asked: date) -> set[date]:
    """The same for a document without `trans_date` or with an undocumented form: the day of its row."""
    content = document if _is_json(document) else repaired(bytes(document))
    if content is None:
        return set()
    try:
        row = cdr.cdr_row(decoded(content)) if source == "cdr" else {}
    except (RecordError, RecursionError):
        return set()
    started = {row[name].date() for name in ("room_connected_at", "signal_connected_at") if row.get(name)}
    return {cdr.row_day(row), *started} if row else {asked}


def _is_json(document: msgspec.Raw) -> bool:
    try:
        msgspec.json.decode(document)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    except RecursionError:
        pass
    return True


def _day(text: str | None) -> date | None:
    try:
        moment = timestamp(text)
    except ValueError:
        return None
    return moment.date() if moment else None
