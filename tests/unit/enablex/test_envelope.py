"""Replies split while they arrive: the same documents as parsed whole, or an error; never fewer documents."""

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
    """An envelope with documents, its keys in any order, with any white space."""
    others = [(key, value) for key, value in draw(OTHERS).items() if key != "cdr"]
    at = draw(st.integers(0, len(others)))
    fields = [*others[:at], ("cdr", draw(DOCUMENTS)), *others[at:]]
    return json.dumps(dict(fields), ensure_ascii=draw(st.booleans()), **draw(STYLES))


def split(text: bytes, chunk: int, block: int, kind: Callable[[str], Envelope] = Envelope) -> Iterator[Any]:
    """The documents in order; then the envelope itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(envelope, "BLOCK_BYTES", block, raising=False)
        reader = kind("cdr")
        for start in range(0, len(text), chunk):
            yield from reader.feed(text[start : start + chunk])
        yield from reader.finish()
        yield reader


SIZES = (st.integers(1, 200), st.integers(1, 200))


@given(replies(), *SIZES)
@example('{"cdr": [{"a": "},{"}, {"a": "]}"}, {"b": [{"c": 1}, {"c": 2}]}], "result": "0"}', 1, 1)
def test_a_split_reply_equals_the_parsed_one(text: str, chunk: int, block: int) -> None:
    """For any reply and any chunks, documents and fields equal those of the JSON parsed whole, in the same order."""
    *documents, end = split(text.encode(), chunk, block)
    whole = json.loads(text)
    assert [json.loads(bytes(document)) for document in documents] == whole.pop("cdr")
    assert {key: json.loads(bytes(value)) for key, value in end.fields.items()} == whole
    assert end.has_payload
    assert end.size_bytes == len(text.encode())


@given(replies(), *SIZES, st.data())
def test_a_cut_reply_is_never_taken_for_a_whole_one(text: str, chunk: int, block: int, data: st.DataObject) -> None:
    """A reply truncated anywhere raises; the documents before are a prefix of the complete list."""
    whole = json.loads(text)["cdr"]
    content = text.encode()
    cut = data.draw(st.integers(0, len(content.rstrip()) - 1))
    before: list[Any] = []
    with pytest.raises(EnvelopeError):
        before.extend(json.loads(bytes(document)) for document in split(content[:cut], chunk, block))
    assert before == whole[: len(before)]


@given(replies(), *SIZES, st.sampled_from([b"}", b"x", b"{}", b"[]", b",", b"]", b'{"cdr": []}']))
def test_more_after_the_end_is_an_error(text: str, chunk: int, block: int, more: bytes) -> None:
    """Anything but white space after the reply raises: it is not one JSON object."""
    with pytest.raises(EnvelopeError):
        list(split(text.encode() + more, chunk, block))
    *_, end = split(text.encode() + b" \r\n", chunk, block)
    assert end.has_payload


@given(st.binary(max_size=80), *SIZES)
def test_any_bytes_are_read_or_refused(content: bytes, chunk: int, block: int) -> None:
    """Any bytes are split, or raise EnvelopeError and no other error."""
    try:
        whole = json.loads(content)
    except (ValueError, RecursionError):
        whole = None
    try:
        *_, end = split(content, chunk, block)
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
    """null, an empty text and an empty object are no document; any other value instead of an array is one."""
    *received, end = split(f'{{"result": "0", "cdr": {payload}}}'.encode(), 5, block)
    assert [json.loads(bytes(document)) for document in received] == documents
    assert end.has_payload


def test_a_reply_without_the_payload() -> None:
    """A reply without the key has no documents, and `has_payload` is false."""
    *received, end = split(b'{"result": 0, "archive": [{"a": 1}]}', 3, 1)
    assert received == []
    assert not end.has_payload
    assert set(end.fields) == {"result", "archive"}


def test_the_key_spelled_with_escapes() -> None:
    """The payload's key written with escapes is the same key."""
    *received, _ = split(b'{"result": 0, "\\u0063dr": [{"a": 1}, {"a": 2}]}', 3, 10**6)
    assert [bytes(document) for document in received] == [b'{"a": 1}', b'{"a": 2}']


