"""What stands at known places of thousands of JSON documents, place by place (pure).

A document that has anything else, or has it in another way than documented, is odd: its cells mean nothing, and whoever
asked reads it whole. There are two finders, which say the same of every document that neither finds odd: a compiled
one, and for machines on which it could not be compiled one made of msgspec's structs, which takes three times as long.
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
from pipeline.tables.normalize.json_cells import ESCAPED, LIST, LITERAL, NOTHING, NUMBER, OBJECT, STRING, Cells
from pipeline.tables.normalize.row_reader import Path, path_tree

try:
    from pipeline.tables.normalize import _scanner
except ImportError:  # no compiler where Postroom was installed
    _scanner = None  # type: ignore[assignment]


MOST_CUT = 8000
"""Documents of 1 kB and more that stand in a block of a reply; of shorter ones the others come next time."""


def is_compiled() -> bool:
    """Whether values are found by the compiled finder."""
    return bool(_scanner)


class ScanResult(Protocol):
    """What a finder found; `odd` is a mask of the documents."""

    odd: np.ndarray

    def cells(self, paths: Sequence[Path]) -> Cells:
        """What stands there in all documents, path after path; nothing in odd ones."""


class FieldScanner:
    """Looks for what stands at `paths`; `others` may be there as well."""

    def __init__(self, paths: Iterable[Path], others: Iterable[Path] = ()) -> None:
        self.rows = {path: row for row, path in enumerate(paths)}
        self._tree = path_tree([*self.rows, *others])

    def scan(self, documents: Documents) -> ScanResult:
        if isinstance(documents.found, _Scanned) and documents.found.finder is self:
            return documents.found
        if not _scanner:
            return _Decoded(self._decoder, self._tree, documents)
        found = _Scanned(self, len(documents))
        self._compiled.scan(documents.text, documents.places, *found.filled)
        found.finish(documents)
        return found

    def split(self, text: bytearray) -> Documents | None:
        """Find while cutting: as many documents as are whole, but no more than `MOST_CUT`; None without a compiler."""
        if not _scanner:
            return None
        found, places = _Scanned(self, MOST_CUT), np.empty((MOST_CUT, 2), np.int64)
        places = places[: self._compiled.cut(text, places, *found.filled)]
        end = int(places[-1, 1]) if len(places) else 0
        with memoryview(text) as gathered:
            documents = Documents(bytes(gathered[:end]), places, found)
        found.finish(documents)
        return documents

    @cached_property
    def _compiled(self) -> _scanner.Scanner:
        return _scanner.Scanner(list(_nodes(self._tree, self.rows)))

    @cached_property
    def _decoder(self) -> msgspec.json.Decoder[msgspec.Struct]:
        return msgspec.json.Decoder(_struct("Document", self._tree))


def _not_text(documents: Documents) -> np.ndarray:
    """A mask of documents with bytes that are no UTF-8, or half of a surrogate pair: no finder looks into values."""
    text = documents.text
    if (_scanner and _scanner.is_plain(text)) or _is_text(text):
        return np.zeros(len(documents), bool)
    alone = map(bytes, documents)
    return np.array([not _is_text(document) and not _is_json(document) for document in alone], bool)


def _is_text(content: bytes) -> bool:
    """Whether it is UTF-8 and has no escaped surrogates, which may be half of a pair."""
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
    """The objects of a tree as `_scanner.Scanner` wants them."""
    waiting: list[tuple[Path, dict[str, Any]]] = [((), tree)]
    for at, node in waiting:  # which grows meanwhile
        targets = []
        for key, branch in node.items():
            if branch is None:
                targets.append((key.encode(), rows.get((*at, key), -1)))
            else:
                targets.append((key.encode(), -2 - len(waiting)))
                waiting.append(((*at, key), branch))
        yield targets


class _Scanned:
    """All values of some documents in one column, path after path. To be `filled` by the scanner, then finished."""

    def __init__(self, finder: FieldScanner, most: int) -> None:
        self.finder = finder
        shape = len(finder.rows), most
        self.filled = (
            np.empty(shape, np.int64),  # starts
            np.empty(shape, np.int32),  # lengths
            np.full(shape, NOTHING, np.uint8),  # kinds
            np.zeros(most, np.uint8),  # whether it is odd
        )

    def finish(self, documents: Documents) -> None:
        (starts, lengths, kinds, is_odd), count = self.filled, len(documents)
        self.odd = is_odd[:count].astype(bool) | _not_text(documents)
        kinds[:, :count][:, self.odd] = NOTHING
        self._kinds, *parts = _scanner.gathered(documents.text, starts, lengths, kinds, count)
        self._texts = pa.Array.from_buffers(TEXT, len(self._kinds), list(map(pa.py_buffer, parts)))
        del self.filled

    def cells(self, paths: Sequence[Path]) -> Cells:
        rows, count = [self.finder.rows[path] for path in paths], len(self.odd)
        if rows == list(range(rows[0], rows[0] + len(rows))):
            start, length = rows[0] * count, len(rows) * count
            return Cells(self._kinds[start : start + length], self._texts.slice(start, length))
        pieces = [self.cells([path]) for path in paths]
        kinds, texts = [piece.kinds for piece in pieces], [piece.texts for piece in pieces]
        return Cells(np.concatenate(kinds), pa.concat_arrays(texts))


# --- without a compiler -------------------------------------------------------------------------------------------


_ABSENT = msgspec.Raw(b"null")


def _struct(name: str, tree: dict[str, Any]) -> type[msgspec.Struct]:
    """A struct type for a tree, whose ends stay as they are; a key that the tree does not name is an error."""
    fields: list[tuple[str, Any, Any]] = []
    for key, branch in tree.items():
        inner = None if branch is None else _struct(f"{name}_{key}", branch)
        fields.append((key, msgspec.Raw, _ABSENT) if inner is None else (key, inner | None, inner()))
    return msgspec.defstruct(name, fields, frozen=True, gc=False, forbid_unknown_fields=True)


def _values(
    structs: Sequence[msgspec.Struct], tree: dict[str, Any], nothing: msgspec.Struct, at: Path
) -> Iterator[tuple[Path, tuple[msgspec.Raw, ...]]]:
    """The values at the end of every path, over all structs."""
    columns = zip(*map(astuple, structs), strict=True) if structs else iter([()] * len(tree))
    for (key, branch), column in zip(tree.items(), columns, strict=True):
        if branch is None:
            yield (*at, key), column
        else:
            blank = getattr(nothing, key)
            yield from _values([blank if inner is None else inner for inner in column], branch, blank, (*at, key))


class _Decoded:
    """The values as they stand in each document, by path."""

    def __init__(
        self, decoder: msgspec.json.Decoder[msgspec.Struct], tree: dict[str, Any], documents: Documents
    ) -> None:
        self.odd = _not_text(documents)
        nothing = decoder.decode(b"{}")
        structs = [nothing] * len(documents)
        for at in np.flatnonzero(~self.odd).tolist():
            try:
                structs[at] = decoder.decode(documents[at])
            except UNREADABLE:
                self.odd[at] = True
        self._values = dict(_values(structs, tree, nothing, ()))

    def cells(self, paths: Sequence[Path]) -> Cells:
        raw = pa.array(map(bytes, chain.from_iterable(self._values[path] for path in paths)), pa.binary())
        firsts = b"".join(pc.binary_slice(raw, 0, 1).to_pylist())
        kinds = _KINDS[np.frombuffer(firsts, np.uint8)]
        kinds[mask(pc.equal(raw, b'""'))] = NOTHING
        kinds[(kinds == STRING) & mask(pc.match_substring(raw, "\\"))] = ESCAPED
        texts = pc.if_else(pa.array(kinds == STRING), pc.binary_slice(raw, 1, -1), raw)
        return Cells(kinds, pc.cast(pc.if_else(pa.array(kinds == NOTHING), None, texts), TEXT))


_KINDS = np.full(256, NUMBER, np.uint8)
_KINDS[list(b'"{[ntf')] = (STRING, OBJECT, LIST, NOTHING, LITERAL, LITERAL)
"""The kind of a value by its first byte."""
