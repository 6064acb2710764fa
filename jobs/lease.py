"""One turn of a job: if it is due, and nobody else runs it, do it under a lease."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from enum import Enum

import structlog

from jobs.monitoring.exporter import Exposed
from jobs.run import record_run
from jobs.runtime import open_app
from jobs.schedule import JOBS, Alarm, is_due
from pipeline.core.context import App
from pipeline.core.errors import LeaseLost, PipelineError, Stopped, StoreUnavailable
from pipeline.core.settings.sections import Settings
from pipeline.storage.run_store import Lease, Ledger

LEASE_S = 60.0
"""After a scheduler was killed its job waits so long for another one. Renewed three times as often."""

_log = structlog.get_logger()


class Turn(Enum):
    """How a turn ended."""

    DONE = "done"
    NOT_DUE = "somebody did it since it was due"
    HELD = "another scheduler runs it"
    BROKEN = "nothing worked, or it broke off"


def take_turn(
    alarm: Alarm,
    settings: Settings,
    *,
    is_stopping: Callable[[], bool] = lambda: False,
    now: datetime | None = None,
    exposed: Exposed | None = None,
) -> Turn:
    """Do an alarm's job for its projects, if it is due and free; log, ledger and whoever wants to know hear of it."""
    lost = threading.Event()
    try:
        with closing(Ledger(settings.ledger.url)) as ledger:
            if not _is_due(alarm, ledger, now):  # most turns of a host that shares the work end here, and cost nothing
                return Turn.NOT_DUE
            lease = ledger.take_lease(alarm.name, LEASE_S)
            if lease is None:
                return Turn.HELD
            with _kept(ledger, lease, lost):
                if not _is_due(alarm, ledger, now):
                    return Turn.NOT_DUE
                with open_app(settings, now=now, is_stopping=lambda: lost.is_set() or is_stopping()) as app:
                    return _do(app, alarm, lease, exposed)
    except PipelineError as error:
        _log.error("job.broken", job=alarm.name, error=str(error))
        return Turn.BROKEN


def _is_due(alarm: Alarm, ledger: Ledger, now: datetime | None) -> bool:
    return is_due(alarm.cron, ledger.last_done(alarm.name), now or datetime.now(UTC))


def _do(app: App, alarm: Alarm, lease: Lease, exposed: Exposed | None) -> Turn:
    job = JOBS[alarm.job]
    try:
        outcome = record_run(
            app,
            alarm.name,
            lambda app: job(app.only(alarm.projects)),
            is_unattended=True,
            projects=alarm.projects,
            exposed=exposed,
            lease=lease,
        )
    except (LeaseLost, Stopped):
        raise
    except PipelineError:  # the run has said so
        return Turn.BROKEN
    return Turn.BROKEN if outcome.is_broken else Turn.DONE


@contextmanager
def _kept(ledger: Ledger, lease: Lease, lost: threading.Event) -> Iterator[None]:
    """Renew a lease until the end, then release it; `lost` is set when it is another's or could not be renewed."""
    ended = threading.Event()

    def renew() -> None:
        renewed_at = time.monotonic()
        while not lost.is_set() and not ended.wait(lease.lasts_s / 3):
            try:
                ledger.renew(lease)
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
            ledger.release(lease)
