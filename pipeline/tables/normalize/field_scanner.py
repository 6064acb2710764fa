"""Extract the values at given paths from batches of JSON documents, path by path (pure).

A document with other fields or another shape is irregular: its cells are undefined, and the caller reads it whole.
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
from pipeline.enablex.envelope import UNREADABLE
from pipeline.storage.documents import Documents
from pipeline.tables.normalize.arrow_ops import mask
from pipeline.tables.normalize.json_cells import EMPTY, ESCAPED, LIST, LITERAL, NUMBER, OBJECT, STRING, Cells
from pipeline.tables.normalize.row_reader import Path, path_tree

try:
    from pipeline.tables.normalize import _scanner
except ImportError:  # installed without a compiler
    _scanner = None  # type: ignore[assignment]


MAX_SPLIT = 8000
"""Documents per call of `split`: a block of a response has at most this number of documents of 1 kB or more. Further
shorter ones are returned by the next call."""


def is_compiled() -> bool:
    """Whether the compiled scanner is installed."""
    return bool(_scanner)


class ScanResult(Protocol):
    """Values of a batch of documents; `irregular` is a mask."""

    irregular: np.ndarray

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
        self._compiled.scan(documents.text, documents.places, *scanned.buffers)
        scanned.finish(documents)
        return scanned

    def split(self, text: bytearray) -> Documents | None:
        """Split into complete documents, at most `MAX_SPLIT`, and scan them; None without the compiled scanner."""
        if not _scanner:
            return None
        scanned, places = _Scanned(self, MAX_SPLIT), np.empty((MAX_SPLIT, 2), np.int64)
        places = places[: self._compiled.cut(text, places, *scanned.buffers)]
        end = int(places[-1, 1]) if len(places) else 0
        with memoryview(text) as view:
            documents = Documents(bytes(view[:end]), places, scanned)
        scanned.finish(documents)
        return documents

    @cached_property
    def _compiled(self) -> _scanner.Scanner:
        return _scanner.Scanner(list(_nodes(self._tree, self.rows)))

    @cached_property
    def _decoder(self) -> msgspec.json.Decoder[msgspec.Struct]:
        return msgspec.json.Decoder(_struct("Document", self._tree))


def _not_text(documents: Documents) -> np.ndarray:
    """A mask of documents with invalid UTF-8 or half a surrogate pair, which neither scanner detects inside values."""
    text = documents.text
    if (_scanner and _scanner.is_plain(text)) or _is_text(text):
        return np.zeros(len(documents), bool)
    alone = map(bytes, documents)
    return np.array([not _is_text(document) and not _is_json(document) for document in alone], bool)


def _is_text(content: bytes) -> bool:
    """Whether it is UTF-8 without escaped surrogates, which may be half of a pair."""
    try:
        if not content.isascii():
            content.decode()
    except UnicodeDecodeError:
        return False
    return b"\\" not in content or (b"\\ud" not in content and b"\\uD" not in content)


def _is_json(document: bytes) -> bool:
    try:
        msgspec.json.decode(document)
    except UNREADABLE:
        return False
    return True


# --- compiled -----------------------------------------------------------------------------------------------------


def _nodes(tree: dict[str, Any], rows: dict[Path, int]) -> Iterator[list[tuple[bytes, int]]]:
    """The objects of a tree as `_scanner.Scanner` expects them."""
    queue: list[tuple[Path, dict[str, Any]]] = [((), tree)]
    for at, node in queue:  # grows during the loop
        targets = []
        for key, branch in node.items():
            if branch is None:
                targets.append((key.encode(), rows.get((*at, key), -1)))
            else:
                targets.append((key.encode(), -2 - len(queue)))
                queue.append(((*at, key), branch))
        yield targets


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

    def finish(self, documents: Documents) -> None:
        (starts, lengths, kinds, is_irregular), count = self.buffers, len(documents)
        self.irregular = is_irregular[:count].astype(bool) | _not_text(documents)
        kinds[:, :count][:, self.irregular] = EMPTY
        self._kinds, *parts = _scanner.gathered(documents.text, starts, lengths, kinds, count)
        self._texts = pa.Array.from_buffers(TEXT, len(self._kinds), list(map(pa.py_buffer, parts)))
        del self.buffers

    def cells(self, paths: Sequence[Path]) -> Cells:
        rows, count = [self.scanner.rows[path] for path in paths], len(self.irregular)
        if rows == list(range(rows[0], rows[0] + len(rows))):
            start, length = rows[0] * count, len(rows) * count
            return Cells(self._kinds[start : start + length], self._texts.slice(start, length))
        pieces = [self.cells([path]) for path in paths]
        kinds, texts = [piece.kinds for piece in pieces], [piece.texts for piece in pieces]
        return Cells(np.concatenate(kinds), pa.concat_arrays(texts))


# --- without a compiler -------------------------------------------------------------------------------------------


_ABSENT = msgspec.Raw(b"null")


def _struct(name: str, tree: dict[str, Any]) -> type[msgspec.Struct]:
    """A struct type for a tree, with raw values at its ends; a key outside the tree is an error."""
    fields: list[tuple[str, Any, Any]] = []
    for key, branch in tree.items():
        inner = None if branch is None else _struct(f"{name}_{key}", branch)
        fields.append((key, msgspec.Raw, _ABSENT) if inner is None else (key, inner | None, inner()))
    return msgspec.defstruct(name, fields, frozen=True, gc=False, forbid_unknown_fields=True)


def _values(
    structs: Sequence[msgspec.Struct], tree: dict[str, Any], empty: msgspec.Struct, at: Path
) -> Iterator[tuple[Path, tuple[msgspec.Raw, ...]]]:
    """The values of every path, over all structs."""
    columns = zip(*map(astuple, structs), strict=True) if structs else iter([()] * len(tree))
    for (key, branch), column in zip(tree.items(), columns, strict=True):
        if branch is None:
            yield (*at, key), column
        else:
            blank = getattr(empty, key)
            yield from _values([blank if inner is None else inner for inner in column], branch, blank, (*at, key))


class _Decoded:
    """The raw values of each document, by path."""

    def __init__(
        self, decoder: msgspec.json.Decoder[msgspec.Struct], tree: dict[str, Any], documents: Documents
    ) -> None:
        self.irregular = _not_text(documents)
        empty = decoder.decode(b"{}")
        structs = [empty] * len(documents)
        for at in np.flatnonzero(~self.irregular).tolist():
            try:
                structs[at] = decoder.decode(documents[at])
            except UNREADABLE:
                self.irregular[at] = True
        self._values = dict(_values(structs, tree, empty, ()))

    def cells(self, paths: Sequence[Path]) -> Cells:
        raw = pa.array(map(bytes, chain.from_iterable(self._values[path] for path in paths)), pa.binary())
        firsts = b"".join(pc.binary_slice(raw, 0, 1).to_pylist())
        kinds = _KINDS[np.frombuffer(firsts, np.uint8)]
        kinds[mask(pc.equal(raw, b'""'))] = EMPTY
        kinds[(kinds == STRING) & mask(pc.match_substring(raw, "\\"))] = ESCAPED
        texts = pc.if_else(pa.array(kinds == STRING), pc.binary_slice(raw, 1, -1), raw)
        return Cells(kinds, pc.cast(pc.if_else(pa.array(kinds == EMPTY), None, texts), TEXT))


_KINDS = np.full(256, NUMBER, np.uint8)
_KINDS[list(b'"{[ntf')] = (STRING, OBJECT, LIST, EMPTY, LITERAL, LITERAL)
"""The kind of a value by its first byte."""
