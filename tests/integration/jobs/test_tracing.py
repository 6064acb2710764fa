"""OpenTelemetry: the spans of a nightly run, sent to a receiver of OTLP over HTTP."""

from __future__ import annotations

import base64
import json
import sqlite3
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from pipeline.core.tracing import is_enabled
from tests.conftest import Site

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


class Collector(ThreadingHTTPServer):
    """Receives spans by OTLP/HTTP in protobuf."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.bodies: list[bytes] = []
        self.services: set[str] = set()
        self.spans: list[Any] = []


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        assert self.path == "/v1/traces"
        self.server.bodies.append(body)
        for resource_spans in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.server.services.add(fields(resource_spans.resource)["service.name"])
            self.server.spans += [span for scope in resource_spans.scope_spans for span in scope.spans]
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """No access log."""


def fields(message: Any) -> dict[str, Any]:
    return {
        attribute.key: getattr(attribute.value, attribute.value.WhichOneof("value")) for attribute in message.attributes
    }


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with Collector() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv(ENDPOINT, f"http://127.0.0.1:{server.server_port}")
        yield server
        server.shutdown()


def test_a_night_is_one_trace(make_site: Callable[..., Site], collector: Collector) -> None:
    """Run, items, requests and writes are spans of one trace, each a child of what it is part of, also from worker
    processes. The run id is that of the run store, the trace id is in the log, and no span has a secret or a query."""
    site = make_site(faults=("api_500=1",))
    site.configure("[collect]\n", '[executor]\nbackend = "processes"\nworkers = 1\n\n[collect]\n')
    done = site.run("--verbose", "nightly")
    assert done.returncode in {0, 4}
    spans = {span.span_id: span for span in collector.spans}
    about = {span_id: fields(span) for span_id, span in spans.items()}
    root, *others = [span for span in spans.values() if not span.parent_span_id]
    assert others == []
    with sqlite3.connect(site.folder / "ledger.db") as run_store:
        [(run_id,)] = run_store.execute("SELECT run_id FROM runs").fetchall()
    assert (root.name, about[root.span_id]["postroom.run_id"], collector.services) == ("nightly", run_id, {"postroom"})
    assert {span.trace_id for span in spans.values()} == {root.trace_id}
    assert {attributes["postroom.run_id"] for attributes in about.values()} == {run_id}

    parents = Counter((spans[span.parent_span_id].name, span.name) for span in spans.values() if span is not root)
    assert set(parents) >= {
        ("nightly", "collect"), ("nightly", "build"), ("nightly", "copy media"), ("collect", "GET"),
        ("collect", "write"), ("build", "write"), ("copy media", "GET"), ("copy media", "write"),
    }  # fmt: skip
    for span in spans.values():
        if span.name in {"collect", "copy media"}:
            assert about[span.span_id]["postroom.project"] == "acme"
            assert about[span.span_id]["postroom.day"].startswith("2026-11-")
    requests = [
        (attributes["http.request.method"], attributes["http.response.status_code"])
        for attributes in about.values()
        if "http.request.method" in attributes
    ]
    assert Counter(requests) == Counter((request.method, request.status) for request in site.simulator.requests)
    [failed] = [about[span.span_id] for span in spans.values() if span.status.code == 2]
    assert (failed["http.response.status_code"], failed["error.type"]) == (500, "Unreachable")

    lines = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert {line["trace_id"] for line in lines if line["event"].startswith("run.")} == {root.trace_id.hex()}
    project = site.world.project("acme")
    pairs = [(project.app_id, project.app_key), (project.files_user, project.files_password)]
    secrets = {secret.encode() for pair in pairs for secret in pair[1:]}
    secrets |= {base64.b64encode(":".join(pair).encode()) for pair in pairs}
    sent = b"".join(collector.bodies)
    assert not [secret for secret in (*secrets, b"from_date", b"Authorization") if secret in sent]
    assert not [text for attributes in about.values() for text in map(str, attributes.values()) if "?" in text]


def test_traces_need_their_extra(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """If traces are enabled but OpenTelemetry is not installed, one line names the package, and nothing runs."""
    monkeypatch.setenv(ENDPOINT, "http://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    done = site.run("status")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f'postroom: {ENDPOINT} is set, but OpenTelemetry is not installed; pip install "postroom[otel]"\n'
    )


@pytest.mark.parametrize(
    ("environ", "enabled"),
    [
        ({}, False),
        ({ENDPOINT: ""}, False),
        ({ENDPOINT: "http://h:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://h:4318/v1/traces"}, True),
        ({ENDPOINT: "http://h:4318", "OTEL_TRACES_EXPORTER": "none"}, False),
        ({ENDPOINT: "http://h:4318", "OTEL_SDK_DISABLED": "true"}, False),
    ],
)
def test_traces_are_off_by_default(environ: dict[str, str], enabled: bool) -> None:
    """Only an endpoint in the standard variables turns traces on, and the standard switches turn them off."""
    assert is_enabled(environ) is enabled
