"""The scheduler: runs jobs on time, shares them between hosts, and can be stopped at any time."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from jobs.lease import JobStatus, run_if_due
from jobs.runtime import open_app
from jobs.schedule import APSCHEDULER_DEFAULTS, JOBS, JobSchedule, job_schedules
from pipeline.core.errors import Stopped
from pipeline.enablex.simulator.world import World
from pipeline.storage.run_store import RunStore
from pipeline.tables import parquet
from tests.conftest import NOW, Site
from tests.integration.media.test_copy import WORLD, stored_digests
from tests.support.environ import clean_environ
from tests.support.servers.postgres import PostgresServer


def job(site: Site, name: str) -> JobSchedule:
    return next(job for job in job_schedules(site.settings()) if job.name == name)


def start(command: list[str], site: Site, **environ: str) -> subprocess.Popen[str]:
    environment = {**clean_environ(), "POSTROOM_CONFIG": str(site.config), **environ}
    return subprocess.Popen([sys.executable, *command], stderr=subprocess.PIPE, text=True, env=environment)


def wait_for(process: subprocess.Popen[str], event: str) -> list[dict[str, Any]]:
    """The logged events up to and including this one."""
    assert process.stderr is not None
    events: list[dict[str, Any]] = []
    while not events or events[-1]["event"] != event:
        line = process.stderr.readline()
        assert line, f"{event} never came: {events}"
        if line.startswith("{"):
            events.append(json.loads(line))
    return events


def test_every_job_runs_once_when_it_is_due(site: Site) -> None:
    """Each scheduled job completes against a live API and records its last success in the run store; at the same time
    it is no longer due."""
    for schedule in job_schedules(site.settings()):
        assert run_if_due(schedule, site.settings(), now=NOW) is JobStatus.COMPLETED
        assert run_if_due(schedule, site.settings(), now=NOW) is JobStatus.NOT_DUE
    assert {schedule.job for schedule in job_schedules(site.settings())} == set(JOBS)
    run_store = RunStore(site.settings().run_store.url)
    assert set(run_store.last_successes_by_command()) == set(JOBS)
    run_store.close()


def test_a_job_that_is_not_due_opens_no_store(site: Site) -> None:
    """It reads the run store without changing its bytes, and opens no store: an unusable store does not matter."""
    snapshot = job(site, "rooms snapshot")
    assert run_if_due(snapshot, site.settings(), now=NOW) is JobStatus.COMPLETED
    before = (site.folder / "ledger.db").read_bytes()
    (site.folder / "vault").rename(site.folder / "away")
    (site.folder / "vault").symlink_to(site.folder / "vault")
    assert run_if_due(snapshot, site.settings(), now=NOW) is JobStatus.NOT_DUE
    assert (site.folder / "ledger.db").read_bytes() == before
    assert run_if_due(snapshot, site.settings(), now=NOW + timedelta(days=1)) is JobStatus.FAILED


def test_schedulers_share_the_work(make_site: Callable[..., Site], postgres: PostgresServer) -> None:
    """Of four schedulers that start a job concurrently on one PostgreSQL, one runs it and the others skip it."""
    site = make_site(WORLD)
    site.configure(f"sqlite:///{site.folder}/ledger.db", postgres.new_database())
    with ThreadPoolExecutor(4) as hosts:
        statuses = list(
            hosts.map(lambda _: run_if_due(job(site, "media copy"), site.settings(), now=NOW), range(4)),
        )
    assert statuses.count(JobStatus.COMPLETED) == 1
    assert set(statuses) <= {JobStatus.COMPLETED, JobStatus.LOCKED, JobStatus.NOT_DUE}
    assert site.downloads() == len({request.path for request in site.simulator.requests if request.host != "api"})


def test_two_schedulers_start_together(make_site: Callable[..., Site]) -> None:
    """Two processes on one run store run the due jobs at start: each job once, and every file is stored."""
    today = datetime.now(UTC)
    world = World(projects=("acme",), sessions_per_day=4, begin=today.date() - timedelta(days=1))
    site = make_site(world, now=today)
    site.configure("[collect]\n", f"[schedule]\n{ONCE_A_YEAR}\n[collect]\n")
    with site.app() as app, start(["-m", "jobs"], site) as first, start(["-m", "jobs"], site) as second:
        while set(app.run_store.last_successes_by_command()) != set(JOBS):
            assert (first.poll(), second.poll()) == (None, None)
            time.sleep(0.05)
        for process in (first, second):
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=30)
        assert (first.returncode, second.returncode) == (0, 0)
        assert app.run_store.run_ends() == {(job, 0): 1 for job in JOBS}
    assert stored_digests(site) == sorted(file.sha256 for file in site.truth_files().values()) != []


ONCE_A_YEAR = "\n".join(
    f'{job} = "0 0 1 1 *"' for job in ("copy_media", "nightly", "audit_media", "rooms_apply", "rooms_snapshot")
)


def test_a_project_with_its_own_nightly(make_site: Callable[..., Site]) -> None:
    """A project with its own time is not part of the shared nightly job, and its own job contains only that project."""
    site = make_site(World(projects=("acme", "globex"), sessions_per_day=1, begin=NOW.date()))
    site.configure("[projects.globex]\n", '[projects.globex]\nnightly = "45 20 * * *"\n')
    assert run_if_due(job(site, "nightly globex"), site.settings(), now=NOW) is JobStatus.COMPLETED
    assert {key.split("project=")[1].split("/")[0] for key in site.objects("vault/raw/")} == {"globex"}
    assert run_if_due(job(site, "nightly"), site.settings(), now=NOW) is JobStatus.COMPLETED
    assert {key.split("project=")[1].split("/")[0] for key in site.objects("vault/raw/")} == {"globex", "acme"}


def test_an_interrupted_job_is_still_due(site: Site) -> None:
    """A run in which all items failed, or that was stopped, does not count as done; the next run does its work."""
    site.simulator.faults.on("api_500")
    assert run_if_due(job(site, "nightly"), site.settings(), now=NOW) is JobStatus.FAILED
    site.simulator.faults.clear()
    assert run_if_due(job(site, "nightly"), site.settings(), now=NOW, is_stopping=lambda: True) is JobStatus.FAILED
    assert run_if_due(job(site, "nightly"), site.settings(), now=NOW) is JobStatus.COMPLETED


def test_an_interrupted_job_is_one_error(site: Site) -> None:
    """A run that cannot continue is one error line with its job; so is a job that cannot start its run."""
    (site.folder / "vault").write_text("a file where the vault should be")
    with capture_logs() as lines:
        assert run_if_due(job(site, "nightly"), site.settings(), now=NOW) is JobStatus.FAILED
    errors = [line for line in lines if line["log_level"] == "error"]
    assert [(line["event"], line["error"].count("\n")) for line in errors] == [("run.failed", 0)]
    site.configure('url = "sqlite:///', 'url = "sqlite:////dev/null/')
    with capture_logs() as lines:
        assert run_if_due(job(site, "nightly"), site.settings(), now=NOW) is JobStatus.FAILED
    errors = [line for line in lines if line["log_level"] == "error"]
    assert [(line["event"], line["job"]) for line in errors] == [("job.failed", "nightly")]


def test_a_total_failure_is_still_due_while_files_are_at_risk(site: Site) -> None:
    """Files at risk make the exit code 4; a nightly run in which all items failed is still retried soon, and does not
    count as successful."""
    nightly, clock, faults = job(site, "nightly"), site.simulator.clock, site.simulator.faults
    faults.on("files_down")
    assert run_if_due(nightly, site.settings(), now=NOW) is JobStatus.COMPLETED
    clock.advance(timedelta(hours=60))
    faults.on("api_down")
    assert site.run("--json", "nightly").returncode == 4
    assert run_if_due(nightly, site.settings(), now=clock.now()) is JobStatus.FAILED
    with site.app() as app:
        assert app.run_store.last_done("nightly") == NOW
    faults.clear()
    assert run_if_due(nightly, site.settings(), now=clock.now()) is JobStatus.COMPLETED


def test_after_an_outage_files_are_copied_first(make_site: Callable[..., Site]) -> None:
    """After three days without runs, one run of each job in the order of the schedule first copies the files that are
    still available, by deadline, then collects the CDRs of every missed day."""
    site = make_site(World(projects=("acme",), sessions_per_day=2, begin=NOW.date() - timedelta(days=1)))
    for schedule in job_schedules(site.settings()):
        run_if_due(schedule, site.settings(), now=NOW)
    before = len(site.simulator.requests)
    site.simulator.clock.advance(timedelta(days=3))
    now = site.simulator.clock.now()
    for schedule in job_schedules(site.settings()):
        assert run_if_due(schedule, site.settings(), now=now) in {JobStatus.COMPLETED, JobStatus.NOT_DUE}
    targets = ["cdr" if "/cdr/" in request.path else request.host for request in site.simulator.requests[before:]]
    assert targets.index("files") < targets.index("cdr")
    assert {file.sha256 for file in site.truth_files().values()} <= set(stored_digests(site))
    with site.app() as app:
        table = parquet.read_arrow("cdr", columns=["cdr_id"], project="acme", lake=app.lake)
    assert sorted(table["cdr_id"].to_pylist()) == site.truth_cdr_ids(NOW - timedelta(days=5), now)["acme"]


def test_missed_fire_times_run_late_and_once() -> None:
    """A late fire time is not dropped, several missed ones run once, and no job runs concurrently with itself."""
    assert APSCHEDULER_DEFAULTS == {"misfire_grace_time": None, "coalesce": True, "max_instances": 1}


def test_stopping_finishes_running_items(site: Site) -> None:
    """After a stop request, a flow finishes running items, starts no other, and reports how many are left."""
    stop = threading.Event()
    done = []

    def item(number: int) -> int:
        done.append(number)
        stop.set()
        return number

    with (
        open_app(site.settings(), now=NOW, is_stopping=stop.is_set) as app,
        pytest.raises(Stopped, match="things: 3 left"),
    ):
        app.map_items("things", range(4), item, max_concurrency=1)
    assert done == [0]


def test_the_scheduler_stops_cleanly_on_sigterm(site: Site, tmp_path: Path) -> None:
    """`postroom schedule` runs due jobs immediately, notifies systemd that it is ready, alive and stopping, and ends
    with exit code 0."""
    site.simulator.clock.set(datetime.now(UTC))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(30)
        environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "100000"}
        process = start(["-m", "pipeline", "schedule"], site, **environ)
        events = wait_for(process, "run.finished")
        assert [event["job"] for event in events if event["event"] == "job.scheduled"] == list(JOBS)
        assert events[-1]["command"] == "media copy"
        messages = [systemd.recv(100) for _ in range(2)]
        process.send_signal(signal.SIGTERM)
        wait_for(process, "scheduler.stopping")
        _, rest = process.communicate(timeout=30)
        while messages[-1] == b"WATCHDOG=1":
            messages.append(systemd.recv(100))
    assert process.returncode == 0, rest
    assert messages[:2] == [b"READY=1", b"WATCHDOG=1"]
    assert messages[-1] == b"STOPPING=1"


def test_an_item_that_takes_too_long_is_interrupted(site: Site) -> None:
    """An item that does not end in time is interrupted, and the exit code is still 0."""
    site.simulator.faults.on("slow=60")
    process = start(["-c", "import sys, jobs.scheduler as m; m._GRACE_S = 0.2; sys.exit(m.main())"], site)
    wait_for(process, "job.scheduled")
    while not site.simulator.requests:
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    events = wait_for(process, "job.interrupted")
    process.communicate(timeout=30)
    assert events[-2]["event"] == "scheduler.stopping"
    assert process.returncode == 0


def test_the_scheduler_refuses_now(site: Site) -> None:
    """`postroom schedule` refuses --now, in one line."""
    refused = site.run("schedule")
    assert (refused.returncode, "does not support --now" in refused.stderr) == (2, True)


def test_without_a_project_the_scheduler_does_not_start(tmp_path: Path) -> None:
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
