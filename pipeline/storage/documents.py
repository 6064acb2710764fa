"""Documents of raw responses as byte ranges of one buffer, for batch readers (pure)."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, overload

import msgspec
import numpy as np
import pyarrow as pa

from pipeline.enablex.envelope import Block, Envelope

MAX_SPLIT = 8000
"""Documents per call of `split`: a block of a response has at most this number of documents of 1 kB or more. Further
shorter ones are returned by the next call."""


@dataclass(frozen=True, eq=False)
class Documents(Sequence[msgspec.Raw]):
    """Documents in one buffer: `places` has the start and end of each, in bytes (n rows, int64).

    `malformed` is a mask of the documents that are not JSON, as when they were landed; None if this is unknown.
    `scanned` is the result of the field scanner that split them, if one did.
    """

    text: bytes
    places: np.ndarray
    scanned: Any = None
    malformed: np.ndarray | None = None

    @classmethod
    def of(cls, documents: Sequence[msgspec.Raw | bytes], *, is_json: bool = False) -> Documents:
        """Documents in a new buffer. `is_json`: they are known to be JSON, as the unmarked ones of a `Block`."""
        if isinstance(documents, Documents):
            return documents
        ends = np.cumsum([0, *(memoryview(document).nbytes for document in documents)], dtype=np.int64)
        malformed = np.zeros(len(documents), bool) if is_json or isinstance(documents, Block) else None
        if malformed is not None and isinstance(documents, Block):
            malformed[documents.malformed] = True
        return cls(b"".join(documents), np.column_stack([ends[:-1], ends[1:]]), malformed=malformed)

    @classmethod
    def of_column(cls, texts: pa.BinaryArray) -> Documents:
        """The values of a column that has no nulls; each is JSON."""
        _, ends, content = texts.buffers()
        offsets = np.frombuffer(ends, np.int32)[texts.offset :][: len(texts) + 1].astype(np.int64)
        begin, end = (int(offsets[0]), int(offsets[-1])) if len(texts) else (0, 0)
        text = content[begin:end].to_pybytes() if end > begin else b""
        places = np.column_stack([offsets[:-1], offsets[1:]]) - begin
        return cls(text, places, malformed=np.zeros(len(places), bool))

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, at: int) -> msgspec.Raw: ...
    @overload
    def __getitem__(self, at: slice) -> Documents: ...
    def __getitem__(self, at: int | slice) -> msgspec.Raw | Documents:
        if isinstance(at, slice):
            if at.indices(len(self)) == (0, len(self), 1):
                return self
            malformed = None if self.malformed is None else self.malformed[at]
            return Documents(self.text, self.places[at], malformed=malformed)
        start, end = self.places[at].tolist()
        return msgspec.Raw(self.text[start:end])


Split = Callable[[bytearray, Sequence[int]], Documents | None]
"""Splits complete documents off the start of a text, each followed by a comma; None if it cannot.

The second argument are the places of documents that are not JSON, ascending.
"""


class LandedEnvelope(Envelope):
    """An envelope that was parsed when it landed: `split` finds its documents without parsing them.

    The caller must check that the bytes are unchanged, at the latest after the last one.
    """

    def __init__(self, payload: str, split: Split, malformed: Sequence[int] = ()) -> None:
        super().__init__(payload)
        self._split, self._malformed, self._count = split, malformed, 0

    def _take(self) -> tuple[int, Sequence[msgspec.Raw]]:
        first = bisect_left(self._malformed, self._count)
        documents = self._split(self._buffer, [at - self._count for at in self._malformed[first : first + MAX_SPLIT]])
        if documents is None:
            return super()._take()
        self._count += len(documents)
        return len(documents.text), documents
