"""SQL database of runs, failed attempts per item with the time of the next one, leases, and sent notifications.

Deleting it loses no collected data, only the history of attempts. Uses SQLAlchemy Core; SQLite by default, PostgreSQL
for several hosts. A database of an older release is migrated to the newest schema, step by step, at its first use.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import uuid4

import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from pipeline.core.errors import ConfigError, LeaseLost, StoreUnavailable
from pipeline.core.models import Details_co, Failure, RunResult, successful_projects, utc_text

_METADATA = sa.MetaData()

_RUNS = sa.Table(
    "runs",
    _METADATA,
    sa.Column("run_id", sa.String(32), primary_key=True),
    sa.Column("command", sa.String(64), nullable=False, index=True),
    sa.Column("started_at", sa.String(32), nullable=False),
    sa.Column("ended_at", sa.String(32)),
    sa.Column("exit_code", sa.Integer),
    sa.Column("counts", sa.JSON),
)
_ATTEMPTS = sa.Table(
    "attempts",
    _METADATA,
    sa.Column("item", sa.String(512), primary_key=True),
    sa.Column("tries", sa.Integer, nullable=False),
    sa.Column("last_at", sa.String(32), nullable=False),
    sa.Column("last_error", sa.Text, nullable=False),
    sa.Column("next_try_at", sa.String(32)),
)
_NOTIFIED = sa.Table(
    "notified",
    _METADATA,
    sa.Column("subject", sa.String(512), primary_key=True),
    sa.Column("state", sa.String(64), nullable=False),
)
_LEASES = sa.Table(
    "leases",
    _METADATA,
    sa.Column("name", sa.String(128), primary_key=True),
    sa.Column("holder", sa.String(32), nullable=False),
    sa.Column("fence", sa.BigInteger, nullable=False),
    sa.Column("expires_at_s", sa.Float(53), nullable=False),
)
_GOOD_RUNS = sa.Table(
    "good_runs",
    _METADATA,
    sa.Column("project", sa.String(128), primary_key=True),
    sa.Column("command", sa.String(64), primary_key=True),
    sa.Column("ended_at", sa.String(32), nullable=False),
)
_VERSION = sa.Table("schema_version", _METADATA, sa.Column("version", sa.Integer, nullable=False))

_STEPS: Mapping[int, tuple[str, ...]] = {
    1: (
        "CREATE TABLE runs (run_id VARCHAR(32) PRIMARY KEY, command VARCHAR(64) NOT NULL,"
        " started_at VARCHAR(32) NOT NULL, ended_at VARCHAR(32), exit_code INTEGER, counts JSON)",
        "CREATE INDEX ix_runs_command ON runs (command)",
        "CREATE TABLE attempts (item VARCHAR(512) PRIMARY KEY, tries INTEGER NOT NULL,"
        " last_at VARCHAR(32) NOT NULL, last_error TEXT NOT NULL)",
    ),
    2: (
        "ALTER TABLE attempts ADD COLUMN next_try_at VARCHAR(32)",
        "CREATE TABLE leases (name VARCHAR(128) PRIMARY KEY, holder VARCHAR(32) NOT NULL,"
        " fence BIGINT NOT NULL, expires_at_s DOUBLE PRECISION NOT NULL)",
    ),
    3: ("CREATE TABLE told (subject VARCHAR(512) PRIMARY KEY, state VARCHAR(64) NOT NULL)",),
    4: (
        "CREATE TABLE good_runs (project VARCHAR(128) NOT NULL, command VARCHAR(64) NOT NULL,"
        " ended_at VARCHAR(32) NOT NULL, PRIMARY KEY (project, command))",
    ),
    5: (
        "UPDATE runs SET command = 'media copy' WHERE command = 'copy-media'",
        "UPDATE runs SET command = 'media audit' WHERE command = 'audit-media'",
        "UPDATE good_runs SET command = 'media copy' WHERE command = 'copy-media'",
        "UPDATE good_runs SET command = 'media audit' WHERE command = 'audit-media'",
        "ALTER TABLE told RENAME TO notified",
        "UPDATE notified SET subject = replace(subject, 'copy-media', 'media copy')",
        "UPDATE notified SET subject = replace(subject, 'audit-media', 'media audit')",
    ),
}
"""The statements that migrate to each version of the schema, forward only. A released step is never changed."""

_MIGRATION_LOCK = 0x706F7374
"""Id of PostgreSQL's advisory lock: if several processes start concurrently, one migrates the schema."""

