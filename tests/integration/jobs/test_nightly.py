"""Complete nightly runs against the simulator."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import zstandard

from pipeline.core.models import Period
from pipeline.enablex.simulator.world import World
from pipeline.storage import LocalStore, read_bytes
from pipeline.storage.manifests import current_manifests, read_manifest
from pipeline.tables import parquet
from tests.conftest import NOW, Site


def rows(site: Site, table: str, **options: object) -> list[dict]:
    return parquet.read_arrow(table, lake=LocalStore(site.folder / "lake"), **options).to_pylist()


def raw_bodies(site: Site, source: str) -> list[bytes]:
    """The bodies of all raw responses, as received."""
    paths = sorted((site.folder / f"vault/raw/source={source}").rglob("*.json.zst"))
    return [zstandard.ZstdDecompressor().decompressobj().decompress(path.read_bytes()) for path in paths]


def two_projects(make_site: Callable[..., Site]) -> Site:
    return make_site(World(sessions_per_day=6, begin=(NOW - timedelta(days=2)).date()))


def test_every_visible_cdr_is_exactly_one_row(make_site: Callable[..., Site]) -> None:
    """Without faults, `cdr` contains every visible CDR of every project once; only chats are rejected."""
    site = two_projects(make_site)
    outcome = site.outcome("nightly")
    assert outcome["ok"], outcome
    truth = site.truth_cdr_ids(NOW - timedelta(days=5), NOW)
    assert sum(map(len, truth.values())) > 50
    for project, expected in truth.items():
        assert sorted(row["cdr_id"] for row in rows(site, "cdr", project=project)) == expected
    assert {row["source"] for row in rows(site, "rejects")} <= {"chat"}  # some chats are broken by design


def test_every_visible_file_is_in_the_vault_with_its_digest(make_site: Callable[..., Site]) -> None:
    """Every downloadable file is stored, and its manifest contains the SHA-256 and size of the source."""
    site = two_projects(make_site)
    site.outcome("nightly")
    vault = LocalStore(site.folder / "vault")
    stored = Counter()
    for project in site.world.projects:
        for manifest in current_manifests(vault, project, Period((NOW - timedelta(days=5)).date(), NOW.date())):
            for entry in manifest.files:
                content = read_bytes(vault, entry.key)
                assert hashlib.sha256(content).hexdigest() == entry.sha256
                assert len(content) == entry.size_bytes
                stored[project, manifest.conf_num, entry.sha256] += 1
    truth = site.truth_files()
    assert len(truth) > 60
    assert stored == Counter((project, conf_num, file.sha256) for (project, conf_num, _), file in truth.items())


def test_the_second_run_changes_no_byte_and_downloads_nothing(site: Site) -> None:
    """A second nightly run at the same time changes no object and downloads no file."""
    site.outcome("nightly")
    before, downloads = site.objects(), site.downloads()
    again = site.outcome("nightly")
    assert again["ok"]
    assert site.objects() == before
    assert site.downloads() == downloads > 0


def test_a_while_later_only_receipts_are_new(site: Site) -> None:
    """If nothing changed at EnableX, a later run adds receipts and changes no raw response, table, manifest or file."""
    site.outcome("nightly")
    before = site.objects()
    later = site.outcome("nightly", now=NOW + timedelta(minutes=50))  # the simulator's own clock stands still
    assert later["counts"]["replies"] > 0
    assert later["counts"].get("new_pages", 0) == 0
    added = site.objects().keys() - before.keys()
    assert added
    assert all(name.endswith(".receipt.json") for name in added)
    assert before.items() <= site.objects().items()


def test_sessions_and_usage_add_up(make_site: Callable[..., Site]) -> None:
    """Sums of minutes and connections are equal in `cdr`, `sessions` and `usage_daily`; each session counts once."""
    site = two_projects(make_site)
    site.outcome("nightly")
    connections, sessions, usage = rows(site, "cdr"), rows(site, "sessions"), rows(site, "usage_daily")
    assert sum(row["participant_min"] or 0 for row in connections) == sum(row["participant_min"] for row in usage)
    assert sum(row["participant_min"] or 0 for row in connections) == sum(row["participant_min"] for row in sessions)
    assert sum(row["connections"] for row in sessions) == len(connections) == sum(row["connections"] for row in usage)
    assert len({row["conf_num"] for row in sessions}) == len(sessions) == sum(row["sessions"] for row in usage)
    assert sum(row["media_bytes"] for row in usage) == sum(row["size_bytes"] or 0 for row in rows(site, "media"))


def test_a_session_over_midnight_counts_on_its_first_day(make_site: Callable[..., Site]) -> None:
    """A session that ends on the next day is one complete row under the day of its first connection."""
    site = two_projects(make_site)
    site.outcome("nightly")
    crossing = [row for row in rows(site, "sessions") if row["last_disconnected_at"].date() > row["day"]]
    assert crossing
    for session in crossing:
        assert session["first_connected_at"].date() == session["day"]
        truth = site.world.session(session["project"], session["conf_num"])
        now = site.simulator.clock.now()
        assert session["connections"] == sum(connection.visible_at <= now for connection in truth.connections)


def test_late_and_corrected_rows_arrive_by_lookback(make_site: Callable[..., Site]) -> None:
    """Rows that appear or change later are in the tables after later nights, with revision and time of change."""
    site = make_site(World(projects=("acme",), sessions_per_day=40, begin=(NOW - timedelta(days=1)).date()))
    for days in range(4):
        moment = NOW + timedelta(days=days)
        site.simulator.clock.set(moment)
        site.outcome("collect")
        site.outcome("build")
    truth = site.truth_cdr_ids(NOW - timedelta(days=2), site.simulator.clock.now())
    cdrs = rows(site, "cdr")
    assert sorted(row["cdr_id"] for row in cdrs) == truth["acme"]
    corrected = [row for row in cdrs if row["revision"] > 1]
    assert corrected
    assert all(row["changed_at"] > row["first_seen_at"] for row in corrected)
    assert any(row["first_seen_at"] - row["trans_at"] > timedelta(hours=12) for row in cdrs)


def test_documents_are_rows_rejects_or_duplicates(make_site: Callable[..., Site]) -> None:
    """Every received document is a row, a reject (malformed) or a duplicate of a row."""
    site = make_site(faults=("broken_document", "duplicate_rows", "unknown_field", "shuffle_rows"))
    assert site.outcome("collect", "--source", "cdr")["ok"]
    site.outcome("build")
    received = [document for body in raw_bodies(site, "cdr") for document in json.loads(body)["cdr"]]
    with_id = [document for document in received if isinstance(document, dict) and document.get("cdr_id")]
    keys = {document["cdr_id"] for document in with_id if document.get("conf_num") and document.get("trans_date")}
    rejected = rows(site, "rejects")
    assert len(keys) < len(with_id)
    assert rejected
    assert {row["cdr_id"] for row in rows(site, "cdr")} == keys
    duplicates = sum(document.get("cdr_id") in keys for document in with_id) - len(keys)
    assert len(keys) + len(rejected) + duplicates == len(received)
    assert all("extra" in row for row in rows(site, "cdr"))


def test_the_order_of_responses_does_not_matter(make_site: Callable[..., Site]) -> None:
    """Days collected singly, in reverse order and twice give the same rows as days collected in order."""
    world = World(projects=("acme",), sessions_per_day=4, begin=(NOW - timedelta(days=2)).date())
    ordered, unordered = make_site(world), make_site(world)
    ordered.outcome("collect")
    for days in (0, 2, 1, 3, 2):
        day = str((NOW - timedelta(days=days)).date())
        unordered.outcome("collect", "--from", day, "--to", day)
    for site in (ordered, unordered):
        site.outcome("build")
    for table in ("cdr", "sessions", "usage_daily"):
        assert rows(ordered, table) == rows(unordered, table) != []


def test_rebuilding_an_empty_lake_gives_the_same_bytes(site: Site) -> None:
    """The lake is a function of the vault: after deletion and a new build, every object has the same bytes."""
    site.outcome("nightly")
    before = site.objects("lake/")
    for name in before:
        (site.folder / name).unlink()
    site.outcome("build")
    assert site.objects("lake/") == before


def test_deleting_the_run_store_loses_no_fact(site: Site) -> None:
    """All steps compute their work from the stores. Without the run store, `status` differs only in the last successes;
    collect, copy, build and nightly download no file and change no byte; the audit has the same result."""
    steps, audit = ("collect", "media copy", "build", "nightly"), ("media", "audit", "--sample", "100")
    for step in steps:
        assert site.outcome(*step.split())["ok"]
    audited = site.outcome(*audit)
    assert site.outcome("build")["ok"]
    before, downloads, status = site.objects(), site.downloads(), without_runs(site.outcome("status"))
    assert audited["counts"]["files_reread"] == downloads > 5
    (site.folder / "ledger.db").unlink()
    assert without_runs(site.outcome("status")) == status
    for step in steps:
        assert site.outcome(*step.split())["ok"]
    assert (site.objects(), site.downloads()) == (before, downloads)
    assert without_runs(site.outcome("status")) == status
    assert site.outcome(*audit) == audited


def without_runs(status: dict[str, Any]) -> dict[str, Any]:
    """`status` without the last successes, which only the run store contains."""
    for section in (status, *status["projects"].values()):
        del section["last_good_runs"]
    return status


def test_after_an_outage_every_missed_day_is_collected(make_site: Callable[..., Site]) -> None:
    """After six nights without a run, the next nightly run collects every day that was not settled."""
    world = World(projects=("acme",), sessions_per_day=3, begin=(NOW - timedelta(days=2)).date())
    site = make_site(world)
    site.outcome("nightly")
    site.simulator.clock.advance(timedelta(days=7))
    site.outcome("nightly")
    truth = site.truth_cdr_ids(NOW - timedelta(days=2), site.simulator.clock.now())
    assert sorted(row["cdr_id"] for row in rows(site, "cdr")) == truth["acme"]
    state = site.outcome("status")["projects"]["acme"]["days"]
    assert state["missing"] == []


def test_manifests_form_a_chain_and_only_grow(site: Site) -> None:
    """Each manifest of a session contains the digest of the previous one and all of its files."""
    site.outcome("nightly")
    by_session: dict[str, list[bytes]] = {}
    for path in sorted((site.folder / "vault/manifests").rglob("*.json")):
        by_session.setdefault(str(path.parent), []).append(path.read_bytes())
    assert any(len(chain) > 1 for chain in by_session.values())
    for chain in by_session.values():
        manifests = [read_manifest(content, "test") for content in chain]
        assert [manifest.revision for manifest in manifests] == list(range(1, len(chain) + 1))
        for previous, content, following in zip(manifests, chain, manifests[1:], strict=False):
            assert following.previous_sha256 == hashlib.sha256(content).hexdigest()
            assert {entry.identity for entry in previous.files} <= {entry.identity for entry in following.files}
