"""The audit of a vault: changes made outside the program are reported and recorded."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from awscrt.checksums import crc64nvme

from pipeline.core.errors import StoreUnavailable
from pipeline.core.models import Period, RunResult
from pipeline.enablex.simulator.world import World
from pipeline.media.audit import audit_media
from pipeline.media.copy import copy_media
from pipeline.storage import LocalStore, read_bytes
from pipeline.storage.base import Checksums, checksum_object, crc_text
from pipeline.storage.keys import parse_audit_key
from pipeline.tables import parquet
from pipeline.tables.build import build
from pipeline.tables.query import run_query
from tests.conftest import NOW, Site
from tests.integration.media.test_copy import WORLD, manifests
from tests.support.buckets import in_buckets
from tests.support.servers.s3 import S3Server

WEEK = timedelta(days=7)


@pytest.fixture
def vault(make_site: Callable[..., Site]) -> Site:
    """A site whose files were copied into the vault."""
    site = make_site(WORLD)
    with site.app(NOW) as app:
        assert copy_media(app).ok
    return site


def audited(site: Site, period: Period | None = None, percent: float = 0, weeks: int = 0) -> RunResult:
    """An audit `weeks` weeks later."""
    with site.app(NOW + weeks * WEEK) as app:
        return audit_media(app, period, sample_percent=percent)


def files(site: Site) -> list[Path]:
    """Every file in the vault that a manifest names, the largest first."""
    entries = [entry for manifest in manifests(site) for entry in manifest.files if entry.key]
    paths = [site.folder / "vault" / (entry.key or "") for entry in entries]
    return sorted(paths, key=lambda path: (-path.stat().st_size, path))


def chains(site: Site) -> list[Path]:
    """Every manifest, the oldest of each session first."""
    return sorted((site.folder / "vault/manifests").rglob("*.json"))


def rows(site: Site) -> list[dict[str, Any]]:
    return parquet.read_arrow("audits", lake=LocalStore(site.folder / "lake")).to_pylist()


def key_of(site: Site, path: Path) -> str:
    return path.relative_to(site.folder / "vault").as_posix()


def the_problem(outcome: RunResult) -> tuple[str, str]:
    """The only problem: key of the object and error text."""
    assert outcome.exit_code == 3
    assert outcome.counts["problems"] == len(outcome.failed) == 1
    return outcome.failed[0].item, outcome.failed[0].error


def flip(path: Path) -> None:
    """Change one byte in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_an_unchanged_vault_is_ok(vault: Site) -> None:
    """Every verdict is ok, every file has a row, and only the record and its table were written."""
    before = vault.objects()
    outcome = audited(vault, percent=100)
    count, size_bytes = len(files(vault)), sum(path.stat().st_size for path in files(vault))
    assert (outcome.failed, outcome.notices, outcome.exit_code) == ([], {}, 0)
    assert outcome.counts == {
        "sessions_audited": len(manifests(vault)),
        "files_audited": count,
        "files_reread": count,
        "bytes_reread": size_bytes,
    }
    after = vault.objects()
    assert before.items() <= after.items()
    assert sorted(key.split("/project=")[0] for key in after.keys() - before.keys()) == [
        "lake/builds",
        "lake/tables/audits",
        "vault/audits",
    ]
    of_files = [row for row in rows(vault) if row["kind"] != "manifest"]
    assert {row["verdict"] for row in rows(vault)} == {"ok"}
    assert sorted(row["key"] for row in of_files) == sorted(key_of(vault, path) for path in files(vault))
    assert all(row["sha256"] == row["expected_sha256"] and row["is_content_verified"] for row in of_files)
    assert {(row["audited_at"], row["day"]) for row in rows(vault)} == {(NOW, NOW.date())}


def test_an_empty_vault_leaves_nothing(make_site: Callable[..., Site]) -> None:
    """Where there is nothing to audit, nothing is written."""
    site = make_site(WORLD)
    assert audited(site).exit_code == 0
    assert site.objects() == {}


