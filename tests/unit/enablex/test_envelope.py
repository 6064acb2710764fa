"""Replies taken apart while they arrive: the same documents as read whole, or an error; never a document less."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.enablex import envelope
from pipeline.enablex.envelope import Envelope, EnvelopeError
from pipeline.storage.documents import Documents, LandedEnvelope
from pipeline.tables.normalize.field_scanner import FieldScanner

TRICKY = st.lists(
    st.sampled_from(["},{", "}, {", "]}", "[", "]", "{", "}", ",",
                     '"', '\\"', "\\", '"cdr": [', '"cdr":[]', ":", "a", "é",
                     "\n", " "]),
    max_size=6,
).map("".join)  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | TRICKY,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(TRICKY | st.sampled_from(["cdr", "a"]), inner, max_size=3)
    ),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.sampled_from(["a", "b", "cdr"]) | TRICKY, JSON, max_size=3)
DOCUMENTS = st.lists(OBJECTS | OBJECTS | JSON, max_size=6)
OTHERS = st.dictionaries(st.sampled_from(["result", "desc", "a", 'x"', "cdrs"]) | TRICKY, JSON, max_size=3)
STYLES = st.sampled_from([{"separators": (",", ":")}, {}, {"indent": 1}, {"separators": (" ,\n", " : ")}])


@st.composite
def replies(draw: Any) -> str:
    """An envelope with documents in it, its keys in any order, spaced in any way."""
    others = [(key, value) for key, value in draw(OTHERS).items() if key != "cdr"]
    at = draw(st.integers(0, len(others)))
    fields = [*others[:at], ("cdr", draw(DOCUMENTS)), *others[at:]]
    return json.dumps(dict(fields), ensure_ascii=draw(st.booleans()), **draw(STYLES))


def taken_apart(text: bytes, chunk: int, block: int, kind: Callable[[str], Envelope] = Envelope) -> Iterator[Any]:
    """Documents as they come; then the envelope itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(envelope, "BLOCK_BYTES", block, raising=False)
        found = kind("cdr")
        for start in range(0, len(text), chunk):
            yield from found.feed(text[start : start + chunk])
        yield from found.finish()
        yield found


SIZES = (st.integers(1, 200), st.integers(1, 200))


@given(replies(), *SIZES)
@example('{"cdr": [{"a": "},{"}, {"a": "]}"}, {"b": [{"c": 1}, {"c": 2}]}], "result": "0"}', 1, 1)
def test_taken_apart_is_what_it_is_whole(text: str, chunk: int, block: int) -> None:
    """For any reply and any chunks, documents and fields are those of the JSON read whole, in the same order."""
    *documents, end = taken_apart(text.encode(), chunk, block)
    whole = json.loads(text)
    assert [json.loads(bytes(document)) for document in documents] == whole.pop("cdr")
    assert {key: json.loads(bytes(value)) for key, value in end.fields.items()} == whole
    assert end.has_payload
    assert end.size_bytes == len(text.encode())


@given(replies(), *SIZES, st.data())
def test_a_cut_reply_is_never_taken_for_a_whole_one(text: str, chunk: int, block: int, data: st.DataObject) -> None:
    """Cut anywhere, a reply raises; what came out before is the beginning of what would have come."""
    whole = json.loads(text)["cdr"]
    content = text.encode()
    cut = data.draw(st.integers(0, len(content.rstrip()) - 1))
    before: list[Any] = []
    with pytest.raises(EnvelopeError):
        before.extend(json.loads(bytes(document)) for document in taken_apart(content[:cut], chunk, block))
    assert before == whole[: len(before)]


@given(replies(), *SIZES, st.sampled_from([b"}", b"x", b"{}", b"[]", b",", b"]", b'{"cdr": []}']))
def test_more_behind_the_end_is_an_error(text: str, chunk: int, block: int, more: bytes) -> None:
    """Anything but blanks behind the reply raises: it is not one JSON object."""
    with pytest.raises(EnvelopeError):
        list(taken_apart(text.encode() + more, chunk, block))
    *_, end = taken_apart(text.encode() + b" \r\n", chunk, block)
    assert end.has_payload


