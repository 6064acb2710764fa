"""Values of a batch of documents are the same as values read one by one, for both scanners."""

from __future__ import annotations

import importlib.util
import json
import shutil
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.storage.documents import Documents
from pipeline.tables.normalize import cdr_batch, field_scanner
from pipeline.tables.normalize.field_scanner import FieldScanner
from pipeline.tables.normalize.json_cells import EMPTY
from pipeline.tables.normalize.row_reader import Path, get_path, unknown_paths
from tests.support.cdrs import NEW, OLD

PATHS: list[Path] = [("a",), ("b", "a"), ("b", "c", "a"), ("b", "c", "é"), ("d",)]
OTHERS: list[Path] = [("b", "z"), ("e",)]
FINDER = FieldScanner(PATHS, OTHERS)

WORDS = st.text(st.sampled_from('ab,:{}[]"\\/é\n\x00\U0001f600 '), max_size=4)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-9, 9) | WORDS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(WORDS | st.sampled_from("abc"), inner, max_size=2),
    max_leaves=4,
)
DEEPEST = st.fixed_dictionaries({}, optional={"a": VALUES, "é": VALUES})
INNER = st.fixed_dictionaries({}, optional={"a": VALUES, "c": DEEPEST | st.none(), "z": VALUES})
DOCUMENTED = st.fixed_dictionaries({}, optional={"a": VALUES, "b": INNER | st.none(), "d": VALUES, "e": VALUES})
ANY = st.dictionaries(st.sampled_from("abcdex"), VALUES, max_size=4) | VALUES
STYLES = st.sampled_from([{"separators": (",", ":")}, {}, {"indent": 1}, {"ensure_ascii": False}, {"sort_keys": True}])


def plain(value: Any) -> Any:
    """What a cell has of a value: nothing of empty text."""
    return None if value == "" else value


def test_it_is_compiled_where_there_is_a_compiler() -> None:
    """Where the installation could compile, it did: without, a build takes twice as long, and nobody would notice."""
    assert importlib.util.find_spec("pipeline.tables.normalize._scanner") or not shutil.which("cc")


@pytest.mark.usefixtures("either_finder")
@given(st.lists(DOCUMENTED | ANY, max_size=6), STYLES)
@example([{"a": 1}, {"a": None}, {}, {"b": None, "a": ""}, {"b": {"c": None}}], {})
def test_cells_are_what_stands_in_the_documents(some: list[Any], style: dict[str, Any]) -> None:
    """For any documents, spaced and spelled in any way: cells are the values at their places, in the same order."""
    texts = [json.dumps(document, **style).encode() for document in some]
    scanned = FINDER.scan(Documents.of(texts))
    cells = scanned.cells(PATHS)
    assert len(cells.texts) == len(cells.kinds) == len(PATHS) * len(some)
    for at, document in enumerate(some):
        values = [cells.value(row * len(some) + at) for row in range(len(PATHS))]
        assert values == [None if scanned.irregular[at] else plain(get_path(document, path)) for path in PATHS]


@pytest.mark.usefixtures("either_finder")
@given(st.lists(DOCUMENTED | ANY, max_size=6), STYLES, st.sampled_from([b",", b" ,\n "]), st.integers(0, 9))
def test_split_documents_are_scanned(some: list[Any], style: dict[str, Any], comma: bytes, short: int) -> None:
    """Consecutive documents are split unchanged, up to the last comma; the scan of `split` equals a separate scan."""
    texts = [json.dumps(document, **style).encode() for document in some]
    together = comma.join([*texts, b"7"])
    split = FINDER.split(bytearray(together[: max(0, len(together) - short)]))
    if split is None:
        return  # without the compiled scanner the caller parses the text
    assert len(split) == len(some) or short > 1
    assert [bytes(one) for one in split] == texts[: len(split)]
    on_the_way, later = FINDER.scan(split), FINDER.scan(Documents.of(texts[: len(split)]))
    assert on_the_way is split.scanned
    assert on_the_way.irregular.tolist() == later.irregular.tolist()
    assert on_the_way.cells(PATHS).kinds.tolist() == later.cells(PATHS).kinds.tolist()
    assert on_the_way.cells(PATHS).texts == later.cells(PATHS).texts
    assert on_the_way.unknown.documents.tolist() == later.unknown.documents.tolist()
    assert on_the_way.unknown.cells.texts == later.unknown.cells.texts


@pytest.mark.usefixtures("either_finder")
def test_more_documents_than_one_split_returns() -> None:
    """A split returns at most 8,000 documents; the others remain for the next call."""
    split = FINDER.split(bytearray(b"{}," * (field_scanner.MAX_SPLIT + 9)))
    assert split is None or len(split) == field_scanner.MAX_SPLIT


