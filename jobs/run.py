"""Record and announce a run: log, run store, Prometheus, webhook, heartbeat.

An announcement that cannot be sent is logged and never fails the run.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import structlog
from structlog.contextvars import bound_contextvars

from jobs.monitoring.exporter import MetricsCollector, write_textfile
from jobs.monitoring.metrics import COUNTS, read_metrics
from jobs.monitoring.notifications import FAILED, Condition, changed_conditions, job_states, status_states
from jobs.monitoring.webhook import ping, post_text
from jobs.status import StatusReport, status
from pipeline.core.context import App
from pipeline.core.errors import LeaseLost, PipelineError, Stopped
from pipeline.core.models import Details_co, Failure, RunResult
from pipeline.core.retry import counted_retries
from pipeline.core.tracing import run_span
from pipeline.storage.run_store import Lease, RunStore, new_run_id

_NOTIFICATION_LEASE_S = 15.0
"""Longer than the timeout of a webhook (10 s)."""

_log = structlog.get_logger()


def record_run(
    app: App,
    command: str,
    flow: Callable[[App], RunResult[Details_co]],
    *,
    is_unattended: bool,
    projects: Sequence[str] | None = None,
    collector: MetricsCollector | None = None,
    lease: Lease | None = None,
) -> RunResult[Details_co]:
    """Run a flow as one run: recorded in the run store, its id in every log line, its result announced.

    `projects` are the projects of the run, all if None. Only unattended runs send notifications. `collector` holds the
    metrics that the scheduler serves. A run that was stopped or lost its lease is not announced.
    """
    run_id = new_run_id()
    names = list(app.settings.projects if projects is None else projects)

    def counted() -> RunResult[Details_co]:
        with counted_retries() as counts:
            outcome = flow(app)
        outcome.counts.update(counts)
        return outcome

    with bound_contextvars(run_id=run_id, command=command), run_span(command):
        _log.info("run.started")
        try:
            outcome = app.run_store.record_run(command, app.clock, counted, lease, run_id=run_id, projects=names)
        except (LeaseLost, Stopped):
            raise
        except Exception as error:
            text = app.redact(f"{error}" if isinstance(error, PipelineError) else f"{type(error).__name__}: {error}")
            _log.log(logging.ERROR if lease else logging.INFO, "run.failed", error=text)  # a command prints it as well
            _announce(
                app,
                job_states(command, names, [Failure(command, text)]),
                is_good=False,
                is_unattended=is_unattended,
                collector=collector,
            )
            raise
        _log.info(
            "run.finished",
            exit_code=outcome.exit_code,
            failed=len(outcome.failed),
            at_risk=len(outcome.at_risk),
            lost=len(outcome.lost),
            counts=dict(outcome.counts),
        )
        states = job_states(command, names, outcome.failed)
        _announce(app, states, is_good=not outcome.failed, is_unattended=is_unattended, collector=collector)
    return outcome


def publish_metrics(app: App, collector: MetricsCollector | None) -> RunResult[StatusReport]:
    """Read the stores and the run store, publish the metrics, and return the status they were read from."""
    current = status(app, in_full=False)
    samples = read_metrics(current.details, app.run_store.run_totals(COUNTS), app.run_store.run_ends())
    if collector:
        collector.replace(samples)
    if app.settings.metrics.textfile:
        with _errors_logged("metrics.not_written"):
            write_textfile(Path(app.settings.metrics.textfile), samples)
    return current


def _announce(
    app: App, jobs: list[Condition], *, is_good: bool, is_unattended: bool, collector: MetricsCollector | None
) -> None:
    settings = app.settings
    sends = is_unattended and bool(settings.notify.webhook or settings.notify.heartbeat)
    if not settings.projects or not (sends or settings.metrics.textfile or collector):
        return
    states = [*jobs]
    with _errors_logged("metrics.not_read"):
        states += status_states(publish_metrics(app, collector), settings.notify.missing_after_days)
    if sends:
        with _errors_logged("notify.failed"):
            _notify(app, states)
        with _errors_logged("heartbeat.failed"):
            _send_heartbeat(app, is_good=is_good)


def _notify(app: App, states: Sequence[Condition]) -> None:
    """Send changed conditions and save the sent ones; the next run retries those that could not be sent."""
    if not changed_conditions(states, app.run_store.last_notified()):
        return
    with _notification_lock(app.run_store):
        changed = changed_conditions(states, app.run_store.last_notified())
        if changed and app.settings.notify.webhook:
            post_text(app.settings.notify.webhook, app.redact("\n".join(state.sentence for state in changed)))
        app.run_store.save_notified({state.subject: state.state for state in changed})


@contextmanager
def _notification_lock(run_store: RunStore) -> Iterator[None]:
    """Serialize the notifications of concurrent runs, so that a change is sent once.

    Waits until the lease of a killed run expires.
    """
    while (lease := run_store.take_lease("news", _NOTIFICATION_LEASE_S)) is None:
        time.sleep(0.1)
    try:
        yield
    finally:
        with suppress(LeaseLost):
            run_store.release(lease)


def _send_heartbeat(app: App, *, is_good: bool) -> None:
    """Send the heartbeat unless a job is failing: frequent successes must not hide a failed nightly run."""
    if is_good and app.settings.notify.heartbeat and FAILED not in app.run_store.last_notified().values():
        ping(app.settings.notify.heartbeat)


@contextmanager
def _errors_logged(event: str) -> Iterator[None]:
    """Log a PipelineError as a warning instead of raising it."""
    try:
        yield
    except PipelineError as error:
        _log.warning(event, error=str(error))
