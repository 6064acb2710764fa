"""Documents of replies that were landed, as the readers of thousands want them (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import msgspec
import numpy as np

from pipeline.enablex.envelope import Envelope

try:
    from pipeline import _scan
except ImportError:  # no compiler where Postroom was installed
    _scan = None  # type: ignore[assignment]


@dataclass(frozen=True, eq=False)
class Documents(Sequence[msgspec.Raw]):
    """Documents that stand in one text: `places` has the start and end of each, in bytes (n rows, int64)."""

    text: bytes
    places: np.ndarray

    @classmethod
    def of(cls, documents: Sequence[msgspec.Raw | bytes]) -> Documents:
        if isinstance(documents, Documents):
            return documents
        ends = np.cumsum([0, *(memoryview(one).nbytes for one in documents)], dtype=np.int64)
        return cls(b"".join(documents), np.column_stack([ends[:-1], ends[1:]]))

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, at: int) -> msgspec.Raw: ...
    @overload
    def __getitem__(self, at: slice) -> Documents: ...
    def __getitem__(self, at: int | slice) -> msgspec.Raw | Documents:
        if isinstance(at, slice):
            return Documents(self.text, self.places[at])
        start, end = self.places[at].tolist()
        return msgspec.Raw(self.text[start:end])


class LandedEnvelope(Envelope):
    """An envelope that was taken apart before: its documents are cut where they end, and not proven to be JSON again.

    Whoever feeds it has to know that the bytes are still the same, or to find out at the end.
    """

    def _take(self) -> tuple[int, Sequence[msgspec.Raw]]:
        if not _scan:
            return super()._take()
        places = _scan.cut(self._buffer)
        end = int(places[-1, 1]) if len(places) else 0
        with memoryview(self._buffer) as gathered:
            return end, Documents(bytes(gathered[:end]), places)
