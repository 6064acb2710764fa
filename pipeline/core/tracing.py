"""OpenTelemetry spans, exported to OTEL_EXPORTER_OTLP_ENDPOINT (extra postroom[otel]).

One trace per run; one span per item, attempt of a request and write of an object, in all threads and processes. A span
has the fields of a log line (run, command, item, project, day). The span of a request also has method, host and status,
but no path, query or header. The standard OTEL_… variables apply.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar
from urllib.parse import urlsplit

from structlog.contextvars import bound_contextvars, get_contextvars

from pipeline import __version__
from pipeline.core.errors import ConfigError

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_FLUSH_S, _CLOSE_S = 1.0, 5.0
_LOG_FIELDS = ("run_id", "command", "item", "project", "day")

SetAttribute = Callable[[str, str | int], None]
"""Sets one attribute of a span."""


class Tracer:
    """Creates and exports spans; at most one per process, `current`."""

    current: ClassVar[Tracer | None] = None

    def __init__(self, redact: Callable[[str], str]) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - an extra
            from opentelemetry.sdk import resources, trace  # noqa: PLC0415
            from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
        except ModuleNotFoundError:
            name = next(name for name in _ENDPOINTS if os.environ.get(name))
            raise ConfigError(
                f'{name} is set, but OpenTelemetry is not installed; pip install "postroom[otel]"'
            ) from None
        resource = resources.Resource({"service.name": "postroom", "service.version": __version__})
        self._provider = trace.TracerProvider(
            resource=resource.merge(resources.OTELResourceDetector().detect()), shutdown_on_exit=False
        )
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("postroom", __version__)
        self._redact = redact
        self._flushing = threading.Thread()

    @contextmanager
    def span(self, name: str, attributes: Mapping[str, str | int], *, is_request: bool) -> Iterator[SetAttribute]:
        from opentelemetry.trace import SpanKind, Status, StatusCode  # noqa: PLC0415 - an extra

        context = get_contextvars()
        fields = {f"postroom.{key}": str(context[key]) for key in _LOG_FIELDS if key in context} | dict(attributes)
        with self._tracer.start_as_current_span(
            name,
            kind=SpanKind.CLIENT if is_request else SpanKind.INTERNAL,
            attributes={key: self._redact(value) if isinstance(value, str) else value for key, value in fields.items()},
            record_exception=False,  # its text may contain secrets
            set_status_on_exception=False,
        ) as span:
            try:
                yield span.set_attribute
            except Exception as error:
                span.set_attribute("error.type", type(error).__name__)
                span.set_status(Status(StatusCode.ERROR, self._redact(str(error))))
                raise

    def flush(self) -> None:
        """Export finished spans; wait at most 1 second if the receiver does not answer."""
        if not self._flushing.is_alive():
            self._flushing = _start_thread(self._provider.force_flush)
            self._flushing.join(_FLUSH_S)

    def close(self) -> None:
        """Export the remaining spans; wait at most 5 seconds, because a stopping process has 30 seconds in total."""
        _start_thread(self._provider.shutdown).join(_CLOSE_S)


def _start_thread(action: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=action, name="postroom-traces", daemon=True)
    thread.start()
    return thread


@contextmanager
def export_spans(redact: Callable[[str], str]) -> Iterator[None]:
    """Export spans during the block, if the environment enables them. Raises ConfigError without postroom[otel]."""
    start_export(redact)
    try:
        yield
    finally:
        if tracer := Tracer.current:
            Tracer.current = None
            tracer.close()


def start_export(redact: Callable[[str], str]) -> None:
    """Export spans until the process ends: for workers, which export after each item and have none left at the end."""
    if Tracer.current is None and is_enabled(os.environ):
        Tracer.current = Tracer(redact)


def is_enabled(environ: Mapping[str, str]) -> bool:
    """Whether the standard variables enable traces."""
    is_off = environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or environ.get("OTEL_TRACES_EXPORTER") == "none"
    return not is_off and any(environ.get(name) for name in _ENDPOINTS)


@contextmanager
def span(
    name: str, attributes: Mapping[str, str | int] | None = None, *, is_request: bool = False
) -> Iterator[SetAttribute]:
    """A child of the current span; an exception of the block becomes its error. Does nothing if export is off."""
    if Tracer.current is None:
        yield lambda _name, _value: None
        return
    with Tracer.current.span(name, attributes or {}, is_request=is_request) as set_attribute:
        yield set_attribute


@contextmanager
def request_span(method: str, url: str) -> Iterator[Callable[[int], None]]:
    """Span of one attempt of a request, until its reply is read. Yields a function that sets the HTTP status."""
    attributes = {"http.request.method": method, "server.address": urlsplit(url).hostname or ""}
    with span(method, attributes, is_request=True) as set_attribute:
        yield lambda status: set_attribute("http.response.status_code", status)


@contextmanager
def run_span(command: str) -> Iterator[None]:
    """Span of a run; adds `trace_id` to the log lines of the run."""
    with span(command):
        if Tracer.current is None:
            yield
            return
        from opentelemetry.trace import format_trace_id, get_current_span  # noqa: PLC0415 - an extra

        with bound_contextvars(trace_id=format_trace_id(get_current_span().get_span_context().trace_id)):
            yield


def inject_context() -> dict[str, Any]:
    """The current span and log fields, for another process; empty if export is off."""
    carrier: dict[str, Any] = {}
    if Tracer.current:
        from opentelemetry.propagate import inject  # noqa: PLC0415 - an extra

        inject(carrier)
        carrier["log_fields"] = {key: value for key, value in get_contextvars().items() if key in _LOG_FIELDS}
    return carrier


@contextmanager
def attach_context(carrier: Mapping[str, Any]) -> Iterator[None]:
    """Continue in another process below the span of `inject_context`; export finished spans before returning."""
    if Tracer.current is None or not carrier:
        yield
        return
    from opentelemetry import context  # noqa: PLC0415 - an extra
    from opentelemetry.propagate import extract  # noqa: PLC0415

    token = context.attach(extract(carrier))
    try:
        with bound_contextvars(**carrier["log_fields"]):
            yield
    finally:
        context.detach(token)
        Tracer.current.flush()
