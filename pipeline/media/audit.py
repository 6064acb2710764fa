"""Audit the vault per project: manifests, files, a sample that is read completely, and the audit record.

Nothing is repaired or overwritten. The audit record is written once to the vault; table `audits` is built from the
records. Earlier records contain when each file was last read and the newest manifest of each session.
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
class AuditHistory:
    """Contents of the earlier audit records of a project."""

    audit_times: set[datetime] = field(default_factory=set)
    last_read: dict[str, datetime] = field(default_factory=dict)
    manifests: dict[date, dict[str, dict[int, PriorAudit]]] = field(default_factory=dict)
    """The newest manifests with verdict `ok`, by day, `conf_num` of the key, and revision."""

    altered_records: list[Row] = field(default_factory=list)


@dataclass
class Audit:
    """A running audit of one project. Threads add to `day_rows` and `reread`, each under its own keys."""

    project: str
    audited_at: datetime
    history: AuditHistory
    days: list[DayToAudit] = field(default_factory=list)
    day_rows: dict[date, pa.Table] = field(default_factory=dict)
    reread: dict[str, Row] = field(default_factory=dict)

    def sample(self, percent: float) -> list[FileToRead]:
        """Select the files to read completely, from the files without a problem so far."""
        files: dict[str, date] = {}
        doubtful = []
        for day, table in self.day_rows.items():
            for row in _rows(
                table, ["key", "kind", "verdict", "compared_by", "expected_sha256", "expected_size_bytes"]
            ):
                if audit_checks.can_reread(row):
                    files[row["key"]] = day
                    doubtful += [row["key"]] if audit_checks.is_doubtful(row) else []
        chosen = audit_checks.choose_sample(files, doubtful, self.history.last_read, percent)
        by_day = defaultdict(list)
        for key in chosen:
            by_day[files[key]].append(key)
        rows: dict[str, Row] = {}
        for day, keys in by_day.items():
            table = self.day_rows[day]
            rows |= {row["key"]: row for row in _rows(table.filter(pc.is_in(table["key"], pa.array(keys))))}
        return [FileToRead(self, rows[key]) for key in chosen]

    def rows(self) -> pa.Table:
        """All rows of the audit, sorted by key."""
        added = [*self.reread.values(), *self.history.altered_records]
        reread = pa.array(list(self.reread), pa.string())
        parts = [table.filter(pc.invert(pc.is_in(table["key"], reread))) for table in self.day_rows.values()]
        rows = pa.concat_tables([*parts, parquet.table_of_rows(AUDITS, added)]).sort_by("key")
        at = pa.repeat(pa.scalar(self.audited_at, TIME), rows.num_rows)
        return rows.set_column(AUDITS.schema.get_field_index("audited_at"), AUDITS.schema.field("audited_at"), at)


@dataclass(frozen=True)
class DayToAudit:
    """One day of media: the item of `check_day`."""

    audit: Audit
    day: date

    @property
    def project(self) -> str:
        return self.audit.project

    def __str__(self) -> str:
        return f"{self.audit.project} {self.day}"


@dataclass(frozen=True)
class FileToRead:
    """One file to read completely, with its row so far: the item of `verify_file`."""

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


def start_audit(app: App, project: str, period: Period | None) -> Audit:
    """Start an audit of the period, by default of all days with media or manifests, now or in earlier audits.

    `audited_at` differs from that of every other audit of the project, because it is part of the table's key.
    """
    history = _read_history(app.vault, project)
    at = app.clock()
    at = at.replace(microsecond=at.microsecond // 1000 * 1000)
    while at in history.audit_times:
        at += _MILLISECOND
    audit = Audit(project, at, history)
    days = period or sorted({*_days(app.vault, project), *history.manifests})
    audit.days += [DayToAudit(audit, day) for day in days]
    return audit


def _days(vault: ObjectStore, project: str) -> Iterator[date]:
    for prefix in (manifest_prefix(project), media_prefix(project)):
        for day, _ in groupby(media_day(stored.key) for stored in vault.list(prefix)):
            if day:
                yield day


def _read_history(vault: ObjectStore, project: str) -> AuditHistory:
    """Read all audit records of a project; altered ones are reported and skipped."""
    history = AuditHistory()
    for keys in audit_keys(vault, project).values():
        for key, at in keys.items():
            history.audit_times.add(at)
            try:
                for rows in read_audit(vault, key):
                    _add_record(history, at, rows)
            except FixityError as error:
                detail = f"this audit record was altered: expected {error.expected}, found {error.found}"
                history.altered_records.append(audit_checks.record_row(key, detail))
    return history


def _add_record(history: AuditHistory, at: datetime, rows: pa.Table) -> None:
    for key in rows.filter(rows["is_content_verified"])["key"].to_pylist():
        history.last_read[key] = max(at, history.last_read.get(key, at))
    is_manifest = pc.and_(pc.equal(rows["kind"], audit_checks.MANIFEST_KIND), pc.equal(rows["verdict"], "ok"))
    for row in _rows(rows.filter(is_manifest), ["key", "sha256"]):
        if name := parse_manifest_key(row["key"]):
            sessions = history.manifests.setdefault(name.day, {})
            sessions.setdefault(name.conf_num, {})[name.revision] = PriorAudit(row["sha256"], at)


def check_day(vault: ObjectStore, item: DayToAudit) -> dict[str, int]:
    """Check the manifests of a day against each other, and the files of the day against them; returns counts.

    Memory: the keys and rows of one day. Media are listed before manifests, because a file written later may not
    have a manifest yet.
    """
    project, day = item.audit.project, item.day
    media = list(vault.list(media_prefix(project, day)))
    sessions: dict[str, dict[int, bytes]] = {conf_num: {} for conf_num in item.audit.history.manifests.get(day, {})}
    rows = []
    for stored in vault.list(manifest_prefix(project, day)):
        if name := parse_manifest_key(stored.key):
            sessions.setdefault(name.conf_num, {})[name.revision] = _content(vault, stored.key)
        else:
            rows.append(audit_checks.orphan_row(stored.key, day, stored.size_bytes, "not a manifest"))
    manifested: dict[str, ManifestedFile] = {}
    for conf_num, contents in sessions.items():
        prior = item.audit.history.manifests.get(day, {}).get(conf_num, {})
        chain = audit_checks.check_chain(project, day, conf_num, contents, prior)
        rows += chain.rows
        manifested |= chain.files
    rows += [audit_checks.file_row(key, day, file, vault.attributes(key)) for key, file in manifested.items()]
    orphaned = [stored for stored in media if stored.key not in manifested]
    rows += [audit_checks.orphan_row(each.key, day, each.size_bytes, "no manifest names it") for each in orphaned]
    item.audit.day_rows[day] = parquet.table_of_rows(AUDITS, rows)
    return {"sessions_audited": len(sessions), "files_audited": len(manifested)}


def _content(vault: ObjectStore, key: str) -> bytes:
    """The bytes of a manifest; empty, which is not a valid manifest, if the disk cannot read them."""
    try:
        return read_bytes(vault, key)
    except OSError:
        return b""


def verify_file(vault: ObjectStore, item: FileToRead) -> dict[str, int]:
    """Read a file completely and compare it with its manifest. Memory: 1 chunk."""
    key = str(item)
    try:
        checksums = checksum_object(vault, key)
    except ObjectMissing:
        item.audit.reread[key] = audit_checks.vanished_row(item.row)
        return {}
    except OSError as error:  # for example an unreadable disk sector
        item.audit.reread[key] = audit_checks.unreadable_row(item.row, error.strerror or str(error))
        return {"files_reread": 1}
    item.audit.reread[key] = audit_checks.reread_row(item.row, checksums.size_bytes, checksums.sha256)
    return {"files_reread": 1, "bytes_reread": checksums.size_bytes}


def problems(rows: pa.Table) -> Iterator[Row]:
    """The rows with a verdict of `FAILURES`."""
    yield from _rows(rows.filter(pc.is_in(rows["verdict"], pa.array(audit_checks.FAILURES))))


def orphans(rows: pa.Table) -> list[str]:
    """Keys of objects that no manifest names."""
    keys: list[str] = rows.filter(pc.equal(rows["verdict"], "orphan"))["key"].to_pylist()
    return keys


def write_record(vault: ObjectStore, audit: Audit, rows: pa.Table, retention: Retention | None = None) -> Period | None:
    """Write the audit record; returns the day to build, or None when there was nothing to audit."""
    if not rows.num_rows:
        return None
    day = audit.audited_at.date()
    with temp_folder() as folder:
        file = parquet.PartitionWriter(folder, AUDITS, day)
        file.add(rows)
        file.close()
        audit_id = make_response_id(audit.audited_at, file.sha256())
        vault.put_if_absent(audit_key(audit.project, day, audit_id), file.chunks(), retention=retention)
    return Period(day, day)


def _rows(rows: pa.Table, columns: Iterable[str] | None = None) -> Iterator[Row]:
    for batch in (rows.select(list(columns)) if columns else rows).to_batches():
        yield from batch.to_pylist()


def audit_media(
    app: App, period: Period | None = None, *, sample_percent: float = 1, project: str | None = None
) -> RunResult:
    """Check manifests and files of the period (default: all) against each other; read `sample_percent` of the files.

    The result is written to the vault as an audit record, and table `audits` is built from it. Nothing is repaired.
    """
    outcome = RunResult("media audit")
    max_concurrency = app.settings.media.concurrency
    audits = [start_audit(app, name, period) for name in chosen_projects(app.settings, project)]
    days = [day for audit in audits for day in audit.days]
    for checked in app.map_items(
        "audit", days, partial(check_day, app.vault), max_concurrency=max_concurrency, group=str
    ):
        record_item(app, outcome, checked, checked.result)
    sample = [file for audit in audits for file in audit.sample(sample_percent)]
    for read in app.map_items(
        "verify files", sample, partial(verify_file, app.vault), max_concurrency=max_concurrency, group=str
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
