"""The days of documents in a receipt."""

from __future__ import annotations

from datetime import date

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.core.errors import RecordError
from pipeline.tables.document_days import document_days
from pipeline.tables.normalize import cdr
from tests.support.cdrs import DROP, NEW, OLD, changed, documents, raw

_ASKED = date(2024, 3, 9)


def days_of_rows(raws: list[msgspec.Raw]) -> set[date]:
    found = set()
    for one in raws:
        try:
            row = cdr.cdr_row(msgspec.json.decode(one))
        except (RecordError, ValueError):
            continue
        found.add(cdr.row_day(row))
        found |= {row[name].date() for name in ("room_connected_at", "signal_connected_at") if row[name]}
    return found


@given(st.lists(documents(), max_size=6))
@example([NEW, OLD, changed(NEW, trans_date="2024-02-29T23:59:59.999Z")])
@example([NEW, changed(NEW, trans_date=DROP), changed(OLD, trans_date="1999-12-31T00:00:00.000Z")])
@example([NEW, changed(NEW, trans_date="2024-03-10 01:02:03"), changed(NEW, sigserver__connect_dt=7)])
def test_the_days_of_a_page_are_those_of_its_documents(page: list[object]) -> None:
    """Documents read together or one by one have the same days: at least those of their rows."""
    raws = [raw(document) for document in page]
    days = document_days("cdr", raws, _ASKED)
    assert days == set().union(*(document_days("cdr", [one], _ASKED) for one in raws))
    assert days >= days_of_rows(raws)
