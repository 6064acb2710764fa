"""The run store with SQLite and PostgreSQL: leases between processes, migrations from every released schema."""

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
from pipeline.core.models import RunResult
from pipeline.storage.run_store import Lease, RunStore

NOW = datetime(2026, 11, 23, 2, 15, tzinfo=UTC)
RELEASED = sorted(Path(__file__).with_name("released").glob("version-*.sql"))
PROCESSES = 8


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'run_store.db'}"
    made: str = request.getfixturevalue("postgres").new_database()
    return made


@pytest.fixture
def run_store(url: str) -> Iterator[RunStore]:
    run_store = RunStore(url)
    yield run_store
    run_store.close()


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.contract.lease_holder", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def taken(run_store: RunStore, lasts_s: float = 30, name: str = "media copy") -> Lease:
    lease = run_store.take_lease(name, lasts_s)
    assert lease
    return lease


def execute(url: str, *statements: str) -> None:
    """Execute a statement without the run store."""
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    engine.dispose()


def test_of_eight_processes_one_holds_a_lease(url: str, tmp_path: Path) -> None:
    """Eight processes start with an empty database and share one lease: one holds it at a time, and each fencing number
    is given once, in order."""
    turns = 6
    process = start(url, "turns", str(turns), str(tmp_path / "held"), str(PROCESSES))
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    fences = [json.loads(line) for line in output.splitlines()]
    assert sorted(fence for own in fences for fence in own) == list(range(1, PROCESSES * turns + 1))
    assert all(own == sorted(own) for own in fences)


def test_a_killed_holder_is_replaced_and_its_late_write_refused(url: str, run_store: RunStore) -> None:
    """After kill -9 of its holder a lease can be taken when it has expired, not before. Writes with the old fencing
    number are refused."""
    lasts_s = 1.0
    process = start(url, "hold", str(lasts_s))
    assert process.stdout
    dead = Lease(**json.loads(process.stdout.readline()))
    began = time.monotonic()
    process.kill()
    process.communicate()
    assert run_store.take_lease("media copy", 30) is None
    while (successor := run_store.take_lease("media copy", 30)) is None:
        assert time.monotonic() - began < lasts_s + 2
        time.sleep(0.01)
    assert time.monotonic() - began > lasts_s / 2
    assert successor.fence == dead.fence + 1
    late = RunResult("media copy")
    late.add_failure("a.mkv", "broke")
    with pytest.raises(LeaseLost, match="number 1 was taken over"):
        run_store.record_run("media copy", lambda: NOW, lambda: late, dead)
    assert run_store.attempts() == {}
    assert run_store.last_done("media copy") is None
    for change in (run_store.renew, run_store.release):
        with pytest.raises(LeaseLost):
            change(dead)
    run_store.renew(successor)


def test_a_lease_ends_when_it_is_released_or_expires(run_store: RunStore) -> None:
    """A lease has one holder until it expires; renewing extends it, releasing ends it, other leases do not change."""
    first = taken(run_store)
    taken(run_store, name="nightly")
    assert run_store.take_lease("media copy", 30) is None
    run_store.renew(first)
    run_store.release(first)
    second = taken(run_store, lasts_s=0)
    assert taken(run_store).fence == second.fence + 1 == first.fence + 2


def test_a_lease_of_a_deleted_run_store_is_invalid(url: str, run_store: RunStore) -> None:
    """After the run store was deleted, a lease is refused, even if the new one reaches its fencing number."""
    old = taken(run_store)
    execute(url, "DELETE FROM leases")
    new = taken(run_store)
    assert new.fence == old.fence
    with pytest.raises(LeaseLost):
        run_store.renew(old)


def test_concurrent_failures_are_all_counted(url: str, run_store: RunStore) -> None:
    """Hosts that concurrently record failures of the same new item raise no error and lose no attempt."""

    def fail(_: int) -> None:
        made = RunResult("nightly")
        made.add_failure("a", "broke")
        run_store.record_run("nightly", lambda: NOW, lambda: made)

    with ThreadPoolExecutor(PROCESSES) as threads:
        list(threads.map(fail, range(PROCESSES)))
    assert run_store.attempts() == {"a": PROCESSES}
    assert run_store.backing_off(NOW + timedelta(hours=1, minutes=59)) == {"a"}


def test_last_successes_are_per_project(run_store: RunStore) -> None:
    """The last success is recorded per project: failures of other projects do not count, its own do."""
    made = RunResult("nightly")
    made.add_success()
    for number, failed in enumerate(((), ("acme",), ("acme", "umbrella"))):
        for project in failed:
            made.add_failure(f"{project}/cdr", "broke", project=project)
        at = NOW + timedelta(days=number)
        run_store.record_run("nightly", lambda at=at: at, lambda: made, projects=("acme", "umbrella"))
    assert run_store.last_successes("acme") == {"nightly": "2026-11-23T02:15:00.000Z"}
    assert run_store.last_successes("umbrella") == {"nightly": "2026-11-24T02:15:00.000Z"}
    assert run_store.last_successes("nobody") == {}


@pytest.mark.parametrize("released", RELEASED, ids=lambda path: path.stem)
def test_every_released_schema_is_migrated(url: str, released: Path) -> None:
    """A database of each release is migrated at its first use, by concurrent processes, and keeps its data."""
    lines = [line for line in released.read_text().splitlines() if not line.startswith("--")]
    execute(url, *lines)
    ledgers = [RunStore(url) for _ in range(4)]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(RunStore.attempts, ledgers)) == [{"acme/a1.mkv": 3}] * 4
    run_store = ledgers[0]
    assert dict(run_store.last_successes_by_command()) == {"nightly": "2026-11-22T02:16:00.000Z"}
    assert run_store.backing_off(NOW) == set()
    assert taken(run_store).fence == 1
    for each in ledgers:
        each.close()


def test_a_newer_run_store_is_refused(url: str, run_store: RunStore) -> None:
    """An older release does not change the run store of a newer one, and prints the next step."""
    run_store.attempts()
    execute(url, "UPDATE schema_version SET version = 99")
    older = RunStore(url)
    with pytest.raises(StoreUnavailable, match=r"version 99.*newer release"):
        older.attempts()
    older.close()
