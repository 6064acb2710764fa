"""Stores that commit 54a657d wrote are read, continued, audited and rebuilt (tests/samples/written-by-54a657d)."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.core.models import SOURCES, Period
from pipeline.enablex.simulator import World
from pipeline.storage import LocalStore, manifests, raw
from pipeline.storage.base import read_bytes
from pipeline.storage.run_store import RunStore
from pipeline.tables import read_arrow
from pipeline.tables.schemas import TABLES
from tests.conftest import Site
from tests.support.paths import ROOT

SAMPLE = ROOT / "tests/samples" / "written-by-54a657d"
BEGIN = date(2026, 8, 29)
WORLD = World(seed=3415, projects=("acme",), sessions_per_day=1, file_bytes=1, begin=BEGIN)
DAYS = Period(BEGIN, date(2026, 9, 1))
WRITTEN = datetime(2026, 9, 1, 21, 0, tzinfo=UTC)
NEXT_NIGHT = datetime(2026, 9, 2, 2, 15, tzinfo=UTC)
SETTLED = datetime(2026, 9, 4, 2, 15, tzinfo=UTC)
AUDITED = datetime(2026, 9, 1, 20, 30, tzinfo=UTC)

# What has been renamed since, by the old names; receipts, manifests and controls.json keep theirs.
TABLE_NAMES = {"cdr_changes": "cdr_history"}
COLUMN_NAMES: dict[str, dict[str, str]] = {
    "media": {
        "proof": "verified_by",
        "versions": "version_count",
        "gone_at": "deleted_at_source",
        "checked_at": "source_checked_at",
        "adopted_from": "copied_from",
    },
    "audits": {"is_reread": "is_content_verified", "compared": "compared_by"},
    "sessions": {"people": "unique_users"},
    "usage_daily": {"people": "unique_users"},
    "rejects": {"page": "source_key"},
}
VALUES: dict[tuple[str, str], dict[str, str]] = {
    ("media", "state"): {"waiting": "pending", "unreadable": "malformed"},
    ("audits", "verdict"): {"unexpected": "orphan"},
}
TABLES_THEN = (
    "cdr", "cdr_changes", "cdr_quality", "sessions", "usage_daily", "media", "chat", "rooms", "rejects", "audits"
)  # fmt: skip


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    """A copy of the sample, with a simulator of the same world and settings of the same meaning."""
    site = make_site(WORLD, now=WRITTEN)
    site.configure("[collect]\n", "[collect]\nlookback_days = 2\n")
    site.configure(
        "[projects.acme]\n", '[billing.prices]\ncurrency = "USD"\nparticipant_min = "0.004"\n[projects.acme]\n'
    )
    # the sample has a correction that contradicts its times; it was billed then
    site.configure("[collect]\n", "[suspense]\ntolerance_min = 1000\n[collect]\n")
    for name in ("vault", "lake"):
        shutil.copytree(SAMPLE / name, site.folder / name)
    shutil.copyfile(SAMPLE / "run_store.sqlite", site.settings().run_store.url.removeprefix("sqlite:///"))
    return site


def vault(site: Site) -> LocalStore:
    return LocalStore(site.folder / "vault")


def rows(site: Site, table: str) -> list[dict[str, Any]]:
    return read_arrow(table, lake=LocalStore(site.folder / "lake")).to_pylist()


def rows_written(table: str) -> list[dict[str, Any]]:
    """The rows of a table in the sample's Parquet files, under today's names; `table` is the name of that time."""
    found = []
    for path in sorted((SAMPLE / "lake/tables" / table).rglob("*.parquet")):
        project, day = (part.partition("=")[2] for part in path.parts[-3:-1])
        found += [
            {**as_now(table, row), "project": project, "day": date.fromisoformat(day)}
            for row in pq.ParquetFile(path).read().to_pylist()
        ]
    return found


def as_now(table: str, row: dict[str, Any]) -> dict[str, Any]:
    names = COLUMN_NAMES.get(table, {})
    return {names.get(name, name): VALUES.get((table, name), {}).get(value, value) for name, value in row.items()}


def assert_same_rows(site: Site) -> None:
    """Every table has the sample's rows, in the same order; columns that were added later are left out."""
    added_later = {"drift", "suspense"}
    assert {TABLE_NAMES.get(table, table) for table in TABLES_THEN} == set(TABLES) - added_later
    for table in TABLES_THEN:
        then = rows_written(table)
        now = [{name: row[name] for name in then[0]} for row in rows(site, TABLE_NAMES.get(table, table))]
        assert now == then, table


