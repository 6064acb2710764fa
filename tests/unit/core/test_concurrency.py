"""Concurrency helpers: order within a lane, bounded memory, and no lost error."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from pipeline.core.concurrency import SerialWorkers, map_concurrent, prefetch


def test_a_lane_keeps_its_order() -> None:
    """Calls of one lane run in their order, independent of other lanes, and all are done at the end of the block."""
    done: dict[str, list[int]] = {"a": [], "b": []}
    with SerialWorkers() as lanes:
        for number in range(50):
            for lane, numbers in done.items():
                lanes.submit(lane, numbers.append, number)
    assert done == {"a": list(range(50)), "b": list(range(50))}


def test_lanes_run_side_by_side() -> None:
    """Two lanes run concurrently: each waits until the other has started."""
    meeting = threading.Barrier(2, timeout=10)
    with SerialWorkers() as lanes:
        lanes.submit("a", meeting.wait)
        lanes.submit("b", meeting.wait)
    assert not meeting.broken


def test_giving_waits_for_a_lane_that_is_behind() -> None:
    """At most two calls of a lane are unfinished: `submit` blocks and memory stays bounded."""
    may_go, given = threading.Event(), []

    def give_all() -> None:
        with SerialWorkers() as lanes:
            for number in range(20):
                lanes.submit("slow", may_go.wait, 10)
                given.append(number)

    giver = threading.Thread(target=give_all)
    giver.start()
    giver.join(0.2)
    waiting = len(given)
    may_go.set()
    giver.join(10)
    assert waiting <= 3
    assert len(given) == 20


@pytest.mark.parametrize("after", [0, 1, 10])
def test_an_error_comes_out(after: int) -> None:
    """An error in a lane is raised by a later `submit` or at the end, whichever is first."""
    with pytest.raises(ZeroDivisionError), SerialWorkers() as lanes:  # noqa: PT012 - which of these raises is not promised
        lanes.submit("a", divmod, 1, 0)
        for _ in range(after):
            lanes.submit("a", divmod, 1, 1)


def test_the_callers_own_error_wins() -> None:
    """An error of the block itself is raised; calls not yet started are dropped, and no thread remains."""
    before = threading.active_count()
    with pytest.raises(KeyError, match="mine"), SerialWorkers() as lanes:  # noqa: PT012
        lanes.submit("a", divmod, 1, 0)
        raise KeyError("mine")
    assert threading.active_count() == before


def test_ahead_gives_the_same_items() -> None:
    """Prefetched items are the same, in the same order."""
    assert list(prefetch(iter(range(20)))) == list(range(20))
    assert list(prefetch(iter([]))) == []


def test_ahead_passes_errors_on() -> None:
    """An error of the iterator is raised after the items before it."""

    def broken() -> Iterator[int]:
        yield 1
        yield 2
        raise OSError("disk")

    items: list[int] = []
    with pytest.raises(OSError, match="disk"):
        items.extend(prefetch(broken()))
    assert items == [1, 2]


def test_ahead_ends_with_its_user() -> None:
    """A consumer that stops early leaves no thread."""
    before = threading.active_count()
    items = prefetch(iter(range(100)))
    assert next(items) == 0
    items.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_what_is_mapped_keeps_its_order() -> None:
    """Results have the order of their items, whatever each call's duration."""
    may_end = {number: threading.Event() for number in range(100)}

    def ends_after_the_next(number: int) -> int:
        may_end[number].set()
        if number % 2 == 0:
            may_end[number + 1].wait(10)
        return number

    assert list(map_concurrent(ends_after_the_next, range(100), 4)) == list(range(100))


@pytest.mark.parametrize("max_concurrency", [1, 4])
def test_items_are_mapped_as_there_is_room(max_concurrency: int) -> None:
    """Before the first result, only `max_workers` items are consumed: memory stays bounded."""
    items = iter(range(1000))
    assert next(map_concurrent(str, items, max_concurrency)) == "0"
    assert next(items) == max_concurrency


@pytest.mark.parametrize("max_concurrency", [1, 4])
def test_an_error_comes_in_its_place(max_concurrency: int) -> None:
    """Results before the failed item are returned first."""
    results = map_concurrent(lambda number: 6 // number, [3, 2, 0, 1], max_concurrency)
    assert [next(results), next(results)] == [2, 3]
    with pytest.raises(ZeroDivisionError):
        next(results)
