"""`python -m jobs`, `postroom schedule`: the scheduler, until SIGTERM or Ctrl-C.

APScheduler is an alarm clock only. Settings come from POSTROOM_CONFIG and the environment, as for `postroom`. When it
starts, every job that is due runs, the most urgent first. Several schedulers share a run store: what one runs, or
has done, the others leave.
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
"""Time for a running item to end after SIGTERM: systemd and Kubernetes kill after 30 seconds or more."""

_LOOK_AGAIN = {JobStatus.LOCKED: timedelta(seconds=LEASE_S), JobStatus.FAILED: timedelta(minutes=15)}
"""A job of another scheduler is checked again when its lease would have expired; an interrupted one is run again."""

_LOOK_UP_S = 5.0
"""A signal that comes just before the main thread begins to wait does not end the wait: Python runs its handler only
when the thread looks up next."""

_log = structlog.get_logger()


def serve(settings: Settings, stop: threading.Event) -> bool:
    """Run the timetable until `stop` is set; then wait for what is under way. False when that takes too long.

    Metrics are served meanwhile, if wanted.
    """
    chosen_projects(settings, None)
    collector = MetricsCollector()
    with ExitStack() as served:
        if settings.metrics.port:
            served.callback(exporter.serve(collector, settings.metrics.address, settings.metrics.port))
            with open_app(settings) as app:
                publish_metrics(app, collector)
        return _run_timetable(settings, stop, collector)


def _run_timetable(settings: Settings, stop: threading.Event, collector: MetricsCollector) -> bool:
    scheduler = BackgroundScheduler(
        timezone="UTC", executors={"default": ThreadPoolExecutor(1)}, job_defaults=APSCHEDULER_DEFAULTS
    )

    def fire(job: JobSchedule) -> None:
        turn = run_if_due(job, settings, is_stopping=stop.is_set, collector=collector)
        if turn in _LOOK_AGAIN and not stop.is_set():
            again = DateTrigger(datetime.now(UTC) + _LOOK_AGAIN[turn])
            scheduler.add_job(fire, again, (job,), id=f"{job.name}, again", replace_existing=True)

    begun_at = datetime.now(UTC)
    for rank, job in enumerate(job_schedules(settings)):
        max_concurrency = begun_at + timedelta(milliseconds=rank)  # in this order
        scheduler.add_job(fire, cron_trigger(job.cron), (job,), id=job.name, next_run_time=max_concurrency)
    for name, moment in next_runs(settings, begun_at).items():
        _log.info("job.scheduled", job=name, next_run_at=str(moment))
    scheduler.start()
    notify(os.environ, "READY=1")
    while not stop.wait(min(watchdog_s(os.environ) or _LOOK_UP_S, _LOOK_UP_S)):
        notify(os.environ, "WATCHDOG=1")
    notify(os.environ, "STOPPING=1")
    _log.info("scheduler.stopping")
    stopping = threading.Thread(target=scheduler.shutdown, daemon=True)
    stopping.start()
    stopping.join(_GRACE_S)
    return not stopping.is_alive()


def run_scheduler(settings: Settings) -> int:
    """Run every job when it is due until SIGTERM or SIGINT; the exit code.

    An item that does not end in time is left as after a kill: the next run resumes it.
    """
    stop = threading.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signal_number, lambda *_: stop.set())
    set_up_logging(level=logging.INFO, secrets=tuple(settings.secrets()))
    with tracing.export_spans(Redact(settings.secrets()).text):
        has_stopped = serve(settings, stop)
    if not has_stopped:
        _log.info("job.interrupted", why="the next run resumes it, as after a kill")
        sys.stderr.flush()
        os._exit(0)
    return 0


def main() -> int:
    """Run with the settings of POSTROOM_CONFIG and the environment; a wrong one is one line and exit code 2."""
    try:
        return run_scheduler(load_settings(None, os.environ).settings)
    except ConfigError as error:
        print(f"postroom: {error}", file=sys.stderr)
        return 2
