"""Results do not depend on the executor."""

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


def site_with_executor(site: Site, name: str, executor: str) -> Site:
    """Another site at the same simulator, with another executor."""
    folder = site.folder / name
    folder.mkdir()
    other = Site(site.simulator, folder)
    other.config.write_text(site.simulator.settings_toml(str(folder)) + f"\n[executor]\n{executor}\n")
    return other


def nightly(site: Site) -> dict[str, object]:
    """Run a night; returns the SHA-256 of every table and every stored file by key, and the rows of `media`.

    `verified_by` and `etag` depend on the store, so the rows of `media` are compared without them instead of the bytes.
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


def test_all_executors_give_the_same_result_even_if_a_worker_is_killed(
    by_threads: tuple[Site, dict[str, object]], tmp_path: Path, ceph: S3Server
) -> None:
    """Processes give the same tables and files, byte for byte, as threads. So does a Dask cluster with both roots in
    buckets, whose only worker is killed with SIGKILL while it copies a file, and replaced.
    """
    site, expected = by_threads
    assert nightly(site_with_executor(site, "processes", 'backend = "processes"\nworkers = 1')) == expected
    with dask_cluster(tmp_path) as cluster:
        first = cluster.add_worker()

        def replace_worker(request: object) -> None:
            if request.host != "api" and first.poll() is None:
                first.kill()
                first.wait()
                cluster.add_worker()

        on_dask = site_with_executor(site, "dask", f'backend = "dask"\ndask_address = "{cluster.url}"')
        in_buckets(on_dask, ceph)
        site.simulator.on_request = replace_worker
        assert nightly(on_dask) == expected
        assert first.returncode == -9


def test_the_configuration_of_workers_has_no_api_key(site: Site) -> None:
    """Workers receive absolute paths, no API keys and no run store; the repr of their configuration has no secret."""
    settings = settings_for_workers(site.settings(), 2)
    config = WorkerConfig(settings, None)
    project = settings.projects["acme"]
    assert project.app_key.get_secret_value() == ""
    assert project.files_password.get_secret_value()
    assert settings.run_store.url == "sqlite://"
    assert all(secret not in repr(config) for secret in site.settings().secrets())
    assert pickle.loads(pickle.dumps(config)) == config


@pytest.mark.parametrize("error", [DigestDiffers("key", "a", "b"), RecordError("why", path="a.b", value=1)])
def test_errors_can_be_pickled(error: PipelineError) -> None:
    """An error from another process has the same type, message and fields."""
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))


def test_an_invalid_executor_is_one_line(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    """Dask without an address is refused; the message names the setting and a valid value."""
    site.config.write_text(site.config.read_text() + '\n[executor]\nbackend = "dask"\n')
    assert run_command(["--config", str(site.config), "build"]) == 2
    assert 'needs dask_address = "tcp://HOST:8786"' in capsys.readouterr().err


_PARENT = """
import os, signal, time
from pipeline.core.executor import WorkerPool
if __name__ == "__main__":
    pool = WorkerPool("processes", workers=1)
    worker = pool.run(os.getpid)
    os.kill(worker, signal.SIGINT)
    print(worker, pool.run(os.getpid), flush=True)
    time.sleep(600)
"""


def test_workers_end_with_their_parent_process(tmp_path: Path) -> None:
    """A worker ends when its parent is killed with SIGKILL. It ignores SIGINT, which Ctrl-C sends to both."""
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
