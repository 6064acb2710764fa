"""The UTC dates of raw documents, determined while a response lands and recorded in its receipt."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date

import msgspec

from pipeline.core.errors import RecordError
from pipeline.core.models import Source
from pipeline.tables.normalize import cdr
from pipeline.tables.normalize.cdr_batch import decoded
from pipeline.tables.normalize.values import timestamp


def document_days(source: Source, documents: Sequence[msgspec.Raw], asked: date) -> set[date]:
    """The UTC dates of the documents of one response. `asked` is the requested day."""
    days = _documented_days(documents)
    if days is not None:
        return days
    return set().union(*(_document_days(source, document, asked) for document in documents))


class _Connected(msgspec.Struct):
    connect_dt: str | None = None


class _Dated(msgspec.Struct):
    trans_date: str | None = None
    room: _Connected | None = None
    sigserver: _Connected | None = None


_DATED = msgspec.json.Decoder(_Dated)
_DOCUMENTED_TIME = re.compile(r"^(\d{4}-\d\d-\d\d)T(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d\.\d{3}Z$", re.MULTILINE | re.ASCII)


def _documented_days(documents: Sequence[msgspec.Raw]) -> set[date] | None:
    """The dates of documents whose times all have the documented form; None if any has another form."""
    try:
        dated = list(map(_DATED.decode, documents))
    except (ValueError, RecursionError):
        return None
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
    if not len(dates) == len(texts) == lines.count("\n") + 1:
        return None
    try:
        return {moment.date() for day in set(dates) if (moment := timestamp(day))}
    except ValueError:
        return None


def _document_days(source: Source, document: msgspec.Raw, asked: date) -> set[date]:
    """The day of a document and, for a connection, the day it started; empty for a document that becomes a reject."""
    try:
        dated = _DATED.decode(document)
        written_at = timestamp(dated.trans_date)
        started = {day for side in (dated.room, dated.sigserver) if side and (day := _day(side.connect_dt))}
    except (ValueError, RecursionError):
        return _irregular_document_days(source, document, asked)
    return _irregular_document_days(source, document, asked) if written_at is None else {written_at.date(), *started}


def _irregular_document_days(source: Source, document: msgspec.Raw, asked: date) -> set[date]:
    """The same for a document without `trans_date` or with an undocumented form: the day of its row."""
    try:
        row = cdr.cdr_row(decoded(document)) if source == "cdr" else {}
    except (RecordError, RecursionError):
        return set()
    started = {row[name].date() for name in ("room_connected_at", "signal_connected_at") if row.get(name)}
    return {cdr.row_day(row), *started} if row else {asked}


def _day(text: str | None) -> date | None:
    try:
        moment = timestamp(text)
    except ValueError:
        return None
    return moment.date() if moment else None