def entries(site: Site) -> dict[tuple[str, str, str], manifests.Entry]:
    return manifests.read_entries(vault(site), "acme", DAYS.widened(7))


def test_the_sample_shows_what_it_is_for() -> None:
    """The sample has a corrected record, a chat, rejects, rooms, a lost and a pending file, and an audit's rows."""
    counts = {table: len(rows_written(table)) for table in TABLES_THEN}
    assert counts == {
        "cdr": 6, "cdr_changes": 1, "cdr_quality": 12, "sessions": 3, "usage_daily": 4, "media": 8,
        "chat": 8, "rooms": 21, "rejects": 2, "audits": 9,
    }  # fmt: skip
    states = Counter(row["state"] for row in rows_written("media"))
    assert states == {"stored": 5, "malformed": 1, "lost": 1, "pending": 1}
    assert [row["revision"] for row in rows_written("cdr")].count(2) == 1


# Read


def test_raw_responses_are_read(site: Site) -> None:
    """Every response has its receipt, its body has the receipt's digest, and its documents are counted as then."""
    found = Counter()
    documents = Counter()
    for source in SOURCES:
        for day, names in raw.list_responses(vault(site), source, "acme").items():
            for name in names:
                response = raw.read_receipt(vault(site), source, "acme", day, name)
                read = sum(len(batch) for batch in raw.read_documents(vault(site), response))
                assert read == response.documents
                found[source] += 1
                documents[source] += read
    assert found == {"cdr": 8, "archive": 7, "rooms": 3}
    assert documents == {"cdr": 18, "archive": 7, "rooms": 21}


def test_manifests_are_read(site: Site) -> None:
    """All states, sizes and digests are those of the files in the vault."""
    assert Counter(entry.state for entry in entries(site).values()) == {"stored": 5, "unreadable": 1, "lost": 1}
    for entry in entries(site).values():
        if entry.key:
            content = read_bytes(vault(site), entry.key)
            assert (len(content), hashlib.sha256(content).hexdigest()) == (entry.size_bytes, entry.sha256)


def test_the_run_store_is_read(site: Site) -> None:
    """Runs, failed attempts and notified conditions are those of the old release; commands have their new names."""
    store = RunStore(site.settings().run_store.url)
    assert store.run_ends() == {
        ("media audit", 0): 1,
        ("billing export", 0): 1,
        ("build", 0): 1,
        ("media copy", 4): 1,
        ("nightly", 3): 2,
        ("nightly", 4): 1,
    }
    assert store.attempts() == {"acme/archive/2026-08-29": 1, "acme/120696778814/recording/a1.webm": 2}
    assert store.last_done("nightly") == datetime(2026, 9, 1, 2, 15, tzinfo=UTC)
    assert store.last_notified() == {"nightly": "ok", "acme at risk": "some"}
    store.close()


def test_status_is_computed_from_it(site: Site) -> None:
    """Days, files and the last success of each command are reported without a new collection."""
    status = site.outcome("status")["projects"]["acme"]
    assert status["days"]["missing"] == []
    assert status["last_good_runs"]["build"] == "2026-09-01T20:15:00.000Z"


# Continue


def test_the_next_night_continues_it(site: Site) -> None:
    """The next nightly adds the new day and the pending file, and leaves every object of the vault as it was."""
    before = site.objects("vault/")
    site.simulator.clock.set(NEXT_NIGHT)
    night = site.outcome("nightly")
    assert night["ok"], night["failed"]
    after = site.objects("vault/")
    assert before.items() <= after.items()
    assert any("day=2026-09-02" in name for name in after.keys() - before.keys())
    truth = site.truth_cdr_ids(datetime(2026, 8, 29, tzinfo=UTC), NEXT_NIGHT)["acme"]
    assert sorted(row["cdr_id"] for row in rows(site, "cdr")) == truth
    corrected = next(row for row in rows(site, "cdr") if row["revision"] == 2)
    assert corrected["first_seen_at"] == datetime(2026, 8, 31, 2, 15, tzinfo=UTC)
    stored = {entry.sha256 for entry in entries(site).values() if entry.key}
    assert {file.sha256 for file in site.truth_files().values()} <= stored
    assert Counter(row["state"] for row in rows(site, "media"))["lost"] == 1
    store = RunStore(site.settings().run_store.url)
    assert store.run_ends()["nightly", 0] == 1
    assert "acme/120696778814/recording/a1.webm" not in store.attempts()
    store.close()


