"""How a long period is cut into portions."""

from __future__ import annotations

from datetime import date, timedelta

from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.models import Period
from pipeline.ingest.backfill import portions
from pipeline.ingest.collect import CollectTask
from pipeline.tables.build import input_window

FIRST = date(2024, 1, 1)


@given(
    start=st.integers(0, 60),
    offsets=st.sets(st.integers(0, 400), min_size=1),
    sources=st.sampled_from([("cdr",), ("cdr", "archive")]),
)
def test_portions_ask_for_everything_once_and_build_nothing_too_early(start, offsets, sources) -> None:
    """Every day is asked for once, in order, at most eight weeks together; every day of the period is built once, when
    all pages that bear on it were asked for.
    """
    first = FIRST + timedelta(days=start)
    period = Period(first, first + timedelta(days=max(offsets)))
    tasks = [CollectTask(source, "acme", first + timedelta(days=offset)) for source in sources for offset in offsets]
    cut = list(portions(tasks, period))
    asked = [ask for portion in cut for ask in portion.tasks]
    assert sorted(map(str, asked)) == sorted(map(str, tasks))
    assert [ask.day for ask in asked] == sorted(ask.day for ask in asked)
    assert all((portion.tasks[-1].day - portion.tasks[0].day).days < 56 for portion in cut)
    assert [day for portion in cut if portion.whole for day in portion.whole] == list(period)
    for number, portion in enumerate(cut):
        later = [ask.day for after in cut[number + 1 :] for ask in after.tasks]
        if portion.whole and later:
            assert input_window(portion.whole.last).last < min(later)
