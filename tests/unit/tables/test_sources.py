"""The days of documents in a receipt, and the documents that belong to a requested day."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.core.errors import RecordError
from pipeline.core.models import Period
from pipeline.storage import raw as raw_responses
from pipeline.tables.document_days import document_days
from pipeline.tables.normalize import cdr
from pipeline.tables.normalize.cdr_batch import RoomDetailsCache
from pipeline.tables.sources import OBSERVED, read_cdr
from tests.support.cdrs import DROP, NEW, OLD, changed, documents, raw, utc
from tests.support.lakes import DAY, PROJECT, Lake

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


# --- which documents belong to a response ---


def reading(lake: Lake, *documents: Any) -> tuple[list[str], list[str], list[str]]:
    """Ids of rows, paths of rejects, and of the rejects that are at stake, of one response requested for `DAY`."""
    lake.land_documents(documents)
    (response,) = raw_responses.read_receipts(lake.vault, "cdr", PROJECT, Period(DAY, DAY))
    (found,) = read_cdr(lake.vault, response, RoomDetailsCache(), number=3)
    assert found.rows.schema.equals(OBSERVED)
    assert set(found.rows["response"].to_pylist()) <= {3}
    assert set(found.rows["seen_at"].to_pylist()) <= {response.asked_at}
    rejects = [str(row["path"]) for row in found.rejects]
    return found.rows["cdr_id"].to_pylist(), rejects, [document.detail for document in found.rejected]


def call(cdr_id: str, days: int, connected_days: float | None = None) -> Any:
    """A record of some days after `DAY`, connected on another one."""
    moment = datetime(DAY.year, DAY.month, DAY.day, 12, tzinfo=UTC)
    connected = None if connected_days is None else {"connect_dt": utc(moment + timedelta(days=connected_days))}
    return changed(NEW, cdr_id=cdr_id, trans_date=utc(moment + timedelta(days=days)), room=connected, sigserver=None)


@pytest.mark.parametrize(
    ("days", "connected", "is_row", "at_stake"),
    [
        (0, None, True, False),
        (3, None, True, False),
        (-3, None, True, False),
        (4, None, False, False),
        (-4, None, False, False),
        (4, 0, True, False),
        (5, 3, True, False),
        (-5, -3, True, False),
        (5, 4, False, False),
        (6, 0, False, True),
        (60, 2, False, True),
        (60, 60, False, False),
        (60, -7000, False, False),
    ],
)
def test_a_record_belongs_to_the_days_around_it(
    tmp_path: Path, days: int, connected: float | None, is_row: bool, at_stake: bool
) -> None:
    """A record is a row up to 3 days from the requested day, or up to 5 if it connected within 3. A distant record that
    connected near the requested day is at stake; another one is in the response of its own day.
    """
    rows, rejects, stakes = reading(Lake(tmp_path), call("a", days, connected), NEW)
    assert rows == ["a", NEW["cdr_id"]][not is_row :]
    assert len(rejects) == (not is_row)
    assert len(stakes) == at_stake


def test_either_connect_time_counts(tmp_path: Path) -> None:
    """The connect time of signalling or of the room can be the one near the requested day."""
    sides = [changed(call(side, 5), **{side: {"connect_dt": f"{DAY}T10:00:00.000Z"}}) for side in ("room", "sigserver")]
    assert reading(Lake(tmp_path), *sides) == (["room", "sigserver"], [], [])


def test_a_rejected_document_is_named_by_its_content(tmp_path: Path) -> None:
    """A document without a row has the same id wherever it occurs; what can be read of it is kept."""
    lake = Lake(tmp_path)
    broken = changed(NEW, conf_num=DROP)
    replies: list[list[Any]] = [[NEW, broken, "text"], [broken]]
    for hour, listed in enumerate(replies):
        lake.land_documents(listed, hour=hour)
    responses = raw_responses.read_receipts(lake.vault, "cdr", PROJECT, Period(DAY, DAY))
    first, second = (
        [document for found in read_cdr(lake.vault, response, RoomDetailsCache()) for document in found.rejected]
        for response in responses
    )
    assert [document.ordinal for document in (*first, *second)] == [1, 2, 0]
    assert first[0].suspense_id == second[0].suspense_id != first[1].suspense_id
    assert [document.detail for document in first] == ["conf_num: missing or unreadable", "not an object"]
    assert first[0].values["owner_ref"] == "tenant-42"
    assert first[1].values == {}
