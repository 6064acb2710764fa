"""Fixtures of all tests: a simulator on free ports with a site (settings, folders), the command line, servers."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
import structlog
from hypothesis import settings

from jobs.runtime import open_app
from pipeline.cli.main import run_command
from pipeline.core.context import App
from pipeline.core.settings.load import load
from pipeline.core.settings.sections import Settings
from pipeline.enablex.simulator.server import Simulator
from pipeline.enablex.simulator.world import SimFile, World
from pipeline.tables.normalize import field_scanner
from tests.support.environ import clean_environ
from tests.support.paths import ROOT
from tests.support.servers.ceph import ceph_server
from tests.support.servers.children import NotInstalled
from tests.support.servers.focus import Validate, focus_validator
from tests.support.servers.localstack import localstack_server
from tests.support.servers.postgres import PostgresServer, postgres_server
from tests.support.servers.s3 import ENVIRON, S3Server

NOW = datetime(2026, 11, 23, 2, 15, tzinfo=UTC)
NO_SERVER = "server not installed: run `make servers` (tests/support/servers/README.md)"


settings.register_profile("suite", max_examples=60, deadline=None, derandomize=True, database=None)
settings.register_profile("explore", max_examples=2000, deadline=None, database=None)
settings.load_profile("suite")

SERVER_FIXTURES = {"ceph", "localstack", "s3", "postgres", "validate_focus"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by their folder, or as `servers` if one of their fixtures starts a real server."""
    for item in items:
        folder = item.path.relative_to(ROOT / "tests").parts[0]
        if {"integration", "servers", "soak"} & {mark.name for mark in item.iter_markers()}:
            continue
        if folder == "contract" or SERVER_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker("servers")
        elif folder in {"unit", "meta"}:
            item.add_marker("unit")
        else:
            item.add_marker("integration")


