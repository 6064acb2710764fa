"""Copies to the vault under every fault of the file host: no wrong file is recorded as stored."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from datetime import timedelta

import pytest

from pipeline.core.models import Period
from pipeline.enablex.simulator.world import World
from pipeline.storage import LocalStore, read_bytes
from pipeline.storage.manifests import Manifest, current_manifests
from pipeline.tables import parquet
from tests.conftest import NOW, Site

WORLD = World(projects=("acme",), sessions_per_day=2, begin=(NOW - timedelta(days=1)).date())
DAYS = Period((NOW - timedelta(days=8)).date(), (NOW + timedelta(days=8)).date())


def manifests(site: Site) -> list[Manifest]:
    return list(current_manifests(LocalStore(site.folder / "vault"), "acme", DAYS))


def stored_digests(site: Site) -> list[str]:
    """SHA-256 of every file with a key in a manifest, checked against the bytes in the vault."""
    vault = LocalStore(site.folder / "vault")
    entries = [entry for manifest in manifests(site) for entry in manifest.files if entry.key]
    for entry in entries:
        assert hashlib.sha256(read_bytes(vault, entry.key or "")).hexdigest() == entry.sha256
    return sorted(str(entry.sha256) for entry in entries)


def true_digests(site: Site) -> list[str]:
    return sorted(file.sha256 for file in site.truth_files().values())


def assert_no_credentials_were_sent_elsewhere(site: Site) -> None:
    assert all(request.authorization is None for request in site.simulator.requests if request.host == "foreign")


@pytest.mark.parametrize(
    "fault",
    ["short_body", "cut_no_length", "html_200", "json_error_200", "files_403", "files_401", "files_500", "files_down",
     "redirect_loop"],
)  # fmt: skip
def test_an_incomplete_or_wrong_file_is_never_stored(make_site: Callable[..., Site], fault: str) -> None:
    """Truncated, wrong or refused files leave no manifest and no object; once the host works, all are stored."""
    site = make_site(WORLD, faults=(fault,))
    outcome = site.outcome("media", "copy")
    assert outcome["failed"]
    truth = true_digests(site)
    assert set(stored_digests(site)) <= set(truth)
    assert len(stored_digests(site)) < len(truth)
    if fault not in {"html_200", "json_error_200"}:
        assert site.objects("vault/media/") == {}
    site.simulator.faults.clear()
    assert site.outcome("media", "copy")["ok"]
    assert stored_digests(site) == truth
    assert_no_credentials_were_sent_elsewhere(site)


@pytest.mark.parametrize(
    "fault", ["no_length", "chunked", "no_range", "redirect_foreign", "rate_limit=2", "files_500=1"]
)
def test_odd_but_whole_transfers_are_stored(make_site: Callable[..., Site], fault: str) -> None:
    """Without a length, in chunks, by redirect or after a transient error: every file is stored with its digest."""
    site = make_site(WORLD, faults=(fault,))
    site.outcome("media", "copy")
    assert stored_digests(site) == true_digests(site) != []
    assert_no_credentials_were_sent_elsewhere(site)


def test_files_on_an_unknown_host_are_refused_with_the_setting(make_site: Callable[..., Site]) -> None:
    """A listed URL on a host outside file_hosts is not requested, and the error names host and setting."""
    site = make_site(WORLD, faults=("foreign_url",))
    outcome = site.outcome("media", "copy")
    assert any("localhost" in failure["error"] and "file_hosts" in failure["error"] for failure in outcome["failed"])
    assert not any(request.host == "foreign" for request in site.simulator.requests)
    assert stored_digests(site) == []


def test_file_credentials_are_sent_first_and_belong_to_the_portal(make_site: Callable[..., Site]) -> None:
    """Every file is requested once, with the Basic header of the portal account and not of the API."""
    site = make_site(WORLD)
    site.outcome("media", "copy")
    project = site.world.project("acme")
    expected = "Basic " + base64.b64encode(f"{project.files_user}:{project.files_password}".encode()).decode()
    asked = [request for request in site.simulator.requests if request.host == "files"]
    assert {request.authorization for request in asked} == {expected}
    assert len({request.path for request in asked}) == len(asked) == len(site.truth_files())


def test_the_earliest_deadline_is_copied_first(make_site: Callable[..., Site]) -> None:
    """Files are fetched in the order of their deadlines."""
    site = make_site(World(projects=("acme",), sessions_per_day=5, begin=(NOW - timedelta(days=2)).date()))
    site.config.write_text(site.config.read_text() + "\n[media]\nconcurrency = 1\n")
    site.outcome("collect")
    site.outcome("build")
    site.outcome("media", "copy")
    site.outcome("build")
    media = parquet.read_arrow("media", lake=LocalStore(site.folder / "lake")).to_pylist()
    deadline = {row["url"].partition("/path/")[2]: row["expires_at"] for row in media}
    fetched = [request.path.partition("/path/")[2] for request in site.simulator.requests if request.host == "files"]
    deadlines = [deadline[path] for path in fetched]
    assert len(deadlines) > 10
    assert deadlines == sorted(deadlines)


def test_limit_copies_the_most_urgent_and_leaves_the_rest(make_site: Callable[..., Site]) -> None:
    """--limit N copies N files; the next run copies the rest."""
    site = make_site(WORLD)
    assert site.outcome("media", "copy", "--limit", "3")["counts"]["files_copied"] == 3
    site.outcome("media", "copy")
    assert stored_digests(site) == true_digests(site)


@pytest.mark.parametrize("fault", ["", "expired_403", "expired_410", "expired_html"])
def test_an_expired_file_ends_as_lost_once(make_site: Callable[..., Site], fault: str) -> None:
    """After its deadline a dead URL is lost: exit code 4, reported once, and not requested again."""
    site = make_site(WORLD, faults=("files_down",))
    site.outcome("collect")
    site.simulator.faults.clear()
    if fault:
        site.simulator.faults.on(fault)
    site.simulator.clock.advance(timedelta(hours=80))
    done = site.run("--json", "media", "copy")
    assert done.returncode == 4
    lost = [entry for manifest in manifests(site) for entry in manifest.files if entry.state == "lost"]
    assert lost
    assert all(entry.lost_reason and entry.key is None for entry in lost)
    asked = site.downloads()
    again = site.outcome("media", "copy")
    assert again["lost"] == []
    assert site.downloads() == asked
    site.outcome("build")
    states = parquet.read_arrow("media", columns=["state"], lake=LocalStore(site.folder / "lake")).to_pylist()
    assert {"state": "lost"} in states


def test_a_deadline_alone_loses_nothing(make_site: Callable[..., Site]) -> None:
    """While no server has responded, a file past its deadline is still pending, at risk, and retried."""
    site = make_site(WORLD, faults=("files_down",))
    site.outcome("collect")
    site.simulator.clock.advance(timedelta(hours=80))
    outcome = site.outcome("media", "copy")
    assert outcome["lost"] == []
    assert outcome["at_risk"]
    assert all(file["hours_left"] < 24 for file in outcome["at_risk"])
    assert manifests(site) == []
    assert site.run("status").returncode == 4


def test_urls_that_change_are_the_same_files(make_site: Callable[..., Site]) -> None:
    """When EnableX lists the same files under other URLs, nothing is downloaded twice."""
    site = make_site(WORLD, faults=("url_changes",))
    site.outcome("media", "copy")
    downloads = site.downloads()
    site.outcome("media", "copy", now=NOW + timedelta(minutes=15))
    assert site.downloads() == downloads > 0


def test_files_of_one_name_are_two_files(make_site: Callable[..., Site]) -> None:
    """Two recordings of the same base name in one record are both stored, under different names."""
    site = make_site(WORLD, faults=("same_basename",))
    site.outcome("media", "copy")
    assert stored_digests(site) == true_digests(site)
    names = [entry.name for manifest in manifests(site) for entry in manifest.files if entry.kind == "recording"]
    assert any("-2." in name for name in names)


def test_unknown_archive_keys_are_archived_too(make_site: Callable[..., Site]) -> None:
    """Files under an undocumented key are stored as kind other-<key>."""
    site = make_site(WORLD, faults=("unknown_archive_key",))
    site.outcome("media", "copy")
    kinds = {entry.kind for manifest in manifests(site) for entry in manifest.files if entry.key}
    assert any(kind.startswith("other-") for kind in kinds)


def test_refused_file_credentials_stop_the_project_after_two(make_site: Callable[..., Site]) -> None:
    """Two files refused in a row before their deadline stop the project: the rest is not requested."""
    site = make_site(World(projects=("acme",), sessions_per_day=6, begin=(NOW - timedelta(days=2)).date()))
    site.configure("files_password = ", "files_password = 'wrong' #")
    outcome = site.outcome("media", "copy")
    assert any("files_user and files_password" in failure["error"] for failure in outcome["failed"])
    assert site.downloads() < 10 < len(site.truth_files())
