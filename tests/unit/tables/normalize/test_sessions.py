"""Sessions add up: exactly, in any order, however their connections come in blocks."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.tables.normalize import cdr, values
from pipeline.tables.normalize.sessions import CONNECTION, session_table
from pipeline.tables.schemas import SESSIONS
from tests.support.api_calls import CALLS, KINDS, connections, session_files, sessions_model
from tests.support.cdrs import DROP, NEW, OLD, changed

NO_FILES = session_files({})


@given(CALLS, KINDS)
def test_sessions_are_the_sums_of_their_connections(rows: list[dict[str, Any]], kinds: dict[str, list[str]]) -> None:
    """Every column of every session is what exact arithmetic makes of its connections and listed files."""
    found = session_table(connections(rows), session_files(kinds)).rows
    assert found.to_pylist() == sessions_model(rows, kinds)
    assert found.select(SESSIONS.schema.names).schema.equals(SESSIONS.schema)


@given(CALLS, st.data())
def test_blocks_do_not_matter(rows: list[dict[str, Any]], data: st.DataObject) -> None:
    """Split between sessions into any blocks, connections make the same sessions; each connection finds its own."""
    whole = connections(rows)
    names = whole["conf_num"].to_pylist()
    borders = [at for at in range(1, len(names)) if names[at] != names[at - 1]]
    cuts = [0, *sorted(data.draw(st.sets(st.sampled_from(borders))) if borders else []), len(names)]
    blocks = [session_table(whole.slice(a, b - a), NO_FILES) for a, b in pairwise(cuts)]
    together = session_table(whole, NO_FILES)
    assert pa.concat_tables([block.rows for block in blocks]).equals(together.rows)
    assert together.rows["conf_num"].take(pa.array(together.place)).to_pylist() == names


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


def rows_of(*documents: Any) -> list[dict[str, Any]]:
    rows = [cdr.cdr_row(document) for document in documents]
    return [{**row, "day": cdr.row_day(row)} for row in rows]


def one_session(*documents: Any) -> dict[str, Any]:
    (session,) = session_table(connections(rows_of(*documents)), NO_FILES).rows.to_pylist()
    return session


def test_a_rejoin_is_two_connections_of_one_person() -> None:
    """A user who drops and comes back is two connections and one person, and both stays are billed (section 10)."""
    later = changed(NEW, cdr_id="later", call_num="4", sigserver__connect_dt="2024-03-09T14:40:00.000Z",
                    sigserver__disconnect_dt="2024-03-09T14:40:30.000Z")  # fmt: skip
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
    times = {"room": None, "sigserver__connect_dt": "2024-03-09T23:50:00.000Z"}
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
    found = session_table(whole, NO_FILES)
    assert found.rows.to_pylist() == sessions_model(rows, {})
    assert found.rows["conf_num"].take(pa.array(found.place)).to_pylist() == whole["conf_num"].to_pylist()


def test_no_connections_no_sessions() -> None:
    """Without connections there are no sessions, and the table has all its columns."""
    rows = session_table(connections([]), NO_FILES).rows
    assert rows.num_rows == 0
    assert rows.select(SESSIONS.schema.names).schema.equals(SESSIONS.schema)


@pytest.mark.parametrize(
    ("path", "name"),
    [("price__connect_duration", "price"), ("usage__published_minutes", "published_min"),
     ("usage__connect_minutes_cal", "connect_billed_min")],
)  # fmt: skip
def test_absurd_numbers_still_add_up(path: str, name: str) -> None:
    """The largest numbers that are read add up exactly, over a thousand connections; larger ones are no numbers."""
    most = values.LIMIT - 1
    many = [changed(NEW, cdr_id=f"{at:04}", **{path: most}) for at in range(1100)]
    rows = rows_of(*many)
    session = session_table(connections(rows), NO_FILES).rows.to_pylist()[0]
    assert session[name] == most * 1100
    (beyond,) = rows_of(changed(NEW, **{path: values.LIMIT}))
    assert beyond[name] is None
