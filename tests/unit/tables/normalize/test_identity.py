"""Connections without `cdr_id`: two people are two, and one connection in two shapes is one."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.tables.normalize import cdr
from pipeline.tables.normalize.identity import IDENTITIES, has_derived, joined_ids, renamed, with_derived_ids
from pipeline.tables.normalize.versions import ids_with_rivals, split_versions
from pipeline.tables.sources import OBSERVED
from tests.support.cdrs import BEGIN, DROP, NEW, changed, utc
from tests.support.histories import HOUR, all_current, observation, table

ANONYMOUS = changed(NEW, cdr_id=DROP)


def derived(document: Any, key: bytes = b"") -> str:
    rows = pa.Table.from_pylist([observation(document, BEGIN)], schema=OBSERVED)
    (cdr_id,) = with_derived_ids(rows, key)["cdr_id"].to_pylist()
    return str(cdr_id)


# --- derived ids (11.9) ---


@pytest.mark.parametrize("missing", [DROP, None, ""])
@pytest.mark.parametrize("key", [b"", b"secret"])
def test_a_missing_id_is_derived(missing: Any, key: bytes) -> None:
    """Without `cdr_id` the id is a hash of the identity, keyed if names are pseudonymised, the same in every run."""
    identity = ("284170002063", "61aa00bb22cc33dd44ee55ff", "65ec6b1f0c3a9e0012ab34ce", "3", "patient-9001",
                "A. Patient", "203.0.113.7", "65ec60000c3a9e0012ab0001", "2024-03-09 14:02:30.900000+00:00",
                "2024-03-09 14:02:31.337000+00:00", "")  # fmt: skip
    content = "\x1f".join(identity).encode()
    digest = hmac.new(key, content, "sha256") if key else hashlib.sha256(content)
    assert derived(changed(NEW, cdr_id=missing), key) == f"derived-{digest.hexdigest()[:24]}"


def test_a_stated_id_stays() -> None:
    """A document with `cdr_id` keeps it."""
    assert derived(NEW) == NEW["cdr_id"]


@pytest.mark.parametrize(
    "path",
    ["app_id", "conf_num", "call_log_id", "call_num", "user__ref", "user__name", "user__ip", "room__room_id",
     "sigserver__connect_dt", "room__connect_dt"],
)  # fmt: skip
def test_each_identifying_field_counts(path: str) -> None:
    """Two connections that differ in one identifying field, or in which only one has it, have two derived ids."""
    other = "2024-03-09T14:02:30.901Z" if path.endswith("_dt") else "other"
    others = [other] if path == "conf_num" else [other, DROP]
    assert derived(ANONYMOUS) not in {derived(changed(ANONYMOUS, **{path: value})) for value in others}


def test_a_correction_keeps_a_derived_id() -> None:
    """What may be corrected later (minutes, ends, prices) is no part of a derived id."""
    later = changed(ANONYMOUS, trans_date="2024-03-10T01:00:00.000Z", usage=None, price=None,
                    sigserver__disconnect_dt="2024-03-09T14:40:00.000Z")  # fmt: skip
    assert derived(ANONYMOUS) == derived(later)


def test_without_a_connect_time_the_moment_counts() -> None:
    """Two documents without connect times are two connections if their records are of two moments."""
    bare = changed(ANONYMOUS, sigserver=None, room=None)
    later = changed(bare, trans_date="2024-03-09T14:33:05.121Z")
    assert derived(bare) != derived(later)


def test_neighbouring_fields_do_not_run_into_one_another() -> None:
    """("12", "3") and ("1", "23") are two derived ids."""
    one, two = (changed(ANONYMOUS, call_log_id=a, call_num=b) for a, b in (("12", "3"), ("1", "23")))
    assert derived(one) != derived(two)


def test_ids_are_derived_in_place() -> None:
    """Of many rows only those without an id get one; order and all other columns stay."""
    documents = [changed(NEW, cdr_id=DROP if at % 3 else f"c{at}", call_num=at) for at in range(10)]
    rows = pa.Table.from_pylist([observation(document, BEGIN) for document in documents], schema=OBSERVED)
    found = with_derived_ids(rows, b"")
    assert found.drop_columns("cdr_id").equals(rows.drop_columns("cdr_id"))
    assert found["cdr_id"].to_pylist() == [derived(document) for document in documents]
    assert has_derived(found)
    stated = found.filter(pa.compute.invert(found["cdr_id_is_derived"]))
    assert with_derived_ids(stated, b"") is stated
    assert not has_derived(stated)


# --- one connection in two shapes ---


def joined(*replies: list[Any]) -> list[list[str]]:
    """The final id of each document of each reply."""
    rows = [
        observation(document, BEGIN + number * HOUR, response=number, ordinal=ordinal)
        for number, reply in enumerate(replies)
        for ordinal, document in enumerate(reply)
    ]
    found = with_derived_ids(pa.Table.from_pylist(rows, schema=OBSERVED), b"")
    several = ids_with_rivals(found.sort_by([("cdr_id", "ascending"), ("seen_at", "ascending")]))
    found = renamed(found, joined_ids(found.select(IDENTITIES.names), several.to_pylist()))
    ids = found["cdr_id"].to_pylist()
    return [[name for row, name in zip(rows, ids, strict=True) if row["response"] == n] for n in range(len(replies))]


STATED = str(NEW["cdr_id"])


def test_a_record_that_gets_its_id_later_is_one_record() -> None:
    """The same document first without and later with `cdr_id` is one record with the stated id, in any order."""
    assert joined([ANONYMOUS], [NEW]) == [[STATED], [STATED]]
    assert joined([NEW], [ANONYMOUS]) == [[STATED], [STATED]]
    assert joined([ANONYMOUS], [NEW], [ANONYMOUS]) == [[STATED]] * 3


@pytest.mark.parametrize("shared", ["call_log_id", "call_num", "sigserver__connect_dt", "room__connect_dt"])
def test_one_strong_field_is_enough(shared: str) -> None:
    """Two records are one if they share a call log, a call number or a connect time, and contradict in nothing."""
    strong = ("call_log_id", "call_num", "sigserver__connect_dt", "room__connect_dt")
    older = changed(ANONYMOUS, **{path: DROP for path in strong if path != shared})
    assert joined([older], [NEW]) == [[STATED], [STATED]]
    none = changed(older, **{shared: DROP})
    assert joined([none], [NEW]) == [[derived(none)], [STATED]]


@pytest.mark.parametrize(
    "path",
    ["conf_num", "call_log_id", "call_num", "user__ref", "user__name", "user__ip", "room__room_id",
     "sigserver__connect_dt", "room__connect_dt"],
)  # fmt: skip
def test_what_contradicts_is_not_joined(path: str) -> None:
    """Two records that differ in an identity field that both have are two connections."""
    other = changed(ANONYMOUS, **{path: "2024-03-09T14:00:00.000Z" if path.endswith("_dt") else "other"})
    assert joined([other], [NEW]) == [[derived(other)], [STATED]]


def test_records_of_one_reply_are_not_joined() -> None:
    """Two documents of one reply are never versions of one record, also if other replies have one of them."""
    assert joined([ANONYMOUS, NEW]) == [[derived(ANONYMOUS), STATED]]
    assert joined([ANONYMOUS, NEW], [NEW], [ANONYMOUS]) == [
        [derived(ANONYMOUS), STATED],
        [STATED],
        [derived(ANONYMOUS)],
    ]


def test_two_derived_records_join_one() -> None:
    """Two shapes without an id join the same record, unless a reply has both."""
    one, two = changed(ANONYMOUS, call_num=DROP), changed(ANONYMOUS, user__name=DROP)
    assert joined([one], [two], [NEW]) == [[STATED]] * 3
    poor = changed(two, user__ip=DROP)
    assert joined([one, poor], [NEW]) == [[STATED, derived(poor)], [STATED]]


def test_the_fuller_record_is_joined_first() -> None:
    """Of two people who connect in the same moment, one without a name: the one with a name is joined by name, and the
    other one is joined with the record that is left.
    """
    ann = changed(NEW, cdr_id="a", call_log_id=DROP, call_num="1", user={"name": "Ann"})
    bob = changed(NEW, cdr_id="b", call_log_id=DROP, call_num="2", user={"name": "Bob"})
    older = [changed(ann, cdr_id=DROP), changed(bob, cdr_id=DROP, user=DROP, call_num=DROP)]
    assert joined(older, [ann, bob]) == [["a", "b"], ["a", "b"]]
    older = [changed(ann, cdr_id=DROP, user=DROP, call_num=DROP), changed(bob, cdr_id=DROP)]
    assert joined(older, [ann, bob]) == [["a", "b"], ["a", "b"]]


def test_without_a_stated_id_the_fuller_record_is_joined() -> None:
    """A poorer record joins the one with more identity fields."""
    poor = changed(ANONYMOUS, user__name=DROP, user__ip=DROP)
    assert joined([poor], [ANONYMOUS]) == [[derived(ANONYMOUS)], [derived(ANONYMOUS)]]


def test_an_id_that_names_several_is_not_joined() -> None:
    """If two documents of a reply have one derived id, it is not known which of them another record is."""
    twins = [changed(ANONYMOUS, usage__connect_minutes=minutes) for minutes in (1, 2)]
    assert joined(twins, [NEW]) == [[derived(ANONYMOUS)] * 2, [STATED]]


# --- any mixture ---


@dataclass(frozen=True)
class Person:
    """A true connection."""

    number: int
    conf_num: str
    begin: int

    def shapes(self) -> list[dict[str, Any]]:
        """How replies can show it: in full, without an id, without an id and with less and less of the rest."""
        began = BEGIN + timedelta(seconds=self.begin)
        full = changed(
            NEW,
            cdr_id=f"id-{self.number}",
            conf_num=self.conf_num,
            call_num=f"{self.number}",
            call_log_id=f"log-{self.number}",
            user__ref=f"user-{self.number // 2}",
            user__name=f"Name {self.number}",
            sigserver__connect_dt=utc(began),
            room__connect_dt=utc(began + timedelta(seconds=1)),
        )
        anonymous = changed(full, cdr_id=DROP)
        older = changed(anonymous, user__name=DROP, user__ip=DROP, room__room_details=DROP)
        small = changed(older, call_log_id=DROP, app_id=DROP)
        least = changed(anonymous, call_log_id=DROP, call_num=DROP, sigserver=DROP, user__ref=DROP, app_id=DROP)
        return [full, anonymous, older, small, least]


PEOPLE = st.lists(
    st.tuples(st.sampled_from(["s1", "s2"]), st.sampled_from([0, 0, 7, 600])), min_size=1, max_size=6
).map(lambda drawn: [Person(number, conf_num, begin) for number, (conf_num, begin) in enumerate(drawn)])


@given(PEOPLE, st.data())
def test_every_connection_is_exactly_one_row(people: list[Person], data: st.DataObject) -> None:
    """For any mixture of shapes over replies, in any order and with repeated documents, each connection is one row.

    Each connection has its id in one of the replies. People may connect in the same second.
    """
    replies: list[list[Any]] = [[] for _ in range(4)]
    for person in people:
        shown = data.draw(st.lists(st.none() | st.integers(0, 4), min_size=4, max_size=4))
        shown[data.draw(st.integers(0, 3))] = 0
        for number, shape in enumerate(shown):
            if shape is not None:
                replies[number] += [person.shapes()[shape]] * data.draw(st.integers(1, 2))
    rows = [
        observation(document, BEGIN + number * HOUR, response=number, ordinal=ordinal)
        for number, reply in enumerate(replies)
        for ordinal, document in enumerate(data.draw(st.permutations(reply)))
    ]
    found = with_derived_ids(pa.Table.from_pylist(rows, schema=OBSERVED), b"")
    ids = joined_ids(found.select(IDENTITIES.names))
    newest, _ = split_versions(table(renamed(found, ids).to_pylist()), all_current())
    assert newest["cdr_id"].to_pylist() == sorted(f"id-{person.number}" for person in people)


@given(PEOPLE, st.data())
def test_connections_without_any_id_are_counted(people: list[Person], data: st.DataObject) -> None:
    """Where no reply has ids and each connection has one shape, replies in any order give one row per connection."""
    shapes = [person.shapes()[data.draw(st.integers(1, 4))] for person in people]
    replies = [data.draw(st.lists(st.sampled_from(shapes), max_size=9)) for _ in range(3)]
    replies.append(shapes)
    rows = [
        observation(document, BEGIN + number * HOUR, response=number, ordinal=ordinal)
        for number, reply in enumerate(data.draw(st.permutations(replies)))
        for ordinal, document in enumerate(reply)
    ]
    found = table(rows)
    ids = joined_ids(found.select(IDENTITIES.names))
    newest, _ = split_versions(table(renamed(found, ids).to_pylist()), all_current())
    assert newest.num_rows == len(people)


@given(PEOPLE, st.data())
def test_joining_does_not_depend_on_order(people: list[Person], data: st.DataObject) -> None:
    """The same observations in any order are joined in the same way."""
    rows = [
        observation(data.draw(st.sampled_from(person.shapes())), BEGIN, response=number)
        for person in people
        for number in range(3)
    ]
    found = table(rows)
    shuffled = found.take(pa.array(data.draw(st.permutations(range(len(rows))))))
    assert joined_ids(shuffled.select(IDENTITIES.names)) == joined_ids(found.select(IDENTITIES.names))


def test_every_identity_column_is_one_of_cdr() -> None:
    """The columns that identify a connection, and those that are compared, exist."""
    assert set(cdr.IDENTITY) <= set(OBSERVED.names)
    assert set(IDENTITIES.names) <= set(OBSERVED.names)
