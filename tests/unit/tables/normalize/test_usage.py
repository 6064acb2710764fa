"""Usage adds up: exactly, whatever it is made of and however its parts are spread."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.models import ListedFile
from pipeline.tables.normalize.sessions import SessionFiles, session_table
from pipeline.tables.normalize.usage import PART, connection_parts, media_parts, session_parts, usage_table
from pipeline.tables.schemas import USAGE_DAILY
from tests.support.api_calls import CALLS, FILES, connections, rows_of, usage_model
from tests.support.cdrs import NEW, changed

KEY = ("day", "room_id", "owner_ref", "billing_code")
MEDIA = st.tuples(
    FILES,
    st.lists(
        st.fixed_dictionaries(
            {
                "room_id": st.sampled_from([None, "r1", "r9"]),
                "state": st.sampled_from(["stored", "malformed", "lost", "pending"]),
                "size_bytes": st.integers(0, 2**40),
            }
        ),
        min_size=6,
        max_size=6,
    ),
).map(
    lambda drawn: (
        drawn[0],
        [{**row, "conf_num": file.conf_num, "day": file.day} for file, row in zip(*drawn, strict=False)],
    )
)
"""Files, and the row of `media` of each."""


def parts_of(
    rows: list[dict[str, Any]], files: list[ListedFile], media: list[Any], cuts: list[int] | None = None
) -> pa.Table:
    """All parts, sorted as they are when they come back from disk; sessions made in blocks cut at `cuts`."""
    whole = connections(rows)
    parts, owners = [], []
    for start, end in pairwise(cuts or [0, whole.num_rows]):
        block = whole.slice(start, end - start)
        made, of_files = session_table(block, SessionFiles(files))
        parts += [connection_parts(block, made), session_parts(made.rows)]
        owners.append(of_files)
    parts.append(media_parts(media, pa.concat_tables(owners)))
    assert all(part.schema.equals(PART) for part in parts)
    return pa.concat_tables(parts).sort_by([("group", "ascending"), ("user_ref", "ascending")])


def by_key(table: pa.Table) -> dict[tuple[Any, ...], dict[str, Any]]:
    return {
        tuple(row[name] for name in KEY): {k: v for k, v in row.items() if k not in KEY} for row in table.to_pylist()
    }


@given(CALLS, MEDIA)
def test_usage_is_the_sum_of_what_was_used(rows: list[Any], listed: Any) -> None:
    """Every row and column is what exact arithmetic makes of connections, sessions and stored files."""
    table = usage_table(parts_of(rows, *listed))
    assert by_key(table) == usage_model(rows, *listed)
    assert table.select(USAGE_DAILY.schema.names).schema.equals(USAGE_DAILY.schema)


@given(CALLS, MEDIA, st.data())
def test_blocks_do_not_matter(rows: list[Any], listed: Any, data: st.DataObject) -> None:
    """Sessions made in blocks, and parts put together in blocks, give the same rows in the same order."""
    names = connections(rows)["conf_num"].to_pylist()
    parts = parts_of(rows, *listed)
    cut = parts_of(rows, *listed, cuts(data, names))
    groups = cut["group"].to_pylist()
    blocks = [cut.slice(a, b - a) for a, b in pairwise(cuts(data, groups))]
    assert pa.concat_tables([usage_table(block) for block in blocks]).equals(usage_table(parts))


def cuts(data: st.DataObject, names: list[str]) -> list[int]:
    borders = [at for at in range(1, len(names)) if names[at] != names[at - 1]]
    return [0, *sorted(data.draw(st.sets(st.sampled_from(borders))) if borders else []), len(names)]


@given(CALLS, MEDIA)
def test_nothing_is_counted_twice_or_not_at_all(rows: list[Any], listed: Any) -> None:
    """Over all days and rooms, connections, sessions and minutes are what they are without any grouping."""
    used = usage_table(parts_of(rows, *listed)).to_pylist()
    sessions = session_table(connections(rows), SessionFiles(listed[0]))[0].rows.to_pylist()
    assert sum(row["connections"] for row in used) == sum(row["connections"] for row in sessions) == len(rows)
    assert sum(row["sessions"] for row in used) == len(sessions)
    for name in ("recording_min", "transcoding_min", "suspense", "connect_billed_min"):
        assert sum(row[name] for row in used) == sum(row[name] for row in sessions), name
    assert sum(row["participant_min"] for row in used) == sum(row["participant_min"] or 0 for row in rows)


def test_many_rooms_come_in_order() -> None:
    """Hundreds of rooms come in order of their key, each with its own sums."""
    many = (
        changed(NEW, cdr_id=f"{n}-{k}", room__room_id=f"{n * 7919 % 997:03}")
        for n in range(300)
        for k in range(1 + n % 4)
    )
    rows = rows_of(*many)
    table = usage_table(parts_of(rows, [], []))
    assert by_key(table) == usage_model(rows, [], [])
    assert table["room_id"].to_pylist() == sorted({row["room_id"] for row in rows})


@given(CALLS, MEDIA)
def test_rows_come_in_order_of_their_key(rows: list[Any], listed: Any) -> None:
    """Rows come by day, and within a day by key, what is unknown first."""
    keys = [tuple(row[name] for name in KEY) for row in usage_table(parts_of(rows, *listed)).to_pylist()]
    assert keys == sorted(keys, key=lambda key: (key[0], *((part is not None, part or "") for part in key[1:])))
    assert len(set(keys)) == len(keys)
