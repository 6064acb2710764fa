"""What tests share: the simulator on free ports, a site (settings and folders) beside it, and the command line."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipeline.app import App, open_app
from pipeline.settings import Settings, load
from pipeline.simulator.server import Simulator
from pipeline.simulator.world import SimFile, World

NOW = datetime(2026, 11, 23, 2, 15, tzinfo=UTC)


@dataclass
class Site:
    """One company: a simulator, a settings file, and the stores it names."""

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
        """Change the settings file; `old` must be there."""
        text = self.config.read_text()
        assert old in text
        self.config.write_text(text.replace(old, new))

    def postroom(
        self, *arguments: str, now: datetime | None = None, **environ: str
    ) -> subprocess.CompletedProcess[str]:
        """Run the command in a process of its own, at the simulator's time."""
        moment = (now or self.simulator.clock.now()).isoformat()
        command = [sys.executable, "-m", "pipeline", "--config", str(self.config), "--now", moment, *arguments]
        environment = {**clean_environ(), **environ}
        return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)

    def outcome(self, *arguments: str, now: datetime | None = None) -> dict[str, Any]:
        """The JSON outcome of a command that is expected to run."""
        done = self.postroom("--json", *arguments, now=now)
        assert done.stdout, done.stderr
        return json.loads(done.stdout)

    def objects(self, *under: str) -> dict[str, str]:
        """Every object of the site's stores (below `under`), with its SHA-256; temporary files left out."""
        found = {}
        for root in ("lake", "vault"):
            for path in sorted((self.folder / root).rglob("*")):
                name = path.relative_to(self.folder).as_posix()
                if path.is_file() and ".tmp" not in path.parts and (not under or name.startswith(under)):
                    found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        return found

    def truth_cdr_ids(self, first: datetime, last: datetime) -> dict[str, list[str]]:
        """`cdr_id` of every CDR visible now with `trans_date` on these days, by project; straight from the world."""
        now = self.simulator.clock.now()
        return {
            project: sorted(
                document["cdr_id"] for document in self.world.cdr_documents(project, now, first.date(), last.date())
            )
            for project in self.world.projects
        }

    def truth_files(self) -> dict[tuple[str, str, str], SimFile]:
        """Every file that can be downloaded now, by project, session and path."""
        now = self.simulator.clock.now()
        return {
            (project, file.conf_num, file.path): file
            for project in self.world.projects
            for file in self.world.files(project, now)
        }

    def downloads(self) -> int:
        return sum(request.host != "api" and request.method == "GET" for request in self.simulator.requests)


def clean_environ() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("POSTROOM_")}


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
