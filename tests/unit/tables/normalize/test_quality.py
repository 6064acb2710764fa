"""Transport quality: read in columns, it is what it is one connection at a time."""

from __future__ import annotations

import json
from datetime import date
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.tables.normalize import quality
from pipeline.tables.normalize.quality import quality_rows, quality_table
from pipeline.tables.schemas import CDR_QUALITY
from tests.support.cdrs import NEW

pytestmark = pytest.mark.usefixtures("either_finder")

SCHEMA = pa.schema(
    [("cdr_id", pa.string()), ("conf_num", pa.string()), ("day", pa.date32()), ("stats_quality", pa.binary())]
)
DAY = date(2024, 3, 9)

ODD = st.sampled_from([None, "", {}, [], "12", "x", True, 0, -1, 1e11, 10**12, 10**30, 1e300, [1], {"a": 1}, "Good"])
MEASURES = st.dictionaries(
    st.sampled_from(
        ["avg_bitrate", "min_bitrate", "max_bitrate", "avg_bitrate_quality", "bitrate_good_percent", "jitter", "token"]
    ),
    st.integers(0, 900) | ODD,
    max_size=4,
)
PLAIN = st.fixed_dictionaries(
    {},
    optional={
        "avg_bitrate": st.integers(0, 900) | st.none(),
        "max_bitrate": st.floats(0, 900),
        "avg_bitrate_quality": st.sampled_from(["Good", "Bad", None]),
        "bitrate_good_percent": st.integers(0, 100),
    },
)
MEDIA = st.dictionaries(
    st.sampled_from(["audio", "video", "sharing", "screen"]), PLAIN | PLAIN | MEASURES | ODD, max_size=3
)
STATS = st.dictionaries(st.sampled_from(["send", "receive", "relay"]), MEDIA | MEDIA | ODD, max_size=2) | ODD


def connections(stats: list[Any]) -> pa.Table:
    """One connection for each; None has none."""
    rows = [
        {
            "cdr_id": f"c{at:03}",
            "conf_num": str(at % 2),
            "day": DAY,
            "stats_quality": None if one is None else json.dumps(one).encode(),
        }
        for at, one in enumerate(stats)
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def model(stats: list[Any]) -> list[dict[str, Any]]:
    """`quality_rows` of each connection, in order of direction and medium."""
    found = []
    for at, one in enumerate(stats):
        rows = sorted(quality_rows(one), key=lambda row: (row["direction"], row["medium"]))
        found += [{"cdr_id": f"c{at:03}", "conf_num": str(at % 2), "day": DAY, **row} for row in rows]
    return found


def comparable(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [dict(sorted(row.items())) for row in rows]


@given(st.lists(STATS, max_size=7), st.integers(1, 4))
def test_columns_are_what_connections_are(stats: list[Any], batch: int) -> None:
    """For any stats the table has exactly the rows of `quality_rows`, sorted by key, however they fall into batches."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quality, "BATCH_CONNECTIONS", batch, raising=False)
        table = quality_table(connections(stats))
    expected = pa.Table.from_pylist(model(stats), schema=pa.schema([*CDR_QUALITY.schema, ("day", pa.date32())]))
    assert comparable(table.to_pylist()) == comparable(expected.to_pylist())


@given(st.lists(STATS, max_size=7))
def test_key_is_unique(stats: list[Any]) -> None:
    """No two rows of the table have one key."""
    rows = quality_table(connections(stats)).select(list(CDR_QUALITY.key)).to_pylist()
    assert len({tuple(row.values()) for row in rows}) == len(rows)


def test_the_documented_stats_are_four_rows() -> None:
    """Two directions, two media each; empty sharing is no row; percent is only sent for receive."""
    table = quality_table(connections([NEW["stats_quality"]]))
    rows = table.to_pylist()
    assert [(row["direction"], row["medium"]) for row in rows] == [
        ("receive", "audio"), ("receive", "video"), ("send", "audio"), ("send", "video"),
    ]  # fmt: skip
    assert rows[1]["bitrate_good_percent"] == 71
    assert rows[3]["bitrate_good_percent"] is None
    assert table.select(CDR_QUALITY.schema.names).schema.equals(CDR_QUALITY.schema)


def test_more_measures_are_kept() -> None:
    """A measure nobody documented, and one that is no number, stand in `extra`."""
    (row,) = quality_table(connections([{"send": {"audio": {"avg_bitrate": "fast", "jitter": 3}}}])).to_pylist()
    assert row["avg_bitrate_kbps"] is None
    assert json.loads(row["extra"]) == {"avg_bitrate": "fast", "jitter": 3}


@pytest.mark.parametrize("stats", [[], [None], [{}], ["x", 7, []]])
def test_nothing_is_no_row(stats: list[Any]) -> None:
    """No connections, none with stats, and stats that are no object make an empty table of the right type."""
    table = quality_table(connections(stats))
    assert table.num_rows == 0
    assert table.select(CDR_QUALITY.schema.names).schema.equals(CDR_QUALITY.schema)


@pytest.mark.parametrize("text", [b'{"send":{"audio":{"avg_bitrate_quality":"\xff"}}}', b'{"send":"\\ud800"}'])
def test_broken_text_stops_nobody(text: bytes) -> None:
    """Stats with bytes that are no text cost these stats at most, not the day."""
    rows = connections([NEW["stats_quality"], {}]).to_pylist()
    rows[1]["stats_quality"] = text
    assert quality_table(pa.Table.from_pylist(rows, schema=SCHEMA)).num_rows >= 4
