"""Threads for what Arrow, zstd and SHA-256 do without Python's lock: work beside the work, inside one item."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

import pyarrow as pa

Item = TypeVar("Item")

P = ParamSpec("P")
Result = TypeVar("Result")

_WAITING_PER_LANE = 2
"""Enough to keep a lane busy: one in work and one waiting; more would only hold memory."""


_ITEMS_AHEAD = 3


class ContextThreadPool(ThreadPoolExecutor):
    """A pool whose threads work in the context of whoever gave the work: log fields, counts, span."""

    def submit(self, fn: Callable[P, Result], /, *args: P.args, **kwargs: P.kwargs) -> Future[Result]:
        return super().submit(partial(copy_context().run, fn, *args, **kwargs))


class SerialWorkers:
    """A thread for each name: what is given to one lane is done in order, beside what the others do.

    Giving waits when a lane is behind. The first error comes out of the next `give`, or at the end.
    """

    def __init__(self) -> None:
        self._threads: dict[str, ContextThreadPool] = {}
        self._waiting: dict[str, deque[Future[Any]]] = {}

    def submit(self, lane: str, action: Callable[..., Any], *args: Any) -> None:
        if lane not in self._threads:
            self._threads[lane], self._waiting[lane] = ContextThreadPool(1, f"postroom-{lane}"), deque()
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


def prefetch(items: Iterator[Item], most: int = _ITEMS_AHEAD) -> Iterator[Item]:
    """The same items; while one is used, up to `most` further ones are produced in another thread."""
    nothing: Any = object()
    with ContextThreadPool(1, "postroom-ahead") as thread:
        coming = deque(thread.submit(next, items, nothing) for _ in range(most))
        while (item := coming.popleft().result()) is not nothing:
            coming.append(thread.submit(next, items, nothing))
            yield item


def map_concurrent(function: Callable[[Item], Result], items: Iterable[Item], max_workers: int) -> Iterator[Result]:
    """Results of a function in the order of the items, `max_workers` calls at a time; for I/O on stores.

    Items are taken as there is room for them. The first error comes out in its item's place.
    """
    if max_workers == 1:
        yield from map(function, items)
        return
    with ContextThreadPool(max_workers, "postroom-reads") as threads:
        waiting: deque[Future[Result]] = deque()
        for item in items:
            waiting.append(threads.submit(function, item))
            if len(waiting) == max_workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def use_jemalloc() -> None:
    """Let Arrow take its memory from jemalloc, where there is one.

    It keeps what was freed for a second; the default returns large pieces immediately, and fetching the same pages from
    the system again and again costs as much as the work on them.
    """
    with suppress(NotImplementedError):
        pa.set_memory_pool(pa.jemalloc_memory_pool())
