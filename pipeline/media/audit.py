"""One project's audit: its days, their manifests and files, the sample that is re-read, and the record of it all.

Nothing is repaired or overwritten. The record is written once to the vault; table `audits` is a function of records.
Earlier records have the time of the last complete read of a file, and each session's newest manifest at that time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from functools import partial
from itertools import groupby

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.arrow_types import TIME
from pipeline.core.context import App, chosen_projects, record_item
from pipeline.core.errors import FixityError, ObjectMissing
from pipeline.core.models import Period, Row, RunResult
from pipeline.core.tempfiles import temp_folder
from pipeline.media import audit_checks
from pipeline.media.audit_checks import ManifestedFile, PriorAudit, problem_text
from pipeline.media.copy import lock
from pipeline.storage.audit_records import audit_keys
from pipeline.storage.base import ObjectStore, Retention, checksum_object, read_bytes
from pipeline.storage.keys import (
    audit_key,
    make_response_id,
    manifest_prefix,
    media_day,
    media_prefix,
    parse_manifest_key,
)
from pipeline.tables import parquet
from pipeline.tables.build import build
from pipeline.tables.schemas import AUDITS
from pipeline.tables.sources import read_audit

_MILLISECOND = timedelta(milliseconds=1)


@dataclass
class Earlier:
    """What earlier audits of a project recorded."""

    moments: set[datetime] = field(default_factory=set)
    last_read: dict[str, datetime] = field(default_factory=dict)
    manifests: dict[date, dict[str, dict[int, PriorAudit]]] = field(default_factory=dict)
    """The newest manifests that were well, by day, `conf_num` of the key, and revision."""

    broken_records: list[Row] = field(default_factory=list)


@dataclass
class Audit:
    """One project's audit under way; `found` and `reread` are filled by threads, each its own keys."""

    project: str
    audited_at: datetime
    earlier: Earlier
    days: list[DayToAudit] = field(default_factory=list)
    found: dict[date, pa.Table] = field(default_factory=dict)
    reread: dict[str, Row] = field(default_factory=dict)

    def sample(self, percent: float) -> list[FileToRead]:
        """Files that seem well and are to be read from beginning to end."""
        files: dict[str, date] = {}
        doubtful = []
        for day, found in self.found.items():
            for row in _rows(
                found, ["key", "kind", "verdict", "compared_by", "expected_sha256", "expected_size_bytes"]
            ):
                if audit_checks.can_reread(row):
                    files[row["key"]] = day
                    doubtful += [row["key"]] if audit_checks.is_doubtful(row) else []
        chosen = audit_checks.choose_sample(files, doubtful, self.earlier.last_read, percent)
        by_day = defaultdict(list)
        for key in chosen:
            by_day[files[key]].append(key)
        rows: dict[str, Row] = {}
        for day, keys in by_day.items():
            of_day = self.found[day]
            rows |= {row["key"]: row for row in _rows(of_day.filter(pc.is_in(of_day["key"], pa.array(keys))))}
        return [FileToRead(self, rows[key]) for key in chosen]

    def rows(self) -> pa.Table:
        """Every row, sorted by key."""
        late = [*self.reread.values(), *self.earlier.broken_records]
        reread = pa.array(list(self.reread), pa.string())
        parts = [found.filter(pc.invert(pc.is_in(found["key"], reread))) for found in self.found.values()]
        rows = pa.concat_tables([*parts, parquet.table_of_rows(AUDITS, late)]).sort_by("key")
        at = pa.repeat(pa.scalar(self.audited_at, TIME), rows.num_rows)
        return rows.set_column(AUDITS.schema.get_field_index("audited_at"), AUDITS.schema.field("audited_at"), at)


@dataclass(frozen=True)
class DayToAudit:
    """One day of media whose manifests and files are checked."""

    audit: Audit
    day: date

    @property
    def project(self) -> str:
        return self.audit.project

    def __str__(self) -> str:
        return f"{self.audit.project} {self.day}"


