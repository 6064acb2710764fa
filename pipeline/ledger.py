"""What was attempted: runs, and tries per item. Deleting it loses no fact, only memory of attempts.

SQLAlchemy Core; SQLite by default, PostgreSQL by URL.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from pipeline.errors import ConfigError, StoreUnavailable
from pipeline.model import Failure, Outcome, utc_text

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
)


class Ledger:
    """Open once per process; threads may share it. The database is first touched when something is noted or asked."""

    def __init__(self, url: str) -> None:
        try:
            self._url = make_url(url)
            self._opened = sa.create_engine(self._url)
        except (ArgumentError, ModuleNotFoundError) as error:
            raise ConfigError(f"ledger.url: {error}; for example sqlite:///./data/ledger.db") from None
        self.where = self._url.render_as_string(hide_password=True)
        self._preparing, self._is_ready = threading.Lock(), False

    @property
    def _engine(self) -> sa.Engine:
        """The database, with its tables."""
        with self._preparing:
            if not self._is_ready:
                self._prepare()
                self._is_ready = True
        return self._opened

    def _prepare(self) -> None:
        if self._url.get_backend_name() == "sqlite" and self._url.database not in (None, "", ":memory:"):
            try:
                Path(str(self._url.database)).parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StoreUnavailable(f"ledger.url: cannot make the folder: {error}; choose another place") from None
        _METADATA.create_all(self._opened)

    def try_out(self) -> None:
        """Note a run and take it back. Raises StoreUnavailable when nothing can be noted."""
        with self._errors(), self._engine.connect() as connection:
            values = {"run_id": uuid4().hex, "command": "doctor", "started_at": ""}
            connection.execute(sa.insert(_RUNS).values(**values))
            connection.rollback()

    def record_run(self, command: str, clock: Callable[[], datetime], flow: Callable[[], Outcome]) -> Outcome:
        """Run a flow and remember when, how it ended, and what failed. A run without an end was killed or broke off."""
        run_id = uuid4().hex
        self._execute(sa.insert(_RUNS).values(run_id=run_id, command=command, started_at=utc_text(clock())))
        outcome = flow()
        self._note_failures(outcome.failed, clock())
        values = {"ended_at": utc_text(clock()), "exit_code": outcome.exit_code, "counts": dict(outcome.counts)}
        self._execute(sa.update(_RUNS).where(_RUNS.c.run_id == run_id).values(**values))
        return outcome

    def _note_failures(self, failures: list[Failure], at: datetime) -> None:
        with self._errors(), self._engine.begin() as connection:
            for failure in failures:
                values = {"last_at": utc_text(at), "last_error": failure.error}
                same = _ATTEMPTS.c.item == failure.item
                found = connection.execute(
                    sa.update(_ATTEMPTS).where(same).values(tries=_ATTEMPTS.c.tries + 1, **values)
                )
                if found.rowcount == 0:
                    connection.execute(sa.insert(_ATTEMPTS).values(item=failure.item, tries=1, **values))

    def forget_attempts(self, items: list[str]) -> None:
        """Items that worked in the end need no memory of their tries."""
        if items:
            statement = sa.delete(_ATTEMPTS).where(_ATTEMPTS.c.item == sa.bindparam("done"))
            with self._errors(), self._engine.begin() as connection:
                connection.execute(statement, [{"done": item} for item in items])

    def tries(self) -> dict[str, int]:
        """Failed tries so far, by item."""
        with self._errors(), self._engine.connect() as connection:
            rows = connection.execute(sa.select(_ATTEMPTS.c.item, _ATTEMPTS.c.tries))
            return {item: tries for item, tries in rows}  # noqa: C416 - rows are not pairs to the type checker

    def last_good_runs(self) -> Mapping[str, str]:
        """When each command last ended with exit code 0 or 4 (it did its work; files may be at risk all the same)."""
        query = (
            sa.select(_RUNS.c.command, sa.func.max(_RUNS.c.ended_at))
            .where(_RUNS.c.exit_code.in_((0, 4)))
            .group_by(_RUNS.c.command)
            .order_by(_RUNS.c.command)
        )
        with self._errors(), self._engine.connect() as connection:
            rows = connection.execute(query)
            return {command: ended_at for command, ended_at in rows}  # noqa: C416 - as above

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
            cause: Any = getattr(error, "orig", None) or error
            raise StoreUnavailable(
                f"ledger {self.where}: {cause}; check the place (it may be deleted: no fact is lost)"
            ) from None
