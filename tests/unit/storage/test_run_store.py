"""The ledger: runs and tries, in a real SQLite file that other programs can read."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import ConfigError, Refused, StoreUnavailable
from pipeline.core.models import RunResult
from pipeline.storage.run_store import RunStore
from tests.support.records import listed_file

START = datetime(2026, 11, 23, 2, 15, tzinfo=UTC)


class Clock:
    """Moves a minute at every look."""

    def __init__(self) -> None:
        self._looks = 0

    def __call__(self) -> datetime:
        self._looks += 1
        return START + timedelta(minutes=self._looks - 1)


def outcome(
    command: str = "nightly", *, failed: tuple[str, ...] = (), did: int = 1, is_at_risk: bool = False
) -> RunResult:
    made = RunResult(command)
    if did:
        made.add_success(did, replies=did)
    for item in failed:
        made.add_failure(item, f"{item} broke")
    if is_at_risk:
        made.at_risk.append({"name": listed_file().name})
    return made


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "er" / "ledger.db"


@pytest.fixture
def run_store(path: Path) -> Iterator[RunStore]:
    run_store = RunStore(f"sqlite:///{path}")
    yield run_store
    run_store.close()


def rows(path: Path, query: str) -> list[tuple[Any, ...]]:
    """What another program reads in the file."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


def run(run_store: RunStore, made: RunResult, clock: Callable[[], datetime] | None = None) -> RunResult:
    return run_store.record_run(made.command, clock or Clock(), lambda: made)


def test_a_run_is_remembered_with_its_end(run_store: RunStore, path: Path) -> None:
    """Command, start, end, exit code and counts of a run stand in the file, and its outcome comes back unchanged."""
    made = outcome(failed=("acme/cdr 2026-11-22",), did=3)
    assert run(run_store, made) is made
    ((command, started_at, ended_at, exit_code, counts),) = rows(
        path, "SELECT command, started_at, ended_at, exit_code, counts FROM runs"
    )
    assert (command, started_at, exit_code) == ("nightly", "2026-11-23T02:15:00.000Z", 3)
    assert ended_at > started_at
    assert json.loads(counts) == {"replies": 3}


def test_a_run_that_broke_off_has_no_end(run_store: RunStore, path: Path) -> None:
    """A flow that raises, or is killed, leaves a run without an end; the error comes out as it was."""
    error = Refused("no")

    def flow() -> RunResult:
        assert rows(path, "SELECT ended_at FROM runs") == [(None,)]
        raise error

    with pytest.raises(Refused) as caught:
        run_store.record_run("collect", Clock(), flow)
    assert caught.value is error
    assert rows(path, "SELECT command, ended_at, exit_code FROM runs") == [("collect", None, None)]
    assert run_store.last_successes_by_command() == {}


def test_failures_are_counted_per_item(run_store: RunStore, path: Path) -> None:
    """Each failure of an item is one more try, with the newest reason and moment; others are not touched."""
    clock = Clock()
    run(run_store, outcome(failed=("a", "b")), clock)
    run(run_store, outcome(failed=("a",)), clock)
    assert run_store.attempts() == {"a": 2, "b": 1}
    found = dict(rows(path, "SELECT item, last_at FROM attempts"))
    assert found["a"] > found["b"]
    assert rows(path, "SELECT last_error FROM attempts WHERE item = 'a'") == [("a broke",)]


def test_what_worked_in_the_end_is_forgotten(run_store: RunStore) -> None:
    """Items that worked lose their tries, however many there are; unknown ones and none at all are no error."""
    items = tuple(f"item {number}" for number in range(1200))
    run(run_store, outcome(failed=items))
    run_store.forget_attempts([*items[1:], "never failed"])
    run_store.forget_attempts([])
    assert run_store.attempts() == {"item 0": 1}


