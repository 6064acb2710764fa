"""Tables that disagree are not written, and the error names the place."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import pyarrow as pa
import pytest

from pipeline.core.errors import PipelineError
from pipeline.tables.balance import Balance, require_whole_sessions

DAY = date(2026, 11, 20)


def minutes(*values: int | None) -> pa.Array:
    return pa.array([None if value is None else Decimal(value) for value in values], pa.decimal128(18, 3))


def usage(connections: int, total: int) -> pa.Table:
    return pa.table({"connections": [connections], "participant_min": minutes(total)})


def test_days_that_agree_pass() -> None:
    """Connections and minutes of a day are added over blocks; a held connection counts with 0 minutes."""
    balance = Balance()
    for block in (minutes(30, None), minutes(5)):
        balance.add("cdr", DAY, pa.table({"participant_min": block}))
    balance.add("usage_daily", DAY, usage(3, 35))
    balance.add("media", DAY, pa.table({"name": ["a"]}))
    balance.require("acme")


@pytest.mark.parametrize("other", [usage(2, 35), usage(3, 36)], ids=["connections", "minutes"])
def test_a_day_that_disagrees_is_named(other: pa.Table) -> None:
    """A connection or a minute too many or too few is an error with project, day and both sums."""
    balance = Balance()
    balance.add("cdr", DAY, pa.table({"participant_min": minutes(30, 5, 0)}))
    balance.add("usage_daily", DAY, other)
    with pytest.raises(PipelineError, match=r"2026-11-20: cdr has 3 connections and 35\.000 minutes, usage_daily"):
        balance.require("acme")


def test_a_session_that_lacks_a_connection_is_named() -> None:
    """Sessions with other connections or minutes than their `conf_num` has are an error that names it."""
    rows = pa.table({"conf_num": ["1", "1", "2"], "cdr_id": ["a", "b", "c"], "participant_min": minutes(1, None, 2)})
    whole = pa.table({"conf_num": ["1", "1", "2"], "connections": [1, 1, 1], "participant_min": minutes(1, 0, 2)})
    require_whole_sessions("acme", rows, whole)
    with pytest.raises(PipelineError, match="acme: sessions differ from cdr for conf_num 1;"):
        require_whole_sessions("acme", rows, whole.slice(1))
    with pytest.raises(PipelineError, match="conf_num 2;"):
        require_whole_sessions("acme", rows, whole.set_column(2, "participant_min", minutes(1, 0, 3)))
