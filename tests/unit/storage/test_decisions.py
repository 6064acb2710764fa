"""Decisions on records in suspense: facts that are kept as written, the newest one per record counts."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import FixityError
from pipeline.storage import LocalStore
from pipeline.storage.decisions import DecidedRecord, Decision, read_decisions, write_decision
from pipeline.storage.keys import decision_prefix

AT = datetime(2026, 11, 25, 9, 0, 0, 120_000, UTC)


def decision(*ids: str, hours: float = 0, outcome: Any = "released", because: str = "asked") -> Decision:
    records = tuple(DecidedRecord(name, date(2026, 11, 20), "stay_too_long", Decimal("1500")) for name in ids)
    return Decision(decided_at=AT + timedelta(hours=hours), outcome=outcome, because=because, records=records)


@pytest.fixture
def lake(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "lake")


def test_a_decision_is_read_as_written(lake: LocalStore) -> None:
    """Time, outcome, reason, records, their day, reasons and minutes at stake are kept; so is an unknown stake."""
    unknown = DecidedRecord("b", date(2026, 11, 21), "stay_unknown", None)
    written = Decision(decided_at=AT, outcome="excluded", because="Störung", records=(*decision("a").records, unknown))
    key = write_decision(lake, "acme", written)
    assert key.startswith(decision_prefix("acme"))
    assert read_decisions(lake, "acme") == [written]
    assert read_decisions(lake, "acm") == []


def test_decisions_are_oldest_first_and_none_is_replaced(lake: LocalStore) -> None:
    """Decisions are read in the order of their time; two of one moment are both kept; a repeated one is one."""
    later, first, twin = decision("a", hours=1), decision("a"), decision("a", because="another reason")
    for each in (later, first, twin, later):
        write_decision(lake, "acme", each)
    found = read_decisions(lake, "acme")
    assert [each.decided_at for each in found] == [AT, AT, AT + timedelta(hours=1)]
    assert {each.because for each in found[:2]} == {"asked", "another reason"}


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b'{"outcome":"forgotten"}'])
def test_an_object_that_is_no_decision_is_named(lake: LocalStore, tmp_path: Path, content: bytes) -> None:
    """A malformed decision raises FixityError with its key: a decision cannot be computed again."""
    key = write_decision(lake, "acme", decision("a"))
    (tmp_path / "lake" / key).write_bytes(content)
    with pytest.raises(FixityError) as broken:
        read_decisions(lake, "acme")
    assert broken.value.key == key
