"""One turn of a job: if it is due, and nobody else runs it, do it under a lease."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from enum import Enum

import structlog

from jobs.monitoring.exporter import MetricsCollector
from jobs.run import record_run
from jobs.runtime import open_app
from jobs.schedule import JOBS, JobSchedule, is_due
from pipeline.core.context import App
from pipeline.core.errors import LeaseLost, PipelineError, Stopped, StoreUnavailable
from pipeline.core.settings.sections import Settings
from pipeline.storage.run_store import Lease, RunStore

LEASE_S = 60.0
"""Seconds that the job of a killed scheduler waits for another one. Renewed three times as often."""

_log = structlog.get_logger()


class JobStatus(Enum):
    """How a turn ended."""

    COMPLETED = "done"
    NOT_DUE = "done since it was due"
    LOCKED = "another scheduler runs it"
    FAILED = "nothing worked, or interrupted"


def run_if_due(
    job: JobSchedule,
    settings: Settings,
    *,
    is_stopping: Callable[[], bool] = lambda: False,
    now: datetime | None = None,
    collector: MetricsCollector | None = None,
) -> JobStatus:
    """Run a job for its projects, if it is due and not leased; record and announce the run."""
    lost = threading.Event()
    try:
        with closing(RunStore(settings.run_store.url)) as run_store:
            if not _is_due(job, run_store, now):  # most turns of a host that shares the work end here, and cost nothing
                return JobStatus.NOT_DUE
            lease = run_store.take_lease(job.name, LEASE_S)
            if lease is None:
                return JobStatus.LOCKED
            with _kept(run_store, lease, lost):
                if not _is_due(job, run_store, now):
                    return JobStatus.NOT_DUE
                with open_app(settings, now=now, is_stopping=lambda: lost.is_set() or is_stopping()) as app:
                    return _do(app, job, lease, collector)
    except PipelineError as error:
        _log.error("job.failed", job=job.name, error=str(error))
        return JobStatus.FAILED


def _is_due(job: JobSchedule, run_store: RunStore, now: datetime | None) -> bool:
    return is_due(job.cron, run_store.last_done(job.name), now or datetime.now(UTC))


def _do(app: App, job: JobSchedule, lease: Lease, collector: MetricsCollector | None) -> JobStatus:
    action = JOBS[job.job]
    try:
        outcome = record_run(
            app,
            job.name,
            lambda app: action(app.for_projects(job.projects)),
            is_unattended=True,
            projects=job.projects,
            collector=collector,
            lease=lease,
        )
    except (LeaseLost, Stopped):
        raise
    except PipelineError:  # the run has said so
        return JobStatus.FAILED
    return JobStatus.FAILED if outcome.is_total_failure else JobStatus.COMPLETED


@contextmanager
def _kept(run_store: RunStore, lease: Lease, lost: threading.Event) -> Iterator[None]:
    """Renew a lease until the end, then release it; `lost` is set when it is another's or could not be renewed."""
    ended = threading.Event()

    def renew() -> None:
        renewed_at = time.monotonic()
        while not lost.is_set() and not ended.wait(lease.lasts_s / 3):
            try:
                run_store.renew(lease)
                renewed_at = time.monotonic()
            except LeaseLost:
                lost.set()
            except StoreUnavailable:
                if time.monotonic() - renewed_at > lease.lasts_s / 2:
                    lost.set()

    renewing = threading.Thread(target=renew, name=f"lease of {lease.name}", daemon=True)
    renewing.start()
    try:
        yield
    finally:
        ended.set()
        renewing.join()
        with suppress(LeaseLost, StoreUnavailable):
            run_store.release(lease)
