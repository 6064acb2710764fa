"""Where items run changes nothing about what comes of them."""

from __future__ import annotations

import hashlib
import os
import pickle
import select
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from jobs.nightly import nightly as run_nightly
from jobs.workers import WorkerConfig, settings_for_workers
from pipeline.cli.main import run_command
from pipeline.core.errors import DigestDiffers, PipelineError, RecordError
from pipeline.enablex.simulator.world import World
from pipeline.storage import read_bytes
from pipeline.tables import parquet
from tests.conftest import NOW, Site
from tests.support.buckets import in_buckets
from tests.support.environ import clean_environ
from tests.support.paths import ROOT
from tests.support.servers.dask import dask_cluster
from tests.support.servers.s3 import S3Server

WORLD = World(projects=("acme",), sessions_per_day=2, begin=(NOW - timedelta(days=1)).date())


def beside(site: Site, name: str, engine: str) -> Site:
    """Another company's folder at the same simulator, with another engine."""
    folder = site.folder / name
    folder.mkdir()
    other = Site(site.simulator, folder)
    other.config.write_text(site.simulator.settings_toml(str(folder)) + f"\n[executor]\n{engine}\n")
    return other


def nightly(site: Site) -> dict[str, object]:
    """A night's work: the SHA-256 of every table and every stored file, by key, and the rows of `media`.

    Where a file is stored says how it was proved: these rows go without that, and are compared instead of their bytes.
    """
    with site.app() as app:
        assert run_nightly(app).failed == []
        media = parquet.read_arrow("media", lake=app.lake).drop_columns(["etag", "verified_by"]).to_pylist()
        return {"media": media} | {
            f"{root}/{stored.key}": hashlib.sha256(read_bytes(store, stored.key)).hexdigest()
            for root, store, kind in (("lake", app.lake, "tables/"), ("vault", app.vault, "media/"))
            for stored in store.list(kind)
            if not stored.key.startswith("tables/media/")
        }


@pytest.fixture
def by_threads(make_site: Callable[..., Site]) -> tuple[Site, dict[str, object]]:
    site = make_site(WORLD)
    objects = nightly(site)
    assert {key.split("/")[0] for key in objects} == {"lake", "vault", "media"}
    return site, objects


def test_every_engine_makes_the_same_even_when_a_worker_is_killed(
    by_threads: tuple[Site, dict[str, object]], tmp_path: Path, ceph: S3Server
) -> None:
    """Processes, and a Dask cluster with both roots in buckets, whose only worker is killed with -9 while it copies a
    file and replaced by another one, make the same tables and files, byte for byte, as the threads of one process.
    """
    site, expected = by_threads
    assert nightly(beside(site, "processes", 'backend = "processes"\nworkers = 1')) == expected
    with dask_cluster(tmp_path) as cluster:
        first = cluster.add_worker()

        def replace_worker(seen: object) -> None:
            if seen.host != "api" and first.poll() is None:
                first.kill()
                first.wait()
                cluster.add_worker()

        on_dask = beside(site, "dask", f'backend = "dask"\ndask_address = "{cluster.url}"')
        in_buckets(on_dask, ceph)
        site.simulator.on_request = replace_worker
        assert nightly(on_dask) == expected
        assert first.returncode == -9


def test_what_workers_are_told_shows_no_secret_and_has_no_api_key(site: Site) -> None:
    """Workers get neither API keys nor the ledger, and full paths; the text of what they get names no secret."""
    settings = settings_for_workers(site.settings(), 2)
    kit = WorkerConfig(settings, None)
    project = settings.projects["acme"]
    assert project.app_key.get_secret_value() == ""
    assert project.files_password.get_secret_value()
    assert settings.run_store.url == "sqlite://"
    assert all(secret not in repr(kit) for secret in site.settings().secrets())
    assert pickle.loads(pickle.dumps(kit)) == kit


@pytest.mark.parametrize("error", [DigestDiffers("key", "a", "b"), RecordError("why", path="a.b", value=1)])
def test_errors_survive_the_way_from_a_worker(error: PipelineError) -> None:
    """An error from another process says and holds the same."""
    back = pickle.loads(pickle.dumps(error))
    assert (type(back), str(back), vars(back)) == (type(error), str(error), vars(error))


def test_an_engine_that_cannot_be_is_said_in_one_line(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    """Dask without a scheduler's address is refused by name, with what would be valid."""
    site.config.write_text(site.config.read_text() + '\n[executor]\nbackend = "dask"\n')
    assert run_command(["--config", str(site.config), "build"]) == 2
    assert 'needs dask_address = "tcp://HOST:8786"' in capsys.readouterr().err


_PARENT = """
import os, signal, time
from pipeline.core.executor import WorkerPool
if __name__ == "__main__":
    engine = WorkerPool("processes", workers=1)
    worker = engine.run(os.getpid)
    os.kill(worker, signal.SIGINT)
    print(worker, engine.run(os.getpid), flush=True)
    time.sleep(600)
"""


def test_workers_end_with_the_process_they_work_for(tmp_path: Path) -> None:
    """A worker whose process is killed with -9 does not stay behind; Ctrl-C, which both hear, is not for the worker."""
    script = tmp_path / "parent.py"
    script.write_text(_PARENT)
    environ = {**clean_environ(), "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environ) as parent:
        assert parent.stdout is not None
        worker, after_interrupt = map(int, parent.stdout.readline().split())
        assert after_interrupt == worker
        end = os.pidfd_open(worker)
        parent.kill()
    assert select.select([end], [], [], 30)[0]
    os.close(end)
