"""`python -m jobs`, `postroom schedule`: the scheduler; runs until SIGTERM or Ctrl-C.

APScheduler only provides the fire times. Settings come from POSTROOM_CONFIG and the environment, as for `postroom`. At
start, every due job runs, most urgent first. Several schedulers may share a run store: a job that one runs or has
completed is skipped by the others.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import structlog
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.date import DateTrigger

from jobs.lease import LEASE_S, JobStatus, run_if_due
from jobs.monitoring import exporter
from jobs.monitoring.exporter import MetricsCollector
from jobs.run import publish_metrics
from jobs.runtime import load_settings, open_app
from jobs.schedule import APSCHEDULER_DEFAULTS, JobSchedule, cron_trigger, job_schedules, next_runs
from jobs.systemd import notify, watchdog_s
from pipeline.core import tracing
from pipeline.core.context import chosen_projects
from pipeline.core.errors import ConfigError
from pipeline.core.log import Redact, set_up_logging
from pipeline.core.settings.sections import Settings

_GRACE_S = 20
"""Seconds for running items to end after SIGTERM: systemd and Kubernetes kill after 30 seconds or more."""

_RETRY_AFTER = {JobStatus.LOCKED: timedelta(seconds=LEASE_S), JobStatus.FAILED: timedelta(minutes=15)}
"""A job leased by another scheduler is checked again when its lease would have expired; a failed one is run again."""

_WAKE_UP_S = 5.0
"""Seconds between wake-ups of the main thread. Python runs the handler of a signal that arrives just before the wait
begins only after the wait ends."""

_log = structlog.get_logger()


def serve(settings: Settings, stop: threading.Event) -> bool:
    """Run jobs on schedule until `stop` is set; then wait for running items. False if they take longer than 20 s.

    Serves metrics meanwhile if `metrics.port` is set.
    """
    chosen_projects(settings, None)
    collector = MetricsCollector()
    with ExitStack() as served:
        if settings.metrics.port:
            served.callback(exporter.serve(collector, settings.metrics.address, settings.metrics.port))
            with open_app(settings) as app:
                publish_metrics(app, collector)
        return _run_jobs(settings, stop, collector)


def _run_jobs(settings: Settings, stop: threading.Event, collector: MetricsCollector) -> bool:
    scheduler = BackgroundScheduler(
        timezone="UTC", executors={"default": ThreadPoolExecutor(1)}, job_defaults=APSCHEDULER_DEFAULTS
    )

    def fire(job: JobSchedule) -> None:
        job_status = run_if_due(job, settings, is_stopping=stop.is_set, collector=collector)
        if job_status in _RETRY_AFTER and not stop.is_set():
            retry = DateTrigger(datetime.now(UTC) + _RETRY_AFTER[job_status])
            scheduler.add_job(fire, retry, (job,), id=f"{job.name}, retry", replace_existing=True)

    started_at = datetime.now(UTC)
    for rank, job in enumerate(job_schedules(settings)):
        first_run_at = started_at + timedelta(milliseconds=rank)  # keeps the order
        scheduler.add_job(fire, cron_trigger(job.cron), (job,), id=job.name, next_run_time=first_run_at)
    for name, moment in next_runs(settings, started_at).items():
        _log.info("job.scheduled", job=name, next_run_at=str(moment))
    scheduler.start()
    notify(os.environ, "READY=1")
    while not stop.wait(min(watchdog_s(os.environ) or _WAKE_UP_S, _WAKE_UP_S)):
        notify(os.environ, "WATCHDOG=1")
    notify(os.environ, "STOPPING=1")
    _log.info("scheduler.stopping")
    shutdown = threading.Thread(target=scheduler.shutdown, daemon=True)
    shutdown.start()
    shutdown.join(_GRACE_S)
    return not shutdown.is_alive()


def run_scheduler(settings: Settings) -> int:
    """Run jobs on schedule until SIGTERM or SIGINT; returns the exit code.

    An item that does not end in time is interrupted as by a kill; the next run resumes it.
    """
    stop = threading.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signal_number, lambda *_: stop.set())
    set_up_logging(level=logging.INFO, secrets=tuple(settings.secrets()))
    with tracing.export_spans(Redact(settings.secrets()).text):
        has_stopped = serve(settings, stop)
    if not has_stopped:
        _log.info("job.interrupted", hint="the next run resumes it")
        sys.stderr.flush()
        os._exit(0)
    return 0


def main() -> int:
    """Run with the settings of POSTROOM_CONFIG and the environment; an invalid one is exit code 2 and one line."""
    try:
        return run_scheduler(load_settings(None, os.environ).settings)
    except ConfigError as error:
        print(f"postroom: {error}", file=sys.stderr)
        return 2
