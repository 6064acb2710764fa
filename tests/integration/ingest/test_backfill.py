"""Backfill of a long period: planned, collected at the usual rate, resumed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date

from pipeline.core.models import Period
from pipeline.enablex.simulator.world import World
from pipeline.storage import LocalStore
from pipeline.tables import parquet
from tests.conftest import NOW, Site

FIRST, LAST = date(2026, 11, 4), date(2026, 11, 12)
"""9 days around the boundary between two portions."""
DAYS = 9
WORLD = World(projects=("acme",), sessions_per_day=1, begin=FIRST)
ARGUMENTS = ("backfill", "--from", str(FIRST), "--to", str(LAST))
BAD_DAY = date(2026, 11, 6)


def test_a_backfill_resumes_and_requests_nothing_twice(make_site: Callable[..., Site]) -> None:
    """The plan lists what is missing and sends no request; a day that fails is reported once and is the only request
    of the next run; then every CDR is stored once, and the plan is empty.
    """
    site = make_site(WORLD, faults=(f"error_on_200@/cdr/period/{BAD_DAY}",))
    plan = site.outcome(*ARGUMENTS, "--dry-run")
    assert (plan["requests"], plan["bytes"]) == (2 * DAYS, None)
    assert not site.simulator.requests

    first = site.outcome(*ARGUMENTS)
    assert [failure["item"] for failure in first["failed"]] == [f"acme/cdr/{BAD_DAY}"]
    plan = site.outcome(*ARGUMENTS, "--dry-run")
    (row,) = plan["missing"]
    assert (row["source"], row["first"], row["requests"]) == ("cdr", str(BAD_DAY), 1)
    assert row["bytes"] > 0

    site.simulator.faults.clear()
    sent = len(site.simulator.requests)
    assert site.run(*ARGUMENTS).returncode == 0
    assert len(site.simulator.requests) == sent + 1
    assert "nothing is missing" in site.run(*ARGUMENTS, "--dry-run").stdout
    rows = parquet.read_arrow("cdr", Period(FIRST, LAST), lake=LocalStore(site.folder / "lake"))
    truth = site.world.cdr_documents("acme", NOW, FIRST, LAST)
    assert sorted(rows["cdr_id"].to_pylist()) == sorted(document["cdr_id"] for document in truth)


def test_refused_credentials_stop_a_backfill(make_site: Callable[..., Site]) -> None:
    """Refused credentials are tried once, not once per portion; every day is reported as not collected."""
    site = make_site(WORLD, faults=("unauthorized_a",))
    outcome = site.outcome(*ARGUMENTS)
    assert len(outcome["failed"]) == 2 * DAYS
    assert len(site.simulator.requests) <= 2
