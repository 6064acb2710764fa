"""Table `suspense`: what is in doubt, with its source, its minutes at stake and its decision."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.tables.normalize import cdr
from pipeline.tables.normalize.ratings import Decision, RatingRules, rate
from pipeline.tables.schemas import SUSPENSE
from pipeline.tables.sources import RejectedDocument
from pipeline.tables.suspense import rejected_rows, suspended
from tests.support.api_calls import unrated
from tests.support.cdrs import DROP, NEW, changed, documents

AT = datetime(2026, 11, 25, tzinfo=UTC)
ABSURD = changed(NEW, cdr_id="odd", sigserver__disconnect_dt="2024-03-09T20:02:30.900Z")
KEYS = ["raw/first", "raw/second"]


def decided(suspense_id: str, reasons: str, minutes: Any, outcome: Any = "released") -> dict[str, Decision]:
    at_stake_min = None if minutes is None else Decimal(minutes)
    return {(suspense_id, reasons, at_stake_min): Decision(outcome, AT, "asked")}


def in_suspense(some: list[Any], decisions: dict[str, Decision] | None = None) -> list[dict[str, Any]]:
    rows = unrated([cdr.cdr_row(document) for document in some])
    numbers = pa.array([at % 2 for at in range(len(some))], pa.int32())
    rows = rows.append_column("response", numbers).append_column("ordinal", pa.array(range(len(some)), pa.int64()))
    found = suspended(rate(rows, RatingRules(), decisions or {}), KEYS, decisions or {})
    assert found.select(SUSPENSE.schema.names).schema.equals(SUSPENSE.schema)
    listed: list[dict[str, Any]] = found.to_pylist()
    return listed


def test_a_record_in_suspense_has_its_source_and_its_stake() -> None:
    """Only records in doubt are listed: who, why, how many minutes, from which document; open at first."""
    assert in_suspense([NEW, ABSURD]) == [
        {
            "suspense_id": "odd",
            "conf_num": NEW["conf_num"],
            "room_id": NEW["room"]["room_id"],
            "owner_ref": "tenant-42",
            "billing_code": "CC-7781",
            "reasons": "stay_contradicts",
            "detail": None,
            "is_held": True,
            "at_stake_min": 360,
            "began_at": datetime(2024, 3, 9, 14, 2, 30, 900_000, UTC),
            "source_key": "raw/second",
            "ordinal": 1,
            "decision": "open",
            "decided_at": None,
            "decided_because": None,
            "day": date(2024, 3, 9),
        }
    ]


def test_a_record_without_a_stay_has_an_unknown_stake() -> None:
    """Where no stay and no duration is known, the minutes at stake are null, not 0."""
    unknown = changed(NEW, sigserver=None, room=None, usage=None)
    (row,) = in_suspense([unknown])
    assert (row["reasons"], row["at_stake_min"], row["is_held"]) == ("stay_unknown", None, True)


@pytest.mark.parametrize("outcome", ["released", "excluded"])
def test_a_decision_is_shown_while_it_holds(outcome: Any) -> None:
    """A decided record stays listed, with time and reason; for other reasons or minutes it is open."""
    (row,) = in_suspense([ABSURD], decided("odd", "stay_contradicts", 360, outcome))
    assert (row["decision"], row["decided_at"], row["decided_because"]) == (outcome, AT, "asked")
    assert (row["is_held"], row["at_stake_min"]) == (True, 360)
    (row,) = in_suspense([ABSURD], decided("odd", "stay_contradicts", 361, outcome))
    assert (row["decision"], row["decided_at"], row["decided_because"]) == ("open", None, None)


def test_nothing_in_doubt_is_an_empty_table() -> None:
    """Without records in doubt, or without records, the table is empty and has its columns."""
    assert in_suspense([NEW]) == in_suspense([]) == []


# --- documents without a row ---


def rejected(document: Any, name: str = "reject-1") -> RejectedDocument:
    return RejectedDocument(name, "conf_num: missing or unreadable", "raw/first", 7, cdr.readable_values(document))


def test_a_rejected_document_has_what_can_be_read_of_it() -> None:
    """A document without a row is held, with its reason, its source and the minutes that its times show."""
    (row,) = rejected_rows([rejected(changed(NEW, conf_num=DROP))], date(2024, 3, 10), RatingRules(), {})
    assert row == {
        "suspense_id": "reject-1",
        "conf_num": None,
        "room_id": NEW["room"]["room_id"],
        "owner_ref": "tenant-42",
        "billing_code": "CC-7781",
        "reasons": "rejected",
        "detail": "conf_num: missing or unreadable",
        "is_held": True,
        "at_stake_min": 31,
        "began_at": None,
        "source_key": "raw/first",
        "ordinal": 7,
        "decision": "open",
        "decided_at": None,
        "decided_because": None,
    }


@pytest.mark.parametrize("document", [None, "text", [], {}, {"room": "gone"}])
def test_a_document_that_cannot_be_read_at_all(document: Any) -> None:
    """What is no object, or has no times, has an unknown stake."""
    (row,) = rejected_rows([rejected(document)], date(2024, 3, 10), RatingRules(), {})
    assert (row["at_stake_min"], row["conf_num"], row["reasons"]) == (None, None, "rejected")


def test_a_rejected_document_can_be_excluded() -> None:
    """A decision on a reject holds for its minutes at stake."""
    document = changed(NEW, conf_num=DROP)
    for minutes, decision in ((31, "excluded"), (30, "open"), (None, "open")):
        decisions = decided("reject-1", "rejected", minutes, "excluded")
        (row,) = rejected_rows([rejected(document)], date(2024, 3, 10), RatingRules(), decisions)
        assert row["decision"] == decision
        assert (row["decided_because"] == "asked") == (decision != "open")


@given(st.lists(documents(), max_size=5))
def test_each_rejected_document_is_one_row(some: list[Any]) -> None:
    """Any documents give one row each, same order, that the table can hold."""
    rows = rejected_rows(
        [rejected(document, f"reject-{at}") for at, document in enumerate(some)], date(2024, 3, 10), RatingRules(), {}
    )
    assert [row["suspense_id"] for row in rows] == [f"reject-{at}" for at in range(len(some))]
    assert pa.Table.from_pylist(rows, schema=SUSPENSE.schema).num_rows == len(some)
