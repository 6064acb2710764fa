"""The oracle of tests: it stands alone, and has the right values for the smallest input of each known fault."""

from __future__ import annotations

import ast
import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from tests.support.cdrs import DROP, NEW, changed
from tests.support.oracle import Decision, Reply, Rules, Tables, document, recompute
from tests.support.paths import ROOT
from tests.support.table_differences import compare

DAY = date(2026, 11, 20)
NIGHT = datetime(2026, 11, 21, 2, tzinfo=UTC)
HUSH = {"room__duration": None, "sigserver__duration": None, "usage": None}
"""No durations of EnableX."""


def call(key: Any = "a1", begin: str = "10:00", end: str = "10:30", *, day: date = DAY, **changes: Any) -> Any:
    """A connection of a day with equal times of room and signalling."""
    times = {
        f"{side}__{name}": f"{day}T{clock}:00.000Z"
        for side in ("room", "sigserver")
        for name, clock in (("connect_dt", begin), ("disconnect_dt", end))
    }
    return changed(NEW, **{"cdr_id": key, "trans_date": f"{day}T{end}:00.000Z", **HUSH, **times, **changes})


def nights(*replies: list[Any], day: date = DAY, rules: Rules | None = None) -> Tables:
    """What the tables contain after one reply a night to one request."""
    given = [
        Reply(day, NIGHT + timedelta(days=night), tuple(map(document, documents)))
        for night, documents in enumerate(replies)
    ]
    return recompute(given, rules or Rules())


def billed(tables: Tables) -> Decimal:
    return sum((line["participant_min"] for line in tables.rows["lines"]), Decimal(0))


def test_the_oracle_imports_nothing_of_the_product() -> None:
    """The oracle and the worlds import neither product code nor the libraries that the product computes with."""
    forbidden = {"pipeline", "jobs", "pyarrow", "numpy", "pandas", "msgspec", "duckdb"}
    files = [*(ROOT / "tests/support/oracle").glob("*.py"), *(ROOT / "tests/support").glob("world*.py")]
    assert len(files) > 5
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & forbidden, path
            ours = [name for name in names if name.startswith("tests.")]
            assert all(name.startswith(("tests.support.oracle", "tests.support.world")) for name in ours), path


def test_an_absurd_time_bills_nothing_and_is_in_suspense() -> None:
    """A disconnection in 2062 is held: a connection with 0 minutes, and 36 years at stake."""
    absurd = call("a2", sigserver__disconnect_dt="2062-11-20T10:30:00.000Z", room__disconnect_dt=None)
    tables = nights([call(), absurd])
    assert billed(tables) == 30
    (row,) = tables.rows["suspense"]
    assert (row["suspense_id"], row["reasons"], row["is_held"]) == ("a2", "stay_too_long", True)
    assert row["at_stake_min"] > 18_000_000


def test_two_people_without_ids_are_two_connections() -> None:
    """Two documents of the smallest shape with other names, or with other ends only, are both billed."""
    less: dict[str, Any] = {"cdr_id": DROP, "call_num": DROP, "call_log_id": DROP, "sigserver": None}
    other_name = nights([call(**less, user__name="Ann"), call(end="10:50", **less, user__name="Bob")])
    other_end = nights([call(**less), call(end="10:50", **less)])
    assert billed(other_name) == billed(other_end) == 80
    assert other_name.rows["suspense"] == other_end.rows["suspense"] == []


def test_an_id_that_comes_later_is_no_second_connection() -> None:
    """The same document, first without `cdr_id`, is one row with that id in one version."""
    tables = nights([call(DROP)], [call()])
    assert [(row["cdr_id"], row["revision"]) for row in tables.rows["cdr"]] == [("a1", 1)]
    assert billed(tables) == 30


def test_one_id_twice_in_a_reply() -> None:
    """In one session the earlier document is held; in two sessions both are billed, and the second one is listed."""
    one_session = nights([call(), call(end="10:09")])
    assert [(row["cdr_id"], row["participant_min"]) for row in one_session.rows["cdr"]] == [("a1", 30), ("a1#2", None)]
    two_sessions = nights([call(conf_num="c1"), call(conf_num="c2", end="10:50")])
    assert billed(two_sessions) == 80
    assert [(row["suspense_id"], row["is_held"]) for row in two_sessions.rows["suspense"]] == [("a1#2", False)]