def test_a_flipped_byte_is_found_when_it_is_read(vault: Site) -> None:
    """One byte changed on disk: found by the audit that reads the file, with both digests in the table."""
    flip(files(vault)[0])
    assert audited(vault).ok
    key, error = the_problem(audited(vault, percent=100, weeks=1))
    assert key == key_of(vault, files(vault)[0])
    assert error.startswith("digest differs: its SHA-256 is ")
    row = next(row for row in rows(vault) if row["verdict"] == "digest_differs")
    assert row["sha256"] != row["expected_sha256"]


def test_a_removed_or_cut_file_is_found_by_any_audit(vault: Site) -> None:
    """A missing file and a shorter one are both reported, without reading a byte."""
    removed, cut = files(vault)[:2]
    removed_key, cut_key = key_of(vault, removed), key_of(vault, cut)
    removed.unlink()
    os.truncate(cut, 7)
    outcome = audited(vault)
    assert outcome.exit_code == 3
    assert "bytes_reread" not in outcome.counts
    errors = {failure.item: failure.error for failure in outcome.failed}
    assert errors.keys() == {removed_key, cut_key}
    assert "names it" in errors[removed_key]
    assert errors[removed_key].endswith("restore it from a copy")
    assert errors[cut_key].startswith("size differs: it has 7 bytes, manifest ")


def test_an_older_version_is_a_file_too(vault: Site) -> None:
    """A file that only an older manifest names must still exist, even if a later one omits it."""
    last = chains(vault)[-1]
    manifest = json.loads(last.read_bytes())
    forgotten = manifest["files"].pop(0)
    last.write_text(json.dumps(manifest))
    (vault.folder / "vault" / forgotten["key"]).unlink()
    key, error = the_problem(audited(vault))
    assert key == forgotten["key"]
    assert error.startswith("missing: ")


@pytest.mark.parametrize("harm", ["removed", "altered", "emptied"])
def test_a_manifest_that_was_tampered_with_is_found(vault: Site, harm: str) -> None:
    """A missing, altered or empty manifest is reported as broken, with the next step."""
    path = chains(vault)[1]
    if harm == "removed":
        path.unlink()
    elif harm == "altered":
        flip(path)
    else:
        path.write_bytes(b"")
    key, error = the_problem(audited(vault))
    assert key == key_of(vault, path)
    assert error.startswith("manifest broken: ")
    assert error.endswith("; restore it from a copy")


def test_the_end_of_a_chain_is_found_missing_from_the_second_audit_on(vault: Site) -> None:
    """A missing last manifest, or a missing day, is reported by all audits after one that recorded it."""
    assert audited(vault).ok
    last = chains(vault)[-1]
    content = last.read_bytes()
    last.unlink()
    for weeks in (1, 2):
        key, error = the_problem(audited(vault, weeks=weeks))
        assert key == key_of(vault, last)
        assert "the audit of 2026-11-23T02:15:00.000Z recorded it" in error
    last.write_bytes(content)
    assert audited(vault, weeks=3).ok
    shutil.rmtree(vault.folder / "vault/manifests")
    shutil.rmtree(vault.folder / "vault/media")
    outcome = audited(vault, weeks=4)
    assert outcome.exit_code == 3
    assert all("are missing; the audit of" in failure.error for failure in outcome.failed)
    assert len(outcome.failed) == len({row["conf_num"] for row in rows(vault)})


