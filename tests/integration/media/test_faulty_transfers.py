"""Faulty transfers: every stored file equals the file at the file host.

400 in every run of the suite; 10,000 with `make soak`.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

from pipeline.core.errors import FileError, StoreError
from pipeline.core.models import ListedFile, MediaItem
from pipeline.enablex.file_host import FileHost
from pipeline.enablex.simulator.server import Simulator
from pipeline.enablex.simulator.world import SimFile, World
from pipeline.media.transfer import FileArchiver
from pipeline.storage import LocalStore, ObjectStore, read_bytes
from tests.conftest import NOW
from tests.support.servers.s3 import S3Server

TRANSFERS = 10_000 if "SOAK_TIMES" in os.environ else 400
WORLD = World(projects=("acme",), sessions_per_day=60, file_bytes=9_000)
FAULTS = (
    "files_down", "files_500", "files_503", "files_429", "files_403", "files_401", "redirect_foreign", "redirect_loop",
    "redirect_to_http_other", "html_200", "json_error_200", "other_kind", "empty_file", "short_body", "cut_anywhere",
    "cut_no_length", "bad_length", "no_length", "chunked", "no_range", "wrong_range", "lying_range", "no_validators",
    "weak_etag", "gone_early", "no_head",
)  # fmt: skip
"""Every fault of a file host that can affect a request (enablex-api.md section 14)."""


@contextmanager
def file_host(simulator: Simulator) -> Iterator[FileHost]:
    project = simulator.world.project("acme")
    host = FileHost(project="acme", user=project.files_user, password=project.files_password, hosts=("127.0.0.1",))
    try:
        yield host
    finally:
        host.close()


def listed(file: SimFile, url: str) -> MediaItem:
    made = ListedFile("acme", NOW.date(), file.conf_num, file.room_id, file.kind, Path(file.path).name, url, NOW, NOW)
    return MediaItem(made, NOW + timedelta(hours=72))


def files() -> Iterator[SimFile]:
    """The files of the world, by day, endless."""
    day = date(2026, 1, 1)
    while True:
        yield from WORLD.files_of_day("acme", day)
        day += timedelta(days=1)


def test_the_entry_of_a_copied_file(tmp_path: Path) -> None:
    """The entry has name, key, size and SHA-256, the headers of the host, and a URL without secrets."""
    vault, file = LocalStore(tmp_path), next(files())
    with Simulator(WORLD, now=NOW) as simulator, file_host(simulator) as host:
        simulator.clock.set(file.listed_at + timedelta(minutes=1))
        item = listed(file, simulator.files_url + file.path)
        signed = replace(item.file, url=f"{item.file.url}?sig=s3cret#s3cret")
        entry = FileArchiver(host, vault, NOW).copy(MediaItem(signed, item.expires_at))
    assert (entry.kind, entry.name, entry.state, entry.url) == (file.kind, item.file.name, "stored", item.file.url)
    assert (entry.at, entry.proof) == ("2026-11-23T02:15:00.000Z", "synced")
    assert entry.etag
    assert entry.content_type
    content = read_bytes(vault, str(entry.key))
    assert (entry.size_bytes, entry.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert entry.sha256 == file.sha256


def copy_under_faults(simulator: Simulator, vault: ObjectStore, transfers: int) -> dict[str, tuple[str, str]]:
    """Copy files, each under two random faults, until `transfers` requests were made; both SHA-256 by key."""
    lot = random.Random(14)
    stored = {}
    with file_host(simulator) as host:
        copier = FileArchiver(host, vault, NOW)
        for file in files():
            simulator.clock.set(file.listed_at + timedelta(minutes=1))
            for fault in lot.sample(FAULTS, 2):
                simulator.faults.on(f"{fault}@{file.path}={lot.randint(1, 3)}")
            for _ in range(30):
                try:
                    copied = copier.copy(listed(file, simulator.files_url + file.path))
                except (FileError, StoreError):
                    continue
                if copied.state == "stored":
                    stored[copied.key] = (copied.sha256, file.sha256)
                break
            else:
                raise AssertionError(f"{file.path} is never stored; faults: {simulator.faults.active()}")
            simulator.faults.clear()
            if sum(request.host == "files" for request in simulator.requests) >= transfers:
                return stored
    raise AssertionError("unreachable")


def assert_right(simulator: Simulator, vault: ObjectStore, stored: dict[str, tuple[str, str]]) -> None:
    assert len(stored) > 20
    for key, (recorded, truth) in stored.items():
        assert recorded == truth == hashlib.sha256(read_bytes(vault, key)).hexdigest(), key
    assert all(request.authorization is None for request in simulator.requests if request.host == "foreign")


def test_no_fault_stores_a_wrong_file(tmp_path: Path) -> None:
    """No stored file differs from its source, and no credential is sent to another host."""
    vault = LocalStore(tmp_path / "vault")
    with Simulator(WORLD, now=NOW) as simulator:
        stored = copy_under_faults(simulator, vault, TRANSFERS)
        assert_right(simulator, vault, stored)
        assert any(request.host == "foreign" for request in simulator.requests)


def test_no_fault_stores_a_wrong_file_in_a_bucket(s3: S3Server) -> None:
    """The same with the vault in a bucket."""
    vault = s3.store(s3.new_bucket(), "vault")
    with Simulator(WORLD, now=NOW) as simulator:
        stored = copy_under_faults(simulator, vault, TRANSFERS // 4)
        assert_right(simulator, vault, stored)
