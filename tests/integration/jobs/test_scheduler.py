"""The scheduler: an alarm clock around the flows, shared by several hosts, stopped at any time."""

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
    """Everything that is logged, up to and with this event."""
    assert process.stderr is not None
    events: list[dict[str, Any]] = []
    while not events or events[-1]["event"] != event:
        line = process.stderr.readline()
        assert line, f"{event} never came: {events}"
        if line.startswith("{"):
            events.append(json.loads(line))
    return events


def test_every_job_runs_once_when_it_is_due(site: Site) -> None:
    """Each job of the timetable does its work against a live API and leaves its last good run in the ledger; asked
    again at the same moment it is not due any more."""
    for each in job_schedules(site.settings()):
        assert run_if_due(each, site.settings(), now=NOW) is JobStatus.COMPLETED
        assert run_if_due(each, site.settings(), now=NOW) is JobStatus.NOT_DUE
    assert {each.job for each in job_schedules(site.settings())} == set(JOBS)
    run_store = RunStore(site.settings().run_store.url)
    assert set(run_store.last_successes_by_command()) == set(JOBS)
    run_store.close()


def test_a_turn_that_is_not_due_costs_nothing(site: Site) -> None:
    """It asks the ledger and leaves its bytes as they are; no store is opened: not even one that is out of order."""
    snapshot = job(site, "rooms snapshot")
    assert run_if_due(snapshot, site.settings(), now=NOW) is JobStatus.COMPLETED
    run_store = (site.folder / "ledger.db").read_bytes()
    (site.folder / "vault").rename(site.folder / "away")
    (site.folder / "vault").symlink_to(site.folder / "vault")
    assert run_if_due(snapshot, site.settings(), now=NOW) is JobStatus.NOT_DUE
    assert (site.folder / "ledger.db").read_bytes() == run_store
    assert run_if_due(snapshot, site.settings(), now=NOW + timedelta(days=1)) is JobStatus.FAILED


def test_schedulers_share_the_work(make_site: Callable[..., Site], postgres: PostgresServer) -> None:
    """Four schedulers whose alarm rings at once, on one PostgreSQL: one does the job, the others leave it."""
    site = make_site(WORLD)
    site.configure(f"sqlite:///{site.folder}/ledger.db", postgres.new_database())
    with ThreadPoolExecutor(4) as hosts:
        turns = list(
            hosts.map(lambda _: run_if_due(job(site, "media copy"), site.settings(), now=NOW), range(4)),
        )
    assert turns.count(JobStatus.COMPLETED) == 1
    assert set(turns) <= {JobStatus.COMPLETED, JobStatus.LOCKED, JobStatus.NOT_DUE}
    assert site.downloads() == len({request.path for request in site.simulator.requests if request.host != "api"})


def test_two_schedulers_start_together(make_site: Callable[..., Site]) -> None:
    """Two real processes on one ledger do at their start what is due: between them each job once, and every file."""
    today = datetime.now(UTC)
    world = World(projects=("acme",), sessions_per_day=4, begin=today.date() - timedelta(days=1))
    site = make_site(world, now=today)
    site.configure("[collect]\n", f"[schedule]\n{ONCE_A_YEAR}\n[collect]\n")
    with site.app() as app, start(["-m", "jobs"], site) as one, start(["-m", "jobs"], site) as other:
        while set(app.run_store.last_successes_by_command()) != set(JOBS):
            assert (one.poll(), other.poll()) == (None, None)
            time.sleep(0.05)
        for process in (one, other):
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=30)
        assert (one.returncode, other.returncode) == (0, 0)
        assert app.run_store.run_ends() == {(job, 0): 1 for job in JOBS}
    assert stored_digests(site) == sorted(file.sha256 for file in site.truth_files().values()) != []


ONCE_A_YEAR = "\n".join(
    f'{job} = "0 0 1 1 *"' for job in ("copy_media", "nightly", "audit_media", "rooms_apply", "rooms_snapshot")
)


def test_a_project_has_a_night_of_its_own(make_site: Callable[..., Site]) -> None:
    """A project with its own time is left out of the others' nightly, and its own takes nobody else's days."""
    site = make_site(World(projects=("acme", "globex"), sessions_per_day=1, begin=NOW.date()))
    site.configure("[projects.globex]\n", '[projects.globex]\nnightly = "45 20 * * *"\n')
    assert run_if_due(job(site, "nightly globex"), site.settings(), now=NOW) is JobStatus.COMPLETED
    assert {key.split("project=")[1].split("/")[0] for key in site.objects("vault/raw/")} == {"globex"}
    assert run_if_due(job(site, "nightly"), site.settings(), now=NOW) is JobStatus.COMPLETED
    assert {key.split("project=")[1].split("/")[0] for key in site.objects("vault/raw/")} == {"globex", "acme"}