_BUSY_S = 30
"""Seconds that SQLite waits for the transaction of another process; a transaction takes milliseconds."""

_FIRST_BACKOFF, _MAX_BACKOFF = timedelta(minutes=15), timedelta(hours=2)
"""Backoff of a failed item: 15 minutes, doubled after each further failure in a row, at most 2 hours."""


@dataclass(frozen=True)
class Lease:
    """The right to run a job until it expires; `fence` is larger than that of every earlier holder."""

    name: str
    holder: str
    fence: int
    lasts_s: float


def backoff(attempts: int) -> timedelta:
    """Time until the next attempt of an item after `attempts` failures in a row."""
    return min(_FIRST_BACKOFF * (1 << min(attempts - 1, 8)), _MAX_BACKOFF)


def new_run_id() -> str:
    return uuid4().hex


class RunStore:
    """Create once per process; thread-safe. The database is opened and migrated at the first read or write."""

    def __init__(self, url: str) -> None:
        try:
            self._url = make_url(url)
            self._is_sqlite = self._url.get_backend_name() == "sqlite"
            options = {"connect_args": {"timeout": _BUSY_S}} if self._is_sqlite else {"pool_pre_ping": True}
            self._opened = sa.create_engine(self._url, **options)
        except (ArgumentError, ModuleNotFoundError) as error:
            raise ConfigError(
                f"run_store.url: {error}; use sqlite:///PATH or postgresql+psycopg://USER:PASSWORD@HOST/DB"
            ) from None
        self.where = self._url.render_as_string(hide_password=True)
        self._preparing, self._is_ready = threading.Lock(), False
        if self._is_sqlite:
            sa.event.listen(self._opened, "connect", _disable_implicit_begin)
            sa.event.listen(self._opened, "begin", _begin_immediate)

    @property
    def _engine(self) -> sa.Engine:
        """The migrated database."""
        with self._preparing:
            if not self._is_ready:
                self._prepare()
                self._is_ready = True
        return self._opened

    def _prepare(self) -> None:
        if self._is_sqlite and self._url.database not in (None, "", ":memory:"):
            try:
                Path(str(self._url.database)).parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StoreUnavailable(f"run_store.url: cannot create the folder: {error}; set another path") from None
        with self._errors(), self._opened.begin() as connection:
            if not self._is_sqlite:
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
            _migrate(connection)

    def ping(self) -> None:
        """Insert a run and roll back. Raises StoreUnavailable if the database is not writable."""
        with self._errors(), self._engine.connect() as connection:
            values = {"run_id": new_run_id(), "command": "doctor", "started_at": ""}
            connection.execute(sa.insert(_RUNS).values(**values))
            connection.rollback()

    def record_run(
        self,
        command: str,
        clock: Callable[[], datetime],
        flow: Callable[[], RunResult[Details_co]],
        lease: Lease | None = None,
        *,
        run_id: str | None = None,
        projects: Sequence[str] = (),
    ) -> RunResult[Details_co]:
        """Run a flow and record its start, end, exit code, counts and failures. A killed or interrupted run has no end.

        For each of `projects`, the time of its last successful run is recorded. A run in which all items failed is
        recorded with exit code 1, regardless of the exit code of its result.

        Raises:
            LeaseLost: another process holds the lease now; the end of the run is not recorded.
        """
        run_id = run_id or new_run_id()
        self._execute(sa.insert(_RUNS).values(run_id=run_id, command=command, started_at=utc_text(clock())))
        result = flow()
        at = clock()
        code = 1 if result.is_total_failure else result.exit_code
        values = {"ended_at": utc_text(at), "exit_code": code, "counts": dict(result.counts)}
        with self._errors(), self._engine.begin() as connection:
            if lease:
                _require_lease(connection, lease)
            for failure in result.failed:
                if failure.attempted:
                    _record_failure(connection, failure, at)
            for project in successful_projects(result, projects):
                upsert = _upsert(connection, _GOOD_RUNS).values(project=project, command=command, ended_at=utc_text(at))
                keys = ["project", "command"]
                connection.execute(upsert.on_conflict_do_update(index_elements=keys, set_={"ended_at": utc_text(at)}))
            connection.execute(sa.update(_RUNS).where(_RUNS.c.run_id == run_id).values(**values))
        return result

    def forget_attempts(self, items: list[str]) -> None:
        """Delete the attempts of items that have succeeded."""
        if items:
            statement = sa.delete(_ATTEMPTS).where(_ATTEMPTS.c.item == sa.bindparam("succeeded"))
            with self._errors(), self._engine.begin() as connection:
                connection.execute(statement, [{"succeeded": item} for item in items])

    def attempts(self) -> dict[str, int]:
        """Number of failures in a row, by item."""
        with self._errors(), self._engine.connect() as connection:
            rows = connection.execute(sa.select(_ATTEMPTS.c.item, _ATTEMPTS.c.tries))
            return {item: attempts for item, attempts in rows}  # noqa: C416 - rows are not pairs to the type checker

    def backing_off(self, now: datetime) -> set[str]:
        """Failed items whose next attempt is after `now`."""
        query = sa.select(_ATTEMPTS.c.item).where(_ATTEMPTS.c.next_try_at > utc_text(now))
        with self._errors(), self._engine.connect() as connection:
            return set(connection.scalars(query))

    # --- leases: all times come from the database, independent of the clocks of hosts ---

    def take_lease(self, name: str, lasts_s: float) -> Lease | None:
        """Take the lease `name`; None while another process holds it. One of several concurrent callers gets it."""
        holder = uuid4().hex
        values = {"holder": holder, "expires_at_s": self._now_s() + lasts_s}
        with self._errors(), self._engine.begin() as connection:
            upsert = _upsert(connection, _LEASES).values(name=name, fence=1, **values)
            upsert = upsert.on_conflict_do_update(
                index_elements=["name"],
                set_={**values, "fence": _LEASES.c.fence + 1},
                where=_LEASES.c.expires_at_s <= self._now_s(),
            )
            fence = connection.scalar(upsert.returning(_LEASES.c.fence))
        return None if fence is None else Lease(name, holder, fence, lasts_s)

    def renew(self, lease: Lease) -> None:
        """Extend a lease by its full duration from now. Raises LeaseLost if another process took it."""
        self._set_end(lease, lease.lasts_s)

    def release(self, lease: Lease) -> None:
        """End a lease now. Raises LeaseLost like `renew`."""
        self._set_end(lease, 0)

    def _set_end(self, lease: Lease, lasts_s: float) -> None:
        with self._errors(), self._engine.begin() as connection:
            _require_lease(connection, lease)
            update = sa.update(_LEASES).where(_LEASES.c.name == lease.name)
            connection.execute(update.values(expires_at_s=self._now_s() + lasts_s))

    def _now_s(self) -> sa.ColumnElement[float]:
        """SQL expression: the current time of the database, in seconds since 1970."""
        if self._is_sqlite:
            return sa.literal_column("(julianday('now') - 2440587.5) * 86400.0", sa.Float)
        return sa.literal_column("extract(epoch FROM clock_timestamp())", sa.Float)

    def last_done(self, command: str) -> datetime | None:
        """Start of the last run of a command that ended with an exit code other than 1; None without one."""
        query = sa.select(sa.func.max(_RUNS.c.started_at)).where(
            _RUNS.c.command == command, _RUNS.c.ended_at.is_not(None), _RUNS.c.exit_code != 1
        )
        with self._errors(), self._engine.connect() as connection:
            text = connection.scalar(query)
        return None if text is None else datetime.fromisoformat(text)

    def last_successes_by_command(self) -> Mapping[str, str]:
        """When each command last ended with exit code 0, or 4 (it succeeded, but files are at risk)."""
        query = (
            sa.select(_RUNS.c.command, sa.func.max(_RUNS.c.ended_at))
            .where(_RUNS.c.exit_code.in_((0, 4)))
            .group_by(_RUNS.c.command)
            .order_by(_RUNS.c.command)
        )
        with self._errors(), self._engine.connect() as connection:
            rows = connection.execute(query)
            return {command: ended_at for command, ended_at in rows}  # noqa: C416 - as above

    def last_successes(self, project: str) -> Mapping[str, str]:
        """When each command last succeeded for a project, independent of other projects."""
        columns = _GOOD_RUNS.c.command, _GOOD_RUNS.c.ended_at
        query = sa.select(*columns).where(_GOOD_RUNS.c.project == project).order_by(_GOOD_RUNS.c.command)
        with self._errors(), self._engine.connect() as connection:
            return {command: ended_at for command, ended_at in connection.execute(query)}  # noqa: C416 - as above

    def run_totals(self, names: Sequence[str]) -> Mapping[str, Mapping[str, int]]:
        """By command: the sums of these counts over all runs. Counts with sum 0 are omitted."""
        sums = [sa.func.sum(_RUNS.c.counts[name].as_float()) for name in names]  # as_integer could overflow
        query = sa.select(_RUNS.c.command, *sums).group_by(_RUNS.c.command).order_by(_RUNS.c.command)
        with self._errors(), self._engine.connect() as connection:
            return {
                command: {name: int(number) for name, number in zip(names, numbers, strict=True) if number}
                for command, *numbers in connection.execute(query)
            }

    def run_ends(self) -> Mapping[tuple[str, int | None], int]:
        """Number of runs by command and exit code; None: running, killed or interrupted."""
        query = (
            sa.select(_RUNS.c.command, _RUNS.c.exit_code, sa.func.count())
            .group_by(_RUNS.c.command, _RUNS.c.exit_code)
            .order_by(_RUNS.c.command, _RUNS.c.exit_code)
        )
        with self._errors(), self._engine.connect() as connection:
            return {(command, exit_code): number for command, exit_code, number in connection.execute(query)}

    def last_notified(self) -> dict[str, str]:
        """The last notified state of each subject."""
        with self._errors(), self._engine.connect() as connection:
            rows = connection.execute(sa.select(_NOTIFIED.c.subject, _NOTIFIED.c.state))
            return {subject: state for subject, state in rows}  # noqa: C416 - as above

    def save_notified(self, states: Mapping[str, str]) -> None:
        with self._errors(), self._engine.begin() as connection:
            for subject, state in states.items():
                upsert = _upsert(connection, _NOTIFIED).values(subject=subject, state=state)
                connection.execute(upsert.on_conflict_do_update(index_elements=["subject"], set_={"state": state}))

    def close(self) -> None:
        self._opened.dispose()

    def _execute(self, statement: sa.Executable) -> None:
        with self._errors(), self._engine.begin() as connection:
            connection.execute(statement)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            cause = " ".join(
                str(getattr(error, "orig", None) or error).split()
            )  # some messages of psycopg have several lines
            raise StoreUnavailable(
                f"run store {self.where}: {cause}; check run_store.url (deleting the run store loses no data)"
            ) from None


