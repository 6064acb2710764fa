"""Histories of connections: the newest version wins, and every earlier one has the period in which it was known."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import msgspec
import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline.core.arrow_types import TEXT
from pipeline.tables.normalize.ratings import RatingRules, rate
from pipeline.tables.normalize.versions import (
    IS_REPEATED,
    IS_REPEATED_IN_SESSION,
    Listings,
    number_repeated_ids,
    split_versions,
)
from pipeline.tables.schemas import CDR, CDR_CHANGES, CDR_CONTENT, RATED
from pipeline.tables.sources import OBSERVED
from tests.support.cdrs import BEGIN, DROP, NEW, changed
from tests.support.histories import HOUR, all_current, observation, observed, table

CURRENT = all_current()
CONTENT = [column.name for column in CDR_CONTENT]
TEXTS = sorted(column.name for column in CDR_CONTENT if column.type == TEXT and column.name not in {"cdr_id", "extra"})

CHANGES = st.sampled_from(
    [{}, {}, {}, {"user__ref": ""}, {"price__connect_duration": 0.2}, {"trans_date": "2024-03-10T00:10:00.000Z"},
     {"beta": 1}, {"conf_num": "other"}, {"sigserver__disconnect_dt": "2024-03-09T14:50:00.000Z"}]
)  # fmt: skip
OBSERVATIONS = st.lists(
    st.builds(
        lambda key, hour, twin, content, quality, changes: observed(
            key, hour, content, quality, response=2 * hour + twin, **changes
        ),
        st.sampled_from("abc"),
        st.integers(0, 3),
        st.sampled_from([0, 0, 0, 1]),
        st.sampled_from(["", "A", "B", "Ä"]),
        st.sampled_from([None, b'{"send":{}}', b'{"send":{"audio":{"avg_bitrate":1}}}']),
        CHANGES,
    ),
    min_size=1,
    max_size=12,
)
"""Of up to two responses at each of four hours."""


def content(row: dict[str, Any]) -> list[Any]:
    return [row[name] for name in CONTENT if name != "cdr_id"]


def preference(row: dict[str, Any]) -> tuple[Any, ...]:
    """Of two documents with one id the one written later, then the longer one, then the greater one is preferred."""
    stay = row["signal_disconnected_at"] - row["signal_connected_at"]
    texts = [row[name] or "" for name in TEXTS]
    encoded = msgspec.json.encode([row["cdr_id"], *content(row), row["stats_quality"]])
    return row["trans_at"] or BEGIN, stay, texts, encoded


def numbered(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same with a number at ids that name several documents of one response: by session, by preference."""
    result = []
    for _, of_id in groupby(sorted(rows, key=lambda row: row["cdr_id"]), lambda row: row["cdr_id"]):
        own = list(of_id)
        by_response = {
            number: [row for row in own if row["response"] == number] for number in {r["response"] for r in own}
        }
        has_sessions = any(len({row["conf_num"] for row in each}) > 1 for each in by_response.values())
        ranked = []
        for each in by_response.values():
            for row in each:
                session = row["conf_num"] if has_sessions else ""
                rivals = [r for r in each if not has_sessions or r["conf_num"] == session]
                contents = [each for each, _ in groupby(sorted(map(preference, rivals), reverse=True))]
                ranked.append((session, contents.index(preference(row)), row))
        names = sorted({(session, rank) for session, rank, _ in ranked})
        for session, rank, row in ranked:
            number = names.index((session, rank)) + 1
            name = row["cdr_id"] + (f"#{number}" if number > 1 else "")
            result.append(
                {
                    **row,
                    "cdr_id": name,
                    "repeated": 0 if number == 1 else 2 if rank else 1,
                }
            )
    return result


