"""Weeks of two schedulers on a virtual clock while everything goes wrong once: in the end all is there, once.

The suite lives through one fortnight with turns every twelve hours. SOAK_TIMES=N (`make soak`) has turns every quarter
of an hour for N / 4 seeds in folders, and every hour for N / 20 on a real S3 server whose line is cut.
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
"""Seed 77: nothing overlaps, rows are corrected, and some files never have a chance."""


def new_site(make_site: Callable[..., Site], receiver: Receiver, seed: int) -> Site:
    site = make_site(World(seed=seed, projects=("acme",), sessions_per_day=3 if SOAK_TIMES else 2, begin=NOW.date()))
    sections = f'[notify]\nwebhook_url = "{receiver.url}/"\n[schedule]\nrooms_apply = "5 0 * * *"\n'
    site.configure("[collect]\n", f"{sections}[collect]\n")
    return site


@pytest.mark.parametrize("seed", SEEDS)
def test_in_the_end_all_is_there_once(make_site: Callable[..., Site], receiver: Receiver, seed: int) -> None:
    """A day off, an API that is down for 60 hours, a file host for 7, stores for 9, a run store that is deleted in the
    middle of a turn: every visible CDR is there once, as it reads now; every file that had a chance is stored, once."""
    site = new_site(make_site, receiver, seed)
    outages = Outages.drawn(seed, NOW, days=14, step=STEP)
    live_through(Weeks(site, outages, *failing_folders(site)), receiver)


@pytest.mark.soak
@pytest.mark.skipif(not SOAK_TIMES, reason="minutes on a real S3 server: make soak")
@pytest.mark.parametrize("seed", range(100, 100 + max(SOAK_TIMES // 20, 1)))
def test_in_the_end_all_is_there_once_in_buckets(
    make_site: Callable[..., Site], receiver: Receiver, ceph: S3Server, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """The same with stores on a real S3 server, to which the line is cut in the middle of a turn, for nine hours."""
    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda *_: 0.0)  # time is not to pass while it is down
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
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    weeks.run()
    took_s, took_cpu_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
    turns = ", ".join(f"{count} {turn.name}" for turn, count in sorted(by_end(weeks).items(), key=str))
    print(f"{len(weeks.moments)} moments, {turns}; {took_s:.0f} s, {took_cpu_s:.0f} s CPU")
    check_cdrs(weeks)
    check_files(weeks)
    check_nothing_else(weeks)
    check_tables(weeks)
    check_news(receiver, deleted_after)


def by_end(weeks: Weeks) -> Counter[JobStatus]:
    counts: Counter[JobStatus] = Counter()
    for (_, turn), count in weeks.statuses.items():
        counts[turn] += count
    return counts


def check_cdrs(weeks: Weeks) -> None:
    """Every visible CDR has one row, with the values that EnableX reported last."""
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
    """Every file that could be archived is stored with its bytes. Lost files could not be archived."""
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


def check_nothing_else(weeks: Weeks) -> None:
    """Nothing in the vault is missing, altered, left over or half there; every file was read again for that."""
    with weeks.site.app() as app:
        audit = audit_media(app, sample_percent=100)
        assert (audit.failed, audit.notices.get("orphan", [])) == ([], [])
        names = [stored.key for stored in app.vault.list("raw/")]
    stems = {
        suffix: {name.removesuffix(suffix) for name in names if name.endswith(suffix)}
        for suffix in (BODY_SUFFIX, RECEIPT_SUFFIX)
    }
    assert stems[BODY_SUFFIX] <= stems[RECEIPT_SUFFIX]


def check_tables(weeks: Weeks) -> None:
    """A lake built of the same vault from nothing has the same tables, to the byte."""
    site = weeks.site
    with site.app() as app:
        assert build(app).failed == []
        clean = replace(app, lake=LocalStore(site.folder / "clean"))
        assert build(clean).failed == []
        as_they_are, anew = (
            {stored.key: read_bytes(store, stored.key) for stored in store.list("")} for store in (app.lake, clean.lake)
        )
    assert as_they_are == anew
    print(f"{len(anew)} objects of tables")


def check_news(receiver: Receiver, deleted_after: list[int]) -> None:
    """The state of a subject is notified only when it has changed, or after the run store was deleted."""
    states: dict[str, str] = {}
    lines = 0
    for number, text in enumerate(receiver.texts):
        if number in deleted_after:
            states = {}
        for line in text.splitlines():
            subject, state = notified_state(line)
            assert states.get(subject) != state, line
            states[subject] = state
            lines += 1
    print(f"{lines} pieces of news")
