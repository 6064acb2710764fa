"""Histories of connections: the newest version wins, and every earlier one has the period in which it was known."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import msgspec
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pipeline.tables.normalize.versions import split_versions
from pipeline.tables.schemas import CDR, CDR_CHANGES, CDR_CONTENT
from pipeline.tables.sources import OBSERVED
from tests.support.cdrs import BEGIN
from tests.support.histories import HOUR, observed, table

CONTENT = [column.name for column in CDR_CONTENT]

CHANGES = st.sampled_from(
    [{}, {"user__ref": ""}, {"price__connect_duration": 0.2}, {"trans_date": "2024-03-10T00:10:00.000Z"}, {"beta": 1}]
)
OBSERVATIONS = st.lists(
    st.builds(
        lambda key, hour, content, quality, changes: observed(key, hour, content, quality, **changes),
        st.sampled_from("abc"),
        st.integers(0, 3),
        st.sampled_from(["", "A", "B", "Ä"]),
        st.sampled_from([None, b'{"send":{}}', b'{"send":{"audio":{"avg_bitrate":1}}}']),
        CHANGES,
    ),
    min_size=1,
    max_size=12,
)


def model(rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The same in plain words: by key, by moment, the greatest of rivals; a version ends where the content differs."""
    newest, earlier = [], []
    for _, of_key in groupby(sorted(rows, key=lambda row: row["cdr_id"]), lambda row: row["cdr_id"]):
        by_moment: dict[Any, list[dict[str, Any]]] = {}
        for row in of_key:
            by_moment.setdefault(row["seen_at"], []).append(row)
        history = [max(by_moment[moment], key=said) for moment in sorted(by_moment)]
        versions: list[list[dict[str, Any]]] = []
        for row in history:
            if versions and content(versions[-1][-1]) == content(row):
                versions[-1].append(row)
            else:
                versions.append([row])
        for number, version in enumerate(versions, 1):
            row = {key: value for key, value in version[-1].items() if key != "seen_at"} | {"revision": number}
            if number == len(versions):
                seen = {"first_seen_at": history[0]["seen_at"], "changed_at": version[0]["seen_at"]}
                newest.append({**row, **seen})
            else:
                known = {"known_from": version[0]["seen_at"], "known_to": versions[number][0]["seen_at"]}
                earlier.append({**row, **known})
    return newest, earlier


def content(row: dict[str, Any]) -> list[Any]:
    return [row[name] for name in CONTENT]


def said(row: dict[str, Any]) -> bytes:
    """What orders rivals of one moment: byte order of content and quality."""
    return msgspec.json.encode([*content(row), row["stats_quality"]])


def split(rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    newest, earlier = split_versions(table(rows))
    return newest.to_pylist(), earlier.to_pylist()


@given(OBSERVATIONS)
def test_histories(rows: list[dict[str, Any]]) -> None:
    """Newest and earlier versions, their numbers and moments, are those of a plain reading of each key's history."""
    assert split(rows) == model(rows)


@given(OBSERVATIONS, st.data())
def test_order_and_repetition_do_not_matter(rows: list[dict[str, Any]], data: st.DataObject) -> None:
    """However often and in whatever order the same things were said, the versions are the same."""
    more = data.draw(st.lists(st.sampled_from(rows), max_size=8))
    shuffled = data.draw(st.permutations(rows + more))
    for one, other in zip(split_versions(table(rows)), split_versions(table(shuffled)), strict=True):
        assert one.equals(other)


@given(OBSERVATIONS)
def test_intervals_tile_the_time(rows: list[dict[str, Any]]) -> None:
    """From first sight on, exactly one version of each key is valid at any moment, numbered from 1 without gap."""
    newest, earlier = split(rows)
    assert {row["cdr_id"] for row in newest} == {row["cdr_id"] for row in rows}
    for row in newest:
        past = [old for old in earlier if old["cdr_id"] == row["cdr_id"]]
        assert [old["revision"] for old in past] == list(range(1, row["revision"]))
        edges = [moment for old in past for moment in (old["known_from"], old["known_to"])]
        expected = [row["first_seen_at"], *edges[1:-1:2]]
        assert [old["known_from"] for old in past] == expected[: len(past)]
        assert (past[-1]["known_to"] if past else row["first_seen_at"]) == row["changed_at"]
        assert edges == sorted(edges)


@given(OBSERVATIONS, st.integers(0, 3))
def test_as_known_then(rows: list[dict[str, Any]], hour: int) -> None:
    """What was known at a moment can be read off the versions: it is what the observations up to then say."""
    moment = BEGIN + hour * HOUR
    newest, earlier = split(rows)
    known = [row for row in newest if row["changed_at"] <= moment]
    known += [row for row in earlier if row["known_from"] <= moment < row["known_to"]]
    until = [row for row in rows if row["seen_at"] <= moment]
    then = split(until)[0] if until else []
    key = lambda row: row["cdr_id"]  # noqa: E731
    assert [content(row) for row in sorted(known, key=key)] == [content(row) for row in then]
    assert [row["revision"] for row in sorted(known, key=key)] == [row["revision"] for row in then]


def test_there_and_back_again() -> None:
    """A value that was corrected and corrected back is three versions, not one."""
    newest, earlier = split([observed("a", hour, name) for hour, name in enumerate("ABA")])
    assert [(row["user_name"], row["revision"]) for row in (*earlier, *newest)] == [("A", 1), ("B", 2), ("A", 3)]


def test_quality_alone_is_no_new_version() -> None:
    """Newer quality replaces older; it is no change of the connection."""
    rows = [observed("a", 0, "A", b'{"send":1}'), observed("a", 1, "A", b'{"send":2}')]
    newest, earlier = split(rows)
    assert [row["stats_quality"] for row in newest] == [b'{"send":2}']
    assert earlier == []


def test_null_and_value_differ() -> None:
    """A name that appears, and one that goes, are changes; null twice is none."""
    newest, earlier = split([observed("a", hour, name) for hour, name in enumerate(["", "", "A", "A", ""])])
    assert [row["user_name"] for row in earlier] == [None, "A"]
    assert newest[0]["revision"] == 3


def test_nothing_seen() -> None:
    """Without observations there are no versions, and both tables have all their columns."""
    newest, earlier = split_versions(OBSERVED.empty_table())
    assert newest.num_rows == earlier.num_rows == 0
    assert set(CDR.schema.names) <= set(newest.column_names)
    assert set(CDR_CHANGES.schema.names) <= set(earlier.column_names)


def test_columns_have_the_types_of_their_tables() -> None:
    """Both results can be written to their tables as they are."""
    newest, earlier = split_versions(table([observed("a", 0, "A"), observed("a", 1, "B")]))
    assert newest.select(CDR.schema.names).schema.equals(CDR.schema)
    assert earlier.select(CDR_CHANGES.schema.names).schema.equals(CDR_CHANGES.schema)
    assert isinstance(newest, pa.Table)