def model(rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The same in plain words: by key, by moment, the preferred one; a version ends where the content differs."""
    newest, earlier = [], []
    for _, of_key in groupby(sorted(numbered(rows), key=lambda row: row["cdr_id"]), lambda row: row["cdr_id"]):
        by_moment: dict[Any, list[dict[str, Any]]] = {}
        for row in of_key:
            by_moment.setdefault(row["seen_at"], []).append(row)
        history = [max(by_moment[moment], key=preference) for moment in sorted(by_moment)]
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


UNCOMPARED = ("response", "last_seen_at", "is_listed")
"""Which of two responses of one moment is kept has no meaning; listings have their own tests."""


def split(
    rows: list[dict[str, Any]], listings: Listings = CURRENT
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    newest, earlier = split_versions(table(rows), listings)
    return newest.to_pylist(), earlier.to_pylist()


def compared(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name not in UNCOMPARED} for row in rows]


@given(OBSERVATIONS)
def test_histories(rows: list[dict[str, Any]]) -> None:
    """Newest and earlier versions, their numbers and moments, are those of a plain reading of each key's history."""
    for found, expected in zip(split(rows), model(rows), strict=True):
        assert compared(found) == compared(expected)


@given(OBSERVATIONS, st.data())
def test_order_and_repetition_do_not_matter(rows: list[dict[str, Any]], data: st.DataObject) -> None:
    """However often and in whatever order the same things were said, the versions are the same."""
    more = data.draw(st.lists(st.sampled_from(rows), max_size=8))
    shuffled = data.draw(st.permutations(rows + more))
    for one, other in zip(split(rows), split(shuffled), strict=True):
        assert compared(one) == compared(other)


@given(OBSERVATIONS)
def test_intervals_tile_the_time(rows: list[dict[str, Any]]) -> None:
    """From first sight on, exactly one version of each key is valid at any moment, numbered from 1 without gap."""
    newest, earlier = split(rows)
    assert {row["cdr_id"].split("#")[0] for row in newest} == {row["cdr_id"] for row in rows}
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
    """What was known at a moment can be read off the versions: it is what the observations up to then say.

    An exception is an id that names connections of two sessions: its records are numbered over all responses.
    """
    assume(all(row["repeated"] != IS_REPEATED for row in numbered(rows)))
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
    newest, earlier = split_versions(OBSERVED.empty_table(), CURRENT)
    assert newest.num_rows == earlier.num_rows == 0
    assert set(CDR.schema.names) <= {*newest.column_names, *RATED}
    assert set(CDR_CHANGES.schema.names) <= {*earlier.column_names, *RATED}


def test_columns_have_the_types_of_their_tables() -> None:
    """Both results, once rated, can be written to their tables as they are, and so can results without rows."""
    for rows in ([observed("a", 0, "A"), observed("a", 1, "B")], []):
        newest, earlier = (rate(part, RatingRules(), {}).rows for part in split_versions(table(rows), CURRENT))
        assert newest.select(CDR.schema.names).schema.equals(CDR.schema)
        assert earlier.select(CDR_CHANGES.schema.names).schema.equals(CDR_CHANGES.schema)


# --- ids that name several records ---


def ids(rows: list[dict[str, Any]]) -> list[tuple[str, Any]]:
    """Ids and names of the newest versions."""
    return [(row["cdr_id"], row["user_name"]) for row in split(rows)[0]]


def test_two_documents_with_one_id_are_two_records() -> None:
    """Different documents with one id in one response are two records; a repeated document is one."""
    newest, earlier = split([observed("a", 0, name) for name in ("A", "B", "A")])
    assert [(row["cdr_id"], row["user_name"], row["repeated"]) for row in newest] == [
        ("a", "B", 0), ("a#2", "A", IS_REPEATED_IN_SESSION),
    ]  # fmt: skip
    assert earlier == []


def test_the_record_that_was_written_last_keeps_the_id() -> None:
    """The later `trans_date` precedes the longer stay; a record without `trans_date` is last."""
    late = {"trans_date": "2024-03-09T15:00:00.000Z"}
    long = {"sigserver__disconnect_dt": "2024-03-09T14:50:00.000Z"}
    rows = [observed("a", 0, "late", **late), observed("a", 0, "long", **long), observed("a", 0, "short"),
            observed("a", 0, "undated", trans_date=DROP)]  # fmt: skip
    assert ids(rows) == [("a", "late"), ("a#2", "long"), ("a#3", "short"), ("a#4", "undated")]


def test_one_id_in_two_sessions_is_two_connections() -> None:
    """Sessions are numbered in order of `conf_num`; the second is in suspense, but not held."""
    rows = [observed("a", 0, "x", conf_num="s2"), observed("a", 0, "y", conf_num="s1")]
    newest, _ = split(rows)
    assert [(row["cdr_id"], row["conf_num"], row["repeated"]) for row in newest] == [
        ("a", "s1", 0), ("a#2", "s2", IS_REPEATED),
    ]  # fmt: skip


def test_an_id_that_changes_its_session_is_one_record() -> None:
    """A later response with another `conf_num` for an id is a correction, unless a response has both."""
    moved = [observed("a", 0, "A", conf_num="s1"), observed("a", 1, "A", conf_num="s2")]
    newest, earlier = split(moved)
    assert [(row["cdr_id"], row["conf_num"]) for row in (*earlier, *newest)] == [("a", "s1"), ("a", "s2")]
    both = [*moved, observed("a", 1, "A", conf_num="s1")]
    assert [row["cdr_id"] for row in split(both)[0]] == ["a", "a#2"]


def test_derived_ids_that_are_equal_are_two_connections() -> None:
    """Two documents without `cdr_id` that differ only in what may be corrected are two connections, none wrong."""
    documents = [changed(NEW, cdr_id=DROP, usage__connect_minutes=minutes) for minutes in (1, 2)]
    newest, _ = split([observation(document, BEGIN) for document in documents])
    first, second = (row["cdr_id"] for row in newest)
    assert second == f"{first}#2"
    assert [row["repeated"] for row in newest] == [0, 0]


def test_the_nth_record_is_a_version_of_the_nth_record() -> None:
    """Two records with one id that are corrected have two histories."""
    rows = [observed("a", hour, f"{name}{hour}") for hour in (0, 1) for name in "AB"]
    newest, earlier = split(rows)
    assert [(row["cdr_id"], row["user_name"]) for row in newest] == [("a", "B1"), ("a#2", "A1")]
    assert [(row["cdr_id"], row["user_name"]) for row in earlier] == [("a", "B0"), ("a#2", "A0")]


@given(OBSERVATIONS)
def test_no_document_is_dropped(rows: list[dict[str, Any]]) -> None:
    """Each response keeps as many records of an id as it has different documents with the id."""
    found = number_repeated_ids(table(rows)).to_pylist()
    assert len(found) == len(rows)
    for number in {row["response"] for row in rows}:
        documents = {
            (row["cdr_id"].split("#")[0], msgspec.json.encode([content(row), row["stats_quality"]]))
            for row in found
            if row["response"] == number
        }
        assert len({row["cdr_id"] for row in found if row["response"] == number}) == len(documents)


# --- listings ---


def listings(current: set[int], until_hours: dict[int, int]) -> Listings:
    """Responses that are the newest for their day, and the hour of the last repetition of others."""
    until = CURRENT.until_ms.copy()
    for response, hours in until_hours.items():
        until[response] = CURRENT.until_ms[hours]
    return Listings(until, np.isin(np.arange(len(until)), list(current)))


@given(OBSERVATIONS, st.sets(st.integers(0, 7)), st.dictionaries(st.integers(0, 7), st.integers(0, 20)))
def test_a_record_is_listed_if_a_current_response_has_it(
    rows: list[dict[str, Any]], current: set[int], until_hours: dict[int, int]
) -> None:
    """`is_listed`: one of its responses is current; `last_seen_at`, if none is: the latest time of a collection."""
    newest, _ = split(rows, listings(current, until_hours))
    by_id: dict[str, set[int]] = {}
    for row in numbered(rows):
        by_id.setdefault(row["cdr_id"], set()).add(row["response"])
    assert {row["cdr_id"]: row["is_listed"] for row in newest} == {
        key: bool(responses & current) for key, responses in by_id.items()
    }
    assert {row["cdr_id"]: row["last_seen_at"] for row in newest} == {
        key: None
        if responses & current
        else max(BEGIN + until_hours.get(response, response) * HOUR for response in responses)
        for key, responses in by_id.items()
    }
