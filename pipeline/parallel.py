"""Work side by side inside one item: lanes of threads for what Arrow does without Python, processes for the rest."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait
from types import TracebackType
from typing import Any, Self

from pipeline.errors import PipelineError

_WAITING_PER_LANE = 2
"""Enough to keep a lane busy; more would only hold memory."""


class Lanes:
    """A thread for each name: what is given to one lane is done in order, beside what the others do.

    Giving waits when a lane is behind. The first error comes out of the next `give`, or at the end.
    """

    def __init__(self) -> None:
        self._threads: dict[str, ThreadPoolExecutor] = {}
        self._waiting: dict[str, deque[Future[Any]]] = {}

    def give(self, lane: str, action: Callable[..., Any], *args: Any) -> None:
        if lane not in self._threads:
            self._threads[lane], self._waiting[lane] = ThreadPoolExecutor(1, f"postroom-{lane}"), deque()
        waiting = self._waiting[lane]
        while len(waiting) >= _WAITING_PER_LANE:
            waiting.popleft().result()
        waiting.append(self._threads[lane].submit(action, *args))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for thread in self._threads.values():
            thread.shutdown(wait=True, cancel_futures=error is not None)
        if error is None:
            for waiting in self._waiting.values():
                for future in waiting:
                    future.result()


@contextmanager
def helpers(count: int) -> Iterator[Executor]:
    """So many processes (with none, a thread that is not used); they end with this one, however it ends."""
    if count < 1:
        with ThreadPoolExecutor(1) as nobody:
            yield nobody
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, mp_context=context, initializer=_end_with_parent) as processes:
        try:
            yield processes
        except BrokenProcessPool:
            raise PipelineError(
                "a helper process was killed, most likely for want of memory; free some and run again; nothing was"
                " half-written"
            ) from None


def _end_with_parent() -> None:
    """A process whose parent was killed would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_watch, args=(parent.sentinel,), daemon=True).start()


def _watch(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
