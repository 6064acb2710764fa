"""Weeks on the simulator's clock: outages drawn from a seed, two schedulers, and the expected result.

The expected result is computed from the simulated world and the outages, not from receipts, manifests or the run store.
"""

from __future__ import annotations

import random
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from jobs.lease import JobStatus, run_if_due
from jobs.schedule import JOBS, cron_trigger, job_schedules
from pipeline.core.context import App
from pipeline.core.models import AT_RISK, RunResult
from pipeline.core.settings.sections import Settings
from pipeline.enablex.simulator.server import RequestSeen
from pipeline.enablex.simulator.world import SimFile
from pipeline.storage.run_store import backoff
from tests.conftest import Site

HOUR = timedelta(hours=1)
LONGEST_BACKOFF = backoff(99)


@dataclass(frozen=True)
class Span:
    begin: datetime
    end: datetime

    def __contains__(self, moment: datetime) -> bool:
        return self.begin <= moment < self.end

    def __str__(self) -> str:
        return f"{self.begin:%d.%H:%M}-{self.end:%d.%H:%M}"


@dataclass(frozen=True)
class Outages:
    """When no scheduler runs, when each service is down, and when the run store is deleted.

    Each of them starts during a run: after `starts_after_requests` requests of its first moment.
    """

    seed: int
    begin: datetime
    days: int
    step: timedelta
    off: Span
    api_down: Span
    files_down: Span
    store_down: Span
    run_store_deleted_at: datetime
    starts_after_requests: int

    @classmethod
    def drawn(cls, seed: int, begin: datetime, *, days: int, step: timedelta) -> Outages:
        rng = random.Random(seed)

        def span(hours: int) -> Span:
            at = begin + step * rng.randrange(int(timedelta(days=days - 1, hours=-hours) / step))
            return Span(at, at + timedelta(hours=hours))

        spans = span(24), span(60), span(7), span(9)
        return cls(seed, begin, days, step, *spans, span(1).begin, rng.randrange(12))

    def __str__(self) -> str:
        return (
            f"seed {self.seed}: off {self.off}, API down {self.api_down}, files down {self.files_down}, stores down"
            f" {self.store_down}, run store deleted {self.run_store_deleted_at:%d.%H:%M}, each after"
            f" {self.starts_after_requests} requests"
        )

    def moments(self) -> Iterator[datetime]:
        for number in range(int(timedelta(days=self.days) / self.step) + 1):
            yield self.begin + number * self.step


@dataclass
class Host:
    """One scheduler. Like APScheduler it fires each job schedule at the times of its cron text, and once at its start.

    Jobs that were locked or failed are run again at the next moment.
    """

    settings: Settings
    fired_at: datetime | None = None
    retried: set[str] = field(default_factory=set)

    def run_due_jobs(self, now: datetime) -> list[tuple[str, JobStatus]]:
        statuses = []
        for job in job_schedules(self.settings):
            since = self.fired_at and self.fired_at + timedelta(seconds=1)
            fires_at = cron_trigger(job.cron).get_next_fire_time(None, since) if since else now
            if job.name in self.retried or (fires_at and fires_at <= now):
                status = run_if_due(job, self.settings, now=now)
                statuses.append((job.name, status))
                (self.retried.add if status in {JobStatus.LOCKED, JobStatus.FAILED} else self.retried.discard)(job.name)
        self.fired_at = now
        return statuses


@dataclass
class Moment:
    """A moment at which schedulers ran, and whether each service was up during all of it."""

    at: datetime
    api: bool
    files: bool
    store: bool


