"""A vault in a bucket: Object Lock, deliveries, resumed copies, outages."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError

from jobs.nightly import nightly
from pipeline.core.errors import ConfigError, StoreUnavailable
from pipeline.enablex.simulator import media
from pipeline.enablex.simulator.delivery import delivered_files
from pipeline.enablex.simulator.world import SimFile, World
from pipeline.media.copy import copy_media
from pipeline.storage import MIB
from pipeline.tables.query import run_query
from tests.conftest import NOW, Site
from tests.integration.media.test_copy import WORLD
from tests.integration.media.test_rechecks import digests, entries
from tests.support.buckets import in_buckets
from tests.support.environ import clean_environ
from tests.support.servers.s3 import S3Server

IS_SOAK = "SOAK_TIMES" in os.environ
KILLS, BIG_BYTES = (50, 64 * MIB) if IS_SOAK else (3, 16 * MIB)
CROWD = World(projects=("acme",), sessions_per_day=5 if IS_SOAK else 2, begin=(NOW - timedelta(days=1)).date())
HOUR = timedelta(hours=1)


# --- locks ---


def versions(s3: S3Server, bucket: str, under: str) -> Iterator[dict[str, Any]]:
    for page in s3.client.get_paginator("list_object_versions").paginate(Bucket=bucket):
        yield from (version for version in page.get("Versions", ()) if version["Key"].startswith(under))


@pytest.mark.parametrize("lock", ['mode = "governance"', 'mode = "compliance"\naccept_irreversible = true'])
def test_what_is_locked_cannot_be_deleted(make_site: Callable[..., Site], ceph: S3Server, lock: str) -> None:
    """Every version of media and manifests is locked according to the settings, and a plain delete is refused."""
    site = make_site(WORLD)
    bucket = in_buckets(site, ceph, lock=f"{lock}\ndays = 30")
    with site.app() as app:
        assert copy_media(app).failed == []
        assert all(entry.locked_until == "2026-12-23T02:15:00.000Z" for entry in entries(app))
    locked = [*versions(ceph, bucket, "the/vault/media/"), *versions(ceph, bucket, "the/vault/manifests/")]
    assert len(locked) > 5
    for version in locked:
        place = {"Bucket": bucket, "Key": version["Key"], "VersionId": version["VersionId"]}
        kept = ceph.client.get_object_retention(**place)["Retention"]
        assert kept["Mode"] == ("GOVERNANCE" if "governance" in lock else "COMPLIANCE")
        assert kept["RetainUntilDate"] == NOW + timedelta(days=30)
        with pytest.raises(ClientError, match="AccessDenied"):
            ceph.client.delete_object(**place)


def test_a_lock_needs_a_bucket_that_can_lock(make_site: Callable[..., Site], ceph: S3Server) -> None:
    """Without Object Lock in the bucket, or with a folder, the copy does not start, and the error names the setting."""
    bucket, folder = make_site(WORLD), make_site(WORLD)
    in_buckets(bucket, ceph)
    for site in (bucket, folder):
        site.config.write_text(site.config.read_text() + '\n[vault.lock]\nmode = "governance"\ndays = 1\n')
        with site.app() as app, pytest.raises(ConfigError, match=r"vault\.lock"):
            copy_media(app)
        assert site.downloads() == 0


# --- deliveries ---


def deliver(site: Site, s3: S3Server, *, but: Callable[[SimFile, bytes], bytes] = lambda _file, body: body) -> str:
    """Put the files of all sessions into a bucket, as Recording Delivery does; returns its URL."""
    bucket = s3.new_bucket()
    now = site.simulator.clock.now()
    for session in site.world.sessions_between("acme", (now - timedelta(days=3)).date(), now.date()):
        for key, file in delivered_files(site.world, "acme", session):
            if file.listed_at <= now:
                body = but(file, b"".join(media.open_media(file)))
                s3.client.put_object(Bucket=bucket, Key=f"from enablex/{key}", Body=body)
    return f"s3://{bucket}/from enablex"


def test_a_delivered_file_is_copied_inside_the_bucket(make_site: Callable[..., Site], s3: S3Server) -> None:
    """With media.delivery_url, what EnableX has delivered is verified, copied inside S3, and never downloaded whole."""
    site = make_site(replace(WORLD, file_bytes=400_000))
    in_buckets(site, s3, media=f'delivery_url = "{deliver(site, s3)}"')
    with site.app() as app:
        outcome = copy_media(app)
        assert (outcome.failed, outcome.counts["files_adopted"]) == ([], outcome.counts["files_copied"])
        assert digests(app) == [entry.sha256 for entry in entries(app)]
        assert sorted(digests(app)) == sorted(file.sha256 for file in site.truth_files().values())
        assert all((entry.adopted_from or "").startswith("s3://") for entry in entries(app))
        assert {entry.proof for entry in entries(app)} == {"read-back"}


def test_a_delivered_file_is_compared_with_its_source(make_site: Callable[..., Site], ceph: S3Server) -> None:
    """A delivery that is truncated or differs in a sample is ignored, and the file is downloaded."""
    site = make_site(replace(WORLD, file_bytes=400_000))
    url = deliver(site, ceph, but=lambda file, body: body[:-1] if file.kind == "chat" else body[:-1] + b"?")
    in_buckets(site, ceph, media=f'delivery_url = "{url}"')
    with site.app() as app:
        outcome = copy_media(app)
        assert (outcome.failed, outcome.counts["files_adopted"]) == ([], 0)
        assert sorted(digests(app)) == sorted(file.sha256 for file in site.truth_files().values())


# --- kill -9 ---


def sent_parts(site: Site, *, kill_after: int | None, lot: random.Random) -> tuple[list[tuple[str, int]], int]:
    """Run media copy and kill it after `kill_after` parts were started; returns those parts and its exit code."""
    arguments = ["--verbose", "--config", str(site.config), "--now", NOW.isoformat(), "media", "copy", "--no-refresh"]
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", *arguments],
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=clean_environ(),
    )  # fmt: skip
    parts = []
    assert process.stderr is not None
    for line in process.stderr:
        if '"upload.part_started"' in line:
            event = json.loads(line)
            parts.append((event["key"], event["part"]))
            if len(parts) == kill_after:
                time.sleep(lot.random() / 20)  # somewhere inside the parts under way
                process.send_signal(signal.SIGKILL)
    return parts, process.wait()


def test_a_killed_copy_is_resumed(make_site: Callable[..., Site], s3: S3Server) -> None:
    """After several kills every file is stored correctly, a kill costs at most one part per concurrent file, and no
    part of an unfinished upload is left.
    """
    if IS_SOAK and s3.name != "ceph":
        pytest.skip("fifty kills are for the real server")
    site, lot = make_site(CROWD, faults=(f"big_file={BIG_BYTES}",)), random.Random(9)
    bucket = in_buckets(site, s3, media="multipart_part_mib = 5")
    site.outcome("collect", "--source", "archive")
    sent: Counter[tuple[str, int]] = Counter()
    kills = 0
    while kills < KILLS:
        parts, code = sent_parts(site, kill_after=lot.randint(2, 6), lot=lot)
        sent.update(parts)
        assert code == -signal.SIGKILL, f"all was copied after {kills} kills and {len(sent)} parts"
        kills += 1
    parts, code = sent_parts(site, kill_after=None, lot=lot)
    sent.update(parts)
    assert code in (0, 4)
    sent_again = sum(sent.values()) - len(sent)
    assert sent_again <= kills * site.settings().media.concurrency
    with site.app() as app:
        big = [entry for entry in entries(app) if entry.size_bytes and entry.size_bytes >= BIG_BYTES]
        assert len(big) >= 4
        assert digests(app) == [entry.sha256 for entry in entries(app)]
        truth = [
            media.sha256(replace(file, size_bytes=media.media_size(file.format, BIG_BYTES)))
            for file in site.truth_files().values()
            if file.format != "json"
        ]
        assert sorted(str(entry.sha256) for entry in big) == sorted(truth)
    assert s3.unfinished_bytes(bucket) == []


@pytest.mark.parametrize("fault", ["no_range", "wrong_range", "lying_range"])
def test_without_ranges_the_download_restarts(make_site: Callable[..., Site], ceph: S3Server, fault: str) -> None:
    """If the file host supports no ranges, or returns another range, the file is still stored correctly."""
    site, lot = make_site(CROWD, faults=(f"big_file={BIG_BYTES // 2}",)), random.Random(9)
    bucket = in_buckets(site, ceph, media="multipart_part_mib = 5")
    site.outcome("collect", "--source", "archive")
    assert sent_parts(site, kill_after=4, lot=lot)[1] == -signal.SIGKILL
    site.simulator.faults.on(fault)
    assert sent_parts(site, kill_after=None, lot=lot)[1] in (0, 3, 4)
    site.simulator.faults.off(fault)
    assert sent_parts(site, kill_after=None, lot=lot)[1] in (0, 4)
    with site.app() as app:
        assert entries(app)
        assert digests(app) == [entry.sha256 for entry in entries(app)]
        assert {entry.state for entry in entries(app)} == {"stored"}
    assert ceph.unfinished_bytes(bucket) == []


# --- outages ---


def test_after_an_outage_every_available_file_is_stored(make_site: Callable[..., Site], ceph: S3Server) -> None:
    """After 60 hours without the API and 8 hours without S3, all files that still exist are stored, sorted by deadline;
    only files that had expired are lost.
    """
    usual = World(projects=("acme",), sessions_per_day=30 if IS_SOAK else 10, begin=(NOW - timedelta(days=4)).date())
    site = make_site(usual, faults=("api_down",))
    in_buckets(site, ceph, media="concurrency = 1")
    for _ in range(5):
        with site.app() as app:
            assert copy_media(app).failed
        site.simulator.clock.advance(12 * HOUR)
    site.simulator.faults.clear()
    site.configure(ceph.endpoint_url, "http://127.0.0.1:9")
    for _ in range(2):
        with site.app() as app, pytest.raises(StoreUnavailable):
            copy_media(app)
        site.simulator.clock.advance(4 * HOUR)
    site.configure("http://127.0.0.1:9", ceph.endpoint_url)
    with site.app() as app:
        asked_before = len(site.simulator.requests)
        outcome = nightly(app)
        assert outcome.failed == []
        recorded = {(entry.url.partition("/path/")[2]): entry for entry in entries(app)}
        for file in site.truth_files().values():
            assert recorded[file.path.removeprefix("/path/")].sha256 == file.sha256
        lost = [entry for entry in recorded.values() if entry.state == "lost"]
        assert len(lost) == len(outcome.lost) > 0
        rows = run_query(app.lake, "SELECT url, expires_at FROM media").to_pylist()
    deadline = {row["url"].partition("/path/")[2]: row["expires_at"] for row in rows}
    fetched = [
        deadline[request.path.partition("/path/")[2]]
        for request in site.simulator.requests[asked_before:]
        if request.host == "files"
    ]
    assert len(fetched) > 50
    assert fetched == sorted(fetched)
