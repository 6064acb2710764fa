"""A vault with responses written by tests, and the lake built from it, without a server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.core.errors import PipelineError
from pipeline.core.models import ListedFile, Period, Source
from pipeline.enablex.protocol import ReplyHead, ReplyReader, Request, period_request, rooms_request
from pipeline.storage import LocalStore, raw
from pipeline.storage.manifests import append_entry
from pipeline.tables import parquet
from pipeline.tables.batches import BuildResult, plan_sequences
from pipeline.tables.build import Builder, periods_around
from pipeline.tables.document_days import document_days
from pipeline.tables.normalize.ratings import RatingRules
from pipeline.tables.schemas import TABLES
from tests.support.cdrs import BEGIN
from tests.support.records import stored_entry

PROJECT = "acme"
DAY = BEGIN.date()
FIRST_REQUEST_AT = datetime(2024, 3, 12, 2, 0, tzinfo=UTC)
"""Requests are sent N hours after this moment."""


@dataclass
class Lake:
    """One project's lake and vault below a folder."""

    folder: Path
    private: tuple[str, ...] = ()
    key: bytes = b""
    table_names: tuple[str, ...] = tuple(TABLES)
    rules: RatingRules = field(default_factory=RatingRules)
    _replies: int = field(default=0)

    @property
    def vault(self) -> LocalStore:
        return LocalStore(self.folder / "vault")

    @property
    def lake(self) -> LocalStore:
        return LocalStore(self.folder / "lake")

    @property
    def builder(self) -> Builder:
        return Builder(self.lake, self.vault, timedelta(hours=72), self.private, self.key, self.rules)

    def land_documents(
        self, documents: Iterable[Any], *, day: date = DAY, hour: float = 0, source: Source = "cdr"
    ) -> None:
        """Land a response with these documents. Every response differs, so that each of them is stored."""
        self._replies += 1
        body = json.dumps({"result": "0", source: list(documents), "desc": f"reply {self._replies}"}).encode()
        self.land_reply(body, day=day, hour=hour, source=source)

    def land_reply(
        self,
        body: bytes,
        *,
        day: date = DAY,
        hour: float = 0,
        source: Source = "cdr",
        status: int = 200,
        headers: dict[str, str] | None = None,
        request: Request | None = None,
        is_part: bool = False,
    ) -> bool:
        """Land a reply as the client does, with its checks and errors; whether it was new."""
        asked_at = FIRST_REQUEST_AT + timedelta(hours=hour)
        request = request or (rooms_request() if source == "rooms" else period_request(source, day))
        head = ReplyHead(request, status, headers or {"content-type": "application/json"})
        reader, spool = ReplyReader(head), raw.SpooledBody(partial(document_days, source, asked=day))
        place = raw.RawLocation(source, PROJECT, day, asked_at)
        for start in range(0, len(body), 1000):
            spool.write(body[start : start + 1000])
            spool.note(reader.feed(body[start : start + 1000]))
        spool.note(reader.finish(asked_at))
        return raw.land(self.vault, place, head, spool, is_part=is_part)

    def store_file(self, file: ListedFile, content: bytes) -> None:
        """Store a media file and its manifest in the vault, as `postroom media copy` does."""
        key = f"media/{file.conf_num}/{file.name}"
        self.vault.put_if_absent(key, content)
        stored = {"key": key, "size_bytes": len(content), "sha256": "0" * 64, "content_type": "application/json"}
        append_entry(self.vault, file, stored_entry(file, stored, file.first_listed_at))

    def build(self, period: Period | None = None) -> list[str]:
        """Build what is stale; return the names of the batches."""
        names, moved = self._build([period])
        while moved:
            more, moved = self._build(periods_around(moved))
            names += more
        return names

    def _build(self, periods: Sequence[Period | None]) -> tuple[list[str], set[date]]:
        names: list[str] = []
        results: list[BuildResult] = []
        errors: list[PipelineError] = []
        for period in periods:
            batches = self.builder.stale(PROJECT, period, self.table_names)
            names += map(str, batches)
            for sequence in plan_sequences(batches, 1):
                for built in list(self.builder.build(sequence)):
                    if built.error:
                        errors.append(built.error)
                    if built.result:
                        results.append(built.result)
        moved = self.builder.find_moved(results, PROJECT)
        if errors:
            raise errors[0]
        return names, moved

    def rows(self, table: str) -> list[dict[str, Any]]:
        return parquet.read_arrow(table, lake=self.lake).to_pylist()

    def objects(self, under: str = "lake/tables", *, of: Callable[[Path], Any] = Path.read_bytes) -> dict[str, Any]:
        """Every object below a folder by its path, with its bytes or the result of `of`."""
        root = self.folder / under
        return {path.relative_to(root).as_posix(): of(path) for path in sorted(root.rglob("*")) if path.is_file()}


def identity_on_disk(path: Path) -> tuple[int, int]:
    """A value that changes with every write of an object, even of equal bytes."""
    return (path.stat().st_ino, path.stat().st_mtime_ns)
