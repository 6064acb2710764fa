"""Two weeks of two schedulers on a virtual clock, with an outage of every part: at the end, all data is stored once.

The suite runs one seed with job runs every 12 hours. SOAK_TIMES=N (`make soak`) runs jobs every 15 minutes for N / 4
seeds in folders, and every hour for N / 20 seeds on a real S3 server whose connection is cut.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from urllib.parse import urlsplit

import pytest
import structlog
from botocore.retries.standard import ExponentialBackoff

from jobs.lease import JobStatus
from pipeline.core.models import Period
from pipeline.enablex.simulator.world import World
from pipeline.media.audit import audit_media
from pipeline.storage import LocalStore, read_bytes
from pipeline.storage.keys import BODY_SUFFIX, RECEIPT_SUFFIX
from pipeline.storage.manifests import read_entries
from pipeline.tables import parquet
from pipeline.tables.build import build
from tests.conftest import NOW, Site
from tests.integration.jobs.test_run import Receiver
from tests.integration.jobs.test_run import receiver as receiver  # noqa: PLC0414 - a fixture
from tests.support.buckets import in_buckets
from tests.support.servers.line import line_to
from tests.support.servers.s3 import S3Server
from tests.support.simulated_weeks import HOUR, Outages, Weeks, failing_folders, notified_state

SOAK_TIMES = int(os.environ.get("SOAK_TIMES", "0"))
STEP = HOUR / 4 if SOAK_TIMES else 12 * HOUR
SEEDS = range(SOAK_TIMES // 4) if SOAK_TIMES else [77]
"""With seed 77, outages do not overlap, rows are corrected, and some files expire before they can be copied."""


def new_site(make_site: Callable[..., Site], receiver: Receiver, seed: int) -> Site:
    site = make_site(World(seed=seed, projects=("acme",), sessions_per_day=3 if SOAK_TIMES else 2, begin=NOW.date()))
    sections = f'[notify]\nwebhook_url = "{receiver.url}/"\n[schedule]\nrooms_apply = "5 0 * * *"\n'
    site.configure("[collect]\n", f"{sections}[collect]\n")
    return site


@pytest.mark.parametrize("seed", SEEDS)
def test_at_the_end_all_data_is_stored_once(make_site: Callable[..., Site], receiver: Receiver, seed: int) -> None:
    """The schedulers are off for a day, the API is down for 60 hours, the file host for 7, the stores for 9, and the
    run store is deleted during a run. At the end, every visible CDR is stored once in its current version, and every
    file that could be copied is stored once."""
    site = new_site(make_site, receiver, seed)
    outages = Outages.drawn(seed, NOW, days=14, step=STEP)
    live_through(Weeks(site, outages, *failing_folders(site)), receiver)


@pytest.mark.soak
@pytest.mark.skipif(not SOAK_TIMES, reason="minutes on a real S3 server: make soak")
@pytest.mark.parametrize("seed", range(100, 100 + max(SOAK_TIMES // 20, 1)))
def test_at_the_end_all_data_is_stored_once_in_buckets(
    make_site: Callable[..., Site], receiver: Receiver, ceph: S3Server, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """The same with stores on a real S3 server, whose connection is cut during a run, for 9 hours."""
    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda *_: 0.0)  # retries take no real time
    site = new_site(make_site, receiver, seed)
    with line_to(urlsplit(ceph.endpoint_url).port or 80) as line:
        vault = in_buckets(site, S3Server(ceph.name, f"http://127.0.0.1:{line.port}"))
        outages = Outages.drawn(seed, NOW, days=14, step=HOUR)
        live_through(Weeks(site, outages, line.cut, line.restore), receiver)
    assert ceph.unfinished(vault) == []


def live_through(weeks: Weeks, receiver: Receiver) -> None:
    print(weeks.outages)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    deleted_after: list[int] = []
    weeks.on_run_store_deleted = lambda: deleted_after.append(len(receiver.texts))
    start_s, start_cpu_s = time.perf_counter(), time.process_time()
    weeks.run()
    took_s, took_cpu_s = time.perf_counter() - start_s, time.process_time() - start_cpu_s
    statuses = ", ".join(f"{count} {status.name}" for status, count in sorted(by_status(weeks).items(), key=str))
    print(f"{len(weeks.moments)} moments, {statuses}; {took_s:.0f} s, {took_cpu_s:.0f} s CPU")
    check_cdrs(weeks)
    check_files(weeks)
    check_vault(weeks)
    check_tables(weeks)
    check_notifications(receiver, deleted_after)


def by_status(weeks: Weeks) -> Counter[JobStatus]:
    counts: Counter[JobStatus] = Counter()
    for (_, status), count in weeks.statuses.items():
        counts[status] += count
    return counts


def check_cdrs(weeks: Weeks) -> None:
    """Every CDR that is visible now is stored once, in its last version."""
    site, begin, now = weeks.site, weeks.outages.begin, weeks.moments[-1].at
    documents = site.world.cdr_documents("acme", now, begin.date(), now.date())
    truth = sorted((document["cdr_id"], float(document["room"]["duration"])) for document in documents)
    with site.app() as app:
        rows = parquet.read_arrow("cdr", columns=["cdr_id", "room_duration_s"], lake=app.lake).to_pylist()
        corrected = parquet.read_arrow("cdr_history", columns=["cdr_id"], lake=app.lake).num_rows
    assert sorted((row["cdr_id"], row["room_duration_s"]) for row in rows) == truth
    print(f"{len(truth)} CDRs, {corrected} of them corrected")
    assert corrected > 0


def check_files(weeks: Weeks) -> None:
    """Every file that could be copied is stored with its bytes; a file recorded as lost has expired."""
    site, outages = weeks.site, weeks.outages
    days = Period(outages.begin.date(), weeks.moments[-1].at.date())
    with site.app() as app:
        entries = read_entries(app.vault, "acme", days)
    files = {(file.conf_num, file.kind, file.path.rpartition("/")[2]): file for file in weeks.files()}
    assert entries.keys() <= files.keys()
    with_chance = {identity for identity, file in files.items() if weeks.could_be_archived(file)}
    stored = {identity for identity, entry in entries.items() if entry.key}
    print(f"{len(files)} files, {len(with_chance)} had a chance, {len(stored)} are stored")
    assert with_chance - stored == set()
    assert {identity: entries[identity].sha256 for identity in stored} == {
        identity: files[identity].sha256 for identity in stored
    }
    for identity in entries.keys() - stored:
        assert files[identity].expires_at <= weeks.moments[-1].at, identity


def check_vault(weeks: Weeks) -> None:
    """No object of the vault is missing, altered, orphaned or incomplete; all files are read completely."""
    with weeks.site.app() as app:
        audit = audit_media(app, sample_percent=100)
        assert (audit.failed, audit.notices.get("orphan", [])) == ([], [])
        keys = [stored.key for stored in app.vault.list("raw/")]
    responses = {
        suffix: {key.removesuffix(suffix) for key in keys if key.endswith(suffix)}
        for suffix in (BODY_SUFFIX, RECEIPT_SUFFIX)
    }
    assert responses[BODY_SUFFIX] <= responses[RECEIPT_SUFFIX]


def check_tables(weeks: Weeks) -> None:
    """An empty lake built from the same vault has the same tables, byte for byte."""
    site = weeks.site
    with site.app() as app:
        assert build(app).failed == []
        clean = replace(app, lake=LocalStore(site.folder / "clean"))
        assert build(clean).failed == []
        existing, rebuilt = (
            {stored.key: read_bytes(store, stored.key) for stored in store.list("")} for store in (app.lake, clean.lake)
        )
    assert existing == rebuilt
    print(f"{len(rebuilt)} objects of tables")


def check_notifications(receiver: Receiver, deleted_after: list[int]) -> None:
    """No state of a subject was sent twice in a row, except after the deletion of the run store."""
    last_sent: dict[str, str] = {}
    lines = 0
    for number, text in enumerate(receiver.texts):
        if number in deleted_after:
            last_sent = {}
        for line in text.splitlines():
            subject, state = notified_state(line)
            assert last_sent.get(subject) != state, line
            last_sent[subject] = state
            lines += 1
    print(f"{lines} notifications")
