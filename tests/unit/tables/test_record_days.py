"""The index of days of ids: finds records that EnableX moved, can be deleted, and is the same on every machine."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import date, timedelta
from itertools import permutations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.storage import LocalStore
from pipeline.storage.keys import day_index_key, moved_days_key
from pipeline.tables.record_days import MOVED_DAYS, RecordDays, id_hashes
from tests.support.cdrs import NEW, changed
from tests.support.lakes import DAY, PROJECT, Lake

FIRST = date(2026, 10, 1)
REACH = timedelta(days=MOVED_DAYS)


@pytest.fixture
def index(tmp_path: Path) -> RecordDays:
    return RecordDays(LocalStore(tmp_path / "lake"), "acme")


def hashes(*ids: str) -> np.ndarray:
    return id_hashes(pa.array(ids, pa.string()))


def day(number: int) -> date:
    return FIRST + timedelta(days=number)


# --- hashes ---


def test_hashes_do_not_change() -> None:
    """The index is stored, so the hash of a text is the same in every version and on every machine."""
    assert hashes("", "a", "65ec6b1f0c3a9e0012ab34cd", "Ünïcode", "a#2").tolist() == [
        0, 6110722294915771293, 7987359963196423353, 18391479965362364193, 17085480445674180795,
    ]  # fmt: skip


@given(st.lists(st.text(max_size=40), unique=True), st.data())
def test_a_hash_depends_on_the_text_alone(texts: list[str], data: st.DataObject) -> None:
    """Neighbours, chunks and slices do not change the hash of a text."""
    whole = id_hashes(pa.array(texts, pa.string()))
    assert whole.tolist() == [hashes(text)[0] for text in texts]
    cut = data.draw(st.integers(0, len(texts)))
    array = pa.array(["x", *texts], pa.string())[1:]
    assert id_hashes(pa.chunked_array([array[:cut], array[cut:]], pa.string())).tolist() == whole.tolist()
    assert id_hashes(array[cut:]).tolist() == whole.tolist()[cut:]


def test_ids_that_differ_in_one_place_have_different_hashes() -> None:
    """Ids that are counted up, numbered, or of another length do not collide."""
    ids = [f"65ec6b1f0c3a9e00{number:08x}" for number in range(20_000)]
    ids += [f"{name}#{number}" for name in ids[:2_000] for number in range(2, 6)]
    ids += [f"derived-{name}" for name in ids[:5_000]] + [str(number) for number in range(5_000)]
    assert len(set(hashes(*ids).tolist())) == len(ids)


# --- links ---


def test_an_id_on_two_days_links_them(index: RecordDays) -> None:
    """Days that have an id in common are linked and reported once; a day has all days to which it is linked."""
    assert index.update({day(0): hashes("a", "b"), day(1): hashes("c")}) == set()
    assert index.links() == {}
    assert index.update({day(20): hashes("b")}) == {day(0), day(20)}
    assert index.links() == {day(0): {day(20)}, day(20): {day(0)}}
    assert index.update({day(20): hashes("b")}) == set()
    assert index.update({day(21): hashes("a", "c")}) == {day(0), day(1), day(21)}
    assert index.links()[day(0)] == {day(20), day(21)}


def test_a_day_that_is_built_again_replaces_its_ids(index: RecordDays) -> None:
    """An id that is no longer on a day does not link it; links that were found stay."""
    index.update({day(0): hashes("a")})
    index.update({day(0): hashes("b")})
    assert index.update({day(9): hashes("a")}) == set()
    assert index.update({day(10): hashes("b")}) == {day(0), day(10)}
    index.update({day(0): hashes()})
    assert set(index.links()) == {day(0), day(10)}


def test_an_id_that_moves_twice_links_all_its_days(index: RecordDays) -> None:
    """An id on three days links each of them with both others."""
    index.update({day(0): hashes("a")})
    index.update({day(10): hashes("a")})
    assert index.update({day(20): hashes("a")}) == {day(0), day(10), day(20)}
    assert index.links() == {one: {day(n) for n in (0, 10, 20)} - {one} for one in map(day, (0, 10, 20))}


@pytest.mark.parametrize("distance", [1, 7, 30, 31, 60, MOVED_DAYS])
@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize("start", range(0, 366, 30))
def test_ids_are_found_two_months_away(index: RecordDays, distance: int, direction: int, start: int) -> None:
    """An id that was moved by up to `MOVED_DAYS` is found, in both directions and in any order of building."""
    one, other = day(start), day(start + direction * distance)
    index.update({one: hashes("a")})
    assert index.update({other: hashes("a")}) == {one, other}


BUILDS = st.lists(
    st.dictionaries(st.integers(0, 150), st.sets(st.sampled_from("abcdef"), max_size=4), min_size=1, max_size=4),
    max_size=6,
)


@given(BUILDS)
def test_links_are_the_days_with_an_id_in_common(builds: list[dict[int, set[str]]]) -> None:
    """After any builds, in any order, days with an id in common within `MOVED_DAYS` are linked; no others are."""
    store: dict[date, set[str]] = {}
    ever: dict[str, set[date]] = {}
    linked: set[tuple[date, date]] = set()
    with shared_index() as index:
        for build in builds:
            built = {day(number): ids for number, ids in build.items()}
            store |= built
            for one, ids in built.items():
                for name in ids:
                    ever.setdefault(name, set()).add(one)
            days = index.update({one: hashes(*sorted(ids)) for one, ids in built.items()})
            before, linked = linked, {(one, other) for one, others in index.links().items() for other in others}
            assert {one for one, _ in linked - before} <= days <= {one for one, _ in linked}
            assert before <= linked <= {pair for own in ever.values() for pair in permutations(own, 2)}
            assert linked >= {
                (one, other)
                for one, other in permutations(store, 2)
                if one in built and abs(one - other) <= REACH and store[one] & store[other]
            }


@contextmanager
def shared_index() -> Iterator[RecordDays]:
    with tempfile.TemporaryDirectory() as folder:
        yield RecordDays(LocalStore(Path(folder)), "acme")


# --- a derived index ---


def indexed(lake: Lake, days: Mapping[date, str]) -> RecordDays:
    """A lake with one connection per day, built."""
    for number, (one, cdr_id) in enumerate(days.items()):
        moment = f"{one}T12:00:00.000Z"
        lake.land_documents(
            [changed(NEW, cdr_id=cdr_id, trans_date=moment, room=None, sigserver=None)], day=one, hour=number
        )
    lake.build()
    return RecordDays(lake.lake, PROJECT)


@pytest.mark.parametrize("content", [None, b"cut off"])
def test_a_lost_index_is_read_back_from_the_tables(tmp_path: Path, content: bytes | None) -> None:
    """A deleted or damaged month of the index is made again from `cdr`: a moved id is still found."""
    lake = Lake(tmp_path)
    index = indexed(lake, {DAY: "c1", DAY + timedelta(days=1): "c2"})
    path = tmp_path / "lake" / day_index_key(PROJECT, DAY.replace(day=1))
    before = path.read_bytes()
    assert len(before) == 2 * 12
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    later = DAY + timedelta(days=20)
    assert index.update({later: hashes("c1")}) == {DAY, later}
    entries = path.read_bytes()
    assert {before[:12], before[12:]} < {entries[at : at + 12] for at in range(0, len(entries), 12)}


def test_lost_links_are_no_links(index: RecordDays, tmp_path: Path) -> None:
    """A damaged list of links is none; the next build of one of the days finds its links again."""
    index.update({day(0): hashes("a")})
    index.update({day(5): hashes("a")})
    for content in (b"", b"{", b'{"1":["yesterday","today"]}', b'[["2026-10-01","2026-10-06"]]'):
        (tmp_path / "lake" / moved_days_key("acme")).write_bytes(content)
        assert index.links() == {}
        assert index.update({day(5): hashes("a")}) == {day(0), day(5)}


def test_an_index_without_ids(index: RecordDays) -> None:
    """Nothing built changes nothing; days without ids have no links."""
    assert index.update({}) == set()
    assert list(index.lake.list("")) == []
    assert index.update({day(0): hashes(), day(1): hashes()}) == set()
    assert index.links() == {}
