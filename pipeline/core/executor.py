"""Where CPU-bound items run: threads of this process, worker processes, or the workers of a Dask cluster."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, CancelledError, Executor, ProcessPoolExecutor
from contextlib import ExitStack
from importlib import import_module
from typing import Any, Literal, TypeVar

from pipeline.core.errors import ConfigError, WorkerLost

Result = TypeVar("Result")
Backend = Literal["threads", "processes", "dask"]

_CONNECT_S = 20
_CALLS_PER_WORKER = 2
"""One running and one in transit, so that no worker of a cluster waits for its next item."""


class WorkerPool:
    """An executor that opens with its first call. Threads may share it.

    A call whose worker was lost (killed, out of memory) is repeated once; a Dask cluster has already tried it on other
    workers. Calls must therefore be safe to repeat, as all items are.
    """

    def __init__(self, backend: Backend = "threads", *, workers: int = 1, dask_address: str = "") -> None:
        self._backend, self._count, self._dask_address = backend, workers, dask_address
        self._lock = threading.Lock()
        self._opened: Executor | None = None
        self._workers = 0
        self._lost_worker_errors: tuple[type[BaseException], ...] = (BrokenExecutor, CancelledError)
        self._stack = ExitStack()

    @property
    def is_local(self) -> bool:
        """Whether items run in this process, where they share its open clients and stores."""
        return self._backend == "threads"

    @property
    def workers(self) -> int:
        """Number of CPU-bound calls that run concurrently; for Dask, the cores of the cluster."""
        if self.is_local:
            return 1  # the GIL: a second call would only use memory
        self._executor()
        return self._workers

    @property
    def max_concurrency(self) -> int:
        """Number of calls to submit concurrently."""
        return self.workers * (_CALLS_PER_WORKER if self._backend == "dask" else 1)

    def run(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """Call a module-level function with arguments that can be pickled; return its result or raise its error.

        Raises:
            WorkerLost: the worker was lost twice in a row.
        """
        for is_last in (False, True):
            executor = self._executor()
            try:
                return executor.submit(function, *arguments).result()
            except self._lost_worker_errors as error:
                self._forget(executor)
                if is_last:
                    kind = type(error).__name__
                    raise WorkerLost(f"worker lost twice ({kind}), possibly out of memory; run again") from None
        raise AssertionError  # the loop returns or raises

    def close(self) -> None:
        with self._lock:
            self._stack.close()
            self._opened = None

    def _executor(self) -> Executor:
        with self._lock:
            if self._opened is None:
                self._opened = self._open_dask() if self._backend == "dask" else self._open_processes()
            return self._opened

    def _forget(self, executor: Executor) -> None:
        """Drop a broken pool, which accepts no calls; the next call opens a new one."""
        with self._lock:
            if executor is self._opened and self._backend == "processes":
                self._opened = None

    def _open_processes(self) -> Executor:
        self._workers = self._count
        spawn = multiprocessing.get_context("spawn")  # a fork would copy locks that other threads hold
        return self._stack.enter_context(ProcessPoolExecutor(self._count, spawn, _start_worker))

    def _open_dask(self) -> Executor:
        try:
            dask: Any = import_module("distributed")  # an extra, and slow to import
        except ModuleNotFoundError:
            raise ConfigError(
                'executor.backend = "dask": Dask is not installed; pip install "postroom[dask]"'
            ) from None
        try:
            client = dask.Client(self._dask_address, set_as_default=False, timeout=_CONNECT_S)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"executor.dask_address {self._dask_address}: no Dask scheduler answers at this address: {error}"
            ) from None
        self._stack.callback(client.close)
        self._workers = sum(client.ncores().values())
        if not self._workers:
            self._stack.close()
            raise ConfigError(f"executor.dask_address {self._dask_address}: no workers; start some with `dask worker`")
        self._lost_worker_errors = (*self._lost_worker_errors, dask.KilledWorker)
        executor: Executor = self._stack.enter_context(client.get_executor(pure=False))
        return executor


def _start_worker() -> None:
    """Ignore Ctrl-C, which the parent process handles, and exit when the parent exits."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, name="postroom-parent", daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)
