"""Documents of raw responses as byte ranges of one buffer, for batch readers (pure)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, overload

import msgspec
import numpy as np
import pyarrow as pa

from pipeline.enablex.envelope import Envelope


@dataclass(frozen=True, eq=False)
class Documents(Sequence[msgspec.Raw]):
    """Documents in one buffer: `places` has the start and end of each, in bytes (n rows, int64).

    `scanned` is the result of the field scanner that split them, if one did.
    """

    text: bytes
    places: np.ndarray
    scanned: Any = None

    @classmethod
    def of(cls, documents: Sequence[msgspec.Raw | bytes]) -> Documents:
        if isinstance(documents, Documents):
            return documents
        ends = np.cumsum([0, *(memoryview(document).nbytes for document in documents)], dtype=np.int64)
        return cls(b"".join(documents), np.column_stack([ends[:-1], ends[1:]]))

    @classmethod
    def of_column(cls, texts: pa.BinaryArray) -> Documents:
        """The values of a column that has no nulls."""
        _, ends, content = texts.buffers()
        offsets = np.frombuffer(ends, np.int32)[texts.offset :][: len(texts) + 1].astype(np.int64)
        begin, end = (int(offsets[0]), int(offsets[-1])) if len(texts) else (0, 0)
        text = content[begin:end].to_pybytes() if end > begin else b""
        return cls(text, np.column_stack([offsets[:-1], offsets[1:]]) - begin)

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, at: int) -> msgspec.Raw: ...
    @overload
    def __getitem__(self, at: slice) -> Documents: ...
    def __getitem__(self, at: int | slice) -> msgspec.Raw | Documents:
        if isinstance(at, slice):
            return self if at.indices(len(self)) == (0, len(self), 1) else Documents(self.text, self.places[at])
        start, end = self.places[at].tolist()
        return msgspec.Raw(self.text[start:end])


Split = Callable[[bytearray], Documents | None]
"""Splits complete documents off the start of a text, each followed by a comma; None if it cannot."""


class LandedEnvelope(Envelope):
    """An envelope that was parsed when it landed: `split` finds its documents without parsing them.

    The caller must check that the bytes are unchanged, at the latest after the last one.
    """

    def __init__(self, payload: str, split: Split) -> None:
        super().__init__(payload)
        self._split = split

    def _take(self) -> tuple[int, Sequence[msgspec.Raw]]:
        documents = self._split(self._buffer)
        if documents is None:
            return super()._take()
        return len(documents.text), documents
