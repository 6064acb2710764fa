"""Files that grow, change or are deleted after they were copied; ambiguous refusals; damaged files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import timedelta

import pytest

from jobs.status import status
from pipeline.core.context import App
from pipeline.core.models import RunResult
from pipeline.enablex.simulator.world import World
from pipeline.media.copy import copy_media, plan
from pipeline.storage import read_bytes
from pipeline.storage.manifests import Entry, current_manifests
from pipeline.tables import parquet
from pipeline.tables.build import build
from tests.conftest import NOW, Site
from tests.integration.media.test_copy import DAYS, WORLD

HOUR = timedelta(hours=1)


def copy(site: Site) -> RunResult:
    with site.app() as app:
        return copy_media(app)


def recorded_copy(site: Site) -> RunResult:
    """As the command does it: failures are recorded in the run store."""
    with site.app() as app:
        return app.run_store.record_run("media copy", app.clock, lambda: copy_media(app))


def entries(app: App) -> list[Entry]:
    return [entry for manifest in current_manifests(app.vault, "acme", DAYS) for entry in manifest.files]


def digests(app: App) -> list[str]:
    """SHA-256 of all files that the manifests name, read from the vault."""
    return [
        hashlib.sha256(read_bytes(app.vault, version.key or "")).hexdigest()
        for entry in entries(app)
        for version in entry.versions
    ]


def media_only(site: Site) -> dict[str, str]:
    return {file.path: file.sha256 for file in site.truth_files().values() if file.format != "json"}


@pytest.fixture
def fresh(make_site: Callable[..., Site]) -> Site:
    """A site with two sessions of yesterday."""
    return make_site(WORLD)


def test_a_partial_copy_is_completed(fresh: Site) -> None:
    """A file that was still growing when it was copied is copied again, complete, and both versions are kept."""
    fresh.simulator.faults.on("growing=2000")
    first = copy(fresh)
    parts = media_only(fresh)
    assert parts
    fresh.simulator.faults.clear()
    fresh.simulator.clock.advance(2 * HOUR)
    again = copy(fresh)
    assert again.counts["files_changed"] == len(parts)
    assert len(again.notices["changed"]) == len(parts)
    with fresh.app() as app:
        grown = [entry for entry in entries(app) if entry.earlier]
        assert sorted(str(entry.sha256) for entry in grown) == sorted(parts.values())
        assert digests(app) == [version.sha256 for entry in entries(app) for version in entry.versions]
        assert all(entry.size_bytes and entry.size_bytes > (entry.earlier[0].size_bytes or 0) for entry in grown)
    assert first.failed == again.failed == []


def test_other_bytes_of_the_same_size_are_noticed(fresh: Site) -> None:
    """A file that EnableX replaces under the same URL is stored as another version."""
    copy(fresh)
    fresh.simulator.faults.on("wrong_bytes@/t1")
    fresh.simulator.clock.advance(2 * HOUR)
    again = copy(fresh)
    assert again.counts["files_changed"] > 0
    with fresh.app() as app:
        changed = [entry for entry in entries(app) if entry.earlier]
        assert {entry.kind for entry in changed} == {"transcoded"}
        assert all(entry.sha256 != entry.earlier[0].sha256 and entry.key != entry.earlier[0].key for entry in changed)
        build(app)
        rows = parquet.read_arrow("media", columns=["kind", "version_count"], lake=app.lake).to_pylist()
        assert {row["version_count"] for row in rows if row["kind"] == "transcoded"} == {2}


@pytest.mark.parametrize("fault", ["", "no_validators", "no_length", "weak_etag"])
def test_an_unchanged_file_is_only_rechecked(fresh: Site, fault: str) -> None:
    """An unchanged file gets no second version, with any headers of the host; it is rechecked once per age."""
    if fault:
        fresh.simulator.faults.on(fault)
    copied = copy(fresh).counts["files_copied"]
    fresh.simulator.clock.advance(2 * HOUR)
    again = copy(fresh)
    assert again.counts["files_rechecked"] == copied
    assert again.counts["files_changed"] == 0
    with fresh.app() as app:
        assert all(entry.checked_at and not entry.earlier for entry in entries(app) if entry.checked_at)
    assert copy(fresh).counts["files_rechecked"] == 0


def test_a_file_deleted_after_it_was_stored_is_not_lost(fresh: Site) -> None:
    """A stored file that was deleted at its source stays stored and is not requested again; exit code 0."""
    copied = copy(fresh).counts["files_copied"]
    fresh.simulator.faults.on("gone_early")
    fresh.simulator.clock.advance(2 * HOUR)
    again = copy(fresh)
    assert again.counts["files_gone"] == copied
    assert again.lost == []
    assert copy(fresh).counts["files_rechecked"] == 0
    with fresh.app() as app:
        build(app)
        rows = parquet.read_arrow("media", columns=["state", "deleted_at_source"], lake=app.lake).to_pylist()
    assert sum(row["deleted_at_source"] is not None for row in rows) == copied
    assert {row["state"] for row in rows if row["deleted_at_source"]} == {"stored"}


def test_wrong_credentials_lose_nothing(make_site: Callable[..., Site]) -> None:
    """While files before their deadline are refused, a refusal after a deadline does not mean that the file is lost;
    once other files are accepted it does, and `status` lists the lost file for 24 hours.
    """
    world = World(projects=("acme",), sessions_per_day=3, begin=(NOW - timedelta(days=4)).date())
    site = make_site(world, faults=("files_down",))
    copy(site)
    site.simulator.faults.clear()
    site.simulator.faults.on("files_403")
    site.simulator.clock.advance(60 * HOUR)
    refused = copy(site)
    assert refused.lost == []
    assert any("credentials" in failure.error or "files_password" in failure.error for failure in refused.failed)
    with site.app() as app:
        assert entries(app) == []
    site.simulator.faults.clear()
    site.simulator.faults.on("expired_403")
    settled = copy(site)
    assert settled.lost
    with site.app() as app:
        assert status(app).lost == sorted(settled.lost, key=lambda file: file["expires_at"])
    with site.app(site.simulator.clock.now() + 25 * HOUR) as app:
        assert status(app).lost == []
    assert copy(site).lost == []


def test_a_damaged_file_is_kept_when_time_is_short(fresh: Site) -> None:
    """A file without a length that is always truncated is refused at first and stored when it is at risk."""
    fresh.simulator.faults.on("cut_no_length@.mkv")
    fresh.simulator.faults.on("cut_no_length@.mov")
    first = copy(fresh)
    assert first.failed
    fresh.simulator.clock.advance(30 * HOUR)
    last = copy(fresh)
    assert last.counts["malformed"] > 0
    assert last.notices["malformed"]
    with fresh.app() as app:
        damaged = [entry for entry in entries(app) if entry.name.endswith((".mkv", ".mov"))]
        assert {entry.state for entry in damaged} == {"unreadable"}
        assert digests(app)


def test_what_does_not_open_is_stored_and_named(fresh: Site) -> None:
    """A probe fills in the columns of a recording, and malformed files are named in the outcome."""
    outcome = copy(fresh)
    assert outcome.notices.get("malformed", []) == []
    with fresh.app() as app:
        build(app)
        rows = parquet.read_arrow("media", lake=app.lake).to_pylist()
    media = [row for row in rows if row["kind"] in ("recording", "transcoded")]
    assert media
    assert all(row["container"] and row["duration_s"] and row["width_px"] for row in media)
    assert all(row["video_codec"] and row["audio_codec"] and row["verified_by"] == "synced" for row in media)


def test_the_bandwidth_is_limited(fresh: Site) -> None:
    """With media.bandwidth_limit_mib_per_s all downloads together are no faster than that."""
    fresh.config.write_text(fresh.config.read_text() + "\n[media]\nbandwidth_limit_mib_per_s = 0.25\n")
    total = sum(file.size_bytes for file in fresh.truth_files().values())
    waits: list[float] = []
    with fresh.app() as app:
        bandwidth = app.file_hosts["acme"]._bandwidth
        assert bandwidth is not None
        bandwidth._sleep = waits.append  # time is injected: nothing waits
        bandwidth._monotonic = lambda: 0.0
        copy_media(app)
        assert max(waits) == pytest.approx(total / (0.25 * 2**20), rel=0.3)


def test_only_the_scheduler_backs_off(fresh: Site) -> None:
    """A file that failed is skipped by the scheduler's media job until its next attempt is due, not by the command."""
    fresh.simulator.faults.on("files_403@/a1.mkv")
    assert recorded_copy(fresh).failed
    fresh.simulator.faults.clear()
    with fresh.app() as app:
        pending = {str(item) for item in plan(app, "acme").pending}
        backing_off = app.run_store.backing_off(app.clock()) & pending
        assert backing_off
        copy_media(app, respect_backoff=True)
        assert {str(item) for item in plan(app, "acme").pending} == backing_off
    with fresh.app(fresh.simulator.clock.now() + timedelta(minutes=16)) as app:
        copy_media(app, respect_backoff=True)
        assert not plan(app, "acme").pending


def test_a_file_at_risk_is_always_attempted(fresh: Site) -> None:
    """Less than 24 hours before its deadline a file is attempted by every run, even right after a failure."""
    fresh.simulator.clock.advance(36 * HOUR)
    fresh.simulator.faults.on("files_403@/a1.mkv")
    assert recorded_copy(fresh).failed
    fresh.simulator.faults.clear()
    with fresh.app() as app:
        at_risk = {str(item) for item in plan(app, "acme").pending if item.is_at_risk(app.clock())}
        assert at_risk & app.run_store.backing_off(app.clock())
        copy_media(app, respect_backoff=True)
        assert not at_risk & {str(item) for item in plan(app, "acme").pending}
