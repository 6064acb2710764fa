"""Recording and announcing a run, with real processes, a webhook on a socket, and prometheus-client's parser."""

from __future__ import annotations

import json
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from jobs.monitoring.exporter import MetricsCollector
from jobs.run import record_run
from jobs.status import status
from pipeline.core.errors import StoreUnavailable
from pipeline.core.log import MASK
from pipeline.core.models import RunResult
from tests.conftest import NOW, Site
from tests.support.environ import clean_environ
from tests.support.promtool import check_metrics

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(text: str) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_night_is_in_the_log_the_run_store_and_the_textfile(make_site: Callable[..., Site]) -> None:
    """Every log line of a run has the run id of the run store, and lines about an item its project and day, also from
    threads; the text file contains all metrics, with the values of `status` and the run store."""
    site = make_site(faults=("api_500=3",))
    textfile = site.folder / "node/postroom.prom"
    site.configure("[collect]\n", f'[metrics]\ntextfile = "{textfile}"\n\n[collect]\n')
    site.configure("max_attempts = 2", "max_attempts = 9")
    done = site.postroom("--json", "--verbose", "nightly")
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    with sqlite3.connect(site.folder / "ledger.db") as run_store:
        (run_id, counts), *others = run_store.execute("SELECT run_id, counts FROM runs").fetchall()
    counts = json.loads(counts)
    assert others == []
    assert {(line["run_id"], line["command"]) for line in lines} == {(run_id, "nightly")}
    assert {line["event"] for line in lines} >= {
        "run.started",
        "run.finished",
        "response.landed",
        "media.recorded",
        "request.retried",
    }
    for line in lines:
        if line["event"] in {"response.landed", "media.recorded", "request.retried"}:
            assert line["project"] == "acme"
            assert line["day"].startswith("2026-11-")
            assert line["item"]
    assert counts["retries"] == sum(line["event"] == "request.retried" for line in lines) > 0

    values = samples(textfile.read_text())
    with site.app() as app:
        current = status(app)
    acme = current.details.projects["acme"]
    assert values["postroom_media_files", (("project", "acme"), ("state", "stored"))] == acme.media["stored"].files
    assert values["postroom_media_at_risk_files", (("project", "acme"),)] == len(current.at_risk)
    assert values["postroom_days", (("project", "acme"), ("state", "settled"))] == acme.days.settled
    assert values["postroom_status_timestamp_seconds", ()] == NOW.timestamp()
    assert values["postroom_last_success_timestamp_seconds", (("command", "nightly"),)] == NOW.timestamp()
    for metric, count in {"retries": "retries", "rows_built": "rows", "copied_bytes": "bytes_copied"}.items():
        assert values[f"postroom_{metric}_total", (("command", "nightly"),)] == counts[count] > 0
    assert list(textfile.parent.iterdir()) == [textfile]
    check_metrics(textfile.read_text())

    with site.app() as app:
        record_run(app, "nightly", succeeding, is_unattended=False)
    again = samples(textfile.read_text())
    assert again["postroom_runs_total", (("command", "nightly"), ("exit_code", "0"))] == 2
    assert again["postroom_retries_total", (("command", "nightly"),)] == counts["retries"]


def test_the_scheduler_serves_metrics_on_loopback(site: Site) -> None:
    """With `metrics.port`, `python -m jobs` serves metrics from the start, on loopback; a port in use is named."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        site.configure("[collect]\n", f"[metrics]\nport = {port}\n\n[collect]\n")
        environment = {**clean_environ(), "POSTROOM_CONFIG": str(site.config)}
        command = [sys.executable, "-m", "jobs"]
        refused = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=60)
    assert refused.returncode == 2
    assert f"metrics.port {port} at 127.0.0.1: " in refused.stderr
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        process.stderr.readline()  # job.scheduled; metrics are served before it
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
            text = response.read().decode()
        process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=30)
        finally:
            process.kill()
    assert samples(text)["postroom_media_files", (("project", "acme"), ("state", "stored"))] == 0


class Receiver(HTTPServer):
    """Receives webhook messages and heartbeats; returns `status`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.texts: list[str] = []
        self.pings = 0
        self.status = 200

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def received(self) -> tuple[list[str], int]:
        """The lines and pings since the last call."""
        received = [line for text in self.texts for line in text.splitlines()], self.pings
        self.texts, self.pings = [], 0
        return received


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.server.status == 200:
            self.server.texts.append(json.loads(body)["text"])
        self._answer()

    def do_GET(self) -> None:
        self.server.pings += 1
        self._answer()

    def _answer(self) -> None:
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def failing(item: str = "acme/cdr/2026-11-22") -> Callable[[object], RunResult]:
    def flow(_app: object) -> RunResult:
        outcome = RunResult("nightly")
        outcome.add_failure(item, "it broke", project="acme")
        return outcome

    return flow


