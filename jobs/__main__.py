"""`python -m jobs`: the scheduler, until SIGTERM or Ctrl-C; a running job is finished first.

APScheduler is an alarm clock only. Settings come from POSTROOM_CONFIG and the environment, as for `postroom`.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading

import structlog
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.cron import CronTrigger

from jobs.timetable import ALARM, TIMETABLE, Job
from pipeline.app import chosen_projects, open_app
from pipeline.errors import ConfigError, PipelineError
from pipeline.log import set_up_logging
from pipeline.settings import Settings, load

_log = structlog.get_logger()


def run_job(job: Job, settings: Settings) -> int | None:
    """Run one job once; its outcome goes to the log and the ledger. Returns its exit code, None when it broke off."""
    try:
        with open_app(settings) as app:
            outcome = app.ledger.record_run(job.name, app.clock, lambda: job.run(app))
    except PipelineError as error:
        _log.error("job.broken", job=job.name, error=str(error))
        return None
    _log.info(
        "job.done",
        job=job.name,
        exit_code=outcome.exit_code,
        failed=len(outcome.failed),
        at_risk=len(outcome.at_risk),
        lost=len(outcome.lost),
        counts=dict(outcome.counts),
    )
    return outcome.exit_code


def serve(settings: Settings, stop: threading.Event) -> None:
    """Run the timetable until `stop` is set; then wait for the running job."""
    chosen_projects(settings, None)
    scheduler = BackgroundScheduler(timezone="UTC", executors={"default": ThreadPoolExecutor(1)}, job_defaults=ALARM)
    for job in TIMETABLE:
        scheduler.add_job(run_job, CronTrigger.from_crontab(job.cron, "UTC"), (job, settings), id=job.name)
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
