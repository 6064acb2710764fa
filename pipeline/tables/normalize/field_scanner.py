"""Extract the values at given paths from batches of JSON documents, path by path (pure).

Members with other keys are returned as they are. A document of another shape is irregular: its cells are undefined, and
the caller reads it whole.
There are two implementations with the same results for documents that both accept: a compiled scanner, and a fallback
of msgspec structs for installations without a compiler, which takes 3 times as long.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import chain
from typing import Any, Protocol

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec.structs import astuple

from pipeline.core.arrow_types import TEXT
from pipeline.enablex.lenient import UNREADABLE
from pipeline.storage.documents import MAX_SPLIT, Documents
from pipeline.tables.normalize.arrow_ops import mask
from pipeline.tables.normalize.json_cells import (
    EMPTY,
    ESCAPED,
    LIST,
    LITERAL,
    NUMBER,
    OBJECT,
    STRING,
    Cells,
    Members,
)
from pipeline.tables.normalize.row_reader import Path, path_tree

try:
    from pipeline.tables.normalize import _scanner
except ImportError:  # installed without a compiler
    _scanner = None  # type: ignore[assignment]


_RAW = msgspec.json.Decoder(msgspec.Raw)


def is_compiled() -> bool:
    """Whether the compiled scanner is installed."""
    return bool(_scanner)


class ScanResult(Protocol):
    """Values of a batch of documents; `irregular` is a mask.

    `unknown`: members of regular documents outside the paths, also empty ones; an unknown object is one member.
    """

    irregular: np.ndarray
    unknown: Members

    def cells(self, paths: Sequence[Path]) -> Cells:
        """The values at `paths` in all documents, path after path; empty for irregular documents."""


class FieldScanner:
    """Extracts the values at `paths`; `others` are further allowed paths."""

    def __init__(self, paths: Iterable[Path], others: Iterable[Path] = ()) -> None:
        self.rows = {path: row for row, path in enumerate(paths)}
        self._tree = path_tree([*self.rows, *others])

    def scan(self, documents: Documents) -> ScanResult:
        if isinstance(documents.scanned, _Scanned) and documents.scanned.scanner is self:
            return documents.scanned
        if not _scanner:
            return _Decoded(self._decoder, self._tree, documents)
        scanned = _Scanned(self, len(documents))
        scanned.finish(documents, self._compiled.scan(documents.text, documents.places, *scanned.buffers))
        return scanned

    def split(self, text: bytearray, malformed: Sequence[int] = ()) -> Documents | None:
        """Split into complete documents, at most `MAX_SPLIT`, and scan them; None without the compiled scanner.

        `malformed` are the places of documents that are not JSON: they are irregular.
        """
        if not _scanner:
            return None
        scanned, places = _Scanned(self, MAX_SPLIT), np.empty((MAX_SPLIT, 2), np.int64)
        count, unknown = self._compiled.cut(text, places, *scanned.buffers)
        places = places[:count]
        end = int(places[-1, 1]) if len(places) else 0
        with memoryview(text) as view:
            is_malformed = np.zeros(len(places), bool)
            is_malformed[[at for at in malformed if at < len(places)]] = True
            documents = Documents(bytes(view[:end]), places, scanned, is_malformed)
        scanned.finish(documents, unknown)
        return documents

    @cached_property
    def _compiled(self) -> _scanner.Scanner:
        return _scanner.Scanner(_targets(self._tree, self.rows))

    @cached_property
    def node_paths(self) -> list[Path]:
        """The paths of the objects of the tree, in the order of the compiled scanner."""
        return [path for path, _ in _nodes(self._tree)]

    @cached_property
    def _decoder(self) -> msgspec.json.Decoder[msgspec.Struct]:
        return msgspec.json.Decoder(_struct("Document", self._tree))


def _not_text(documents: Documents) -> np.ndarray:
    """A mask of documents that are not JSON as far as known, or have invalid UTF-8, which no scanner detects."""
    is_bad = _not_json(documents) if documents.malformed is None else documents.malformed.copy()
    if documents.text.isascii():
        return is_bad
    for first in range(0, len(documents), _GROUP):
        places = documents.places[first : first + _GROUP].tolist()
        if not _is_text(documents.text[places[0][0] : places[-1][1]]):
            is_bad[first : first + _GROUP] |= [not _is_text(documents.text[start:end]) for start, end in places]
    return is_bad


_GROUP = 64
"""Documents that are checked together."""


def _is_text(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _not_json(documents: Documents) -> np.ndarray:
    """A mask of documents whose syntax is not JSON."""
    if _is_json(b"[" + b",".join(documents) + b"]"):
        return np.zeros(len(documents), bool)
    return np.array([not _is_json(document) for document in documents], bool)


def _is_json(content: bytes | msgspec.Raw) -> bool:
    try:
        _RAW.decode(content)
    except UNREADABLE:
        return False
    return True


# --- compiled -----------------------------------------------------------------------------------------------------


def _nodes(tree: dict[str, Any]) -> list[tuple[Path, dict[str, Any]]]:
    """The objects of a tree with their paths, outermost first."""
    nodes: list[tuple[Path, dict[str, Any]]] = [((), tree)]
    for at, node in nodes:  # grows during the loop
        nodes += [((*at, key), branch) for key, branch in node.items() if branch is not None]
    return nodes


def _targets(tree: dict[str, Any], rows: dict[Path, int]) -> list[list[tuple[bytes, int]]]:
    """The objects of a tree as `_scanner.Scanner` expects them."""
    nodes = _nodes(tree)
    targets = {path: -2 - at for at, (path, _) in enumerate(nodes)} | rows
    return [[(key.encode(), targets.get((*at, key), -1)) for key in node] for at, node in nodes]


class _Scanned:
    """All values of a batch in one column, path after path. The scanner fills `buffers`, then `finish` is called."""

    def __init__(self, scanner: FieldScanner, size: int) -> None:
        self.scanner = scanner
        shape = len(scanner.rows), size
        self.buffers = (
            np.empty(shape, np.int64),  # starts
            np.empty(shape, np.int32),  # lengths
            np.full(shape, EMPTY, np.uint8),  # kinds
            np.zeros(size, np.uint8),  # whether the document is irregular
        )

    def finish(self, documents: Documents, unknown: np.ndarray) -> None:
        (starts, lengths, kinds, is_irregular), count = self.buffers, len(documents)
        self.irregular = is_irregular[:count].astype(bool) | _not_text(documents)
        kinds[:, :count][:, self.irregular] = EMPTY
        self._kinds, *parts = _scanner.gathered(documents.text, starts, lengths, kinds, count)
        self._texts = pa.Array.from_buffers(TEXT, len(self._kinds), list(map(pa.py_buffer, parts)))
        self.unknown = _members(documents.text, unknown[~self.irregular[unknown[:, 0]]], self.scanner.node_paths)
        del self.buffers

    def cells(self, paths: Sequence[Path]) -> Cells:
        rows, count = [self.scanner.rows[path] for path in paths], len(self.irregular)
        if rows == list(range(rows[0], rows[0] + len(rows))):
            start, length = rows[0] * count, len(rows) * count
            return Cells(self._kinds[start : start + length], self._texts.slice(start, length))
        pieces = [self.cells([path]) for path in paths]
        kinds, texts = [piece.kinds for piece in pieces], [piece.texts for piece in pieces]
        return Cells(np.concatenate(kinds), pa.concat_arrays(texts))


def _members(text: bytes, found: np.ndarray, node_paths: Sequence[Path]) -> Members:
    """Unknown members from rows as `_scanner.Scanner` returns them, without empty ones."""
    documents, nodes, key_starts, key_lengths, starts, lengths, kinds = found.T
    keys = _column(text, key_starts, key_lengths, np.full(len(found), STRING)).texts.dictionary_encode()
    names = keys.dictionary.to_pylist()
    places, path_at = np.unique(nodes * len(names) + keys.indices.to_numpy(), return_inverse=True)
    paths = [(*node_paths[place // len(names)], names[place % len(names)]) for place in places.tolist()]
    return Members(documents, path_at, paths, _column(text, starts, lengths, kinds))


def _column(text: bytes, starts: np.ndarray, lengths: np.ndarray, kinds: np.ndarray) -> Cells:
    """Values at some places of a text."""
    places = np.ascontiguousarray(starts[np.newaxis])
    sizes, shapes = lengths[np.newaxis].astype(np.int32), kinds[np.newaxis].astype(np.uint8)
    gathered, *parts = _scanner.gathered(text, places, sizes, shapes, len(starts))
    return Cells(gathered, pa.Array.from_buffers(TEXT, len(gathered), list(map(pa.py_buffer, parts))))


# --- without a compiler -------------------------------------------------------------------------------------------


_ABSENT = msgspec.Raw(b"null")


def _struct(name: str, tree: dict[str, Any]) -> type[msgspec.Struct]:
    """A struct type for a tree, with raw values at its ends; a key outside the tree is an error."""
    fields: list[tuple[str, Any, Any]] = []
    keys = {f"field_{at}": key for at, key in enumerate(tree)}  # a key may be no identifier
    for field, branch in zip(keys, tree.values(), strict=True):
        inner = None if branch is None else _struct(f"{name}_{field}", branch)
        fields.append((field, msgspec.Raw, _ABSENT) if inner is None else (field, inner | None, inner()))
    return msgspec.defstruct(name, fields, rename=keys, frozen=True, gc=False, forbid_unknown_fields=True)


def _values(
    structs: Sequence[msgspec.Struct], tree: dict[str, Any], empty: msgspec.Struct, at: Path
) -> Iterator[tuple[Path, tuple[msgspec.Raw, ...]]]:
    """The values of every path, over all structs."""
    columns = zip(*map(astuple, structs), strict=True) if structs else iter([()] * len(tree))
    for (key, branch), column, blank in zip(tree.items(), columns, astuple(empty), strict=True):
        if branch is None:
            yield (*at, key), column
        else:
            yield from _values([blank if inner is None else inner for inner in column], branch, blank, (*at, key))


class _Decoded:
    """The raw values of each document, by path."""

    def __init__(
        self, decoder: msgspec.json.Decoder[msgspec.Struct], tree: dict[str, Any], documents: Documents
    ) -> None:
        self.irregular = _not_text(documents)
        empty = decoder.decode(b"{}")
        structs = [empty] * len(documents)
        unknown: list[tuple[int, Path, msgspec.Raw]] = []
        for at in np.flatnonzero(~self.irregular).tolist():
            try:
                structs[at], others = _decode(decoder, documents[at], tree)
            except UNREADABLE:
                self.irregular[at] = True
            else:
                unknown += [(at, path, value) for path, value in others]
        self._values = dict(_values(structs, tree, empty, ()))
        path_at = {path: at for at, path in enumerate(dict.fromkeys(path for _, path, _ in unknown))}
        self.unknown = Members(
            np.array([document for document, _, _ in unknown], np.int64),
            np.array([path_at[path] for _, path, _ in unknown], np.int64),
            list(path_at),
            _cells(value for _, _, value in unknown),
        )

    def cells(self, paths: Sequence[Path]) -> Cells:
        return _cells(chain.from_iterable(self._values[path] for path in paths))


def _decode(
    decoder: msgspec.json.Decoder[msgspec.Struct], document: msgspec.Raw, tree: dict[str, Any]
) -> tuple[msgspec.Struct, list[tuple[Path, msgspec.Raw]]]:
    """The struct of a document, and its unknown members with their paths."""
    try:
        return decoder.decode(document), []
    except UNREADABLE:
        known, others = _parted(document, tree, ())
        return decoder.decode(msgspec.json.encode(known)), others


_RAW_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])


def _parted(text: msgspec.Raw, tree: dict[str, Any], at: Path) -> tuple[dict[str, Any], list[tuple[Path, msgspec.Raw]]]:
    """The known members of an object, and the unknown ones with their paths."""
    known: dict[str, Any] = {}
    unknown = []
    for key, value in _RAW_MEMBERS.decode(text).items():
        if key not in tree:
            unknown.append(((*at, key), value))
        elif tree[key] is not None and bytes(memoryview(value)[:1]) == b"{":
            known[key], inner = _parted(value, tree[key], (*at, key))
            unknown += inner
        else:
            known[key] = value
    return known, unknown


def _cells(values: Iterable[msgspec.Raw]) -> Cells:
    raw = pa.array(map(bytes, values), pa.binary())
    firsts = b"".join(pc.binary_slice(raw, 0, 1).to_pylist())
    kinds = _KINDS[np.frombuffer(firsts, np.uint8)]
    kinds[mask(pc.equal(raw, b'""'))] = EMPTY
    kinds[(kinds == STRING) & mask(pc.match_substring(raw, "\\"))] = ESCAPED
    texts = pc.if_else(pa.array(kinds == STRING), pc.binary_slice(raw, 1, -1), raw)
    return Cells(kinds, pc.cast(pc.if_else(pa.array(kinds == EMPTY), None, texts), TEXT))


_KINDS = np.full(256, NUMBER, np.uint8)
_KINDS[list(b'"{[ntf')] = (STRING, OBJECT, LIST, EMPTY, LITERAL, LITERAL)
"""The kind of a value by its first byte."""
