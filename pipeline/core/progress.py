"""How long work shows itself: bars on a terminal, a line now and then otherwise, nothing for programs."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress
from rich.text import Text

Advance = Callable[[], None]
_LINE_EVERY_S = 60.0


class Progress(Protocol):
    """Shows one task at a time; what it yields is called once per finished item, from any thread."""

    def task(self, label: str, total: int) -> AbstractContextManager[Advance]: ...


class Silent:
    """Shows nothing."""

    def task(self, label: str, total: int) -> AbstractContextManager[Advance]:  # noqa: ARG002 - the contract
        return nullcontext(lambda: None)


class _Rate(ProgressColumn):
    """Items a second, or a minute where they are slow."""

    def render(self, task: Task) -> Text:
        a_second = task.finished_speed or task.speed
        if not a_second:
            return Text("")
        return Text(f"{a_second:,.1f}/s" if a_second >= 1 else f"{a_second * 60:,.1f}/min", "cyan")


class Bars:
    """A bar with rate and remaining time."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def task(self, label: str, total: int) -> Iterator[Advance]:
        columns = (
            TextColumn("{task.description:<16}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            _Rate(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with RichProgress(*columns, console=self._console, transient=True) as bars:
            task = bars.add_task(label, total=total)
            yield lambda: bars.advance(task)


class Lines:
    """A line when a task ends, and one a minute while it runs, however long one item takes."""

    @contextmanager
    def task(self, label: str, total: int) -> Iterator[Advance]:
        started, done, lock, has_ended = time.monotonic(), 0, threading.Lock(), threading.Event()

        def advance() -> None:
            nonlocal done
            with lock:
                done += 1

        def say_now_and_then() -> None:
            while not has_ended.wait(_LINE_EVERY_S):
                print(f"{label}: {done} of {total}", file=sys.stderr, flush=True)

        saying = threading.Thread(target=say_now_and_then, name=f"progress of {label}", daemon=True)
        if total:
            saying.start()
        try:
            yield advance
        finally:
            has_ended.set()
            if total:
                saying.join()
        if total:
            took_s = time.monotonic() - started
            print(f"{label}: {done} of {total} in {took_s:.1f} s", file=sys.stderr, flush=True)
