"""The retry policy. An error's type decides whether to retry; this module decides how."""

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
"""Maximum wait for a server's Retry-After; after a longer one the item fails and the next run repeats it."""

_back_off = wait_exponential_jitter(multiplier=0.5, max=30.0, jitter=0.5)

_retry_counts: ContextVar[Counter[str] | None] = ContextVar("_retry_counts", default=None)


@contextmanager
def counted_retries() -> Iterator[Counter[str]]:
    """Count retries during the block under the key `retries`, in this thread and in threads that share its context."""
    counts: Counter[str] = Counter()
    reset = _retry_counts.set(counts)
    try:
        yield counts
    finally:
        _retry_counts.reset(reset)


def retrying(max_attempts: int, sleep: Callable[[float], None] = time.sleep) -> Retrying:
    """Repeat a call while it raises `Transient`, up to `max_attempts` attempts; then raise the last real error.

    The wait grows exponentially to 30 seconds and is at least the server's Retry-After, up to 15 minutes.
    """
    return Retrying(
        retry=retry_if_exception_type(Transient),
        stop=stop_after_attempt(max_attempts),
        wait=_wait_s,
        sleep=sleep,
        before_sleep=_log_retry,
        reraise=True,
    )


def _wait_s(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    requested_s = (isinstance(error, Transient) and error.retry_after_s) or 0.0
    return max(_back_off(state), min(requested_s, MAX_RETRY_AFTER_S))


def _log_retry(state: RetryCallState) -> None:
    counts = _retry_counts.get()
    if counts is not None:
        counts["retries"] += 1
    error = state.outcome.exception() if state.outcome else None
    wait_s = round(state.next_action.sleep, 1) if state.next_action else 0.0
    structlog.get_logger().warning("request.retried", attempt=state.attempt_number, wait_s=wait_s, error=str(error))