def test_reversed_signalling_counts_by_the_room() -> None:
    """A connection whose signalling ends before it begins counts in the month in which it entered the room."""
    last, first = date(2026, 11, 30), date(2026, 12, 1)
    reversed_signal = call(
        room__connect_dt=f"{last}T23:50:00.000Z",
        room__disconnect_dt=f"{first}T00:00:05.000Z",
        sigserver__connect_dt=f"{first}T00:00:10.000Z",
        sigserver__disconnect_dt=f"{first}T00:00:05.000Z",
        trans_date=f"{first}T00:00:10.000Z",
    )
    tables = nights([reversed_signal], day=first)
    assert [(line["day"], line["participant_min"]) for line in tables.rows["lines"]] == [(last, 11)]


@pytest.mark.parametrize("minutes", [1800, -30])
def test_seconds_and_credit_are_no_billed_minutes(minutes: int) -> None:
    """Minutes of EnableX that are seconds, or negative, are replaced by our own, and listed."""
    usage = {"connect_minutes_cal": minutes}
    tables = nights([call(usage=usage, sigserver__duration=1800)], rules=Rules(rounding="vendor"))
    assert billed(tables) == 30
    assert [row["reasons"] for row in tables.rows["suspense"]] == ["vendor_minutes"]


def test_a_session_of_weeks_is_cut() -> None:
    """Connections of one `conf_num` ten days apart are two sessions; a recording belongs to the one before it."""
    far = DAY + timedelta(days=10)
    archive = {"conf_num": "c9", "trans_date": f"{far}T10:31:00.000Z", "recording": "https://p/a.mkv"}
    tables = recompute(
        [
            Reply(DAY, NIGHT, (document(call("b1", conf_num="c9")),)),
            Reply(far, NIGHT + timedelta(days=11), (document(call("b2", conf_num="c9", day=far)),)),
            Reply(far, NIGHT + timedelta(days=12), (document(archive),), "archive"),
        ],
        Rules(),
    )
    assert [(row["day"], row["connections"], row["recording_min"]) for row in tables.rows["sessions"]] == [
        (DAY, 1, 0),
        (far, 1, 30),
    ]


def test_nulls_and_rejects_are_in_suspense() -> None:
    """Null times are billed by EnableX's duration and listed; without one they are held; a reject is listed once."""
    ends: dict[str, Any] = {
        f"{side}__{name}": None for side in ("room", "sigserver") for name in ("connect_dt", "disconnect_dt")
    }
    timed, unknown = call(**ends, sigserver__duration=61), call("a2", **ends)
    tables = nights([timed, unknown, 7], [timed, unknown, 7, 7])
    assert billed(tables) == 2
    found = {row["suspense_id"]: row["reasons"] for row in tables.rows["suspense"]}
    assert (found["a1"], found["a2"], len(found)) == ("times_missing", "stay_unknown", 3)


def test_what_was_taken_back_is_listed() -> None:
    """A record that the newest reply lacks stays billed and is listed, or held by the setting."""
    replies = [[call(), call("a2")], [call()]]
    assert billed(nights(*replies)) == 60
    held = nights(*replies, rules=Rules(unlisted="hold"))
    assert billed(held) == 30
    assert [(row["suspense_id"], row["reasons"]) for row in held.rows["suspense"]] == [("a2", "not_listed")]


@pytest.mark.parametrize(("days", "is_row"), [(3, True), (4, True), (5, True), (6, False)])
def test_the_connect_time_reaches_further(days: int, *, is_row: bool) -> None:
    """A record written up to five days after the requested day is a row if it connected near that day."""
    written = f"{DAY + timedelta(days=days)}T09:00:00.000Z"
    assert bool(nights([call(trans_date=written)]).rows["cdr"]) is is_row


def test_decisions_hold_for_what_they_were_made_for() -> None:
    """A released record is billed, and not after its minutes changed."""
    long = call(sigserver__disconnect_dt="2026-11-22T10:30:00.000Z", room__disconnect_dt=None)
    stake = 48 * 60 + 30
    decided = [Decision("a1", "release", "stay_too_long", minutes, NIGHT) for minutes in (stake, stake + 1)]
    assert billed(nights([long], rules=Rules(decisions=(decided[0],)))) == stake
    assert billed(nights([long], rules=Rules(decisions=(decided[1],)))) == 0


def test_a_difference_names_its_cell() -> None:
    """A changed cell, a missing row and a second row are each found and named."""
    rows = nights([call(), call("a2")]).rows["cdr"]
    product = [row | {"extra": json.dumps(row["extra"])} for row in rows]
    wrong = [product[0] | {"participant_min": Decimal(31)}, *product[1:], product[1]]
    found = [str(one) for one in compare("cdr", wrong, rows)]
    assert found == [
        "cdr [a1] participant_min: product 31, oracle 30",
        "cdr [a2] row: product 2 rows, oracle 1 rows",
    ]
    assert len(compare("cdr", [], rows)) == 2
