"""Run a job under a lease, if it is due and no other process runs it."""

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
"""Seconds until another scheduler may run the job of a killed one. The lease is renewed every third of it."""

_log = structlog.get_logger()


class JobStatus(Enum):
    """The result of `run_if_due`."""

    COMPLETED = "completed"
    NOT_DUE = "already completed since it was due"
    LOCKED = "leased by another scheduler"
    FAILED = "all items failed, or interrupted"


def run_if_due(
    job: JobSchedule,
    settings: Settings,
    *,
    is_stopping: Callable[[], bool] = lambda: False,
    now: datetime | None = None,
    collector: MetricsCollector | None = None,
) -> JobStatus:
    """Run a job for its projects, if it is due and not leased; record and announce the run."""
    lease_lost = threading.Event()
    try:
        with closing(RunStore(settings.run_store.url)) as run_store:
            if not _is_due(job, run_store, now):  # checked before the lease too: usually another host has run it
                return JobStatus.NOT_DUE
            lease = run_store.take_lease(job.name, LEASE_S)
            if lease is None:
                return JobStatus.LOCKED
            with _renewed(run_store, lease, lease_lost):
                if not _is_due(job, run_store, now):
                    return JobStatus.NOT_DUE
                with open_app(settings, now=now, is_stopping=lambda: lease_lost.is_set() or is_stopping()) as app:
                    return _run_job(app, job, lease, collector)
    except PipelineError as error:
        _log.error("job.failed", job=job.name, error=str(error))
        return JobStatus.FAILED


def _is_due(job: JobSchedule, run_store: RunStore, now: datetime | None) -> bool:
    return is_due(job.cron, run_store.last_done(job.name), now or datetime.now(UTC))


def _run_job(app: App, job: JobSchedule, lease: Lease, collector: MetricsCollector | None) -> JobStatus:
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
    except PipelineError:  # logged and announced by `record_run`
        return JobStatus.FAILED
    return JobStatus.FAILED if outcome.is_total_failure else JobStatus.COMPLETED


@contextmanager
def _renewed(run_store: RunStore, lease: Lease, lost: threading.Event) -> Iterator[None]:
    """Renew a lease until the end, then release it. `lost` is set if another holder has it or renewal fails."""
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

    renewal = threading.Thread(target=renew, name=f"lease of {lease.name}", daemon=True)
    renewal.start()
    try:
        yield
    finally:
        ended.set()
        renewal.join()
        with suppress(LeaseLost, StoreUnavailable):
            run_store.release(lease)
