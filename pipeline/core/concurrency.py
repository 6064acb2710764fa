"""Threads inside one item, for work that releases the GIL (Arrow, zstd, SHA-256) or waits for a store."""

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

_QUEUED_PER_LANE = 2
"""One running and one queued call keep a lane busy; more would only use memory."""

_PREFETCHED_ITEMS = 3


class ContextThreadPool(ThreadPoolExecutor):
    """A thread pool whose calls run in the context of their caller: log fields, retry counts, span."""

    def submit(self, fn: Callable[P, Result], /, *args: P.args, **kwargs: P.kwargs) -> Future[Result]:
        return super().submit(partial(copy_context().run, fn, *args, **kwargs))


class SerialWorkers:
    """One thread per lane: calls of a lane run in order, lanes run concurrently.

    `submit` blocks while two calls of its lane are unfinished. The first error is raised by a later `submit` of the
    lane, or when the block ends.
    """

    def __init__(self) -> None:
        self._threads: dict[str, ContextThreadPool] = {}
        self._pending: dict[str, deque[Future[Any]]] = {}

    def submit(self, lane: str, action: Callable[..., Any], *args: Any) -> None:
        if lane not in self._threads:
            self._threads[lane], self._pending[lane] = ContextThreadPool(1, f"postroom-{lane}"), deque()
        pending = self._pending[lane]
        while len(pending) >= _QUEUED_PER_LANE:
            pending.popleft().result()
        pending.append(self._threads[lane].submit(action, *args))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for thread in self._threads.values():
            thread.shutdown(wait=True, cancel_futures=error is not None)
        if error is None:
            for pending in self._pending.values():
                for future in pending:
                    future.result()


def prefetch(items: Iterator[Item], max_items: int = _PREFETCHED_ITEMS) -> Iterator[Item]:
    """The same items in the same order; another thread produces up to `max_items` in advance."""
    end: Any = object()
    with ContextThreadPool(1, "postroom-ahead") as thread:
        pending = deque(thread.submit(next, items, end) for _ in range(max_items))
        while (item := pending.popleft().result()) is not end:
            pending.append(thread.submit(next, items, end))
            yield item


def map_concurrent(function: Callable[[Item], Result], items: Iterable[Item], max_workers: int) -> Iterator[Result]:
    """Results of a function in the order of the items, with at most `max_workers` calls running concurrently.

    For calls that mostly wait for a store. Items are consumed as workers become free. An error is raised when its item
    is reached.
    """
    if max_workers == 1:
        yield from map(function, items)
        return
    with ContextThreadPool(max_workers, "postroom-reads") as threads:
        pending: deque[Future[Result]] = deque()
        for item in items:
            pending.append(threads.submit(function, item))
            if len(pending) == max_workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def use_jemalloc() -> None:
    """Make Arrow allocate from jemalloc, where it is available.

    jemalloc keeps freed memory for 1 second. The default allocator returns large blocks to the system immediately, and
    requesting the same memory pages again costs as much time as the work on them.
    """
    with suppress(NotImplementedError):
        pa.set_memory_pool(pa.jemalloc_memory_pool())
