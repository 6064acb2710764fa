"""What both databases keep: leases among real processes, steps forward from every released schema."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from pipeline.core.errors import LeaseLost, StoreUnavailable
from pipeline.core.models import Outcome
from pipeline.storage.run_store import Lease, Ledger

NOW = datetime(2026, 11, 23, 2, 15, tzinfo=UTC)
RELEASED = sorted(Path(__file__).with_name("released").glob("version-*.sql"))
PROCESSES = 8


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.db'}"
    made: str = request.getfixturevalue("postgres").new_database()
    return made


@pytest.fixture
def ledger(url: str) -> Iterator[Ledger]:
    ledger = Ledger(url)
    yield ledger
    ledger.close()


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.contract.lease_holder", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def taken(ledger: Ledger, lasts_s: float = 30, name: str = "copy-media") -> Lease:
    lease = ledger.take_lease(name, lasts_s)
    assert lease
    return lease


def execute(url: str, *statements: str) -> None:
    """Do something to the database behind the ledger's back."""
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    engine.dispose()


def test_eight_processes_never_hold_a_lease_at_once(url: str, tmp_path: Path) -> None:
    """Eight processes that begin with an empty database and want one lease: one at a time has it, and every fencing
    number is given once, in order."""
    turns = 6
    process = start(url, "turns", str(turns), str(tmp_path / "held"), str(PROCESSES))
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    fences = [json.loads(line) for line in output.splitlines()]
    assert sorted(fence for own in fences for fence in own) == list(range(1, PROCESSES * turns + 1))
    assert all(own == sorted(own) for own in fences)


def test_a_killed_holder_is_replaced_and_its_late_write_refused(url: str, ledger: Ledger) -> None:
    """A holder that is killed with -9 is replaced when its lease has expired, not before; what would still be noted
    under its number is refused."""
    lasts_s = 1.0
    process = start(url, "hold", str(lasts_s))
    assert process.stdout
    dead = Lease(**json.loads(process.stdout.readline()))
    began = time.monotonic()
    process.kill()
    process.communicate()
    assert ledger.take_lease("copy-media", 30) is None
    while (successor := ledger.take_lease("copy-media", 30)) is None:
        assert time.monotonic() - began < lasts_s + 2
        time.sleep(0.01)
    assert time.monotonic() - began > lasts_s / 2
    assert successor.fence == dead.fence + 1
    late = Outcome("copy-media")
    late.fail("a.mkv", "broke")
    with pytest.raises(LeaseLost, match="number 1 was taken over"):
        ledger.record_run("copy-media", lambda: NOW, lambda: late, dead)
    assert ledger.tries() == {}
    assert ledger.last_done("copy-media") is None
    for change in (ledger.renew, ledger.release):
        with pytest.raises(LeaseLost):
            change(dead)
    ledger.renew(successor)


def test_a_lease_ends_when_it_is_released_or_expires(ledger: Ledger) -> None:
    """While it lasts nobody else has it; renewed it lasts longer; released it is free at once; others stay."""
    first = taken(ledger)
    taken(ledger, name="nightly")
    assert ledger.take_lease("copy-media", 30) is None
    ledger.renew(first)
    ledger.release(first)
    second = taken(ledger, lasts_s=0)
    assert taken(ledger).fence == second.fence + 1 == first.fence + 2


def test_a_lease_outlives_no_ledger(url: str, ledger: Ledger) -> None:
    """When its ledger was deleted a holder's number means nothing, even where the new one counts up to it."""
    old = taken(ledger)
    execute(url, "DELETE FROM leases")
    new = taken(ledger)
    assert new.fence == old.fence
    with pytest.raises(LeaseLost):
        ledger.renew(old)


def test_failures_at_once_are_all_counted(url: str, ledger: Ledger) -> None:
    """Several hosts that note the same new item's failure at the same moment lose no try and do not break."""

    def fail(_: int) -> None:
        made = Outcome("nightly")
        made.fail("a", "broke")
        ledger.record_run("nightly", lambda: NOW, lambda: made)

    with ThreadPoolExecutor(PROCESSES) as threads:
        list(threads.map(fail, range(PROCESSES)))
    assert ledger.tries() == {"a": PROCESSES}
    assert ledger.resting(NOW + timedelta(hours=1, minutes=59)) == {"a"}


def test_good_runs_are_of_a_project(ledger: Ledger) -> None:
    """Of each project the newest run that did its work is known: failures of others do not count, its own do."""
    made = Outcome("nightly")
    made.succeeded()
    for number, failed in enumerate(((), ("acme",), ("acme", "umbrella"))):
        for project in failed:
            made.fail(f"{project}/cdr", "broke", project=project)
        at = NOW + timedelta(days=number)
        ledger.record_run("nightly", lambda at=at: at, lambda: made, projects=("acme", "umbrella"))
    assert ledger.good_runs("acme") == {"nightly": "2026-11-23T02:15:00.000Z"}
    assert ledger.good_runs("umbrella") == {"nightly": "2026-11-24T02:15:00.000Z"}
    assert ledger.good_runs("nobody") == {}


@pytest.mark.parametrize("released", RELEASED, ids=lambda path: path.stem)
def test_every_released_schema_comes_forward(url: str, released: Path) -> None:
    """A ledger of each release is brought forward by its first use, by many at once; what it knew it still knows."""
    lines = [line for line in released.read_text().splitlines() if not line.startswith("--")]
    execute(url, *lines)
    ledgers = [Ledger(url) for _ in range(4)]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(Ledger.tries, ledgers)) == [{"acme/a1.mkv": 3}] * 4
    ledger = ledgers[0]
    assert dict(ledger.last_good_runs()) == {"nightly": "2026-11-22T02:16:00.000Z"}
    assert ledger.resting(NOW) == set()
    assert taken(ledger).fence == 1
    for each in ledgers:
        each.close()


def test_a_newer_ledger_is_left_alone(url: str, ledger: Ledger) -> None:
    """An older release does not touch the ledger of a newer one, and says what to do."""
    ledger.tries()
    execute(url, "UPDATE schema_version SET version = 99")
    older = Ledger(url)
    with pytest.raises(StoreUnavailable, match=r"version 99.*newer release"):
        older.tries()
    older.close()
