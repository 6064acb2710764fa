"""A night's work against the simulator, whole."""

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


def landed_pages(site: Site, source: str) -> list[bytes]:
    """The bodies of all landed pages, as received."""
    paths = sorted((site.folder / f"vault/raw/source={source}").rglob("*.json.zst"))
    return [zstandard.ZstdDecompressor().decompressobj().decompress(path.read_bytes()) for path in paths]


def two_projects(make_site: Callable[..., Site]) -> Site:
    return make_site(World(sessions_per_day=6, begin=(NOW - timedelta(days=2)).date()))


def test_every_visible_cdr_is_exactly_one_row(make_site: Callable[..., Site]) -> None:
    """With faults off, the rows of `cdr` are the visible CDRs of every project, each once; only chats are odd."""
    site = two_projects(make_site)
    outcome = site.outcome("nightly")
    assert outcome["ok"], outcome
    truth = site.truth_cdr_ids(NOW - timedelta(days=5), NOW)
    assert sum(map(len, truth.values())) > 50
    for project, expected in truth.items():
        assert sorted(row["cdr_id"] for row in rows(site, "cdr", project=project)) == expected
    assert {row["source"] for row in rows(site, "rejects")} <= {"chat"}  # some chats are broken by design


def test_every_visible_file_is_in_the_vault_with_its_digest(make_site: Callable[..., Site]) -> None:
    """Every downloadable file is stored, and its manifest names the source's own SHA-256 and size."""
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
    """Running nightly again at the same moment leaves every object as it is and fetches no file."""
    site.outcome("nightly")
    before, downloads = site.objects(), site.downloads()
    again = site.outcome("nightly")
    assert again["ok"]
    assert site.objects() == before
    assert site.downloads() == downloads > 0


def test_a_while_later_only_receipts_are_new(site: Site) -> None:
    """When EnableX has nothing new to say, a later run adds receipts and changes no page, table, manifest or file."""
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
    """Minutes and connections are the same sum in `cdr`, `sessions` and `usage_daily`, and each session counts once."""
    site = two_projects(make_site)
    site.outcome("nightly")
    connections, sessions, usage = rows(site, "cdr"), rows(site, "sessions"), rows(site, "usage_daily")
    assert sum(row["participant_min"] or 0 for row in connections) == sum(row["participant_min"] for row in usage)
    assert sum(row["participant_min"] or 0 for row in connections) == sum(row["participant_min"] for row in sessions)
    assert sum(row["connections"] for row in sessions) == len(connections) == sum(row["connections"] for row in usage)
    assert len({row["conf_num"] for row in sessions}) == len(sessions) == sum(row["sessions"] for row in usage)
    assert sum(row["media_bytes"] for row in usage) == sum(row["size_bytes"] or 0 for row in rows(site, "media"))


def test_a_session_over_midnight_counts_on_the_day_it_began(make_site: Callable[..., Site]) -> None:
    """A session whose connections end on the next day is one row, whole, under the day of its first connection."""
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
    """Rows that appear or change later are in the tables after later nights, with revision and the moment of change."""
    site = make_site(World(projects=("acme",), sessions_per_day=40, begin=(NOW - timedelta(days=1)).date()))
    for days in range(4):
        moment = NOW + timedelta(days=days)
        site.simulator.clock.set(moment)
        site.outcome("collect")
        site.outcome("build")
    truth = site.truth_cdr_ids(NOW - timedelta(days=2), site.simulator.clock.now())
    found = rows(site, "cdr")
    assert sorted(row["cdr_id"] for row in found) == truth["acme"]
    corrected = [row for row in found if row["revision"] > 1]
    assert corrected
    assert all(row["changed_at"] > row["first_seen_at"] for row in corrected)
    assert any(row["first_seen_at"] - row["trans_at"] > timedelta(hours=12) for row in found)


