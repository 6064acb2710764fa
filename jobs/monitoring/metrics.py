"""Prometheus metrics: their names, and their values from `status` and the run store (pure).

`python -m jobs.monitoring.metrics` prints the table of docs/guide/observability.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from pipeline.core.models import STORED

if TYPE_CHECKING:
    from jobs.status import ProjectStatus, StatusReport


@dataclass(frozen=True)
class Metric:
    """One metric; `count` is the count in the run store from which a counter is computed."""

    name: str
    kind: Literal["gauge", "counter"]
    labels: tuple[str, ...]
    meaning: str
    count: str | None = None


@dataclass(frozen=True)
class MetricSample:
    """A metric and its numbers, by label values in the order of `Metric.labels`."""

    metric: Metric
    values: Mapping[tuple[str, ...], float]


FILES = Metric(
    "postroom_media_files",
    "gauge",
    ("project", "state"),
    "Listed files that are pending, stored, malformed (stored, but cannot be opened) or lost.",
)
BYTES = Metric("postroom_media_bytes", "gauge", ("project",), "Size of the files in the vault.")
AT_RISK = Metric(
    "postroom_media_at_risk_files", "gauge", ("project",), "Files that are not stored and have less than 24 h left."
)
DEADLINE = Metric(
    "postroom_media_next_deadline_timestamp_seconds",
    "gauge",
    ("project",),
    "Earliest time at which a pending file may be deleted; absent if no file is pending.",
)
DAYS = Metric(
    "postroom_days",
    "gauge",
    ("project", "state"),
    "Days that are missing (never collected), provisional (may still change) or settled.",
)
SUSPENSE = Metric(
    "postroom_suspense_records",
    "gauge",
    ("project", "reason"),
    "Records in suspense without a decision; one with several reasons counts for each.",
)
GOOD_RUN = Metric(
    "postroom_last_success_timestamp_seconds",
    "gauge",
    ("command",),
    "Last successful end of a command (exit code 0 or 4).",
)
OBSERVED = Metric(
    "postroom_status_timestamp_seconds", "gauge", (), "Time at which these metrics were read from the stores."
)
RUNS = Metric("postroom_runs_total", "counter", ("command", "exit_code"), "Finished runs.")
_COUNTED = (
    Metric("postroom_replies_total", "counter", ("command",), "Responses of EnableX that were landed.", "replies"),
    Metric("postroom_retries_total", "counter", ("command",), "Retries of requests.", "retries"),
    Metric("postroom_rows_built_total", "counter", ("command",), "Rows of days that were built or rebuilt.", "rows"),
    Metric(
        "postroom_rejects_built_total",
        "counter",
        ("command",),
        "Rejects of days that were built or rebuilt.",
        "rejects",
    ),
    Metric("postroom_copied_files_total", "counter", ("command",), "Files copied to the vault.", "files_copied"),
    Metric("postroom_copied_bytes_total", "counter", ("command",), "Bytes copied to the vault.", "bytes_copied"),
    Metric(
        "postroom_lost_files_total",
        "counter",
        ("command",),
        "Files deleted at the source before they were stored.",
        "lost",
    ),
)
COUNTS = tuple(metric.count for metric in _COUNTED if metric.count)
"""Names of counts in the run store."""

METRICS = (FILES, BYTES, AT_RISK, DEADLINE, DAYS, SUSPENSE, GOOD_RUN, OBSERVED, RUNS, *_COUNTED)


def read_metrics(
    status: StatusReport, totals: Mapping[str, Mapping[str, int]], ends: Mapping[tuple[str, int | None], int]
) -> list[MetricSample]:
    """All metrics with their values, in the order of METRICS.

    `totals` and `ends` are `run_totals` and `run_ends` of the run store.
    """
    values: dict[Metric, dict[tuple[str, ...], float]] = {metric: {} for metric in METRICS}
    values[OBSERVED][()] = _seconds(status.now)
    for name, project in status.projects.items():
        for labels, files in _files(name, project):
            values[FILES][labels] = files
        values[BYTES][name,] = sum(totals.bytes for state, totals in project.media.items() if state in STORED)
        values[AT_RISK][name,] = project.at_risk
        if project.next_deadline:
            values[DEADLINE][name,] = _seconds(project.next_deadline)
        values[DAYS][name, "missing"] = len(project.days.missing)
        values[DAYS][name, "provisional"] = len(project.days.provisional)
        values[DAYS][name, "settled"] = project.days.settled
        for reason, suspended in project.suspense.items():
            values[SUSPENSE][name, reason] = suspended.records
    for command, ended_at in status.last_good_runs.items():
        values[GOOD_RUN][command,] = _seconds(ended_at)
    for (command, exit_code), number in ends.items():
        if exit_code is not None:
            values[RUNS][command, str(exit_code)] = number
    for metric in _COUNTED:
        for command, counted in totals.items():
            values[metric][command,] = counted.get(metric.count or "", 0)
    return [MetricSample(metric, values[metric]) for metric in METRICS]


def _files(name: str, project: ProjectStatus) -> Iterator[tuple[tuple[str, str], int]]:
    """Files by state: `pending` from the newest listings, the others from table `media`."""
    yield (name, "pending"), project.pending
    for state in (*STORED, "lost"):
        yield (name, state), project.media[state].files if state in project.media else 0


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


def metrics_table() -> str:
    """METRICS as a Markdown table."""
    lines = ["| metric | kind | labels | meaning |", "|---|---|---|---|"]
    for metric in METRICS:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        lines.append(f"| `{metric.name}` | {metric.kind} | {labels} | {metric.meaning} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(metrics_table(), end="")
