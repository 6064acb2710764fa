"""Weeks on the simulator's clock: what goes wrong when, drawn from a seed; two schedulers; what must come of it all.

What must come of it is computed from the simulated world and from what was up at which moment. It is not asked of
receipts, manifests or the ledger.
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
LONGEST_REST = backoff(99)


@dataclass(frozen=True)
class Span:
    begin: datetime
    end: datetime

    def __contains__(self, moment: datetime) -> bool:
        return self.begin <= moment < self.end

    def __str__(self) -> str:
        return f"{self.begin:%d.%H:%M}-{self.end:%d.%H:%M}"


@dataclass(frozen=True)
class Weather:
    """When nobody works, when which service is down, when the ledger is deleted, and how the two hosts' turns fall.

    What strikes does so in the middle of a turn: after `strikes_after` requests.
    """

    seed: int
    begin: datetime
    days: int
    step: timedelta
    off: Span
    api_down: Span
    files_down: Span
    store_down: Span
    ledger_deleted_at: datetime
    strikes_after: int

    @classmethod
    def drawn(cls, seed: int, begin: datetime, *, days: int, step: timedelta) -> Weather:
        dice = random.Random(seed)

        def span(hours: int) -> Span:
            at = begin + step * dice.randrange(int(timedelta(days=days - 1, hours=-hours) / step))
            return Span(at, at + timedelta(hours=hours))

        spans = span(24), span(60), span(7), span(9)
        return cls(seed, begin, days, step, *spans, span(1).begin, dice.randrange(12))

    def __str__(self) -> str:
        return (
            f"seed {self.seed}: off {self.off}, API down {self.api_down}, files down {self.files_down}, stores down"
            f" {self.store_down}, ledger deleted {self.ledger_deleted_at:%d.%H:%M}, each after"
            f" {self.strikes_after} requests"
        )

    def moments(self) -> Iterator[datetime]:
        for number in range(int(timedelta(days=self.days) / self.step) + 1):
            yield self.begin + number * self.step


@dataclass
class Host:
    """One scheduler: as APScheduler would, it rings each alarm at the moments of its cron text, and once at its start;
    what was held or broke off rings again."""

    settings: Settings
    rung_at: datetime | None = None
    again: set[str] = field(default_factory=set)

    def take_turns(self, now: datetime) -> list[tuple[str, JobStatus]]:
        turns = []
        for job in job_schedules(self.settings):
            since = self.rung_at and self.rung_at + timedelta(seconds=1)
            rings_at = cron_trigger(job.cron).get_next_fire_time(None, since) if since else now
            if job.name in self.again or (rings_at and rings_at <= now):
                turn = run_if_due(job, self.settings, now=now)
                turns.append((job.name, turn))
                (self.again.add if turn in {JobStatus.LOCKED, JobStatus.FAILED} else self.again.discard)(job.name)
        self.rung_at = now
        return turns


@dataclass
class Seen:
    """A moment at which somebody worked, and what was up during all of it."""

    at: datetime
    api: bool
    files: bool
    store: bool


@dataclass
class Weeks:
    """A site, its weather, and what was seen. `cut_store`, `mend_store`: how its stores go down and come back."""

    site: Site
    weather: Weather
    cut_store: Callable[[], None]
    mend_store: Callable[[], None]
    seen: list[Seen] = field(default_factory=list)
    turns: Counter[tuple[str, JobStatus]] = field(default_factory=Counter)
    on_ledger_deleted: Callable[[], None] = lambda: None
    _requests: int = 0
    _deleted_at: datetime | None = None
    _is_store_up: bool = True
    _striking: threading.Lock = field(default_factory=threading.Lock)

    def run(self) -> None:
        """Let two hosts work through the weeks at the same time; the last moment is a fair one."""
        clock, weather = self.site.simulator.clock, self.weather
        hosts = self._new_hosts()
        self.site.simulator.on_request = self._strike
        with ThreadPoolExecutor(2) as threads, one_at_a_time(unless=lambda: clock.now() == self._deleted_at):
            for now in weather.moments():
                clock.set(now)
                if now in weather.off:
                    hosts = self._new_hosts()
                    continue
                self._begin_moment(now)
                done = [
                    turn for turns in threads.map(lambda host, at=now: host.take_turns(at), hosts) for turn in turns
                ]
                counts = Counter(name for name, turn in done if turn is JobStatus.COMPLETED)
                assert not counts or max(counts.values()) == 1, f"{now}: done twice: {counts}"
                self.turns.update(done)
                self.seen[-1].store &= self._is_store_up

    def _new_hosts(self) -> list[Host]:
        return [Host(self.site.settings()), Host(self.site.settings())]

    def _begin_moment(self, now: datetime) -> None:
        weather, faults = self.weather, self.site.simulator.faults
        api, files, store = (now not in span for span in (weather.api_down, weather.files_down, weather.store_down))
        faults.clear()
        for name in [*([] if api else ["api_down"]), *([] if files else ["files_down"])]:
            faults.on(name)
        if store and not self._is_store_up:
            self.mend_store()
            self._is_store_up = True
        has_begun = now - weather.step in weather.store_down or now - weather.step >= weather.ledger_deleted_at
        self._requests = weather.strikes_after if has_begun else 0
        self.seen.append(Seen(now, api, files, store))
        self._strike()

    def _strike(self, _seen: RequestSeen | None = None) -> None:
        """What begins at this moment does so after some requests of it."""
        with self._striking:
            self._requests += 1
            if self._requests > self.weather.strikes_after:
                self._let_begin(self.site.simulator.clock.now())

    def _let_begin(self, now: datetime) -> None:
        if now in self.weather.store_down and self._is_store_up:
            self._is_store_up = False
            self.cut_store()
        if now >= self.weather.ledger_deleted_at and self._deleted_at is None:
            self._deleted_at = now
            self.on_ledger_deleted()
            for path in self.site.folder.glob("ledger.db*"):
                path.unlink()

    # --- what must come of it ---

    def files(self) -> list[SimFile]:
        """Every file that was ever listed while it lived."""
        begin, end = self.weather.begin.date(), self.seen[-1].at
        days = [begin + timedelta(days=day) for day in range(self.weather.days + 1)]
        files = [file for day in days for file in self.site.world.files_of_day("acme", day)]
        return [file for file in files if file.listed_at <= end]

    def had_a_chance(self, file: SimFile) -> bool:
        """Whether it could be heard of, and then be copied.

        Heard of: somebody worked while API and stores were up and the file was listed. Copied: at that moment or later
        file host and stores were up, the file lived, and nothing made it rest: it was at risk, or the file host had
        been up for as long as the longest rest.
        """
        heard_at = next((one.at for one in self.seen if one.api and one.store and one.at >= file.listed_at), None)
        return heard_at is not None and any(
            heard_at <= one.at < file.expires_at
            and one.files
            and one.store
            and (file.expires_at - one.at < AT_RISK or not self._may_rest(one.at))
            for one in self.seen
        )

    def _may_rest(self, at: datetime) -> bool:
        return any(not one.files and at - LONGEST_REST < one.at <= at for one in self.seen)


_UNDER_WAY: Counter[str] = Counter()
_COUNTING = threading.Lock()


@contextmanager
def one_at_a_time(unless: Callable[[], bool]) -> Iterator[None]:
    """Whoever runs a job while another one runs it fails: seen where jobs do their work, not in the leases.

    `unless`: the leases have just been deleted.
    """
    jobs = dict(JOBS)

    def watched(name: str, job: Callable[[App], RunResult]) -> Callable[[App], RunResult]:
        def run(app: App) -> RunResult:
            with _COUNTING:
                _UNDER_WAY[name] += 1
                assert _UNDER_WAY[name] == 1 or unless(), f"{name} runs twice at a time"
            try:
                return job(app)
            finally:
                with _COUNTING:
                    _UNDER_WAY[name] -= 1

        return run

    assert isinstance(JOBS, dict)
    JOBS.update({name: watched(name, job) for name, job in jobs.items()})
    try:
        yield
    finally:
        JOBS.update(jobs)


def folders_out_of_order(site: Site) -> tuple[Callable[[], None], Callable[[], None]]:
    """How the stores of a site with folders go down, and come back: nothing in them can be reached."""
    roots = [site.folder / name for name in ("lake", "vault")]

    def cut() -> None:
        for root in roots:
            root.mkdir(exist_ok=True)
            root.rename(root.with_suffix(".away"))
            root.symlink_to(root)

    def mend() -> None:
        for root in roots:
            Path(root).unlink()
            root.with_suffix(".away").rename(root)

    return cut, mend


_SENTENCES = [
    (r"(.+) works again", "", "ok"),
    (r"(.+) failed: .*", "", "failed"),
    (r"(.+): no file is at risk anymore", "at risk", "ok"),
    (r"(.+): files at risk: .*", "at risk", "some"),
    (r"(.+): files lost so far: (\d+); .*", "lost", ""),
    (r"(.+): no day is overdue for collection", "missing", "ok"),
    (r"(.+): days overdue for collection: .*", "missing", "some"),
]


def state_told(line: str) -> tuple[str, str]:
    """Subject and state of a sentence that people were told."""
    for pattern, subject, state in _SENTENCES:
        if match := re.fullmatch(pattern, line):
            return f"{match[1]} {subject}", state or match[2]
    raise AssertionError(f"nobody knows what this says: {line}")
