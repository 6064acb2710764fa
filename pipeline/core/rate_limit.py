"""How fast things may be started: requests of one project, bytes of all files."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class RateLimiter:
    """At most `per_second` of something a second over all threads; a throttled reply pauses everybody."""

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
        """Return when it is this caller's turn to start, or to go on after so much."""
        with self._lock:
            now = self._monotonic()
            start = max(now, self._next_start)
            self._next_start = start + amount * self._gap_s
        if start > now:
            self._sleep(start - now)

    def back_off(self, seconds: float) -> None:
        """Let nobody start for this long."""
        with self._lock:
            self._next_start = max(self._next_start, self._monotonic() + seconds)
