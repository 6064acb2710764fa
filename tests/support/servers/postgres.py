"""PostgreSQL from Debian's packages, for a run store that several hosts share. It starts in 2 s.

It refuses to run as root; for root it is started as user `nobody`.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import sqlalchemy as sa

from tests.support.servers.children import NotInstalled, child, environ_of_child, free_port, program, wait_until

_FOLDERS = "/usr/lib/postgresql"
_USER = "postroom"
_NOBODY = 65534


@dataclass(frozen=True)
class PostgresServer:
    """A server on loopback; every test creates its own database."""

    port: int
    _numbers: count[int]

    def new_database(self) -> str:
        """Create an empty database; returns its URL, for `run_store.url`."""
        name = f"run_store_{next(self._numbers)}"
        engine = sa.create_engine(self._url("postgres"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(sa.text(f"CREATE DATABASE {name}"))
        engine.dispose()
        return self._url(name)

    def _url(self, database: str) -> str:
        return f"postgresql+psycopg://{_USER}@127.0.0.1:{self.port}/{database}"


@contextlib.contextmanager
def postgres_server(folder: Path) -> Iterator[PostgresServer]:
    """Start PostgreSQL with its files in a folder; stop it at the end. Raises NotInstalled."""
    initdb, postgres = _newest("initdb"), _newest("postgres")
    with _as_nobody() as (as_user, data):
        environ, port = environ_of_child(TZ="UTC"), free_port()
        done = subprocess.run(
            [*as_user, initdb, "-D", data, "-U", _USER, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"],
            capture_output=True,
            text=True,
            timeout=60,
            env=environ,
            cwd="/",
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"initdb:\n{done.stdout}{done.stderr}")
        settings = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": "", "fsync": "off"}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        log = folder / "postgres.log"
        with child([*as_user, postgres, "-D", data, *options], log, environ) as process:
            server = PostgresServer(port, count())
            wait_until(lambda: _accepts_connections(server), process, log)
            yield server


def _newest(name: str) -> str:
    """A program of the newest installed version; Debian installs them outside PATH."""
    installed = sorted(Path(_FOLDERS).glob(f"*/bin/{name}"), key=lambda path: float(path.parts[-3]))
    return str(installed[-1]) if installed else program(name)


@contextlib.contextmanager
def _as_nobody() -> Iterator[tuple[list[str], str]]:
    """A command prefix that runs a program as another user than root, and an empty folder owned by that user."""
    with tempfile.TemporaryDirectory(prefix="postgres-for-tests-", ignore_cleanup_errors=True) as folder:
        if os.geteuid() != 0:
            yield [], folder
        else:
            os.chown(folder, _NOBODY, _NOBODY)
            yield [program("setpriv"), f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups"], folder


def _accepts_connections(server: PostgresServer) -> bool:
    engine = sa.create_engine(server._url("postgres"))
    try:
        with engine.connect():
            return True
    except sa.exc.OperationalError:
        return False
    except ModuleNotFoundError:
        raise NotInstalled("psycopg is not installed") from None
    finally:
        engine.dispose()