def test_manifests_continue_their_chains(site: Site) -> None:
    """A manifest written now follows the last old one and names its digest, and keeps what it named."""
    before = {path.name: path for path in (SAMPLE / "vault/manifests").rglob("020695778814/*.json")}
    site.simulator.clock.set(NEXT_NIGHT)
    assert site.outcome("nightly")["ok"]
    chain = sorted((site.folder / "vault/manifests").rglob("020695778814/*.json"))
    assert len(chain) > len(before)
    old, new = json.loads(before[max(before)].read_bytes()), json.loads(chain[len(before)].read_bytes())
    assert new["previous_sha256"] == hashlib.sha256(before[max(before)].read_bytes()).hexdigest()
    assert {file["key"] for file in old["files"]} <= {file["key"] for file in new["files"]}


def test_the_month_is_exported_when_it_has_settled(site: Site) -> None:
    """The final export is revision 2, its corrections lead from revision 1 to it, and revision 1 stays as it was."""
    for night in (NEXT_NIGHT, SETTLED):
        site.simulator.clock.set(night)
        assert site.outcome("nightly")["ok"]
    before = site.objects("lake/reports/")
    exported = site.outcome("billing", "export", "--month", "2026-08")
    assert exported["ok"], exported["failed"]
    assert before.items() <= site.objects("lake/reports/").items()
    month = site.folder / "lake/reports/billing/month=2026-08"
    controls = json.loads((month / "revision=0002/controls.json").read_bytes())
    assert (controls["previous_revision"], controls["is_provisional"]) == (1, False)
    for measure in ("participant_min", "storage_gb_months"):
        then, now, change = (
            sum(Decimal(row[measure] or 0) for row in read_csv(month / name))
            for name in ("revision=0001/usage.csv", "revision=0002/usage.csv", "revision=0002/corrections.csv")
        )
        assert now - then == change
    causes = Counter(row["cause"] for row in read_csv(month / "revision=0002/corrections.csv"))
    assert causes == {"late": 3, "corrected": 1}


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


# Audit


def test_an_audit_finds_no_failure(site: Site) -> None:
    """An audit that reads every file finds all of them as manifested; the stray file is an orphan, not a failure."""
    audit = site.outcome("media", "audit", "--sample", "100", now=WRITTEN)
    assert (audit["failed"], audit["ok"]) == ([], True)
    found = [row for row in rows(site, "audits") if row["audited_at"] == WRITTEN]
    assert Counter(row["verdict"] for row in found) == {"ok": 8, "orphan": 1}
    assert sum(row["is_content_verified"] for row in found) == 6
    assert {row["audited_at"] for row in rows(site, "audits")} == {AUDITED, WRITTEN}


def test_an_audit_compares_with_the_old_one(site: Site) -> None:
    """A last manifest that was removed is found missing, because the old audit's record names it."""
    last = max((site.folder / "vault/manifests").rglob("*.json"))
    last.unlink()
    audit = site.outcome("media", "audit", "--sample", "0", now=WRITTEN + timedelta(days=1))
    assert [failure["item"] for failure in audit["failed"]] == [last.relative_to(site.folder / "vault").as_posix()]
    assert "2026-09-01T20:30:00.000Z" in audit["failed"][0]["error"]


# Rebuild


def test_the_vault_alone_gives_the_same_tables(site: Site) -> None:
    """All days built into an empty lake give the sample's rows, under today's names."""
    shutil.rmtree(site.folder / "lake")
    built = site.outcome("build")
    assert built["ok"], built["failed"]
    assert_same_rows(site)


def test_old_days_are_rebuilt(site: Site) -> None:
    """A build on top of the old lake rebuilds all its days, because the version of the tables is another one."""
    built = site.outcome("build")
    assert built["ok"], built["failed"]
    assert built["counts"]["days_built"] == 4
    assert_same_rows(site)
    assert site.outcome("build")["counts"].get("days_built", 0) == 0
