"""The one retry policy. An error's type decides whether an attempt is repeated; this module decides how."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import structlog
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    wait_exponential_jitter,
)

from pipeline.core.errors import Transient

MAX_RETRY_AFTER_S = 900.0
"""A server's Retry-After is honoured up to here; a longer one is worth a failed item and the next run."""

_back_off = wait_exponential_jitter(multiplier=0.5, max=30.0, jitter=0.5)


_counted: ContextVar[Counter[str] | None] = ContextVar("_counted", default=None)


@contextmanager
def counted_retries() -> Iterator[Counter[str]]:
    """Count, under `retries`, what is tried again meanwhile here and in the threads that work for here."""
    counts: Counter[str] = Counter()
    reset = _counted.set(counts)
    try:
        yield counts
    finally:
        _counted.reset(reset)


def retrying(max_attempts: int, sleep: Callable[[float], None] = time.sleep) -> Retrying:
    """Try a call again while it raises `Transient`, waiting longer each time, at least as long as the server asks.

    When tries run out, the last real error comes out.
    """
    return Retrying(
        retry=retry_if_exception_type(Transient),
        stop=stop_after_attempt(max_attempts),
        wait=_wait_s,
        sleep=sleep,
        before_sleep=_note_retry,
        reraise=True,
    )


def _wait_s(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    asked_s = (isinstance(error, Transient) and error.retry_after_s) or 0.0
    return max(_back_off(state), min(asked_s, MAX_RETRY_AFTER_S))


def _note_retry(state: RetryCallState) -> None:
    counts = _counted.get()
    if counts is not None:
        counts["retries"] += 1
    error = state.outcome.exception() if state.outcome else None
    wait_s = round(state.next_action.sleep, 1) if state.next_action else 0.0
    structlog.get_logger().warning("request.retried", attempt=state.attempt_number, wait_s=wait_s, error=str(error))