@pytest.mark.usefixtures("either_finder")
@given(st.lists(DOCUMENTED | ANY, max_size=6), STYLES)
@example([{"x": 1, "b": {"x": {"a": ""}, "y": None}}, {"x": "é"}, {}], {})
def test_nothing_unknown_is_passed_over(some: list[Any], style: dict[str, Any]) -> None:
    """A member outside the paths is an unknown member with its value, whole, unless its document is irregular."""
    known: dict[str, Any] = {"a": None, "b": {"a": None, "c": {"a": None, "é": None}, "z": None}, "d": None, "e": None}
    scanned = FINDER.scan(Documents.of([json.dumps(document, **style).encode() for document in some]))
    found = scanned.unknown
    values = {
        (document, found.paths[path]): found.cells.value(at)
        for at, (document, path) in enumerate(zip(found.documents.tolist(), found.path_at.tolist(), strict=True))
    }
    expected = {
        (at, path): plain(get_path(document, path))
        for at, document in enumerate(some)
        if not scanned.irregular[at]
        for path in unknown_paths(document, known)
    }
    assert values == expected
    assert len(found.documents) == len(values)
    assert all(scanned.irregular[at] or isinstance(document, dict) for at, document in enumerate(some))
    documented = [{"a": [1, {"x": "}"}], "b": {"z": {"y": 1}, "c": {"a": "1"}}}, {"e": "x", "d": True}, {}]
    assert not FINDER.scan(Documents.of([json.dumps(one, **style).encode() for one in documented])).irregular.any()


@pytest.mark.usefixtures("either_finder")
@pytest.mark.parametrize("value", ["", "x", 5, True, [], [{}]])
def test_a_plain_value_instead_of_an_object_is_irregular(value: Any) -> None:
    """Whoever reads the document whole keeps such a value; in cells it would be lost."""
    scanned = FINDER.scan(Documents.of([json.dumps(one).encode() for one in ({"b": value}, {"b": {"c": value}}, {})]))
    assert scanned.irregular.tolist() == [True, True, False]


@pytest.mark.usefixtures("either_finder")
def test_both_documented_shapes_are_regular() -> None:
    """Neither documented shape is irregular: reading documents one by one takes 15 times as long."""
    scanned = cdr_batch._SCANNER.scan(Documents.of([json.dumps(one).encode() for one in (NEW, OLD)]))
    assert scanned.irregular.tolist() == [False, False]


@pytest.mark.usefixtures("either_finder")
@pytest.mark.parametrize(
    "text",
    [
        b'{"x": 1, "x": 2}', b'{"b": {"x": 1, "y": 0, "x": 2}}', b'{"\\"x": 1}', b'{"x": "\xff"}', b'{"\xff": 1}',
        b'{"a": 1, "a": 2}', b'{"b": {"a": 1}, "b": {"c": {}}}', b'{"\\u0061": 1}', b'{"b": ""}', b'{"b": []}',
        b'{"a": "\xff"}', b'{"e": "\xff"}', b'{"a": "\\ud800"}', b'{"d": ' + b"[" * 900 + b"]" * 900 + b"}",
    ],
)  # fmt: skip
def test_undocumented_input_is_irregular_or_equal(text: bytes) -> None:
    """Repeated or escaped keys, a value instead of an object, no text, extreme depth: irregular, or read as JSON."""
    scanned = FINDER.scan(Documents.of([b'{"a": 7}', text, b'{"d": 8}']))
    values = [scanned.cells(PATHS).value(3 * row + 1) for row in range(len(PATHS))]
    assert scanned.irregular.tolist() == [False, scanned.irregular[1], False]
    assert scanned.cells([("a",)]).value(0) == 7
    assert scanned.irregular[1] or values == [plain(get_path(json.loads(text), path)) for path in PATHS]


@pytest.mark.usefixtures("either_finder")
@pytest.mark.parametrize("members", [1, 64, 65, 5000])
def test_however_many_unknown_members(members: int) -> None:
    """Up to 64 unknown members of a document are returned; with more it may be irregular, its neighbours are not."""
    many = json.dumps({f"x{at}": at for at in range(members)}).encode()
    scanned = FINDER.scan(Documents.of([b'{"x": 1}', many, b'{"y": 2}']))
    found = scanned.unknown.documents.tolist()
    assert (found[0], found[-1], found.count(1)) == (0, 2, 0 if scanned.irregular[1] else members)
    assert not scanned.irregular[[0, 2]].any()
    assert members > 64 or not scanned.irregular[1]


@pytest.mark.usefixtures("either_finder")
@given(
    st.lists(DOCUMENTED, min_size=1, max_size=3),
    st.lists(st.tuples(st.integers(0, 400), st.binary(max_size=2)), max_size=4),
)
def test_what_is_no_json_reaches_nowhere(some: list[Any], strokes: list[tuple[int, bytes]]) -> None:
    """Input that is no JSON is irregular or gives cells of its own bytes, never of others, without a crash."""
    broken = bytearray(b"".join(json.dumps(one).encode() for one in some))
    for at, stroke in strokes:
        place = at % max(1, len(broken))  # earlier strokes may have removed every byte
        broken[place : place + 1] = stroke
    scanned = FINDER.scan(Documents.of([b'{"a": "before"}', bytes(broken), bytes(broken[: len(broken) // 2]), b"{}"]))
    cells = scanned.cells(PATHS)
    assert 3 not in scanned.unknown.documents
    assert (cells.kinds.reshape(len(PATHS), 4)[:, 3] == EMPTY).all()
    texts = [text.encode() for text in np.array(cells.texts.to_pylist()).reshape(len(PATHS), 4)[:, 1] if text]
    assert all(text in bytes(broken) for text in texts)