def test_an_orphan_is_a_notice_and_no_failure(vault: Site) -> None:
    """Media without a manifest (an interrupted copy) and other files among manifests: a notice, exit code 0."""
    media = files(vault)[0].with_name("left behind.mkv")
    stranger = chains(vault)[0].with_name("notes.txt")
    media.write_bytes(b"half a copy")
    stranger.write_bytes(b"hello")
    outcome = audited(vault, percent=100)
    assert (outcome.failed, outcome.exit_code) == ([], 0)
    assert sorted(outcome.notices["orphan"]) == sorted([key_of(vault, media), key_of(vault, stranger)])
    orphans = {row["name"]: row for row in rows(vault) if row["verdict"] == "orphan"}
    assert orphans.keys() == {"left behind.mkv", "notes.txt"}
    assert orphans["left behind.mkv"]["conf_num"] in {manifest.conf_num for manifest in manifests(vault)}


def test_an_audit_of_a_period_checks_its_days_only(make_site: Callable[..., Site]) -> None:
    """With --from and --to only manifests and media of those days are checked, and only they can fail."""
    site = make_site(World(projects=("acme",), sessions_per_day=4, begin=(NOW - timedelta(days=2)).date()))
    with site.app(NOW) as app:
        copy_media(app)
    days = sorted({manifest.day for manifest in manifests(site)})
    assert len(days) > 1
    for path in files(site):
        path.unlink() if f"day={days[0]}" in str(path) else None
    assert audited(site, Period(days[1], NOW.date())).ok
    assert {row["media_day"] for row in rows(site)} == set(days[1:])
    assert audited(site, Period(date(2020, 1, 1), date(2020, 1, 31)), weeks=1).counts["files_audited"] == 0
    assert audited(site, Period(days[0], days[0]), weeks=2).exit_code == 3
    assert audited(site, weeks=3).exit_code == 3


def test_every_audit_reads_the_next_files(vault: Site) -> None:
    """At 34 percent, three audits read every file once; the fourth starts again with the least recently read."""
    count = len(files(vault))
    for weeks in range(3):
        assert audited(vault, percent=34, weeks=weeks).counts["files_reread"] == math.ceil(count * 0.34)
    verified = [row for row in rows(vault) if row["is_content_verified"]]
    turns = [{row["key"] for row in verified if row["audited_at"] == NOW + weeks * WEEK} for weeks in range(3)]
    assert set.union(*turns) == {key_of(vault, path) for path in files(vault)}
    assert turns[0].isdisjoint(turns[1])
    flip(next(path for path in files(vault) if key_of(vault, path) in turns[0] - turns[2]))
    assert audited(vault, percent=34, weeks=3).exit_code == 3


def test_two_audits_of_one_moment_are_two(vault: Site) -> None:
    """Audits at the same time (with --now) get different times: no two rows of the table have the same key."""
    for _ in range(3):
        audited(vault, percent=50)
    keys = [(row["audited_at"], row["key"]) for row in rows(vault)]
    assert keys == sorted(set(keys))
    assert len({at for at, _ in keys}) == 3


def test_the_table_comes_from_the_vault(vault: Site) -> None:
    """After the lake is deleted and built again, `audits` is byte-identical on every day with an audit."""
    for weeks in (0, 0, 1):
        audited(vault, percent=50, weeks=weeks)
    before = vault.objects("lake/tables/audits/")
    assert len(before) == 2
    shutil.rmtree(vault.folder / "lake")
    with vault.app(NOW) as app:
        assert build(app).ok
        assert vault.objects("lake/tables/audits/").items() >= before.items()
        assert build(app).counts == {}
        result = run_query(
            app.lake, "SELECT count(DISTINCT audited_at) AS audits, bool_and(verdict = 'ok') AS ok FROM audits"
        )
    assert result.to_pylist() == [{"audits": 3, "ok": True}]


def test_an_audit_builds_its_own_table_only(vault: Site) -> None:
    """The table exists right after the audit, without a build; other tables are left to the next build."""
    outcome = audited(vault)
    assert "days_built" not in outcome.counts
    assert {key.split("/")[2] for key in vault.objects("lake/tables/")} == {"audits"}


