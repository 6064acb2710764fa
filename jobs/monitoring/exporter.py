"""Metrics for Prometheus, written by prometheus-client: a file for node_exporter's textfile collector, or a port."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.monitoring.metrics import MetricSample
from pipeline.core.errors import ConfigError, StoreUnavailable

if TYPE_CHECKING:
    from prometheus_client.core import Metric as Family


class MetricsCollector:
    """A collector of prometheus-client; serves the same samples until they are replaced."""

    def __init__(self, samples: Iterable[MetricSample] = ()) -> None:
        self.replace(samples)

    def replace(self, samples: Iterable[MetricSample]) -> None:
        self._families = [_family(sample) for sample in samples]

    def collect(self) -> Iterator[Family]:
        yield from self._families


def _family(sample: MetricSample) -> Family:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    metric = sample.metric
    kind = GaugeMetricFamily if metric.kind == "gauge" else CounterMetricFamily
    family = kind(metric.name, metric.meaning, labels=metric.labels)
    for labels, value in sorted(sample.values.items()):
        family.add_metric(labels, value)
    return family


def write_textfile(path: Path, samples: Iterable[MetricSample]) -> None:
    """Replace a text file atomically. Raises StoreUnavailable with the path."""
    from prometheus_client import CollectorRegistry, write_to_textfile

    registry = CollectorRegistry()
    registry.register(MetricsCollector(samples))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_to_textfile(str(path), registry)
    except OSError as error:
        raise StoreUnavailable(f"metrics.textfile: {error}; set a writable path") from None


def serve(collector: MetricsCollector, address: str, port: int) -> Callable[[], None]:
    """Serve GET /metrics in a thread; returns a function that stops it. Raises ConfigError if the port is in use."""
    from prometheus_client import CollectorRegistry, start_http_server

    registry = CollectorRegistry()
    registry.register(collector)
    try:
        server, thread = start_http_server(port, address, registry)
    except OSError as error:
        raise ConfigError(f"metrics.port {port} at {address}: {error.strerror or error}; use another port") from None

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return stop
