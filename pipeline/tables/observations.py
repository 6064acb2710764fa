"""CDR responses as sorted observations, each response parsed once for all weeks whose input window contains it.

Parsing is most of the work of a build, and the input windows of neighbouring weeks overlap.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.core.concurrency import SerialWorkers
from pipeline.core.models import RawResponse, Row
from pipeline.storage.base import ObjectStore
from pipeline.tables.external_sort import ExternalSorter
from pipeline.tables.normalize.cdr_batch import RoomDetailsCache
from pipeline.tables.normalize.drift import Drift
from pipeline.tables.sources import OBSERVED, read_cdr


def sorted_observations(folder: Path) -> ExternalSorter:
    """A sorter of rows of schema `OBSERVED` by `cdr_id` and `seen_at`."""
    return ExternalSorter(folder, OBSERVED, "cdr_id", "seen_at")


@dataclass
class ParsedResponse:
    """Observations, rejects and undocumented fields of one response."""

    observations: ExternalSorter
    rejects: list[Row] = field(default_factory=list)
    drift: Drift = field(default_factory=Drift)


class ObservationCache:
    """Parsed responses of one project, kept in `folder` for the next batch that needs them."""

    def __init__(self, vault: ObjectStore, folder: Path) -> None:
        self._vault, self._folder = vault, folder
        self._rooms = RoomDetailsCache()
        self._parsed: dict[str, ParsedResponse] = {}

    def of(self, responses: Sequence[RawResponse]) -> list[ParsedResponse]:
        """The parsed responses, same order; all others are removed from the cache.

        Raises:
            FixityError: a body differs from its receipt.
        """
        keys = {response.body_key for response in responses}
        for key in self._parsed.keys() - keys:
            self._parsed.pop(key).observations.remove()
        self._parsed |= self._parse(response for response in responses if response.body_key not in self._parsed)
        return [self._parsed[response.body_key] for response in responses]

    def _parse(self, responses: Iterable[RawResponse]) -> dict[str, ParsedResponse]:
        """Parse responses. None is cached before all are sorted, because worker errors are raised at the end."""
        parsed: dict[str, ParsedResponse] = {}
        with SerialWorkers() as workers:
            for response in responses:
                folder = self._folder / f"{response.day}-{response.response_id}"
                entry = parsed[response.body_key] = ParsedResponse(sorted_observations(folder))
                for batch in read_cdr(self._vault, response, self._rooms):
                    workers.submit("observations", entry.observations.add, batch.rows)
                    entry.rejects += batch.rejects
                    entry.drift.include(batch.drift.unknown, batch.drift.examples, batch.drift.documents)
                workers.submit("observations", entry.observations.close)
        return parsed
