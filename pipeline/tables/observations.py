"""CDR pages as observations sorted by connection, each page read once for all the weeks that share it.

Reading is most of a build's work, and the pages around a week are those of the weeks beside it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.core.concurrency import SerialWorkers
from pipeline.core.models import RawResponse, Row
from pipeline.storage.base import ObjectStore
from pipeline.tables.external_sort import ExternalSorter
from pipeline.tables.normalize.cdr_batch import RoomDetailsCache
from pipeline.tables.sources import OBSERVED, read_cdr


def sorted_observations(folder: Path) -> ExternalSorter:
    """Takes rows of schema `OBSERVED`; gives them back by `cdr_id` and moment."""
    return ExternalSorter(folder, OBSERVED, "cdr_id", "seen_at")


@dataclass
class ParsedResponse:
    """One parsed response: its observations, its rejects, and how often an undocumented field was seen."""

    observations: ExternalSorter
    rejects: list[Row] = field(default_factory=list)
    unknown: Counter[str] = field(default_factory=Counter)


class ObservationCache:
    """Pages of one project, kept in `folder` from one stretch of days to the next one that needs them."""

    def __init__(self, vault: ObjectStore, folder: Path) -> None:
        self._vault, self._folder = vault, folder
        self._rooms = RoomDetailsCache()
        self._read: dict[str, ParsedResponse] = {}

    def of(self, pages: Iterable[RawResponse]) -> list[ParsedResponse]:
        """What these pages say, in their order; all other pages are forgotten.

        Raises:
            FixityError: a page is not the one that was landed.
        """
        wanted = list(pages)
        keys = {page.body_key for page in wanted}
        for key in self._read.keys() - keys:
            self._read.pop(key).observations.remove()
        self._read |= self._read_new(page for page in wanted if page.body_key not in self._read)
        return [self._read[page.body_key] for page in wanted]

    def _read_new(self, pages: Iterable[RawResponse]) -> dict[str, ParsedResponse]:
        """Read pages; none of them is known before all are sorted: an error in a lane comes out at the end."""
        read: dict[str, ParsedResponse] = {}
        with SerialWorkers() as lanes:
            for page in pages:
                rows = read[page.body_key] = ParsedResponse(
                    sorted_observations(self._folder / f"{page.day}-{page.response_id}")
                )
                for batch in read_cdr(self._vault, page, self._rooms):
                    lanes.submit("observations", rows.observations.add, batch.rows)
                    rows.rejects += batch.rejects
                    rows.unknown.update(batch.unknown)
                lanes.submit("observations", rows.observations.close)
        return read
