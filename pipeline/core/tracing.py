"""OpenTelemetry: durations as spans, sent to OTEL_EXPORTER_OTLP_ENDPOINT (postroom[otel]).

A run is a trace; in it each item, each try of a request and each write of an object is a span, in whatever thread or
process it is done. A span has the attributes of a log line (run, command, item, project, day), and of a
request the method, the host and the status: no path, no query, no header. The standard OTEL_… variables hold.
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

Note = Callable[[str, str | int], None]
"""Sets attributes of a span."""


class Tracer:
    """Makes spans and sends them; there is one in a process, or none."""

    current: ClassVar[Tracer | None] = None

    def __init__(self, redact: Callable[[str], str]) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - an extra
            from opentelemetry.sdk import resources, trace  # noqa: PLC0415
            from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
        except ModuleNotFoundError:
            name = next(name for name in _ENDPOINTS if os.environ.get(name))
            raise ConfigError(
                f'{name} asks for traces, but OpenTelemetry is not installed; pip install "postroom[otel]"'
            ) from None
        ours = resources.Resource({"service.name": "postroom", "service.version": __version__})
        self._provider = trace.TracerProvider(
            resource=ours.merge(resources.OTELResourceDetector().detect()), shutdown_on_exit=False
        )
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("postroom", __version__)
        self._redact = redact
        self._flushing = threading.Thread()

    @contextmanager
    def span(self, name: str, attributes: Mapping[str, str | int], *, is_request: bool) -> Iterator[Note]:
        from opentelemetry.trace import SpanKind, Status, StatusCode  # noqa: PLC0415 - an extra

        context = get_contextvars()
        said = {f"postroom.{key}": str(context[key]) for key in _LOG_FIELDS if key in context} | dict(attributes)
        with self._tracer.start_as_current_span(
            name,
            kind=SpanKind.CLIENT if is_request else SpanKind.INTERNAL,
            attributes={key: self._redact(value) if isinstance(value, str) else value for key, value in said.items()},
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
        """Send what there is; a receiver that is away holds nobody up for longer than a second."""
        if not self._flushing.is_alive():
            self._flushing = _begun(self._provider.force_flush)
            self._flushing.join(_FLUSH_S)

    def close(self) -> None:
        """Send the rest. A receiver that is away is not waited for much longer: what stops has 30 seconds in all."""
        _begun(self._provider.shutdown).join(_CLOSE_S)


def _begun(action: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=action, name="postroom-traces", daemon=True)
    thread.start()
    return thread


@contextmanager
def sending(redact: Callable[[str], str]) -> Iterator[None]:
    """Send spans while the block lasts, if the environment asks for them. Raises ConfigError without postroom[otel]."""
    begin_sending(redact)
    try:
        yield
    finally:
        if tracer := Tracer.current:
            Tracer.current = None
            tracer.close()


def begin_sending(redact: Callable[[str], str]) -> None:
    """The same until the process ends: for workers, which send after each item and have nothing left at their end."""
    if Tracer.current is None and is_wanted(os.environ):
        Tracer.current = Tracer(redact)


def is_wanted(environ: Mapping[str, str]) -> bool:
    """Whether the standard variables ask for traces."""
    is_off = environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or environ.get("OTEL_TRACES_EXPORTER") == "none"
    return not is_off and any(environ.get(name) for name in _ENDPOINTS)


@contextmanager
def span(name: str, attributes: Mapping[str, str | int] | None = None, *, is_request: bool = False) -> Iterator[Note]:
    """A piece of work, part of the one around it; what is raised in it is its error. Nothing while nothing is sent."""
    if Tracer.current is None:
        yield lambda _name, _value: None
        return
    with Tracer.current.span(name, attributes or {}, is_request=is_request) as note:
        yield note


@contextmanager
def request_span(method: str, url: str) -> Iterator[Callable[[int], None]]:
    """One try of a request, until its reply is read; what it yields takes the status of the reply."""
    about = {"http.request.method": method, "server.address": urlsplit(url).hostname or ""}
    with span(method, about, is_request=True) as note:
        yield lambda status: note("http.response.status_code", status)


@contextmanager
def run_span(command: str) -> Iterator[None]:
    """A whole run, whose lines in the log have its `trace_id`."""
    with span(command):
        if Tracer.current is None:
            yield
            return
        from opentelemetry.trace import format_trace_id, get_current_span  # noqa: PLC0415 - an extra

        with bound_contextvars(trace_id=format_trace_id(get_current_span().get_span_context().trace_id)):
            yield


def carried() -> dict[str, Any]:
    """The span around, for another process; empty when spans are not sent."""
    carrier: dict[str, Any] = {}
    if Tracer.current:
        from opentelemetry.propagate import inject  # noqa: PLC0415 - an extra

        inject(carrier)
        carrier["log_fields"] = {key: value for key, value in get_contextvars().items() if key in _LOG_FIELDS}
    return carrier


@contextmanager
def continued(carrier: Mapping[str, Any]) -> Iterator[None]:
    """Go on, in another process, below the span that was carried there; what was done is sent before the end."""
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
