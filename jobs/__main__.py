"""`python -m jobs`: the scheduler, until SIGTERM or Ctrl-C; a running job is finished first.

APScheduler is an alarm clock only. Settings come from POSTROOM_CONFIG and the environment, as for `postroom`.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from contextlib import ExitStack

import structlog
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.cron import CronTrigger

from jobs.timetable import ALARM, TIMETABLE, Job
from pipeline import exposition, observing
from pipeline.app import chosen_projects, open_app
from pipeline.errors import ConfigError, PipelineError
from pipeline.exposition import Exposed
from pipeline.log import set_up_logging
from pipeline.settings import Settings, load

_log = structlog.get_logger()


def run_job(job: Job, settings: Settings, exposed: Exposed | None = None) -> int | None:
    """Run one job once; its outcome goes to the log and the ledger. Returns its exit code, None when it broke off."""
    try:
        with open_app(settings) as app:
            return observing.run(app, job.name, job.run, is_unattended=True, exposed=exposed).exit_code
    except PipelineError as error:
        _log.error("job.broken", job=job.name, error=str(error))
        return None


def serve(settings: Settings, stop: threading.Event) -> None:
    """Run the timetable until `stop` is set; then wait for the running job. Metrics are served meanwhile, if wanted."""
    chosen_projects(settings, None)
    exposed = Exposed()
    with ExitStack() as served:
        if settings.metrics.port:
            served.callback(exposition.serve(exposed, settings.metrics.address, settings.metrics.port))
            with open_app(settings) as app:
                observing.expose(app, exposed)
        _run_timetable(settings, stop, exposed)


def _run_timetable(settings: Settings, stop: threading.Event, exposed: Exposed) -> None:
    scheduler = BackgroundScheduler(timezone="UTC", executors={"default": ThreadPoolExecutor(1)}, job_defaults=ALARM)
    for job in TIMETABLE:
        scheduler.add_job(run_job, CronTrigger.from_crontab(job.cron, "UTC"), (job, settings, exposed), id=job.name)
    scheduler.start()
    for planned in scheduler.get_jobs():
        _log.info("job.planned", job=planned.id, next_run_at=str(planned.next_run_time))
    stop.wait()
    _log.info("scheduler.stopping")
    scheduler.shutdown(wait=True)


def main() -> int:
    stop = threading.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signal_number, lambda *_: stop.set())
    try:
        settings = load(None, os.environ).settings
        set_up_logging(level=logging.INFO, secrets=tuple(settings.secrets()))
        serve(settings, stop)
    except ConfigError as error:
        print(f"postroom: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