@given(st.binary(max_size=80), *SIZES)
def test_any_bytes_are_read_or_refused(content: bytes, chunk: int, block: int) -> None:
    """Whatever arrives, it is taken apart or EnvelopeError is raised: nothing else."""
    try:
        whole = json.loads(content)
    except (ValueError, RecursionError):
        whole = None
    try:
        *_, end = taken_apart(content, chunk, block)
    except EnvelopeError:
        return
    assert isinstance(whole, dict | None)
    assert isinstance(end, Envelope)


@pytest.mark.parametrize(
    ("payload", "documents"),
    [("null", []), ('""', []), ("{}", []), ("[]", []), ('{"a": 1}', [{"a": 1}]), ("7", [7]), ("[ ]", [])],
)
@pytest.mark.parametrize("block", [1, 10**6])
def test_what_is_no_array(payload: str, documents: list[Any], block: int) -> None:
    """null, nothing and an empty object are no document; one bare value instead of an array is one."""
    *found, end = taken_apart(f'{{"result": "0", "cdr": {payload}}}'.encode(), 5, block)
    assert [json.loads(bytes(document)) for document in found] == documents
    assert end.has_payload


def test_a_reply_without_the_payload() -> None:
    """A reply that lacks the key has no documents, and says so."""
    *found, end = taken_apart(b'{"result": 0, "archive": [{"a": 1}]}', 3, 1)
    assert found == []
    assert not end.has_payload
    assert set(end.fields) == {"result", "archive"}


def test_the_key_spelled_with_escapes() -> None:
    """The payload's key written with escapes is the same key."""
    *found, _ = taken_apart(b'{"result": 0, "\\u0063dr": [{"a": 1}, {"a": 2}]}', 3, 10**6)
    assert [bytes(one) for one in found] == [b'{"a": 1}', b'{"a": 2}']


@pytest.mark.parametrize("block", [1, 10**6])
@pytest.mark.parametrize("other", ["[]", "[{}]", "null"])
def test_the_key_told_twice_loses_nothing(other: str, block: int) -> None:
    """With the payload's key told twice, documents are never dropped: it raises, or both are there."""
    for text in (f'{{"cdr": [{{"a": 1}}], "cdr": {other}}}', f'{{"cdr": {other}, "cdr": [{{"a": 1}}]}}'):
        try:
            *found, _ = taken_apart(text.encode(), 4, block)
        except EnvelopeError:
            continue
        assert b'{"a": 1}' in [bytes(one) for one in found]


@pytest.mark.parametrize("inner", ["},{" * 600, '"},{"' * 400, "]}" * 900, "{" * 900, "\\" * 900, "," * 900])
def test_text_that_looks_like_an_end(inner: str) -> None:
    """Documents whose texts are full of what looks like an end of a document are read as they are."""
    documents = [{"n": n, "text": inner} for n in range(60)]
    text = json.dumps({"cdr": documents, "result": "0"}).encode()
    for block in (4096, 4_000_000):
        *found, _ = taken_apart(text, 700, block)
        assert [json.loads(bytes(one)) for one in found] == documents


def test_ends_are_found_behind_large_documents() -> None:
    """Documents of a few kB whose texts look like ends do not make the envelope wait for more and more."""
    text = json.dumps({"cdr": [{"n": n, "text": "},{" * 1000} for n in range(400)]}).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(envelope, "MAX_DOCUMENT_BYTES", 64 * 1024)  # twenty documents
        *found, _ = taken_apart(text, 1000, 8 * 1024)
    assert len(found) == 400


