"""Usage adds up: exactly, whatever it is made of and however its parts are spread."""

from __future__ import annotations

from datetime import date
from itertools import pairwise
from typing import Any

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pipeline.tables.normalize import cdr
from pipeline.tables.normalize.sessions import session_table
from pipeline.tables.normalize.usage import PART, connection_parts, media_parts, session_parts, usage_table
from pipeline.tables.schemas import USAGE_DAILY
from tests.support.api_calls import CALLS, KINDS, connections, session_files, usage_model
from tests.support.cdrs import NEW, changed

KEY = ("day", "room_id", "owner_ref", "billing_code")
MEDIA = st.lists(
    st.fixed_dictionaries(
        {
            "conf_num": st.sampled_from(["s1", "s2", "unknown"]),
            "room_id": st.sampled_from([None, "r1", "r9"]),
            "day": st.sampled_from([date(2024, 3, 9), date(2024, 3, 10)]),
            "state": st.sampled_from(["stored", "malformed", "lost", "pending"]),
            "size_bytes": st.integers(0, 2**40),
        }
    ),
    max_size=5,
)


def parts_of(rows: list[dict[str, Any]], kinds: Any, media: list[Any], cuts: list[int] | None = None) -> pa.Table:
    """All parts, sorted as they are when they come back from disk; sessions made in blocks cut at `cuts`."""
    whole = connections(rows)
    parts, sessions = [], []
    for start, end in pairwise(cuts or [0, whole.num_rows]):
        block = whole.slice(start, end - start)
        made = session_table(block, session_files(kinds))
        parts += [connection_parts(block, made), session_parts(made.rows)]
        sessions.append(made.rows)
    parts.append(media_parts(media, pa.concat_tables(sessions)))
    assert all(part.schema.equals(PART) for part in parts)
    return pa.concat_tables(parts).sort_by([("group", "ascending"), ("user_ref", "ascending")])


def by_key(table: pa.Table) -> dict[tuple[Any, ...], dict[str, Any]]:
    return {
        tuple(row[name] for name in KEY): {k: v for k, v in row.items() if k not in KEY} for row in table.to_pylist()
    }


@given(CALLS, KINDS, MEDIA)
def test_usage_is_the_sum_of_what_was_used(rows: list[Any], kinds: Any, media: list[Any]) -> None:
    """Every row and column is what exact arithmetic makes of connections, sessions and stored files."""
    table = usage_table(parts_of(rows, kinds, media))
    assert by_key(table) == usage_model(rows, kinds, media)
    assert table.select(USAGE_DAILY.schema.names).schema.equals(USAGE_DAILY.schema)


@given(CALLS, KINDS, MEDIA, st.data())
def test_blocks_do_not_matter(rows: list[Any], kinds: Any, media: list[Any], data: st.DataObject) -> None:
    """Sessions made in blocks, and parts put together in blocks, give the same rows in the same order."""
    names = connections(rows)["conf_num"].to_pylist()
    parts = parts_of(rows, kinds, media)
    cut = parts_of(rows, kinds, media, cuts(data, names))
    groups = cut["group"].to_pylist()
    blocks = [cut.slice(a, b - a) for a, b in pairwise(cuts(data, groups))]
    assert pa.concat_tables([usage_table(block) for block in blocks]).equals(usage_table(parts))


def cuts(data: st.DataObject, names: list[str]) -> list[int]:
    borders = [at for at in range(1, len(names)) if names[at] != names[at - 1]]
    return [0, *sorted(data.draw(st.sets(st.sampled_from(borders))) if borders else []), len(names)]


@given(CALLS, KINDS)
def test_nothing_is_counted_twice_or_not_at_all(rows: list[Any], kinds: Any) -> None:
    """Over all days and rooms, connections, sessions and minutes are what they are without any grouping."""
    used = usage_table(parts_of(rows, kinds, [])).to_pylist()
    assert sum(row["connections"] for row in used) == len(rows)
    assert sum(row["sessions"] for row in used) == len({row["conf_num"] for row in rows})
    assert sum(row["participant_min"] for row in used) == sum(row["participant_min"] or 0 for row in rows)


def test_many_rooms_come_in_order() -> None:
    """Hundreds of rooms come in order of their key, each with its own sums."""
    many = (
        changed(NEW, cdr_id=f"{n}-{k}", room__room_id=f"{n * 7919 % 997:03}")
        for n in range(300)
        for k in range(1 + n % 4)
    )
    rows = [{**row, "day": cdr.row_day(row)} for row in map(cdr.cdr_row, many)]
    table = usage_table(parts_of(rows, {}, []))
    assert by_key(table) == usage_model(rows, {}, [])
    assert table["room_id"].to_pylist() == sorted({row["room_id"] for row in rows})


@given(CALLS, MEDIA)
def test_rows_come_in_order_of_their_key(rows: list[Any], media: list[Any]) -> None:
    """Rows come by day, and within a day by key, what is unknown first."""
    keys = [tuple(row[name] for name in KEY) for row in usage_table(parts_of(rows, {}, media)).to_pylist()]
    assert keys == sorted(keys, key=lambda key: (key[0], *((part is not None, part or "") for part in key[1:])))
    assert len(set(keys)) == len(keys)
