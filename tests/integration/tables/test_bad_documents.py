"""One bad document costs at most itself: replies are landed, built and read as in production."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.errors import UnreadableReply
from pipeline.enablex import lenient
from pipeline.enablex.envelope import Envelope, EnvelopeError
from pipeline.storage.documents import LandedEnvelope
from pipeline.tables.normalize.cdr_batch import read_batch, split_documents
from tests.support import lenient_reference
from tests.support.cdrs import NEW, OLD, changed
from tests.support.json_cases import json_cases
from tests.support.lakes import Lake

SOAK_MINUTES = float(os.environ.get("SOAK_TIMES", "0")) / 2
SUITE = os.environ.get("JSON_TEST_SUITE", "")
"""A checkout of nst/JSONTestSuite, for a run against its own files."""


def three(value: bytes, place: str = "beta") -> list[bytes]:
    """Three documents; the second one has this text as a value."""
    bodies = [json.dumps(changed(NEW, cdr_id=f"c{at}")).encode() for at in range(3)]
    bodies[1] = json.dumps(changed(NEW, cdr_id="c1", **{place: "HERE"})).encode().replace(b'"HERE"', value)
    return bodies


def built(folder: Path, body: bytes) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The rows of `cdr` by id, and the rejects, of a reply."""
    lake = Lake(folder, table_names=("cdr", "rejects"))
    lake.land_reply(body)
    lake.build()
    return {row["cdr_id"]: row for row in lake.rows("cdr")}, lake.rows("rejects")


def reply(documents: list[bytes]) -> bytes:
    return b'{"result": "0", "cdr": [%s]}' % b", ".join(documents)


REPAIRED: dict[str, tuple[str, bytes, str, Any]] = {
    "P1 half a pair": ("user__name", b'"\\ud83d lone"', "user_name", "\ufffd lone"),
    "P2 NaN": ("room__duration", b"NaN", "room_duration_s", None),
    "P3 no UTF-8": ("user__name", b'"M\xfcller"', "user_name", "M\ufffdller"),
    "F13 out of range": ("usage__connect_minutes", b"1e400", "connect_min", None),
    "control character": ("user__name", b'"a\x01b"', "user_name", "a\x01b"),
    "Infinity": ("usage__connect_minutes", b"-Infinity", "connect_min", None),
    "invalid escape": ("user__name", b'"a\\x41"', "user_name", "a\ufffd41"),
    "bare word as a time": ("room__connect_dt", b"undefined", "room_connected_at", None),
    "leading zeros": ("usage__connect_minutes", b"0031", "connect_min", 31.0),
}


@pytest.mark.parametrize("kind", REPAIRED)
def test_a_bad_value_costs_the_value(tmp_path: Path, kind: str) -> None:
    """A value that is no JSON is null, or has U+FFFD; its record is a row, which names the place in `extra`."""
    place, value, column, expected = REPAIRED[kind]
    rows, rejects = built(tmp_path, reply(three(value, place)))
    assert (sorted(rows), rejects) == (["c0", "c1", "c2"], [])
    assert rows["c1"][column] == expected
    extra = json.loads(rows["c1"]["extra"])
    assert extra["$repaired"] == [place.replace("__", ".")]
    if expected is None:
        inner, key = place.split("__")
        assert extra[inner][key] == value.decode()


@pytest.mark.parametrize(
    "value", [b'"A",', b"'A'", b'"A" "B"', b"/* a */ 1", b'{"a" 1}', b"[1}", b"[" * 5000 + b"]" * 5000]
)
def test_a_bad_document_costs_itself(tmp_path: Path, value: bytes) -> None:
    """A document beyond repair is a reject without the contents of its strings; the others are rows."""
    documents = three(value, "user__name")
    if value == b'"A",':
        documents[1] = documents[1][:-1] + b",}"  # P5
    rows, rejects = built(tmp_path, reply(documents))
    assert {"c0", "c2"} <= set(rows)
    for reject in rejects:
        assert reject["ordinal"] == 1
        assert reject["reason"].startswith(("not JSON: ", "nested too deeply"))
        assert "Patient" not in (reject["value"] or "")
    assert len(rows) + len(rejects) == 3