def test_what_broke_off_is_still_due(site: Site) -> None:
    """A turn in which nothing worked, or that was stopped, is not counted as done; the next one makes up for it."""
    site.simulator.faults.on("api_500")
    assert run_if_due(job(site, "nightly"), site.settings(), now=NOW) is JobStatus.FAILED
    site.simulator.faults.clear()
    assert run_if_due(job(site, "nightly"), site.settings(), now=NOW, is_stopping=lambda: True) is JobStatus.FAILED
    assert run_if_due(job(site, "nightly"), site.settings(), now=NOW) is JobStatus.COMPLETED


def test_a_job_that_breaks_off_is_one_error(site: Site) -> None:
    """A run that cannot go on is one line among the errors, with its job; so is a job that does not come to its run."""
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


def test_what_did_nothing_is_still_due_while_files_are_at_risk(site: Site) -> None:
    """Files at risk make the exit code 4; a night in which nothing worked is tried again soon all the same, and is no
    good run."""
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


def test_after_days_off_the_nearest_to_deletion_comes_first(make_site: Callable[..., Site]) -> None:
    """After three days off, one turn of each job in the timetable's order: files that still live are fetched first
    (by deadline, as media copy does), then every missed day has its CDRs."""
    site = make_site(World(projects=("acme",), sessions_per_day=2, begin=NOW.date() - timedelta(days=1)))
    for each in job_schedules(site.settings()):
        run_if_due(each, site.settings(), now=NOW)
    seen = len(site.simulator.requests)
    site.simulator.clock.advance(timedelta(days=3))
    now = site.simulator.clock.now()
    for each in job_schedules(site.settings()):
        assert run_if_due(each, site.settings(), now=now) in {JobStatus.COMPLETED, JobStatus.NOT_DUE}
    asked = ["cdr" if "/cdr/" in request.path else request.host for request in site.simulator.requests[seen:]]
    assert asked.index("files") < asked.index("cdr")
    assert {file.sha256 for file in site.truth_files().values()} <= set(stored_digests(site))
    with site.app() as app:
        table = parquet.read_arrow("cdr", columns=["cdr_id"], project="acme", lake=app.lake)
    assert sorted(table["cdr_id"].to_pylist()) == site.truth_cdr_ids(NOW - timedelta(days=5), now)["acme"]


def test_missed_alarms_are_run_late_and_once() -> None:
    """No alarm is dropped for being late, several missed ones are one, and no job runs beside itself."""
    assert APSCHEDULER_DEFAULTS == {"misfire_grace_time": None, "coalesce": True, "max_instances": 1}


def test_stopping_finishes_what_is_under_way(site: Site) -> None:
    """Asked to stop, a flow finishes the items that it has begun, begins no other, and says how many are left."""
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
    """`postroom schedule` does at once what is due, tells systemd that it is ready, alive and stopping, and
    ends by itself with exit code 0."""
    site.simulator.clock.set(datetime.now(UTC))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(30)
        environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "100000"}
        process = start(["-m", "pipeline", "schedule"], site, **environ)
        events = wait_for(process, "run.finished")
        assert [event["job"] for event in events if event["event"] == "job.scheduled"] == list(JOBS)
        assert events[-1]["command"] == "media copy"
        heard = [systemd.recv(100) for _ in range(2)]
        process.send_signal(signal.SIGTERM)
        wait_for(process, "scheduler.stopping")
        _, rest = process.communicate(timeout=30)
        while heard[-1] == b"WATCHDOG=1":
            heard.append(systemd.recv(100))
    assert process.returncode == 0, rest
    assert heard[:2] == [b"READY=1", b"WATCHDOG=1"]
    assert heard[-1] == b"STOPPING=1"


def test_what_takes_too_long_is_parked(site: Site) -> None:
    """An item that does not end in time is left where it is, and the exit code is 0 all the same."""
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


def test_the_scheduler_goes_by_the_clock(site: Site) -> None:
    """`postroom schedule` refuses --now, in one line."""
    refused = site.run("schedule")
    assert (refused.returncode, "does not support --now" in refused.stderr) == (2, True)


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