def succeeding(_app: object) -> RunResult:
    return RunResult("nightly")


def test_each_change_is_sent_once(site: Site, receiver: Receiver) -> None:
    """A webhook receives each change once, for any number of runs. The heartbeat is sent after successful runs, and not
    while another job is failing. Deleting the run store repeats one message. An attended run sends nothing."""
    secrets = f'webhook_url = "{receiver.url}/services/T0/sEcReT"\nheartbeat_url = "{receiver.url}/ping/sEcReT"\n'
    site.configure("[collect]\n", f"[notify]\n{secrets}\n[collect]\n")

    def run(flow: Callable[..., RunResult], command: str = "nightly", *, unattended: bool = True) -> None:
        with site.app() as app:
            record_run(app, command, flow, is_unattended=unattended)

    failure = ["acme: nightly failed: acme/cdr/2026-11-22: it broke"]
    run(succeeding)
    assert receiver.received() == ([], 1)
    run(failing())
    assert receiver.received() == (failure, 0)
    run(failing("another"))
    run(succeeding, "media copy")
    assert receiver.received() == ([], 0)
    run(succeeding, unattended=False)
    assert receiver.received() == ([], 0)
    (site.folder / "ledger.db").unlink()
    run(failing())
    run(failing())
    assert receiver.received() == (failure, 0)
    run(succeeding)
    run(succeeding)
    assert receiver.received() == (["acme: nightly works again"], 2)


def test_a_webhook_that_fails_is_one_line(site: Site, receiver: Receiver) -> None:
    """A message that cannot be sent fails no run, is one log line without the secret, and is sent after the next run;
    an interrupted run is announced too, and its error is raised."""
    site.configure("[collect]\n", f'[notify]\nwebhook_url = "{receiver.url}/services/T0/sEcReT"\n\n[collect]\n')

    def breaking(_app: object) -> RunResult:
        raise StoreUnavailable(f"no disk; see {receiver.url}/services/T0/sEcReT")

    with site.app() as app:
        receiver.status = 500
        with capture_logs() as lines:
            assert record_run(app, "nightly", failing(), is_unattended=True).exit_code == 1
        warned = [line for line in lines if line["log_level"] == "warning"]
        assert [line["event"] for line in warned] == ["notify.failed"]
        assert "status 500" in warned[0]["error"]
        assert "sEcReT" not in str(lines)
        receiver.status = 200
        with pytest.raises(StoreUnavailable):
            record_run(app, "nightly", breaking, is_unattended=True)
        assert receiver.received() == ([f"acme: nightly failed: nightly: no disk; see {MASK}"], 0)


def test_notifications_do_not_need_the_textfile(site: Site, receiver: Receiver, tmp_path: Path) -> None:
    """If the text file cannot be written, one warning is logged and notifications are still sent."""
    (tmp_path / "file").write_text("")
    textfile = tmp_path / "file/postroom.prom"
    more = f'[metrics]\ntextfile = "{textfile}"\n\n[notify]\nwebhook_url = "{receiver.url}/hook"\n\n[collect]\n'
    site.configure("[collect]\n", more)
    with site.app() as app, capture_logs() as lines:
        record_run(app, "nightly", failing(), is_unattended=True, collector=MetricsCollector())
    assert [line["event"] for line in lines if line["log_level"] == "warning"] == ["metrics.not_written"]
    assert len(receiver.received()[0]) == 1


def test_runs_that_end_together_send_once(site: Site, receiver: Receiver) -> None:
    """A change that several hosts observe concurrently is sent by one of them."""
    site.configure("[collect]\n", f'[notify]\nwebhook_url = "{receiver.url}/"\n\n[collect]\n')
    together = threading.Barrier(4)

    def flow(_app: object) -> RunResult:
        together.wait()
        return RunResult("nightly")

    def run(number: int) -> None:
        with site.app(NOW + timedelta(days=9)) as app:
            record_run(app, f"job {number}", flow, is_unattended=True)

    with ThreadPoolExecutor(4) as hosts:
        list(hosts.map(run, range(4)))
    ((line,), _) = receiver.received()
    assert line.startswith("acme: days overdue for collection: 2026-11-21, ")