def test_a_byte_order_mark_costs_nothing(tmp_path: Path) -> None:
    """P4: a byte-order mark before the reply is skipped."""
    rows, rejects = built(tmp_path, b"\xef\xbb\xbf" + reply(three(b"1")))
    assert (len(rows), rejects) == (3, [])


@pytest.mark.parametrize("element", [b"7", b"null", b'"x"', b"[]", b"NaN", b"", b"hello there"])
def test_an_element_that_is_no_object_costs_itself(tmp_path: Path, element: bytes) -> None:
    """An element of the list that is no object is a reject; the records around it are rows."""
    documents = three(b"1")
    rows, rejects = built(tmp_path, reply([documents[0], element, documents[2]]))
    assert (sorted(rows), [reject["ordinal"] for reject in rejects]) == (["c0", "c2"], [1])


def test_a_list_under_another_name_is_no_empty_day(tmp_path: Path) -> None:
    """A reply with a list under another key than the promised one is an unknown shape, not an empty day."""
    with pytest.raises(UnreadableReply, match='unknown shape: no "cdr", but "records"'):
        built(tmp_path, b'{"result": "0", "records": [{}]}')


@pytest.mark.usefixtures("either_finder")
def test_any_value_costs_at_most_its_document() -> None:
    """JSON as an unknown member keeps three rows; any other value whose structure is sound keeps the two others."""
    kept = {name: outcome(three(value)) for name, value in json_cases()}
    assert len(kept) > 300
    assert [name for name, rows in kept.items() if name.startswith("y_") and rows != {0, 1, 2}] == []
    assert [name for name, rows in kept.items() if not name.startswith("n_structure") and not {0, 2} <= rows] == []


def outcome(documents: list[bytes]) -> set[int]:
    """The numbers of the records of a reply that are rows, read as landed and from the parser."""
    body = reply(documents)
    parsed, landed = blocks(body, Envelope("cdr")), None
    if parsed is None:
        return set()
    landed = blocks(body, LandedEnvelope("cdr", split_documents, parsed[1]))
    assert landed is not None
    assert [bytes(one).strip() for one in landed[0]] == [bytes(one).strip() for one in parsed[0]]
    batch = read_batch(parsed[0])
    assert batch.rows.num_rows + len(batch.rejects) == len(parsed[0])
    again = read_batch(landed[0])
    assert sorted(again.rows["cdr_id"].to_pylist()) == sorted(batch.rows["cdr_id"].to_pylist())
    return {int(cdr_id[1:]) for cdr_id in batch.rows["cdr_id"].to_pylist() if cdr_id in {"c0", "c1", "c2"}}


def blocks(body: bytes, envelope: Envelope) -> tuple[list[msgspec.Raw], list[int]] | None:
    """All documents, and the places of malformed ones; None if the structure is broken."""
    try:
        documents = envelope.feed(body)
        documents.add(envelope.finish())
    except EnvelopeError:
        return None
    return list(documents), documents.malformed


@pytest.mark.skipif(not SUITE, reason="set JSON_TEST_SUITE to a checkout of nst/JSONTestSuite")
@pytest.mark.soak
def test_the_files_of_the_public_suite() -> None:
    """Files `y_` keep three rows; files `i_`, and files `n_` with sound structure, keep at least the two others."""
    for path in sorted(Path(SUITE, "test_parsing").glob("*.json")):
        content = path.read_bytes()
        kept = outcome(three(content))
        is_sound = len(lenient_reference.split(b", ".join(three(content)))) == 3
        assert kept == {0, 1, 2} or not path.name.startswith("y_"), path.name
        assert {0, 2} <= kept or (path.name.startswith("n_") and not is_sound), path.name


# --- against the reference ----------------------------------------------------------------------------------------

