"""Sessions add up: exactly, in any order, however their connections come in blocks; long ones are divided by day."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.models import ListedFile
from pipeline.tables.normalize import values
from pipeline.tables.normalize.sessions import (
    CONNECTION,
    CONTEXT_DAYS,
    LONGEST_MS,
    SessionFiles,
    session_numbers,
    session_table,
)
from pipeline.tables.schemas import SESSIONS
from tests.support.api_calls import CALLS, FILES, connections, file_at, owner_of, rows_of, sessions_model
from tests.support.cdrs import DROP, NEW, OLD, changed, utc

NO_FILES = SessionFiles([])


@given(CALLS, FILES)
def test_sessions_are_the_sums_of_their_connections(rows: list[dict[str, Any]], files: list[ListedFile]) -> None:
    """Every column of every session is what exact arithmetic makes of its connections and files."""
    found = session_table(connections(rows), SessionFiles(files))[0].rows
    assert found.to_pylist() == sessions_model(rows, files)
    assert found.select(SESSIONS.schema.names).schema.equals(SESSIONS.schema)


@given(CALLS, FILES)
def test_each_file_belongs_to_one_session(rows: list[dict[str, Any]], files: list[ListedFile]) -> None:
    """A file belongs to the session that was running at the time of its archive record, else to the next one, else to
    none.
    """
    sessions, owners = session_table(connections(rows), SessionFiles(files))
    owner = {row.pop("file"): row for row in owners.to_pylist()}
    assert len(owner) == owners.num_rows == sum(sessions.rows["media_files"].to_pylist())
    for index, file in enumerate(files):
        connection = owner_of(file, rows)
        assert (connection is None) == (index not in owner)
        if connection:
            assert owner[index]["conf_num"] == file.conf_num
            assert owner[index]["first_connected_at"] <= connection["began_at"]


@given(CALLS, st.data())
def test_blocks_do_not_matter(rows: list[dict[str, Any]], data: st.DataObject) -> None:
    """Split between numbers of sessions into any blocks, connections make the same sessions; each finds its own."""
    whole = connections(rows)
    names = whole["conf_num"].to_pylist()
    borders = [at for at in range(1, len(names)) if names[at] != names[at - 1]]
    cuts = [0, *sorted(data.draw(st.sets(st.sampled_from(borders))) if borders else []), len(names)]
    blocks = [session_table(whole.slice(a, b - a), NO_FILES)[0] for a, b in pairwise(cuts)]
    together = session_table(whole, NO_FILES)[0]
    assert pa.concat_tables([block.rows for block in blocks]).equals(together.rows)
    assert together.rows["conf_num"].take(pa.array(together.place)).to_pylist() == names
    assert np.bincount(together.place).tolist() == together.rows["connections"].to_pylist()


@given(CALLS, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(rows: list[dict[str, Any]], dice: Any) -> None:
    """Connections in any order are the same connections once sorted, chunked or not."""
    shuffled = dice.sample(rows, len(rows))
    one = connections(rows)
    chunks = [connections([row]) for row in shuffled]
    order = [(name, "ascending") for name in ("conf_num", "day", "cdr_id")]
    other = pa.concat_tables(chunks).sort_by(order)
    assert one.equals(other)
    assert one.schema.equals(CONNECTION)


def sessions(*documents: Any, files: list[ListedFile] | None = None) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = session_table(connections(rows_of(*documents)), SessionFiles(files or []))[
        0
    ].rows.to_pylist()
    return rows


def one_session(*documents: Any) -> dict[str, Any]:
    (session,) = sessions(*documents)
    return session


def test_a_rejoin_is_two_connections_of_one_person() -> None:
    """A user who drops and comes back is two connections and one person, and both stays are billed (section 10)."""
    later = changed(NEW, cdr_id="later", call_num="4", sigserver__connect_dt="2024-03-09T14:40:00.000Z",
                    sigserver__disconnect_dt="2024-03-09T14:40:30.000Z", sigserver__duration=30)  # fmt: skip
    session = one_session(NEW, later)
    assert (session["connections"], session["unique_users"]) == (2, 1)
    assert session["participant_min"] == 31 + 1


def test_people_without_a_name_are_each_one() -> None:
    """Connections without `user.ref` count as one person each."""
    some = [changed(NEW, cdr_id=str(at), user__ref=ref) for at, ref in enumerate(["", None, "u1", "u1"])]
    assert one_session(*some)["unique_users"] == 3


def test_the_newest_that_is_known_counts() -> None:
    """What the last connections do not say of their room, earlier ones do; what they say wins."""
    old = changed(OLD, cdr_id="z", room__room_id=DROP)
    renamed = changed(NEW, cdr_id="y", room__room_details__name="Renamed", room__room_details__owner_ref=None)
    session = one_session(changed(NEW, cdr_id="x"), renamed, old)
    assert (session["room_name"], session["owner_ref"]) == ("Renamed", "tenant-42")
    assert session["room_id"] == NEW["room"]["room_id"]


def test_over_midnight_it_is_one_session_on_the_day_it_began() -> None:
    """Connections written on two days are one session, whole, on the UTC day of the first connection."""
    times = {"room": None, "usage": None, "sigserver__connect_dt": "2024-03-09T23:50:00.000Z",
             "sigserver__duration": DROP}  # fmt: skip
    one = changed(NEW, cdr_id="1", **times, sigserver__disconnect_dt="2024-03-09T23:58:00.000Z",
                  trans_date="2024-03-09T23:59:00.000Z")  # fmt: skip
    two = changed(NEW, cdr_id="2", **times, sigserver__disconnect_dt="2024-03-10T00:20:00.000Z",
                  trans_date="2024-03-10T00:21:00.000Z")  # fmt: skip
    session = one_session(one, two)
    assert str(session["day"]) == "2024-03-09"
    assert (session["connections"], session["duration_s"], session["participant_min"]) == (2, 1800.0, 38)


def test_every_session_has_its_own_room() -> None:
    """Of hundreds of sessions each has the room, and the sums, of its own connections, in order of `conf_num`."""
    some = [(f"{284170000000 + 7 * n}", k) for n in range(300) for k in range(1 + n % 4)]
    rows = rows_of(*(changed(NEW, cdr_id=f"{c}-{k}", conf_num=c, room__room_id=f"of {c}") for c, k in some))
    whole = connections(rows)
    found = session_table(whole, NO_FILES)[0]
    assert found.rows.to_pylist() == sessions_model(rows, [])
    assert found.rows["conf_num"].take(pa.array(found.place)).to_pylist() == whole["conf_num"].to_pylist()


def test_no_connections_no_sessions() -> None:
    """Without connections there are no sessions, and the table has all its columns."""
    rows = session_table(connections([]), NO_FILES)[0].rows
    assert rows.num_rows == 0
    assert rows.select(SESSIONS.schema.names).schema.equals(SESSIONS.schema)


@pytest.mark.parametrize(
    ("path", "name"),
    [("price__connect_duration", "price"), ("usage__published_minutes", "published_min")],
)
def test_absurd_numbers_still_add_up(path: str, name: str) -> None:
    """The largest numbers that are read add up exactly, over a thousand connections; larger ones are no numbers."""
    most = values.LIMIT - 1
    many = [changed(NEW, cdr_id=f"{at:04}", **{path: most}) for at in range(1100)]
    session = one_session(*many)
    assert session[name] == most * 1100
    (beyond,) = rows_of(changed(NEW, **{path: values.LIMIT}))
    assert beyond[name] is None


# --- one number for days and weeks ---

DAY = date(2024, 3, 9)


def at(day: float, **changes: Any) -> dict[str, Any]:
    """A connection of 30 minutes, a number of days after noon of `DAY`."""
    began = datetime(2024, 3, 9, 12, tzinfo=UTC) + timedelta(days=day)
    ended = utc(began + timedelta(minutes=30))
    sides = {
        f"{side}__{edge}": value
        for side in ("room", "sigserver")
        for edge, value in (("connect_dt", utc(began)), ("disconnect_dt", ended), ("duration", 1800))
    }
    return changed(NEW, cdr_id=f"c{day}", trans_date=ended, **{**sides, **changes})


def days_and_connections(*days: float, files: list[ListedFile] | None = None) -> list[tuple[int, int, int]]:
    """Of each session: days after `DAY`, connections, files."""
    found = sessions(*map(at, days), files=files)
    return [((row["day"] - DAY).days, row["connections"], row["media_files"]) for row in found]


@pytest.mark.parametrize(
    ("days", "expected"),
    [
        ((0, 0.4), [(0, 2, 0)]),
        ((0, 0.6), [(0, 2, 0)]),
        ((0, 1), [(0, 2, 0)]),
        ((0, 1.001), [(0, 1, 0), (1, 1, 0)]),
        ((0, 0.7, 1.001), [(0, 1, 0), (1, 2, 0)]),
        ((0, 0.9, 1.8, 2.7), [(0, 1, 0), (1, 1, 0), (2, 1, 0), (3, 1, 0)]),
        ((0, 10), [(0, 1, 0), (10, 1, 0)]),
        ((0, 0.2, 10, 10.1), [(0, 2, 0), (10, 2, 0)]),
    ],
)  # fmt: skip
def test_a_number_that_lives_for_days_is_several_sessions(
    days: tuple[float, ...], expected: list[tuple[int, int, int]]
) -> None:
    """Starts within 24 hours are one session, also over midnight; a longer series is one session per UTC day."""
    assert days_and_connections(*days) == expected


STARTS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 12 * 48).map(lambda half_hours: half_hours * 1_800_000)), max_size=30
).map(sorted)


@given(STARTS)
def test_each_connection_is_in_exactly_one_session(starts: list[tuple[int, int]]) -> None:
    """Sessions are numbered without gap in order of start; one has one number and spans at most 24 hours or one date;
    two of a number that follow each other span more.
    """
    codes, began = (np.array([start[part] for start in starts], np.int64) for part in (0, 1))
    numbers = session_numbers(codes, began)
    assert len(numbers) == len(starts)
    assert set(np.diff(numbers, prepend=-1).tolist()) <= {0, 1}
    spans = []
    for number in range(numbers.max(initial=-1) + 1):
        own = began[numbers == number]
        assert len(set(codes[numbers == number].tolist())) == 1
        assert own[-1] - own[0] <= LONGEST_MS or len(set((own // 86_400_000).tolist())) == 1
        spans.append((codes[numbers == number][0], own[0], own[-1]))
    for (code, first, _), (next_code, _, last) in pairwise(spans):
        assert code != next_code or last - first > LONGEST_MS or first // 86_400_000 < last // 86_400_000


@given(STARTS, st.integers(0, 12))
def test_what_is_far_from_a_day_does_not_change_its_sessions(starts: list[tuple[int, int]], day: int) -> None:
    """The sessions of a day are the same from the connections of `CONTEXT_DAYS` around it and from all of them."""

    def sessions_of_day(rows: list[tuple[int, int]]) -> list[list[tuple[int, int]]]:
        numbers = session_numbers(*(np.array([row[part] for row in rows], np.int64) for part in (0, 1)))
        groups = [[row for row, own in zip(rows, numbers, strict=True) if own == n] for n in range(len(rows))]
        return [group for group in groups if group and group[0][1] // 86_400_000 == day]

    before, after = CONTEXT_DAYS
    near = [row for row in starts if day - before <= row[1] // 86_400_000 <= day + after]
    assert sessions_of_day(near) == sessions_of_day(starts)


@given(CALLS, FILES)
def test_files_need_no_more_context_than_sessions(rows: list[dict[str, Any]], files: list[ListedFile]) -> None:
    """A session has the same files when only connections and files of `CONTEXT_DAYS` around its day are read."""
    whole = session_table(connections(rows), SessionFiles(files))[0].rows.to_pylist()
    before, after = (timedelta(days=days) for days in CONTEXT_DAYS)
    for day in {row["day"] for row in whole}:
        near = [row for row in rows if day - before <= row["began_at"].date() <= day + after]
        found = session_table(connections(near), SessionFiles(files))[0].rows.to_pylist()
        assert [row for row in found if row["day"] == day] == [row for row in whole if row["day"] == day]


@pytest.mark.parametrize(
    ("hours", "expected"),
    [
        (0, [(0, 1, 1), (10, 1, 0)]),
        (-0.9, [(0, 1, 1), (10, 1, 0)]),
        (-11, [(0, 1, 1), (10, 1, 0)]),
        (-37, [(0, 1, 0), (10, 1, 0)]),
        (70, [(0, 1, 1), (10, 1, 0)]),
        (84, [(0, 1, 0), (10, 1, 0)]),
        (239.5, [(0, 1, 0), (10, 1, 1)]),
        (241, [(0, 1, 0), (10, 1, 1)]),
    ],
)  # fmt: skip
def test_a_file_belongs_to_the_session_of_its_time(hours: float, expected: list[tuple[int, int, int]]) -> None:
    """An archive record up to 3 days after a connection, or on the day before it, lists files of its session."""
    file = file_at(datetime(2024, 3, 9, 12, tzinfo=UTC) + timedelta(hours=hours))
    assert days_and_connections(0, 10, files=[file]) == expected


def test_a_recording_counts_for_the_session_that_was_running() -> None:
    """Of two sessions with one number a week apart, only the later is recorded, and has the minutes of its own."""
    files = [file_at(datetime(2024, 3, 16, 12, 31, tzinfo=UTC), kind=kind) for kind in ("recording", "transcoded")]
    first, second = sessions(at(0), at(7), files=files)
    assert (first["recording_min"], first["transcoding_min"]) == (0, 0)
    assert (second["recording_min"], second["transcoding_min"]) == (30, 30)


def test_a_stay_that_is_held_counts_as_a_connection_without_minutes() -> None:
    """A connection with an absurd end is in its session, in suspense, and its end is not that of the session."""
    session = one_session(at(0), at(0.001, sigserver__disconnect_dt="2062-11-20T10:30:00.000Z"))
    assert (session["connections"], session["suspense"], session["participant_min"]) == (2, 1, 30)
    assert session["duration_s"] == 1800
    assert session["connect_billed_min"] == 31


def test_minutes_of_enablex_that_are_absurd_are_in_no_sum() -> None:
    """Negative minutes and minutes that are seconds are not added to `connect_billed_min`; the stays still count."""
    minutes = (31, -30, 1800, values.LIMIT - 1)
    session = one_session(*(at(n / 1000, usage__connect_minutes_cal=m) for n, m in enumerate(minutes)))
    assert (session["connect_billed_min"], session["participant_min"], session["suspense"]) == (31, 120, 3)
