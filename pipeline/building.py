"""Raw to tables for one project and a stretch of days: which days are stale, and building them.

A day's digest covers the names of every page and manifest that can bear on it. It stands in each table's object; a day
whose digest is the same is not built again.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta

from pipeline import landing, tables
from pipeline.media.plan import media_rows
from pipeline.model import SOURCES, Period, Row
from pipeline.normalise.cdr import row_day
from pipeline.normalise.privacy import pseudonymise
from pipeline.normalise.sessions import first_connections, session_day, session_rows
from pipeline.normalise.usage import usage_rows
from pipeline.readings import (
    REACH_DAYS,
    manifest_names,
    read_archives,
    read_cdr,
    read_entries,
)
from pipeline.schemas import TABLES, TABLES_VERSION
from pipeline.store.base import ObjectStore

PAGE_REACH_DAYS = 2 * REACH_DAYS
"""Pages that can bear on a day: its sessions have connections up to REACH_DAYS away, whose pages lie as far again."""

_MOST_DAYS_AT_ONCE = 7
"""Days built together share one reading of the pages around them; more would only cost memory."""


@dataclass(frozen=True)
class Stretch:
    """Consecutive days of one project that are built together: for each, its digest and the tables to write."""

    project: str
    days: Mapping[date, str]
    tables: Mapping[date, tuple[str, ...]]

    @property
    def period(self) -> Period:
        return Period(min(self.days), max(self.days))

    def __str__(self) -> str:
        return f"{self.project} {self.period.first} to {self.period.last}"


@dataclass(frozen=True)
class Builder:
    """What building needs to know besides the days."""

    lake: ObjectStore
    vault: ObjectStore
    retention: timedelta
    private_columns: tuple[str, ...] = ()
    private_key: bytes = b""

    def stale(self, project: str, period: Period | None, wanted: Iterable[str]) -> list[Stretch]:
        """Stretches of days whose tables are missing or were built from other inputs, oldest first."""
        names = tuple(wanted)
        stale_days: dict[date, str] = {}
        stale_tables: dict[date, tuple[str, ...]] = {}
        known = self._candidates(project, period)
        if not known:
            return []
        inputs = self._inputs(project, Period(known[0], known[-1]))
        for day in known:
            digest = inputs(day)
            outdated = tuple(name for name in names if tables.inputs_of_day(self.lake, name, project, day) != digest)
            if outdated:
                stale_days[day], stale_tables[day] = digest, outdated
        return [
            Stretch(project, {day: stale_days[day] for day in run}, {day: stale_tables[day] for day in run})
            for run in _runs(sorted(stale_days))
        ]

    def build(self, stretch: Stretch) -> dict[str, int]:
        """Build a stretch; return what it amounted to (`days`, `tables`, `rows`, `documents`, `rejects`)."""
        by_day = self._rows(stretch.project, stretch.period)
        counts = {"days_built": len(stretch.days), "tables_written": 0, "rows": 0, "rejects": 0}
        for day, digest in stretch.days.items():
            for name in stretch.tables[day]:
                rows = pseudonymise(by_day[name].get(day, []), self.private_columns, self.private_key)
                written = tables.write_day(self.lake, TABLES[name], stretch.project, day, rows, digest)
                counts["tables_written"] += 1
                counts["rejects" if name == "rejects" else "rows"] += written
        return counts

    def _rows(self, project: str, period: Period) -> dict[str, dict[date, list[Row]]]:
        """Rows of every table by day; complete for the days of `period`."""
        pages = period.widened(PAGE_REACH_DAYS)
        cdr = read_cdr(self.vault, project, pages)
        archive = read_archives(self.vault, project, pages)
        entries = read_entries(self.vault, project, period)
        connections = _by_day(cdr.rows, row_day)
        sessions = session_rows(cdr.rows, archive.files)
        sessions_by_day = _by_day(sessions, session_day)
        files = [file for file in archive.files if file.day in period]
        media = media_rows(files, entries, first_connections(cdr.rows), self.retention)
        media_by_day: dict[date, list[Row]] = defaultdict(list)
        for file, row in zip(files, media, strict=True):
            media_by_day[file.day].append(row)
        rooms_of = {row["conf_num"]: row for row in sessions}
        return {
            "cdr": connections,
            "sessions": sessions_by_day,
            "usage_daily": {
                day: usage_rows(
                    connections.get(day, []),
                    sessions_by_day.get(day, []),
                    media_by_day.get(day, []),
                    rooms_of,
                )
                for day in period
            },
            "media": media_by_day,
            "rejects": {day: cdr.rejects.get(day, []) + archive.rejects.get(day, []) for day in period},
        }

    def _candidates(self, project: str, period: Period | None) -> list[date]:
        """Days that were asked for or that landed documents speak about, in order, within `period`."""
        days: set[date] = set()
        reach = period.widened(REACH_DAYS) if period else None
        for source in SOURCES:
            for day, stems in landing.page_stems(self.vault, source, project, reach).items():
                days.add(day)
                for stem in stems:
                    page = landing.read_page(self.vault, source, project, day, stem)
                    days.update(near for near in page.days if abs(near - day) <= timedelta(days=REACH_DAYS))
        return sorted(day for day in days if period is None or day in period)

    def _inputs(self, project: str, period: Period) -> Callable[[date], str]:
        """The digest of each day of `period`, from listings alone."""
        around = period.widened(PAGE_REACH_DAYS)
        pages = {source: landing.page_stems(self.vault, source, project, around) for source in SOURCES}
        common = [str(TABLES_VERSION), *(str(TABLES[name].schema) for name in TABLES), str(self.retention)]
        common += [*self.private_columns, hashlib.sha256(self.private_key).hexdigest()]
        base = hashlib.sha256("\n".join(common).encode())

        def digest(day: date) -> str:
            total = base.copy()
            for near in Period(day, day).widened(PAGE_REACH_DAYS):
                for source in SOURCES:
                    total.update(f"{source} {near} {' '.join(pages[source].get(near, []))}\n".encode())
            total.update("\n".join(manifest_names(self.vault, project, day)).encode())
            return total.hexdigest()

        return digest


def _by_day(rows: Iterable[Row], day_of: Callable[[Row], date]) -> dict[date, list[Row]]:
    by_day: dict[date, list[Row]] = defaultdict(list)
    for row in rows:
        by_day[day_of(row)].append(row)
    return by_day


def _runs(days: list[date]) -> Iterator[list[date]]:
    """Consecutive days together, at most `_MOST_DAYS_AT_ONCE`."""
    run: list[date] = []
    for day in days:
        if run and (day - run[-1] > timedelta(days=1) or len(run) == _MOST_DAYS_AT_ONCE):
            yield run
            run = []
        run.append(day)
    if run:
        yield run