@dataclass
class Site:
    """One installation: a simulator, a settings file, and its stores."""

    simulator: Simulator
    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "postroom.toml"

    @property
    def world(self) -> World:
        return self.simulator.world

    def settings(self) -> Settings:
        return load(self.config, {}).settings

    @contextlib.contextmanager
    def app(self, now: datetime | None = None) -> Iterator[App]:
        with open_app(self.settings(), now=now or self.simulator.clock.now()) as app:
            yield app

    def configure(self, old: str, new: str) -> None:
        """Replace a text in the settings file, which must contain `old`."""
        text = self.config.read_text()
        assert old in text
        self.config.write_text(text.replace(old, new))

    def postroom(
        self, *arguments: str, now: datetime | None = None, **environ: str
    ) -> subprocess.CompletedProcess[str]:
        """Run the command in a new process, at the simulator's time."""
        moment = (now or self.simulator.clock.now()).isoformat()
        command = [sys.executable, "-m", "pipeline", "--config", str(self.config), "--now", moment, *arguments]
        environment = {**clean_environ(), **environ}
        return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)

    def run(self, *arguments: str, now: datetime | None = None) -> subprocess.CompletedProcess[str]:
        """Run the command in this process, which is faster than starting a new one."""
        moment = (now or self.simulator.clock.now()).isoformat()
        command = ["--config", str(self.config), "--now", moment, *arguments]
        with contextlib.redirect_stdout(io.StringIO()) as output, contextlib.redirect_stderr(io.StringIO()) as errors:
            code = run_command(command)
        return subprocess.CompletedProcess(command, code, output.getvalue(), errors.getvalue())

    def outcome(self, *arguments: str, now: datetime | None = None) -> dict[str, Any]:
        """The JSON result of a command, which must print one."""
        done = self.run("--json", *arguments, now=now)
        assert done.stdout, done.stderr
        return json.loads(done.stdout)

    def objects(self, *under: str) -> dict[str, str]:
        """SHA-256 of every object of the site's stores (below `under`) by path, without temporary files."""
        digests = {}
        for root in ("lake", "vault"):
            for path in sorted((self.folder / root).rglob("*")):
                name = path.relative_to(self.folder).as_posix()
                if path.is_file() and ".tmp" not in path.parts and (not under or name.startswith(under)):
                    digests[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        return digests

    def truth_cdr_ids(self, first: datetime, last: datetime) -> dict[str, list[str]]:
        """`cdr_id` of every CDR of the world visible now with `trans_date` on these days, by project."""
        now = self.simulator.clock.now()
        return {
            project: sorted(
                document["cdr_id"] for document in self.world.cdr_documents(project, now, first.date(), last.date())
            )
            for project in self.world.projects
        }

    def truth_files(self) -> dict[tuple[str, str, str], SimFile]:
        """Every file of the world that can be downloaded now, by project, session and path."""
        now = self.simulator.clock.now()
        return {
            (project, file.conf_num, file.path): file
            for project in self.world.projects
            for file in self.world.files(project, now)
        }

    def downloads(self) -> int:
        return sum(request.host != "api" and request.method == "GET" for request in self.simulator.requests)


@pytest.fixture
def make_site(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    """Make sites: `make_site(World(...), now=..., faults=[...])`; the defaults are small."""
    with contextlib.ExitStack() as stack:

        def make(world: World | None = None, *, now: datetime = NOW, faults: tuple[str, ...] = ()) -> Site:
            world = world or World(projects=("acme",), sessions_per_day=4, begin=(now - timedelta(days=2)).date())
            simulator = stack.enter_context(Simulator(world, now=now, faults=faults))
            folder = tmp_path / f"site-{len(list(tmp_path.iterdir()))}"
            folder.mkdir()
            site = Site(simulator, folder)
            site.config.write_text(simulator.settings_toml(str(folder)))
            site.configure("[collect]\n", "[collect]\nmax_attempts = 2\n")
            return site

        yield make


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    """One project, four sessions a day, three days."""
    return make_site()


@pytest.fixture(scope="session", autouse=True)
def environ() -> None:
    """Remove the machine's settings from the environment of this process, and set the keys of the S3 servers."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "POSTROOM_"))]:
        del os.environ[name]
    os.environ.update(ENVIRON)


Server = TypeVar("Server")


@pytest.fixture(autouse=True)
def reset_logging() -> Iterator[None]:
    """Remove logging to the standard error of a command that ran in this process."""
    yield
    structlog.reset_defaults()
    for handler in [each for each in logging.getLogger().handlers if type(each) is logging.StreamHandler]:
        logging.getLogger().removeHandler(handler)


@contextlib.contextmanager
def running(
    server: Callable[[Path], contextlib.AbstractContextManager[Server]], folders: pytest.TempPathFactory
) -> Iterator[Server]:
    """One server for the tests of this worker. If it is not installed, they are skipped, or fail if it is required."""
    with contextlib.ExitStack() as stack:
        folder = folders.mktemp(server.__name__)
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        try:
            running = stack.enter_context(server(folder))
        except NotInstalled:
            if os.environ.get("REQUIRE_SERVERS"):
                raise
            pytest.skip(NO_SERVER)
        yield running


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Report all tests skipped for lack of a server in one line."""
    report = yield
    if isinstance(report.longrepr, tuple) and NO_SERVER in report.longrepr[2]:
        report.longrepr = (__file__, 0, NO_SERVER)
    return report


@pytest.fixture(params=["compiled", "decoding"], scope="module")
def either_finder(request: pytest.FixtureRequest) -> Iterator[None]:
    """The finder that was compiled, and the one that stands in for it."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "decoding":
            patch.setattr(field_scanner, "_scanner", None)
        elif field_scanner._scanner is None:
            pytest.skip("nothing was compiled here")
        yield


@pytest.fixture(scope="session")
def ceph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An S3 server that checks signatures, MD5 and Object Lock; without CRC64NVME."""
    with running(ceph_server, tmp_path_factory) as server:
        yield server


@pytest.fixture(scope="session")
def localstack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An S3 server with CRC64NVME as on AWS; it accepts any key."""
    with running(localstack_server, tmp_path_factory) as server:
        yield server


@pytest.fixture(params=["ceph", "localstack"])
def s3(request: pytest.FixtureRequest) -> S3Server:
    """Each S3 server in turn."""
    server: S3Server = request.getfixturevalue(request.param)
    return server


@pytest.fixture(scope="session")
def validate_focus(tmp_path_factory: pytest.TempPathFactory) -> Validate:
    """The FinOps Foundation's validator: the violated rules of a FOCUS file."""
    try:
        return focus_validator(tmp_path_factory.mktemp("focus"))
    except NotInstalled:
        pytest.skip("no FOCUS validator: see tests/support/servers/README.md")


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A real PostgreSQL, for a run store that several hosts share."""
    with running(postgres_server, tmp_path_factory) as server:
        yield server