_SPOTS = [b'"', b"\\", b"\\u", b"d83d", b"\xff", b"\xe2\x82", b"NaN", b"01", b"1e400", b"-", b":", b",", b"{", b"}",
          b"[", b"]", b" ", b"\n", b"\x01", b"'", b"/*", b"tru", b"},{", b"]}", b"", b"\\ud800", b'"a":']  # fmt: skip
MUTATIONS = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 3), st.sampled_from(_SPOTS)), max_size=4)
SMALL = {"cdr_id": "c1", "conf_num": "7", "trans_date": "2024-03-09T14:33:05.120Z", "usage": {"connect_minutes": 1.5},
         "user": {"name": 'a "b" \u00e9', "ref": "x\\y"}, "sip": False, "beta": [{"a": None}, -2e3, []]}  # fmt: skip


def mutated(document: bytes, strokes: list[tuple[int, int, bytes]]) -> bytes:
    for at, removed, spot in strokes:
        place = at % (len(document) + 1)
        document = document[:place] + spot + document[place + removed :]
    return document


def check_mutation(strokes: list[tuple[int, int, bytes]], is_escaped: bool) -> None:
    before, after = (
        json.dumps(changed(document, cdr_id=name)).encode() for document, name in ((NEW, "c0"), (OLD, "c2"))
    )
    middle = mutated(json.dumps(SMALL, ensure_ascii=is_escaped).encode(), strokes)
    inside = b", ".join([before, middle, after])
    expected = lenient_reference.split(inside)
    parsed = blocks(b'{"result": "0", "cdr": [%s]}' % inside, Envelope("cdr"))
    if parsed is None:
        assert _is_unbalanced(inside)
        return
    if not _is_unbalanced(inside):
        assert [bytes(document).strip(b" \t\r\n") for document in parsed[0]] == expected
        landed = blocks(b'{"result": "0", "cdr": [%s]}' % inside, LandedEnvelope("cdr", split_documents, parsed[1]))
        assert landed is not None
        assert [bytes(document) for document in landed[0]] == expected
        assert read_batch(parsed[0]).rows["cdr_id"].to_pylist().count("c0") >= 1
    for document in expected:
        repaired = lenient.repaired(document)
        try:
            reference = lenient_reference.read(document)
        except lenient_reference.NoJson:
            assert repaired is None or json.loads(repaired) is None, document
            continue
        assert repaired is not None, document
        assert json.loads(repaired) == reference, document


def _is_unbalanced(text: bytes) -> bool:
    depth, at = 0, 0
    while at < len(text):
        symbol = text[at]
        if symbol == ord('"'):
            at += 1
            while at < len(text) and text[at] != ord('"'):
                at += 2 if text[at] == ord("\\") else 1
            if at >= len(text):
                return True
        depth += (symbol in b"{[") - (symbol in b"}]")
        if depth < 0:
            return True
        at += 1
    return depth != 0


@pytest.mark.usefixtures("either_finder")
@settings(max_examples=150)
@given(MUTATIONS, st.booleans())
def test_a_mutated_reply_is_read_as_the_reference_reads_it(
    strokes: list[tuple[int, int, bytes]], is_escaped: bool
) -> None:
    """For any mutation of one document, the split and the repair are those of the reference, and siblings are rows."""
    check_mutation(strokes, is_escaped)


@pytest.mark.usefixtures("either_finder")
@pytest.mark.soak
@pytest.mark.skipif(not SOAK_MINUTES, reason="minutes of mutations: make soak")
def test_mutations_for_minutes() -> None:
    """The same for SOAK_TIMES / 2 minutes, with and without the compiled scanner together."""
    end = time.monotonic() + SOAK_MINUTES * 60 / 2

    @settings(max_examples=500, derandomize=False)
    @given(MUTATIONS, st.booleans())
    def some(strokes: list[tuple[int, int, bytes]], is_escaped: bool) -> None:
        check_mutation(strokes, is_escaped)

    while time.monotonic() < end:
        some()