@dataclass
class Weeks:
    """A site, its outages, and the moments that were run. `stop_store`, `restore_store`: functions for its stores."""

    site: Site
    outages: Outages
    stop_store: Callable[[], None]
    restore_store: Callable[[], None]
    moments: list[Moment] = field(default_factory=list)
    statuses: Counter[tuple[str, JobStatus]] = field(default_factory=Counter)
    on_run_store_deleted: Callable[[], None] = lambda: None
    _requests: int = 0
    _deleted_at: datetime | None = None
    _is_store_up: bool = True
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self) -> None:
        """Run two hosts concurrently through the weeks. No service is down at the last moment."""
        clock, outages = self.site.simulator.clock, self.outages
        hosts = self._new_hosts()
        self.site.simulator.on_request = self._on_request
        with ThreadPoolExecutor(2) as threads, one_at_a_time(unless=lambda: clock.now() == self._deleted_at):
            for now in outages.moments():
                clock.set(now)
                if now in outages.off:
                    hosts = self._new_hosts()
                    continue
                self._begin_moment(now)
                results = threads.map(lambda host, at=now: host.run_due_jobs(at), hosts)
                statuses = [status for result in results for status in result]
                counts = Counter(name for name, status in statuses if status is JobStatus.COMPLETED)
                assert not counts or max(counts.values()) == 1, f"{now}: completed twice: {counts}"
                self.statuses.update(statuses)
                self.moments[-1].store &= self._is_store_up

    def _new_hosts(self) -> list[Host]:
        return [Host(self.site.settings()), Host(self.site.settings())]

    def _begin_moment(self, now: datetime) -> None:
        outages, faults = self.outages, self.site.simulator.faults
        api, files, store = (now not in span for span in (outages.api_down, outages.files_down, outages.store_down))
        faults.clear()
        for name in [*([] if api else ["api_down"]), *([] if files else ["files_down"])]:
            faults.on(name)
        if store and not self._is_store_up:
            self.restore_store()
            self._is_store_up = True
        has_begun = now - outages.step in outages.store_down or now - outages.step >= outages.run_store_deleted_at
        self._requests = outages.starts_after_requests if has_begun else 0
        self.moments.append(Moment(now, api, files, store))
        self._on_request()

    def _on_request(self, _request: RequestSeen | None = None) -> None:
        """Count the requests of a moment, and start its outages after the drawn number of them."""
        with self._lock:
            self._requests += 1
            if self._requests > self.outages.starts_after_requests:
                self._start_outages(self.site.simulator.clock.now())

    def _start_outages(self, now: datetime) -> None:
        if now in self.outages.store_down and self._is_store_up:
            self._is_store_up = False
            self.stop_store()
        if now >= self.outages.run_store_deleted_at and self._deleted_at is None:
            self._deleted_at = now
            self.on_run_store_deleted()
            for path in self.site.folder.glob("ledger.db*"):
                path.unlink()

    # --- the expected result ---

    def files(self) -> list[SimFile]:
        """Every file that was listed before the last moment."""
        begin, end = self.outages.begin.date(), self.moments[-1].at
        days = [begin + timedelta(days=day) for day in range(self.outages.days + 1)]
        files = [file for day in days for file in self.site.world.files_of_day("acme", day)]
        return [file for file in files if file.listed_at <= end]

    def could_be_archived(self, file: SimFile) -> bool:
        """Whether the file could be discovered and then copied.

        Discovered: a scheduler ran while API and stores were up and the file was listed. Copied: at that moment or
        later, file host and stores were up, the file had not expired, and it was not backing off: it was at risk, or
        the file host had been up for the longest backoff.
        """
        discovered_at = next(
            (moment.at for moment in self.moments if moment.api and moment.store and moment.at >= file.listed_at), None
        )
        return discovered_at is not None and any(
            discovered_at <= moment.at < file.expires_at
            and moment.files
            and moment.store
            and (file.expires_at - moment.at < AT_RISK or not self._may_back_off(moment.at))
            for moment in self.moments
        )

    def _may_back_off(self, at: datetime) -> bool:
        return any(not moment.files and at - LONGEST_BACKOFF < moment.at <= at for moment in self.moments)


_RUNNING: Counter[str] = Counter()
_COUNTING = threading.Lock()


@contextmanager
def one_at_a_time(unless: Callable[[], bool]) -> Iterator[None]:
    """Fail if a job runs twice at the same time. This is checked in the jobs, independent of leases.

    `unless`: the leases have just been deleted.
    """
    jobs = dict(JOBS)

    def checked(name: str, job: Callable[[App], RunResult]) -> Callable[[App], RunResult]:
        def run(app: App) -> RunResult:
            with _COUNTING:
                _RUNNING[name] += 1
                assert _RUNNING[name] == 1 or unless(), f"{name} runs twice at a time"
            try:
                return job(app)
            finally:
                with _COUNTING:
                    _RUNNING[name] -= 1

        return run

    assert isinstance(JOBS, dict)
    JOBS.update({name: checked(name, job) for name, job in jobs.items()})
    try:
        yield
    finally:
        JOBS.update(jobs)


def failing_folders(site: Site) -> tuple[Callable[[], None], Callable[[], None]]:
    """Functions that make the folders of a site's stores inaccessible, and restore them."""
    roots = [site.folder / name for name in ("lake", "vault")]

    def stop() -> None:
        for root in roots:
            root.mkdir(exist_ok=True)
            root.rename(root.with_suffix(".away"))
            root.symlink_to(root)

    def restore() -> None:
        for root in roots:
            Path(root).unlink()
            root.with_suffix(".away").rename(root)

    return stop, restore


_SENTENCES = [
    (r"(.+) works again", "", "ok"),
    (r"(.+) failed: .*", "", "failed"),
    (r"(.+): no file is at risk anymore", "at risk", "ok"),
    (r"(.+): files at risk: .*", "at risk", "some"),
    (r"(.+): files lost so far: (\d+); .*", "lost", ""),
    (r"(.+): no day is overdue for collection", "missing", "ok"),
    (r"(.+): no record is in suspense", "suspense", "ok"),
    (r"(.+): records in suspense: ([^;]*); .*", "suspense", ""),
    (r"(.+): days overdue for collection: .*", "missing", "some"),
]


def notified_state(line: str) -> tuple[str, str]:
    """Subject and state of a sentence of a notification."""
    for pattern, subject, state in _SENTENCES:
        if match := re.fullmatch(pattern, line):
            return f"{match[1]} {subject}", state or match[2]
    raise AssertionError(f"unknown sentence: {line}")
