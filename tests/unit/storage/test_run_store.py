"""The run store: runs and attempts in a real SQLite file that other programs can read."""

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
    """Advances 1 minute at every call."""

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
    return tmp_path / "deep" / "er" / "run_store.db"


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


def test_a_run_is_recorded_with_its_end(run_store: RunStore, path: Path) -> None:
    """Command, start, end, exit code and counts are recorded, and the result is returned unchanged."""
    made = outcome(failed=("acme/cdr 2026-11-22",), did=3)
    assert run(run_store, made) is made
    ((command, started_at, ended_at, exit_code, counts),) = rows(
        path, "SELECT command, started_at, ended_at, exit_code, counts FROM runs"
    )
    assert (command, started_at, exit_code) == ("nightly", "2026-11-23T02:15:00.000Z", 3)
    assert ended_at > started_at
    assert json.loads(counts) == {"replies": 3}


def test_an_interrupted_run_has_no_end(run_store: RunStore, path: Path) -> None:
    """A run that raises or is killed has no end; the error propagates unchanged."""
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
    """Each failure of an item adds an attempt with its reason and time; other items do not change."""
    clock = Clock()
    run(run_store, outcome(failed=("a", "b")), clock)
    run(run_store, outcome(failed=("a",)), clock)
    assert run_store.attempts() == {"a": 2, "b": 1}
    last_failures = dict(rows(path, "SELECT item, last_at FROM attempts"))
    assert last_failures["a"] > last_failures["b"]
    assert rows(path, "SELECT last_error FROM attempts WHERE item = 'a'") == [("a broke",)]


def test_attempts_of_succeeded_items_are_deleted(run_store: RunStore) -> None:
    """Attempts of any number of succeeded items are deleted; unknown items and an empty list are no error."""
    items = tuple(f"item {number}" for number in range(1200))
    run(run_store, outcome(failed=items))
    run_store.forget_attempts([*items[1:], "never failed"])
    run_store.forget_attempts([])
    assert run_store.attempts() == {"item 0": 1}


def test_exit_codes_of_successful_runs(run_store: RunStore) -> None:
    """Exit codes 0 and 4 are successes, others are not; the newest end per command is returned."""
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


def test_records_are_persistent(run_store: RunStore, path: Path) -> None:
    """The next process reads the recorded data; opening the file again changes nothing."""
    run(run_store, outcome(failed=("a",)))
    again = RunStore(f"sqlite:///{path}")
    assert again.attempts() == {"a": 1}
    assert list(again.last_successes_by_command()) == []
    again.close()


def test_a_deleted_run_store_is_created_again(run_store: RunStore, path: Path) -> None:
    """After its file was deleted, the run store is empty and works."""
    run(run_store, outcome(failed=("a",)))
    run_store.close()
    path.unlink()
    again = RunStore(f"sqlite:///{path}")
    assert again.attempts() == {}
    again.close()


def test_threads_share_a_run_store(run_store: RunStore) -> None:
    """Failures recorded by several threads are all counted."""
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: run(run_store, outcome(failed=("a",))), range(12)))
    assert run_store.attempts() == {"a": 12}


@pytest.mark.parametrize("url", ["", "run_store.db", "nosuchdatabase://x/y", "postgresql+nosuchdriver://h/d"])
def test_an_invalid_url_is_a_config_error(url: str) -> None:
    """An invalid run_store.url is a ConfigError with the setting and a valid example."""
    with pytest.raises(ConfigError, match=r"run_store\.url: .*; use sqlite:///"):
        RunStore(url)


def test_an_unusable_path_is_named(tmp_path: Path) -> None:
    """An uncreatable folder, a folder instead of the file, and a file of another format: StoreUnavailable with path."""
    blocker = tmp_path / "file"
    blocker.write_text("this is no database, and longer than the header of one " * 20)
    for unusable in (blocker / "run_store.db", tmp_path, blocker):
        with pytest.raises(StoreUnavailable, match=r"run.store") as caught:
            RunStore(f"sqlite:///{unusable}").attempts()
        assert str(blocker) in str(caught.value) or str(tmp_path) in str(caught.value)


def test_backoff_doubles(run_store: RunStore) -> None:
    """15, 30 and 60 minutes, at most 2 hours; skipped items have no backoff."""
    waits = []
    for _ in range(6):
        made = outcome(failed=("a",))
        made.add_failure("b", "skipped", attempted=False)
        run_store.record_run("media copy", lambda: START, lambda made=made: made)
        minutes = range(0, 300, 15)
        waits.append(next(wait for wait in minutes if not run_store.backing_off(START + timedelta(minutes=wait))))
    assert waits == [15, 30, 60, 120, 120, 120]
    assert set(run_store.attempts()) == {"a"}


def test_last_done_is_the_start_of_the_last_successful_run(run_store: RunStore) -> None:
    """Interrupted runs and runs in which all items failed do not count."""
    assert run_store.last_done("nightly") is None
    clock = Clock()
    run(run_store, outcome(failed=("a",)), clock)
    run(run_store, outcome(did=0, failed=("a",)), clock)
    with pytest.raises(Refused):
        run_store.record_run("nightly", clock, lambda: (_ for _ in ()).throw(Refused("no")))
    assert run_store.last_done("nightly") == START


def test_a_refused_connection_is_one_line() -> None:
    """A refused connection is reported in one line, with the address and without the password."""
    run_store = RunStore("postgresql+psycopg://post:hush@127.0.0.1:9/room")
    with pytest.raises(StoreUnavailable, match="refused") as caught:
        run_store.attempts()
    run_store.close()
    assert str(caught.value).startswith("run store postgresql+psycopg://post:***@127.0.0.1:9/room: ")
    assert "\n" not in str(caught.value)