def test_a_document_without_end_is_an_error() -> None:
    """A reply in which nothing ends for too long is given up instead of being kept in memory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(envelope, "MAX_DOCUMENT_BYTES", 64 * 1024)
        with pytest.raises(EnvelopeError, match="ends a document"):
            list(taken_apart(b'{"cdr": [{"a": "' + b"x" * 300_000, 1024, 4096))


def test_a_cut_reply_is_refused_quickly() -> None:
    """A cut reply with thousands of brackets in its last block is refused in about as many steps, not their square."""
    record = {"recording": [{"url": "https://portal.example/a.mkv"}], "transcoded": []}
    text = json.dumps({"archive": [record] * 5000}).encode()
    found = Envelope("archive")
    found.feed(text[: len(text) // 2])
    with pytest.raises(EnvelopeError):
        found.finish()


def test_memory_does_not_grow_with_the_reply() -> None:
    """A reply of 60 MB is taken apart in a few MB, every document of it."""
    document = json.dumps({"cdr_id": "x" * 24, "user": {"agent": "y" * 1300}, "list": [{"a": 1}, {"a": 2}]}).encode()
    many = 40
    chunk = b",".join([document] * many)
    found, count = Envelope("cdr"), 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(envelope, "BLOCK_BYTES", 512 * 1024)
        tracemalloc.start()
        try:
            count += len(found.feed(b'{"result": "0", "cdr": ['))
            rounds = 60_000_000 // len(chunk)
            for number in range(rounds):
                count += len(found.feed(chunk if number == 0 else b"," + chunk))
            count += len(found.feed(b"]}"))
            count += len(found.finish())
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert count == rounds * many
    assert found.size_bytes > 59_000_000
    assert peak < 6 * 2**20


def test_documents_keep_their_bytes() -> None:
    """A document comes out byte for byte as it stood in the reply: spaces, number spellings, escapes."""
    document = b'{ "a" : 1.50e+1, "\\u0062": "\\/", "c":[ 1 ,2 ] }'
    *found, _ = taken_apart(b'{"cdr":[' + document + b" , " + document + b"]}", 2, 1)
    assert [bytes(one).strip() for one in found] == [document] * 2
    assert all(isinstance(one, msgspec.Raw) for one in found)


def landed(payload: str) -> Envelope:
    return LandedEnvelope(payload, FieldScanner([("a",), ("b", "c")]).split)


@given(replies(), *SIZES)
@example('{"cdr": [{"a": "},{"}, {"a": "]}"}, {"b": [{"c": 1}, {"c": 2}]}], "result": "0"}', 1, 1)
@example('{"cdr": ["\\\\", "\\",", [[[]]], 7, null, -1.5e3, true, "" ]}', 1, 1)
def test_a_landed_reply_has_the_same_documents(text: str, chunk: int, block: int) -> None:
    """A reply that was taken apart before is cut into the same documents, byte for byte but for blanks around them."""
    *proven, _ = taken_apart(text.encode(), chunk, block)
    *cut, end = taken_apart(text.encode(), chunk, block, landed)
    assert [bytes(one).strip() for one in cut] == [bytes(one).strip() for one in proven]
    assert end.has_payload


def test_very_many_short_documents_are_all_there() -> None:
    """Of documents of a byte or two, and of one larger than a block, none is lost."""
    documents = [*range(100_000), "x" * 300_000, *range(1000)]
    *found, _ = taken_apart(json.dumps({"cdr": documents}).encode(), 16 * 1024, 64 * 1024, landed)
    assert [json.loads(bytes(one)) for one in found] == documents


@given(st.lists(st.binary(max_size=5), max_size=6), st.integers(0, 6), st.integers(0, 6))
def test_documents_are_a_sequence(contents: list[bytes], start: int, stop: int) -> None:
    """Documents put together in one text have the length, the items and the slices of the list they came from."""
    documents = Documents.of(contents)
    assert [bytes(one) for one in documents] == contents
    assert [bytes(one) for one in documents[start:stop]] == contents[start:stop]
    assert len(documents) == len(contents)
    assert Documents.of(documents) is documents
    column = pa.array([b"before", *contents, b"behind"], pa.binary()).slice(1, len(contents))
    assert [bytes(one) for one in Documents.of_column(column)] == contents