@pytest.mark.parametrize("block", [1, 10**6])
@pytest.mark.parametrize("other", ["[]", "[{}]", "null"])
def test_a_duplicate_key_loses_no_document(other: str, block: int) -> None:
    """If the payload's key occurs twice, documents are never dropped: it raises, or returns both."""
    for text in (f'{{"cdr": [{{"a": 1}}], "cdr": {other}}}', f'{{"cdr": {other}, "cdr": [{{"a": 1}}]}}'):
        try:
            *received, _ = split(text.encode(), 4, block)
        except EnvelopeError:
            continue
        assert b'{"a": 1}' in [bytes(document) for document in received]


@pytest.mark.parametrize("inner", ["},{" * 600, '"},{"' * 400, "]}" * 900, "{" * 900, "\\" * 900, "," * 900])
def test_text_that_looks_like_an_end(inner: str) -> None:
    """Documents whose strings look like document boundaries are read unchanged."""
    documents = [{"n": n, "text": inner} for n in range(60)]
    text = json.dumps({"cdr": documents, "result": "0"}).encode()
    for block in (4096, 4_000_000):
        *received, _ = split(text, 700, block)
        assert [json.loads(bytes(document)) for document in received] == documents


def test_ends_are_found_behind_large_documents() -> None:
    """Documents of a few kB whose strings look like boundaries do not make the buffer grow."""
    text = json.dumps({"cdr": [{"n": n, "text": "},{" * 1000} for n in range(400)]}).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(envelope, "MAX_DOCUMENT_BYTES", 64 * 1024)  # twenty documents
        *received, _ = split(text, 1000, 8 * 1024)
    assert len(received) == 400


