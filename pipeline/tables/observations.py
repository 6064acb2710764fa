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
from pipeline.tables.normalize.identity import IDENTITIES, has_derived, joined_ids, renamed
from pipeline.tables.normalize.versions import ids_with_rivals
from pipeline.tables.sources import OBSERVED, RejectedDocument, read_cdr


def sorted_observations(folder: Path) -> ExternalSorter:
    """A sorter of rows of schema `OBSERVED` by `cdr_id` and `seen_at`."""
    return ExternalSorter(folder, OBSERVED, "cdr_id", "seen_at")


@dataclass
class ParsedResponse:
    """Observations, rejects and undocumented fields of one response.

    `number` identifies it in the rows. `has_derived`: some of its ids are derived.
    """

    number: int
    observations: ExternalSorter
    has_derived: bool = False
    rejects: list[Row] = field(default_factory=list)
    rejected: list[RejectedDocument] = field(default_factory=list)
    drift: Drift = field(default_factory=Drift)


class ObservationCache:
    """Parsed responses of one project, kept in `folder` for the next batch that needs them.

    `source_keys`: the key of the body of each response, by its number. `id_key` is the key of derived ids.
    """

    def __init__(self, vault: ObjectStore, folder: Path, id_key: bytes = b"") -> None:
        self._vault, self._folder, self._id_key = vault, folder, id_key
        self._rooms = RoomDetailsCache()
        self._parsed: dict[str, ParsedResponse] = {}
        self.source_keys: list[str] = []

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
                number = len(self.source_keys)
                self.source_keys.append(response.body_key)
                folder = self._folder / f"{response.day}-{response.response_id}"
                entry = parsed[response.body_key] = ParsedResponse(number, sorted_observations(folder))
                for batch in read_cdr(self._vault, response, self._rooms, number=number, key=self._id_key):
                    workers.submit("observations", entry.observations.add, batch.rows)
                    entry.has_derived = entry.has_derived or has_derived(batch.rows)
                    entry.rejects += batch.rejects
                    entry.rejected += batch.rejected
                    entry.drift.include(batch.drift.unknown, batch.drift.examples, batch.drift.documents)
                workers.submit("observations", entry.observations.close)
        return parsed


def merged_observations(parsed: Sequence[ParsedResponse], folder: Path) -> ExternalSorter:
    """The observations of all responses, sorted. Derived ids that are versions of another record have its id."""
    observations = sorted_observations(folder / "observations")
    ids = _joined_ids(parsed, folder / "identities") if any(each.has_derived for each in parsed) else {}
    for each in parsed:
        if ids and each.has_derived:
            for block in each.observations.iter_blocks():
                observations.add(renamed(block, ids))
        else:
            observations.include(each.observations)
    return observations


def _joined_ids(parsed: Sequence[ParsedResponse], folder: Path) -> dict[str, str]:
    identities = ExternalSorter(folder, IDENTITIES, "conf_num")
    excluded: set[str] = set()
    for each in parsed:
        for block in each.observations.iter_blocks():
            identities.add(block)
            excluded.update(ids_with_rivals(block).to_pylist())
    ids: dict[str, str] = {}
    for block in identities.iter_blocks():
        ids |= joined_ids(block, excluded)
    return ids
