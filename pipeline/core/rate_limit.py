"""Rate limits: requests per second of one project, bytes per second of all downloads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class RateLimiter:
    """Limits a rate to `per_second` units per second, shared by all threads. `back_off` pauses every thread."""

    def __init__(
        self,
        per_second: float,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._gap_s = 1.0 / per_second
        self._monotonic, self._sleep = monotonic, sleep
        self._lock = threading.Lock()
        self._next_start = 0.0

    def acquire(self, amount: float = 1.0) -> None:
        """Block until `amount` units may start (requests) or continue (bytes)."""
        with self._lock:
            now = self._monotonic()
            start = max(now, self._next_start)
            self._next_start = start + amount * self._gap_s
        if start > now:
            self._sleep(start - now)

    def back_off(self, seconds: float) -> None:
        """Start nothing for this many seconds."""
        with self._lock:
            self._next_start = max(self._next_start, self._monotonic() + seconds)
