"""Progress as lines: one at the end, one a minute meanwhile, nothing for programs. Only the clock is not real."""

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
    """The module's monotonic clock, moved by hand."""

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
    """Work that takes seconds leaves its total and its time on standard error, and nothing on standard output."""
    with Lines().task("copy", 3) as advance:
        for _ in range(3):
            clock.now_s += 0.5
            advance()
    assert capsys.readouterr() == ("", "copy: 3 of 3 in 1.5 s\n")


class Said(io.StringIO):
    """A stream to wait for: until it has had a line."""

    def __init__(self) -> None:
        super().__init__()
        self._news = threading.Condition()

    def write(self, text: str) -> int:
        with self._news:
            self._news.notify_all()
            return super().write(text)

    def wait_for(self, line: str) -> None:
        with self._news:
            assert self._news.wait_for(lambda: line in self.getvalue().splitlines(), timeout=30)


def test_a_long_task_is_a_line_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every minute (here: a hundredth of a second) says how far it is, also while one item takes longer than that."""
    assert progress._LINE_EVERY_S == 60
    monkeypatch.setattr(progress, "_LINE_EVERY_S", 0.01)
    monkeypatch.setattr(sys, "stderr", said := Said())
    with Lines().task("build", 2) as advance:
        said.wait_for("build: 0 of 2")
        advance()
        said.wait_for("build: 1 of 2")
        advance()
    lines = [line for line, _ in itertools.groupby(said.getvalue().splitlines())]
    assert lines[:2] == ["build: 0 of 2", "build: 1 of 2"]
    assert re.fullmatch(r"build: 2 of 2 in \d+\.\d s", lines[-1])


def test_unfinished_work_says_so(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """The last line counts what was done, not what was hoped for."""
    with Lines().task("copy", 5) as advance:
        advance()
    assert capsys.readouterr().err == "copy: 1 of 5 in 0.0 s\n"


def test_a_task_that_breaks_off_claims_no_end(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """An error inside comes out, and no line pretends that the task ended."""
    with pytest.raises(KeyError), Lines().task("copy", 5):
        raise KeyError
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("shown", [Lines(), Silent()], ids=["lines", "silent"])
def test_nothing_to_do_is_nothing_to_say(
    clock: Clock, capsys: pytest.CaptureFixture[str], shown: progress.Progress
) -> None:
    """An empty task leaves no line."""
    with shown.task("copy", 0):
        pass
    assert capsys.readouterr() == ("", "")


def test_silence_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    """For programs no item is counted aloud."""
    with Silent().task("copy", 2) as advance:
        advance()
        advance()
    assert capsys.readouterr() == ("", "")


def test_items_of_many_threads_are_counted(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """Items that finish on any thread are all in the total."""
    with Lines().task("copy", 400) as advance, ThreadPoolExecutor(8) as threads:
        for _ in range(400):
            threads.submit(advance)
    assert capsys.readouterr().err == "copy: 400 of 400 in 0.0 s\n"
