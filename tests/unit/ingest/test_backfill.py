"""Splitting a long period into portions."""

from __future__ import annotations

from datetime import date, timedelta

from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.models import Period
from pipeline.ingest.backfill import portions
from pipeline.ingest.collect import CollectTask
from pipeline.tables.batches import input_window

FIRST = date(2024, 1, 1)


@given(
    start=st.integers(0, 60),
    offsets=st.sets(st.integers(0, 400), min_size=1),
    sources=st.sampled_from([("cdr",), ("cdr", "archive")]),
)
def test_portions_collect_each_day_once_and_build_none_early(start, offsets, sources) -> None:
    """Every day is collected once, in order, at most 8 weeks per portion; every day of the period is built once, after
    all responses of its input window are collected.
    """
    first = FIRST + timedelta(days=start)
    period = Period(first, first + timedelta(days=max(offsets)))
    tasks = [CollectTask(source, "acme", first + timedelta(days=offset)) for source in sources for offset in offsets]
    cut = list(portions(tasks, period))
    planned = [task for portion in cut for task in portion.tasks]
    assert sorted(map(str, planned)) == sorted(map(str, tasks))
    assert [task.day for task in planned] == sorted(task.day for task in planned)
    assert all((portion.tasks[-1].day - portion.tasks[0].day).days < 56 for portion in cut)
    assert [day for portion in cut if portion.whole for day in portion.whole] == list(period)
    for number, portion in enumerate(cut):
        later = [task.day for after in cut[number + 1 :] for task in after.tasks]
        if portion.whole and later:
            assert input_window(portion.whole.last).last < min(later)