@dataclass(frozen=True)
class FileToRead:
    """One file to read from beginning to end, and what was found of it so far."""

    audit: Audit
    row: Row

    @property
    def project(self) -> str:
        return self.audit.project

    @property
    def day(self) -> date:
        day: date = self.row["media_day"]
        return day

    def __str__(self) -> str:
        return str(self.row["key"])


def begin(app: App, project: str, period: Period | None) -> Audit:
    """An audit of these days, by default of all that have, or by earlier audits had, media or manifests.

    Its moment is one that no audit of the project has yet: it is part of the table's key.
    """
    earlier = _earlier(app.vault, project)
    at = app.clock()
    at = at.replace(microsecond=at.microsecond // 1000 * 1000)
    while at in earlier.moments:
        at += _MILLISECOND
    begun = Audit(project, at, earlier)
    days = period or sorted({*_days(app.vault, project), *earlier.manifests})
    begun.days += [DayToAudit(begun, day) for day in days]
    return begun


def _days(vault: ObjectStore, project: str) -> Iterator[date]:
    for prefix in (manifest_prefix(project), media_prefix(project)):
        for day, _ in groupby(media_day(stored.key) for stored in vault.list(prefix)):
            if day:
                yield day


def _earlier(vault: ObjectStore, project: str) -> Earlier:
    """Read all records of a project; one that was altered is noted and passed over."""
    earlier = Earlier()
    for keys in audit_keys(vault, project).values():
        for key, at in keys.items():
            earlier.moments.add(at)
            try:
                for rows in read_audit(vault, key):
                    _remember(earlier, at, rows)
            except FixityError as error:
                detail = f"this audit's record was altered: expected {error.expected}, found {error.found}"
                earlier.broken_records.append(audit_checks.record_row(key, detail))
    return earlier


def _remember(earlier: Earlier, at: datetime, rows: pa.Table) -> None:
    for key in rows.filter(rows["is_content_verified"])["key"].to_pylist():
        earlier.last_read[key] = max(at, earlier.last_read.get(key, at))
    is_manifest = pc.and_(pc.equal(rows["kind"], audit_checks.MANIFEST_KIND), pc.equal(rows["verdict"], "ok"))
    for row in _rows(rows.filter(is_manifest), ["key", "sha256"]):
        if name := parse_manifest_key(row["key"]):
            of_day = earlier.manifests.setdefault(name.day, {})
            of_day.setdefault(name.conf_num, {})[name.revision] = PriorAudit(row["sha256"], at)


def check_day(vault: ObjectStore, item: DayToAudit) -> dict[str, int]:
    """Check the manifests of a day against each other, and the files of the day against them; what it amounts to.

    Memory: the keys and findings of one day. Media are listed first: what appears later may not be named yet.
    """
    project, day = item.audit.project, item.day
    media = list(vault.list(media_prefix(project, day)))
    sessions: dict[str, dict[int, bytes]] = {conf_num: {} for conf_num in item.audit.earlier.manifests.get(day, {})}
    rows = []
    for stored in vault.list(manifest_prefix(project, day)):
        if name := parse_manifest_key(stored.key):
            sessions.setdefault(name.conf_num, {})[name.revision] = _content(vault, stored.key)
        else:
            rows.append(audit_checks.orphan_row(stored.key, day, stored.size_bytes, "it is no manifest"))
    named: dict[str, ManifestedFile] = {}
    for conf_num, contents in sessions.items():
        seen = item.audit.earlier.manifests.get(day, {}).get(conf_num, {})
        chain = audit_checks.check_chain(project, day, conf_num, contents, seen)
        rows += chain.rows
        named |= chain.named
    rows += [audit_checks.file_row(key, day, one, vault.attributes(key)) for key, one in named.items()]
    strangers = [stored for stored in media if stored.key not in named]
    rows += [audit_checks.orphan_row(one.key, day, one.size_bytes, "no manifest names it") for one in strangers]
    item.audit.found[day] = parquet.table_of_rows(AUDITS, rows)
    return {"sessions_audited": len(sessions), "files_audited": len(named)}


def _content(vault: ObjectStore, key: str) -> bytes:
    """A manifest's bytes; none, which is no manifest, when the disk does not give them."""
    try:
        return read_bytes(vault, key)
    except OSError:
        return b""


def read_again(vault: ObjectStore, item: FileToRead) -> dict[str, int]:
    """Read a file from beginning to end and compare it with its manifest. Memory: one chunk."""
    key = str(item)
    try:
        found = checksum_object(vault, key)
    except ObjectMissing:
        item.audit.reread[key] = audit_checks.vanished_row(item.row)
        return {}
    except OSError as error:  # a sector that the disk cannot read
        item.audit.reread[key] = audit_checks.unreadable_row(item.row, error.strerror or str(error))
        return {"files_reread": 1}
    item.audit.reread[key] = audit_checks.reread_row(item.row, found.size_bytes, found.sha256)
    return {"files_reread": 1, "bytes_reread": found.size_bytes}


def problems(rows: pa.Table) -> Iterator[Row]:
    """The rows that say that something is wrong."""
    yield from _rows(rows.filter(pc.is_in(rows["verdict"], pa.array(audit_checks.FAILURES))))


def orphans(rows: pa.Table) -> list[str]:
    """Keys of objects that no manifest names."""
    keys: list[str] = rows.filter(pc.equal(rows["verdict"], "orphan"))["key"].to_pylist()
    return keys


def write_record(vault: ObjectStore, begun: Audit, rows: pa.Table, retention: Retention | None = None) -> Period | None:
    """Keep what an audit found; the day to build of it, or None when there was nothing to audit."""
    if not rows.num_rows:
        return None
    day = begun.audited_at.date()
    with temp_folder() as folder:
        file = parquet.PartitionWriter(folder, AUDITS, day)
        file.add(rows)
        file.close()
        audit_id = make_response_id(begun.audited_at, file.sha256())
        vault.put_if_absent(audit_key(begun.project, day, audit_id), file.chunks(), retention=retention)
    return Period(day, day)


def _rows(rows: pa.Table, columns: Iterable[str] | None = None) -> Iterator[Row]:
    for batch in (rows.select(list(columns)) if columns else rows).to_batches():
        yield from batch.to_pylist()


def audit_media(
    app: App, period: Period | None = None, *, sample_percent: float = 1, project: str | None = None
) -> RunResult:
    """Check manifests and files of the period (default: all) against each other; re-read `sample_percent` of the files.

    The result is written to the vault, and table `audits` is built from it. Nothing is repaired.
    """
    outcome = RunResult("media audit")
    max_concurrency = app.settings.media.concurrency
    audits = [begin(app, name, period) for name in chosen_projects(app.settings, project)]
    days = [day for audit in audits for day in audit.days]
    for checked in app.map_items(
        "audit", days, partial(check_day, app.vault), max_concurrency=max_concurrency, group=str
    ):
        record_item(app, outcome, checked, checked.result)
    sample = [file for audit in audits for file in audit.sample(sample_percent)]
    for read in app.map_items(
        "read again", sample, partial(read_again, app.vault), max_concurrency=max_concurrency, group=str
    ):
        record_item(app, outcome, read, read.result)
    for audit in audits:
        rows = audit.rows()
        for problem in problems(rows):
            outcome.add_failure(problem["key"], problem_text(problem), project=audit.project)
            outcome.counts["problems"] += 1
        outcome.add_notice("orphan", *orphans(rows))
        if day := write_record(app.vault, audit, rows, lock(app, app.clock())):
            outcome.failed += build(app, day, wanted=(AUDITS.name,), project=audit.project).failed
    return outcome
