"""Progress of long tasks: bars on a terminal, one line per minute otherwise, nothing with `--json`."""

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
    """Shows one task at a time. Yields a function to call once per finished item, from any thread."""

    def task(self, label: str, total: int) -> AbstractContextManager[Advance]: ...


class Silent:
    """Shows nothing."""

    def task(self, label: str, total: int) -> AbstractContextManager[Advance]:  # noqa: ARG002 - the contract
        return nullcontext(lambda: None)


class _Rate(ProgressColumn):
    """Items per second, or per minute below 1 per second."""

    def render(self, task: Task) -> Text:
        per_second = task.finished_speed or task.speed
        if not per_second:
            return Text("")
        return Text(f"{per_second:,.1f}/s" if per_second >= 1 else f"{per_second * 60:,.1f}/min", "cyan")


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
    """One line per minute while a task runs, even if no item finishes, and one line when it ends."""

    @contextmanager
    def task(self, label: str, total: int) -> Iterator[Advance]:
        started, done, lock, has_ended = time.monotonic(), 0, threading.Lock(), threading.Event()

        def advance() -> None:
            nonlocal done
            with lock:
                done += 1

        def print_every_minute() -> None:
            while not has_ended.wait(_LINE_EVERY_S):
                print(f"{label}: {done} of {total}", file=sys.stderr, flush=True)

        printer = threading.Thread(target=print_every_minute, name=f"progress of {label}", daemon=True)
        if total:
            printer.start()
        try:
            yield advance
        finally:
            has_ended.set()
            if total:
                printer.join()
        if total:
            took_s = time.monotonic() - started
            print(f"{label}: {done} of {total} in {took_s:.1f} s", file=sys.stderr, flush=True)
