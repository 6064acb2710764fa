"""The scheduler: an alarm clock around the flows."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from jobs.__main__ import run_job
from jobs.timetable import ALARM, TIMETABLE
from pipeline.ledger import Ledger
from tests.conftest import Site, clean_environ


def test_a_job_does_its_flow_and_is_remembered(site: Site) -> None:
    """Each job of the timetable runs against a live API and leaves its last good run in the ledger."""
    site.simulator.clock.set(datetime.now(UTC))
    for job in TIMETABLE:
        assert run_job(job, site.settings()) in {0, 4}
    ledger = Ledger(site.settings().ledger.url)
    assert set(ledger.last_good_runs()) == {job.name for job in TIMETABLE}
    ledger.close()


def test_missed_alarms_are_run_late_and_once() -> None:
    """No alarm is dropped for being late, several missed ones are one, and no job runs beside itself."""
    assert ALARM == {"misfire_grace_time": None, "coalesce": True, "max_instances": 1}


def test_the_scheduler_stops_cleanly_on_sigterm(site: Site) -> None:
    """After SIGTERM the process ends by itself with exit code 0."""
    environment = {**clean_environ(), "POSTROOM_CONFIG": str(site.config)}
    process = subprocess.Popen([sys.executable, "-m", "jobs"], stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    planned = [json.loads(process.stderr.readline())["job"] for _ in TIMETABLE]
    process.send_signal(signal.SIGTERM)
    _, rest = process.communicate(timeout=30)
    assert sorted(planned) == sorted(job.name for job in TIMETABLE)
    assert process.returncode == 0, rest
    assert "scheduler.stopping" in rest


def test_a_missing_project_is_said_at_once(tmp_path: Path) -> None:
    """Without a project the scheduler does not start: exit code 2 and one line."""
    config = tmp_path / "empty.toml"
    config.write_text("")
    done = subprocess.run(
        [sys.executable, "-m", "jobs"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={**clean_environ(), "POSTROOM_CONFIG": str(config)},
    )
    assert done.returncode == 2
    assert done.stderr.startswith("postroom: no project is configured")