def test_a_document_without_end_is_an_error() -> None:
    """A reply without a document boundary raises at the limit instead of filling memory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(envelope, "MAX_DOCUMENT_BYTES", 64 * 1024)
        with pytest.raises(EnvelopeError, match="no document ends"):
            list(split(b'{"cdr": [{"a": "' + b"x" * 300_000, 1024, 4096))


def test_a_cut_reply_is_refused_quickly() -> None:
    """A truncated reply with thousands of brackets in its last block is refused in linear, not quadratic time."""
    record = {"recording": [{"url": "https://portal.example/a.mkv"}], "transcoded": []}
    text = json.dumps({"archive": [record] * 5000}).encode()
    reader = Envelope("archive")
    reader.feed(text[: len(text) // 2])
    with pytest.raises(EnvelopeError):
        reader.finish()


def test_memory_does_not_grow_with_the_reply() -> None:
    """A reply of 60 MB is split completely in less than 6 MiB of memory."""
    document = json.dumps({"cdr_id": "x" * 24, "user": {"agent": "y" * 1300}, "list": [{"a": 1}, {"a": 2}]}).encode()
    many = 40
    chunk = b",".join([document] * many)
    reader, count = Envelope("cdr"), 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(envelope, "BLOCK_BYTES", 512 * 1024)
        tracemalloc.start()
        try:
            count += len(reader.feed(b'{"result": "0", "cdr": ['))
            rounds = 60_000_000 // len(chunk)
            for number in range(rounds):
                count += len(reader.feed(chunk if number == 0 else b"," + chunk))
            count += len(reader.feed(b"]}"))
            count += len(reader.finish())
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert count == rounds * many
    assert reader.size_bytes > 59_000_000
    assert peak < 6 * 2**20


def test_documents_keep_their_bytes() -> None:
    """A document keeps its bytes: spaces, number formats, escapes."""
    document = b'{ "a" : 1.50e+1, "\\u0062": "\\/", "c":[ 1 ,2 ] }'
    *received, _ = split(b'{"cdr":[' + document + b" , " + document + b"]}", 2, 1)
    assert [bytes(document).strip() for document in received] == [document] * 2
    assert all(isinstance(document, msgspec.Raw) for document in received)


def landed(payload: str) -> Envelope:
    return LandedEnvelope(payload, FieldScanner([("a",), ("b", "c")]).split)


@given(replies(), *SIZES)
@example('{"cdr": [{"a": "},{"}, {"a": "]}"}, {"b": [{"c": 1}, {"c": 2}]}], "result": "0"}', 1, 1)
@example('{"cdr": ["\\\\", "\\",", [[[]]], 7, null, -1.5e3, true, "" ]}', 1, 1)
def test_a_landed_reply_has_the_same_documents(text: str, chunk: int, block: int) -> None:
    """A landed reply is split into the same documents, byte for byte except for white space around them."""
    *proven, _ = split(text.encode(), chunk, block)
    *cut, end = split(text.encode(), chunk, block, landed)
    assert [bytes(document).strip() for document in cut] == [bytes(document).strip() for document in proven]
    assert end.has_payload


def test_very_many_short_documents_are_all_there() -> None:
    """100,000 documents of a few bytes, and one larger than a block, are all returned."""
    documents = [*range(100_000), "x" * 300_000, *range(1000)]
    *received, _ = split(json.dumps({"cdr": documents}).encode(), 16 * 1024, 64 * 1024, landed)
    assert [json.loads(bytes(document)) for document in received] == documents


def test_short_documents_leave_less_than_a_block() -> None:
    """Documents of a few bytes, of which one split returns at most 8,000, do not make the buffer grow."""
    reader, chunk, count = landed("cdr"), b'{"a":1},' * 20_000, 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(envelope, "BLOCK_BYTES", 64 * 1024)
        count += len(reader.feed(b'{"cdr":['))
        for _ in range(20):
            count += len(reader.feed(chunk))
            assert len(reader._buffer) < 64 * 1024
        count += len(reader.feed(b"{}]}")) + len(reader.finish())
    assert count == 400_001


@pytest.mark.parametrize("block", [1, 300, 10**6])
def test_faulty_documents_are_counted_and_cost_no_other(block: int) -> None:
    """Documents that are no JSON are returned unchanged, and `malformed` has their places."""
    texts = [
        b'{"a":1}',
        b'{"a":NaN}',
        b'{"b":[{"c":1},{"c":"},{"}]}',
        b"{'x'}",
        b"",
        b'{"d":"\\ud800"}',
        b'{"e":[1}]',
        b"7",
    ]
    reader, received = Envelope("cdr"), envelope.Block()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(envelope, "BLOCK_BYTES", block)
        for at in range(0, len(text := b'{"cdr":[%s]}' % b" , ".join(texts)), 7):
            received.add(reader.feed(text[at : at + 7]))
        received.add(reader.finish())
    assert [bytes(document).strip() for document in received] == texts
    assert received.malformed == [1, 3, 4, 5, 6]


def test_an_envelope_is_repaired_too() -> None:
    """Text beside the list that is no JSON costs no document."""
    *received, end = split(b'{"desc":"M\xffller \\ud83d","cdr":[{"a":1}],"took":NaN}', 5, 10**6)
    assert [bytes(document) for document in received] == [b'{"a":1}']
    assert set(end.fields) == {"desc", "took"}


@given(st.lists(st.binary(max_size=5), max_size=6), st.integers(0, 6), st.integers(0, 6))
def test_documents_are_a_sequence(contents: list[bytes], start: int, stop: int) -> None:
    """`Documents` has the length, items and slices of the list it was made from."""
    documents = Documents.of(contents)
    assert [bytes(document) for document in documents] == contents
    assert [bytes(document) for document in documents[start:stop]] == contents[start:stop]
    assert len(documents) == len(contents)
    assert Documents.of(documents) is documents
    column = pa.array([b"before", *contents, b"behind"], pa.binary()).slice(1, len(contents))
    assert [bytes(document) for document in Documents.of_column(column)] == contents
