"""The rate limiter: the distance between starts. Clock and sleep are arguments, so no test waits."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.rate_limit import RateLimiter


class Clock:
    """A monotonic clock that moves only with sleep and work."""

    def __init__(self) -> None:
        self.now_s = 5000.0
        self.slept_s: list[float] = []

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)
        self.now_s += seconds

    def limiter(self, per_second: float) -> RateLimiter:
        return RateLimiter(per_second, monotonic=self.monotonic, sleep=self.sleep)


def test_the_first_call_does_not_wait() -> None:
    """Without earlier calls there is no wait."""
    clock = Clock()
    clock.limiter(1.0).acquire()
    assert clock.slept_s == []


@given(st.floats(0.1, 50), st.lists(st.floats(0, 30), min_size=2, max_size=20))
def test_starts_keep_their_distance(per_second: float, works_s: list[float]) -> None:
    """For any duration of calls, two starts are never closer than the gap, and a late caller does not wait."""
    clock = Clock()
    limiter = clock.limiter(per_second)
    starts = []
    for work_s in works_s:
        requested_at = clock.now_s
        limiter.acquire()
        starts.append(clock.now_s)
        if len(starts) > 1 and requested_at - starts[-2] >= 1 / per_second:
            assert clock.now_s == requested_at
        clock.now_s += work_s
    gaps = [after - before for before, after in pairwise(starts)]
    assert min(gaps) >= 1 / per_second - 1e-6


def test_an_idle_hour_is_no_credit() -> None:
    """After a pause calls do not start in a burst."""
    clock = Clock()
    limiter = clock.limiter(2.0)
    limiter.acquire()
    clock.now_s += 3600
    for _ in range(3):
        limiter.acquire()
    assert clock.slept_s == [0.5, 0.5]


def test_threads_share_one_pace() -> None:
    """Concurrent callers in several threads start one per gap."""
    slept_s: list[float] = []
    limiter = RateLimiter(4.0, monotonic=lambda: 100.0, sleep=slept_s.append)
    with ThreadPoolExecutor(8) as threads:
        for _ in range(20):
            threads.submit(limiter.acquire)
    assert sorted(slept_s) == [0.25 * number for number in range(1, 20)]


@pytest.mark.parametrize(("pause_s", "waited_s"), [(7.0, 7.0), (0.0, 1.0), (0.5, 1.0)])
def test_a_pause_holds_the_next_start(pause_s: float, waited_s: float) -> None:
    """After a throttled reply nothing starts for the requested time, nor earlier than the rate allows."""
    clock = Clock()
    limiter = clock.limiter(1.0)
    limiter.acquire()
    limiter.back_off(pause_s)
    limiter.acquire()
    assert clock.slept_s == [waited_s]


def test_after_a_pause_the_pace_goes_on() -> None:
    """After a pause the queue starts at the configured rate, not in a burst."""
    clock = Clock()
    limiter = clock.limiter(1.0)
    limiter.back_off(10.0)
    for _ in range(3):
        limiter.acquire()
    assert clock.slept_s == [10.0, 1.0, 1.0]


def test_a_shorter_pause_does_not_cut_a_longer_one() -> None:
    """With two throttled replies, the longer wait applies."""
    clock = Clock()
    limiter = clock.limiter(1.0)
    limiter.back_off(30.0)
    limiter.back_off(2.0)
    limiter.acquire()
    assert clock.slept_s == [30.0]