def _disable_implicit_begin(connection: Any, _record: object) -> None:
    """By default Python's driver begins a transaction at the first write; rows read before it could be outdated."""
    connection.isolation_level = None


def _begin_immediate(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _migrate(connection: sa.Connection) -> None:
    """Run the missing migration steps. The first release, version 1, stored no version."""
    tables = sa.inspect(connection).get_table_names()
    if _VERSION.name not in tables:
        _VERSION.create(connection)
        connection.execute(sa.insert(_VERSION).values(version=1 if _RUNS.name in tables else 0))
    version = connection.scalar(sa.select(_VERSION.c.version)) or 0
    if version > max(_STEPS):
        raise StoreUnavailable(
            f"run store: its schema is version {version}, this release supports {max(_STEPS)}; use the newer release"
            " (or delete the run store: no data is lost)"
        )
    for step in range(version + 1, max(_STEPS) + 1):
        for statement in _STEPS[step]:
            connection.exec_driver_sql(statement)
        connection.execute(sa.update(_VERSION).values(version=step))


def _require_lease(connection: sa.Connection, lease: Lease) -> None:
    """Raise LeaseLost unless the lease still belongs to its holder; lock its row until the transaction ends."""
    query = sa.select(_LEASES.c.holder, _LEASES.c.fence).where(_LEASES.c.name == lease.name).with_for_update()
    row = connection.execute(query).one_or_none()
    if row is None or tuple(row) != (lease.holder, lease.fence):
        raise LeaseLost(
            f"lease {lease.name}: number {lease.fence} was taken over by another scheduler, which runs this job now"
        )


def _upsert(connection: sa.Connection, table: sa.Table) -> Any:
    """An INSERT that supports ON CONFLICT: same SQL in both databases, one construct per dialect in SQLAlchemy."""
    return import_module(f"sqlalchemy.dialects.{connection.dialect.name}").insert(table)


def _record_failure(connection: sa.Connection, failure: Failure, at: datetime) -> None:
    values = {"last_at": utc_text(at), "last_error": failure.error}
    insert = _upsert(connection, _ATTEMPTS).values(item=failure.item, tries=1, **values)
    upsert = insert.on_conflict_do_update(index_elements=["item"], set_={**values, "tries": _ATTEMPTS.c.tries + 1})
    attempts = connection.scalar(upsert.returning(_ATTEMPTS.c.tries)) or 1
    backoff_values = {"next_try_at": utc_text(at + backoff(attempts))}
    connection.execute(sa.update(_ATTEMPTS).where(_ATTEMPTS.c.item == failure.item).values(**backoff_values))
