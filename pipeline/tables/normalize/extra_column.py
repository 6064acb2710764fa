"""Build `extra` of a batch of documents as one column, from single values and their paths (pure).

The result equals `row_reader.extra_json` of each document. Each different value is decoded once, and the texts of all
documents are joined together: the cost does not depend on the number of different documents.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.arrow_types import TEXT
from pipeline.enablex.lenient import UNREADABLE
from pipeline.tables.normalize.arrow_ops import mask
from pipeline.tables.normalize.json_cells import EMPTY, Members, is_bare
from pipeline.tables.normalize.row_reader import Path, drop_empty, is_secret, without_secrets


@dataclass(frozen=True)
class Pieces:
    """Values of `extra` as canonical JSON texts: of documents `documents`, at paths `paths[path_at]`, `texts[code]`."""

    documents: np.ndarray
    path_at: np.ndarray
    paths: Sequence[Path]
    texts: pa.Array
    code: np.ndarray

    @classmethod
    def of_column(cls, path: Path, texts: pa.Array) -> Pieces:
        """Canonical JSON texts at one path, one for each document; null for none."""
        documents = np.flatnonzero(mask(pc.is_valid(texts)))
        return cls(documents, np.zeros(len(documents), np.int64), [path], texts, documents)


def rest_pieces(members: Members) -> tuple[Pieces, np.ndarray]:
    """Values without a column: no empty ones, none named like a secret, as `drop_empty` leaves them.

    Also returns the numbers of the documents with a value that cannot be decoded.
    """
    is_kept = np.array([not any(map(is_secret, path)) for path in members.paths], bool)
    return _pieces(members.where((members.cells.kinds != EMPTY) & is_kept[members.path_at]), _without_empty)


def misfit_pieces(members: Members) -> tuple[Pieces, np.ndarray]:
    """Values that fit no column, as they are but without secrets. Returns the same as `rest_pieces`."""
    return _pieces(members, without_secrets)


def _without_empty(value: Any) -> Any:
    return drop_empty({"": value}).get("")


def _pieces(members: Members, cleaned: Callable[[Any], Any]) -> tuple[Pieces, np.ndarray]:
    distinct, code = members.cells.distinct()
    texts: list[str | None] = [None] * len(distinct)
    is_unreadable = np.zeros(len(distinct), bool)
    for at, text in enumerate(distinct):
        try:
            texts[at] = text if is_bare(text) else _canonical(cleaned(msgspec.json.decode(text)))
        except UNREADABLE:
            is_unreadable[at] = True
    is_kept = np.array([text is not None for text in texts], bool)[code]
    return (
        Pieces(
            members.documents[is_kept], members.path_at[is_kept], members.paths, pa.array(texts, TEXT), code[is_kept]
        ),
        members.documents[is_unreadable[code]],
    )


def _canonical(value: Any) -> str | None:
    return None if value is None else msgspec.json.encode(value, order="deterministic").decode()


def extra_column(count: int, pieces: Sequence[Pieces]) -> pa.Array:
    """`extra` of `count` documents; null for those without pieces. At most one piece for each document and path."""
    paths = sorted({path for piece in pieces for path in piece.paths})
    rank = {path: at for at, path in enumerate(paths)}
    ranks = [np.array([rank[path] for path in piece.paths], np.int64)[piece.path_at] for piece in pieces]
    firsts = np.cumsum([0, *(len(piece.texts) for piece in pieces)])
    codes = [piece.code + first for piece, first in zip(pieces, firsts.tolist(), strict=False)]
    keys = np.concatenate([piece.documents for piece in pieces]) * len(paths) + np.concatenate(ranks)
    order = np.argsort(keys, kind="stable")
    if not len(order):
        return pa.nulls(count, TEXT)
    documents, at = np.divmod(keys[order], len(paths))
    is_first = np.diff(documents, prepend=-1) != 0
    before = np.where(is_first, -1, np.roll(at, 1))
    joints, joint = np.unique((before + 1) * len(paths) + at, return_inverse=True)
    table = [
        *(piece.texts for piece in pieces),
        pa.array([_opening(paths, *divmod(one, len(paths))) for one in joints.tolist()], TEXT),
        pa.array(["}" * len(path) for path in paths], TEXT),
    ]
    # Each document is a list of texts: before each value its opening, after the last one its closing.
    place = 2 * np.arange(len(order)) + np.cumsum(is_first) - 1
    lasts = np.flatnonzero(np.append(is_first[1:], True))
    parts = np.empty(2 * len(order) + len(lasts), np.int64)
    parts[place] = firsts[-1] + joint
    parts[place + 1] = np.concatenate(codes)[order]
    parts[place[lasts] + 2] = firsts[-1] + len(joints) + at[lasts]
    values = np.bincount(documents, minlength=count)
    ends = np.cumsum([0, *(2 * values + (values > 0))], dtype=np.int32)
    lists = pa.ListArray.from_arrays(pa.array(ends), pa.concat_arrays(table).take(pa.array(parts)))
    return pc.if_else(pa.array(values > 0), pc.binary_join(lists, ""), None)


def _opening(paths: Sequence[Path], before: int, at: int) -> str:
    """The JSON text between the values at two paths, given as places in the sorted `paths`; `before` is 0 for none."""
    path, last = paths[at], paths[before - 1] if before else ()
    shared = len([*takewhile(lambda keys: keys[0] == keys[1], zip(last, path, strict=False))])
    keys = [msgspec.json.encode(key).decode() for key in path[shared:]]
    return ("}" * (len(last) - 1 - shared) + "," if before else "{") + ":{".join(keys) + ":"
