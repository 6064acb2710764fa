"""The UTC dates that raw documents bear on, found while a response lands; they stand in its receipt."""

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
    """The UTC dates that documents speak about; for the receipt of the page they came in."""
    days = _usual_days(documents)
    return set().union(*(_document_days(source, one, asked) for one in documents)) if days is None else days


class _Connected(msgspec.Struct):
    connect_dt: str | None = None


class _Dated(msgspec.Struct):
    trans_date: str | None = None
    room: _Connected | None = None
    sigserver: _Connected | None = None


_DATED = msgspec.json.Decoder(_Dated)
_DOCUMENTED_TIME = re.compile(r"^(\d{4}-\d\d-\d\d)T(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d\.\d{3}Z$", re.MULTILINE | re.ASCII)


def _usual_days(documents: Sequence[msgspec.Raw]) -> set[date] | None:
    """The same for many documents together, as long as all their times are as documented."""
    try:
        dated = list(map(_DATED.decode, documents))
    except (ValueError, RecursionError):
        return None
    texts = [one.trans_date for one in dated]
    if not all(texts):
        return None
    texts += [side.connect_dt for one in dated for side in (one.room, one.sigserver) if side and side.connect_dt]
    lines = "\n".join(map(str, texts))
    found = _DOCUMENTED_TIME.findall(lines)
    if not len(found) == len(texts) == lines.count("\n") + 1:
        return None
    try:
        return {moment.date() for day in set(found) if (moment := timestamp(day))}
    except ValueError:
        return None


def _document_days(source: Source, document: msgspec.Raw, asked: date) -> set[date]:
    """The day a document is filed under and, of a connection, the day it began; none for what becomes a reject."""
    try:
        dated = _DATED.decode(document)
        written_at = timestamp(dated.trans_date)
        began = {day for side in (dated.room, dated.sigserver) if side and (day := _day(side.connect_dt))}
    except (ValueError, RecursionError):
        return _odd_document_days(source, document, asked)
    return _odd_document_days(source, document, asked) if written_at is None else {written_at.date(), *began}


def _odd_document_days(source: Source, document: msgspec.Raw, asked: date) -> set[date]:
    """The same where `trans_date` is missing or something is not as documented: as the row would be filed."""
    try:
        row = cdr.cdr_row(decoded(document)) if source == "cdr" else {}
    except (RecordError, RecursionError):
        return set()
    began = {row[name].date() for name in ("room_connected_at", "signal_connected_at") if row.get(name)}
    return {cdr.row_day(row), *began} if row else {asked}


def _day(text: str | None) -> date | None:
    try:
        moment = timestamp(text)
    except ValueError:
        return None
    return moment.date() if moment else None
