"""Progress as lines: one at the end, one per minute before it, none with `--json`. Only the clock is faked."""

from __future__ import annotations

import io
import itertools
import re
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from pipeline.core import progress
from pipeline.core.progress import Lines, Silent


class Clock:
    """The module's monotonic clock, moved by the test."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


def test_a_quick_task_is_one_line(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """A short task prints its total and time to standard error, and nothing to standard output."""
    with Lines().task("copy", 3) as advance:
        for _ in range(3):
            clock.now_s += 0.5
            advance()
    assert capsys.readouterr() == ("", "copy: 3 of 3 in 1.5 s\n")


class LineStream(io.StringIO):
    """A stream that can wait for a line."""

    def __init__(self) -> None:
        super().__init__()
        self._written = threading.Condition()

    def write(self, text: str) -> int:
        with self._written:
            self._written.notify_all()
            return super().write(text)

    def wait_for(self, line: str) -> None:
        with self._written:
            assert self._written.wait_for(lambda: line in self.getvalue().splitlines(), timeout=30)


def test_a_long_task_is_a_line_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """The count is printed every minute (here: every 10 ms), even while one item takes longer."""
    assert progress._LINE_EVERY_S == 60
    monkeypatch.setattr(progress, "_LINE_EVERY_S", 0.01)
    monkeypatch.setattr(sys, "stderr", stream := LineStream())
    with Lines().task("build", 2) as advance:
        stream.wait_for("build: 0 of 2")
        advance()
        stream.wait_for("build: 1 of 2")
        advance()
    lines = [line for line, _ in itertools.groupby(stream.getvalue().splitlines())]
    assert lines[:2] == ["build: 0 of 2", "build: 1 of 2"]
    assert re.fullmatch(r"build: 2 of 2 in \d+\.\d s", lines[-1])


def test_unfinished_work_is_reported(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """The last line counts finished items, not planned ones."""
    with Lines().task("copy", 5) as advance:
        advance()
    assert capsys.readouterr().err == "copy: 1 of 5 in 0.0 s\n"


def test_a_failed_task_prints_no_total(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """An error in the block is raised, and no total is printed."""
    with pytest.raises(KeyError), Lines().task("copy", 5):
        raise KeyError
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("shown", [Lines(), Silent()], ids=["lines", "silent"])
def test_nothing_to_do_is_nothing_to_say(
    clock: Clock, capsys: pytest.CaptureFixture[str], shown: progress.Progress
) -> None:
    """An empty task prints no line."""
    with shown.task("copy", 0):
        pass
    assert capsys.readouterr() == ("", "")


def test_silence_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    """`Silent` prints nothing."""
    with Silent().task("copy", 2) as advance:
        advance()
        advance()
    assert capsys.readouterr() == ("", "")


def test_items_of_many_threads_are_counted(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """Items that finish in any thread are counted."""
    with Lines().task("copy", 400) as advance, ThreadPoolExecutor(8) as threads:
        for _ in range(400):
            threads.submit(advance)
    assert capsys.readouterr().err == "copy: 400 of 400 in 0.0 s\n"