def test_a_record_that_was_altered_is_a_problem(vault: Site) -> None:
    """An altered audit record is reported by the next audit and fails the build of its table, by name."""
    audited(vault, percent=100)
    record = next((vault.folder / "vault/audits").rglob("*.parquet"))
    flip(record)
    outcome = audited(vault, weeks=1)
    assert the_problem(outcome)[0] == key_of(vault, record)
    shutil.rmtree(vault.folder / "lake")
    with vault.app(NOW) as app:
        failed = build(app, Period(NOW.date(), NOW.date()), wanted=("audits",)).failed
    assert [record.name in failure.error for failure in failed] == [True]


def test_a_store_that_is_down_stops_the_audit(vault: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that does not respond is one error; no object is reported as missing, and no record is written."""

    def down(_store: LocalStore, key: str) -> None:
        raise StoreUnavailable(f"cannot use {key}: try again later")

    monkeypatch.setattr(LocalStore, "attributes", down)
    with pytest.raises(StoreUnavailable):
        audited(vault)
    assert vault.objects("vault/audits/") == {}


def test_a_file_that_the_disk_cannot_read_is_a_problem(vault: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read error is a problem of that file; the others are still audited."""
    bad = key_of(vault, files(vault)[0])

    def read(store: LocalStore, key: str) -> Checksums:
        if key == bad:
            raise OSError(5, "Input/output error")
        return checksum_object(store, key)

    monkeypatch.setattr("pipeline.media.audit.checksum_object", read)
    outcome = audited(vault, percent=100)
    key, error = the_problem(outcome)
    assert key == bad
    assert "Input/output error" in error
    assert outcome.counts["files_reread"] == len(files(vault))


def test_the_command_prints_every_problem(vault: Site) -> None:
    """`postroom media audit` exits with 3 and one line per problem; an invalid percentage is refused."""
    key = key_of(vault, files(vault)[0])
    files(vault)[0].unlink()
    done = vault.run("media", "audit", "--from", "2026-11-01", "--project", "acme", "--sample", "0")
    assert done.returncode == 3, done.stderr
    assert f"failed {key}: missing: manifest " in done.stdout
    assert "files audited" in done.stdout
    refused = vault.run("media", "audit", "--sample", "101")
    assert refused.returncode == 2
    assert "--sample 101: not a percentage; use 0 to 100" in refused.stderr


def test_an_object_put_over_in_the_bucket_is_found_unread(make_site: Callable[..., Site], s3: S3Server) -> None:
    """Other bytes of the same size are found by the checksum of the server: CRC64NVME, or else the ETag."""
    site = make_site(WORLD)
    in_buckets(site, s3)
    with site.app(NOW) as app:
        copy_media(app)
        assert audit_media(app, sample_percent=0).ok
        key = next(stored.key for stored in app.vault.list("media/"))
        bucket, _, prefix = app.vault.url.removeprefix("s3://").partition("/")
        content = bytearray(read_bytes(app.vault, key))
        content[-1] ^= 1
        stated = {} if s3.name == "ceph" else {"ChecksumCRC64NVME": crc_text(crc64nvme(bytes(content)))}
        s3.client.put_object(Bucket=bucket, Key=f"{prefix}/{key}".lstrip("/"), Body=bytes(content), **stated)
        outcome = audit_media(app, sample_percent=0)
        assert the_problem(outcome)[0] == key
        assert the_problem(outcome)[1].startswith("checksum differs: the store states ")
        row = next(row for row in parquet.read_arrow("audits", lake=app.lake).to_pylist() if row["verdict"] != "ok")
        assert (row["compared_by"], row["is_content_verified"]) == ("etag" if s3.name == "ceph" else "crc64nvme", False)
        assert (
            audit_media(app, sample_percent=1)
            .failed[0]
            .error.startswith("digest differs" if s3.name == "ceph" else "checksum differs")
        )
        assert all(parse_audit_key(stored.key) for stored in app.vault.list("audits/"))