def test_a_good_run_is_one_that_did_its_work(run_store: RunStore) -> None:
    """Exit codes 0 and 4 count, failures do not, and the newest end of each command is told."""
    clock = Clock()
    run(run_store, outcome("nightly"), clock)
    run(run_store, outcome("nightly", is_at_risk=True), clock)
    at_risk_ended = clock() - timedelta(minutes=1)
    run(run_store, outcome("nightly", failed=("a",)), clock)
    run(run_store, outcome("build", failed=("a",), did=0), clock)
    run(run_store, outcome("media copy"), clock)
    good = run_store.last_successes_by_command()
    assert list(good) == ["media copy", "nightly"]
    assert datetime.fromisoformat(good["nightly"]) == at_risk_ended


def test_memory_lasts(run_store: RunStore, path: Path) -> None:
    """The next process knows what this one recorded; opening again changes nothing."""
    run(run_store, outcome(failed=("a",)))
    again = RunStore(f"sqlite:///{path}")
    assert again.attempts() == {"a": 1}
    assert list(again.last_successes_by_command()) == []
    again.close()


def test_a_deleted_ledger_begins_again(run_store: RunStore, path: Path) -> None:
    """Without its file the ledger is empty, not broken: only memory of attempts is gone."""
    run(run_store, outcome(failed=("a",)))
    run_store.close()
    path.unlink()
    again = RunStore(f"sqlite:///{path}")
    assert again.attempts() == {}
    again.close()


def test_threads_share_a_ledger(run_store: RunStore) -> None:
    """Failures noted from several threads are all counted."""
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: run(run_store, outcome(failed=("a",))), range(12)))
    assert run_store.attempts() == {"a": 12}


@pytest.mark.parametrize("url", ["", "ledger.db", "nosuchdatabase://x/y", "postgresql+nosuchdriver://h/d"])
def test_a_url_that_is_no_database_is_a_setting(url: str) -> None:
    """A wrong run_store.url is a ConfigError that names the setting and a good example."""
    with pytest.raises(ConfigError, match=r"run_store\.url: .*; for example sqlite:///"):
        RunStore(url)


def test_a_place_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    """A folder that cannot be made, a folder in place of the file, and a file that is no database are told apart from a
    bug: the store is unavailable, and the message names the place."""
    blocker = tmp_path / "file"
    blocker.write_text("this is not a database, and it is long enough to be taken for one " * 20)
    for place in (blocker / "ledger.db", tmp_path, blocker):
        with pytest.raises(StoreUnavailable, match=r"run.store") as caught:
            RunStore(f"sqlite:///{place}").attempts()
        assert str(blocker) in str(caught.value) or str(tmp_path) in str(caught.value)


def test_what_failed_rests_longer_each_time(run_store: RunStore) -> None:
    """A quarter of an hour, half an hour, an hour, two hours at most; what was not tried does not rest."""
    waits = []
    for _ in range(6):
        made = outcome(failed=("a",))
        made.add_failure("b", "given up", attempted=False)
        run_store.record_run("media copy", lambda: START, lambda made=made: made)
        minutes = range(0, 300, 15)
        waits.append(next(wait for wait in minutes if not run_store.backing_off(START + timedelta(minutes=wait))))
    assert waits == [15, 30, 60, 120, 120, 120]
    assert set(run_store.attempts()) == {"a"}


def test_the_last_run_that_did_something_is_known(run_store: RunStore) -> None:
    """It began when it began; runs that broke off, and runs in which nothing worked, do not count."""
    assert run_store.last_done("nightly") is None
    clock = Clock()
    run(run_store, outcome(failed=("a",)), clock)
    run(run_store, outcome(did=0, failed=("a",)), clock)
    with pytest.raises(Refused):
        run_store.record_run("nightly", clock, lambda: (_ for _ in ()).throw(Refused("no")))
    assert run_store.last_done("nightly") == START


def test_a_database_that_refuses_is_one_line() -> None:
    """Where nobody listens the refusal is told in one line, with the place and without its password."""
    run_store = RunStore("postgresql+psycopg://post:hush@127.0.0.1:9/room")
    with pytest.raises(StoreUnavailable, match="refused") as told:
        run_store.attempts()
    run_store.close()
    assert str(told.value).startswith("run store postgresql+psycopg://post:***@127.0.0.1:9/room: ")
    assert "\n" not in str(told.value)