def test_documents_are_rows_rejects_or_duplicates(make_site: Callable[..., Site]) -> None:
    """No document disappears: broken ones are rejects, doubled ones are one row, and the sum is what was received."""
    site = make_site(faults=("broken_document", "duplicate_rows", "unknown_field", "shuffle_rows"))
    assert site.outcome("collect", "--source", "cdr")["ok"]
    site.outcome("build")
    received = [document for page in landed_pages(site, "cdr") for document in json.loads(page)["cdr"]]
    sound = [document for document in received if isinstance(document, dict) and document.get("cdr_id")]
    keys = {document["cdr_id"] for document in sound if document.get("conf_num") and document.get("trans_date")}
    rejected = rows(site, "rejects")
    assert len(keys) < len(sound)
    assert rejected
    assert {row["cdr_id"] for row in rows(site, "cdr")} == keys
    duplicates = sum(document.get("cdr_id") in keys for document in sound) - len(keys)
    assert len(keys) + len(rejected) + duplicates == len(received)
    assert all("extra" in row for row in rows(site, "cdr"))


def test_page_order_and_spread_do_not_matter(make_site: Callable[..., Site]) -> None:
    """Days collected singly, backwards and twice give the same rows as days collected in order."""
    world = World(projects=("acme",), sessions_per_day=4, begin=(NOW - timedelta(days=2)).date())
    plain, odd = make_site(world), make_site(world)
    plain.outcome("collect")
    for days in (0, 2, 1, 3, 2):
        day = str((NOW - timedelta(days=days)).date())
        odd.outcome("collect", "--from", day, "--to", day)
    for site in (plain, odd):
        site.outcome("build")
    for table in ("cdr", "sessions", "usage_daily"):
        assert rows(plain, table) == rows(odd, table) != []


def test_building_again_from_nothing_gives_the_same_bytes(site: Site) -> None:
    """The lake is a function of the vault: deleted and built again, every object has the same bytes."""
    site.outcome("nightly")
    before = site.objects("lake/")
    for name in before:
        (site.folder / name).unlink()
    site.outcome("build")
    assert site.objects("lake/") == before


def test_deleting_the_ledger_forgets_no_fact(site: Site) -> None:
    """Every step finds its facts in the stores: without the ledger `status` says the same but for runs; collect, copy,
    build and night download nothing again and change no byte; the audit reads the same files and finds the same."""
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
    """`status` without what the ledger alone knows: when which job last ran well."""
    for known in (status, *status["projects"].values()):
        del known["last_good_runs"]
    return status


def test_after_an_outage_every_missed_day_is_collected(make_site: Callable[..., Site]) -> None:
    """Six nights without a run leave no gap: the next nightly collects every day that had not settled."""
    world = World(projects=("acme",), sessions_per_day=3, begin=(NOW - timedelta(days=2)).date())
    site = make_site(world)
    site.outcome("nightly")
    site.simulator.clock.advance(timedelta(days=7))
    site.outcome("nightly")
    truth = site.truth_cdr_ids(NOW - timedelta(days=2), site.simulator.clock.now())
    assert sorted(row["cdr_id"] for row in rows(site, "cdr")) == truth["acme"]
    state = site.outcome("status")["projects"]["acme"]["days"]
    assert state["missing"] == []


def test_manifests_chain_and_only_grow(site: Site) -> None:
    """Each manifest of a session names the digest of the one before it and drops no file."""
    site.outcome("nightly")
    by_session: dict[str, list[bytes]] = {}
    for path in sorted((site.folder / "vault/manifests").rglob("*.json")):
        by_session.setdefault(str(path.parent), []).append(path.read_bytes())
    assert any(len(chain) > 1 for chain in by_session.values())
    for chain in by_session.values():
        manifests = [read_manifest(content, "test") for content in chain]
        assert [manifest.revision for manifest in manifests] == list(range(1, len(chain) + 1))
        for before, content, after in zip(manifests, chain, manifests[1:], strict=False):
            assert after.previous_sha256 == hashlib.sha256(content).hexdigest()
            assert {entry.identity for entry in before.files} <= {entry.identity for entry in after.files}
