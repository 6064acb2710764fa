"""Conditions of jobs, files and days; only changed ones are sent (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING

from pipeline.core.models import Failure, Row, RunResult, failures_by_project

if TYPE_CHECKING:
    from jobs.status import StatusReport

OK = "ok"
FAILED = "failed"
_MAX_LISTED_DAYS = 5


@dataclass(frozen=True)
class Condition:
    """The state of one subject, and the sentence to send when it changes."""

    subject: str
    state: str
    sentence: str


def job_states(command: str, projects: Sequence[str], failures: Iterable[Failure]) -> list[Condition]:
    """One condition per project: ok or failed. A failure without a project counts for every project."""
    return [_job_state(command, project, failed) for project, failed in failures_by_project(projects, failures).items()]


def _job_state(command: str, project: str, failed: Sequence[Failure]) -> Condition:
    subject = f"{project}/{command}"
    if not failed:
        return Condition(subject, OK, f"{project}: {command} works again")
    more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
    return Condition(subject, FAILED, f"{project}: {command} failed: {failed[0].item}: {failed[0].error}{more}")


def status_states(status: RunResult[StatusReport], missing_days: int) -> Iterator[Condition]:
    """Conditions of each project, from the result of `status`: files at risk, files lost, days missing, suspense."""
    latest = datetime.fromisoformat(status.details.now).date() - timedelta(days=missing_days)
    for name, project in status.details.projects.items():
        yield _at_risk(name, [file for file in status.at_risk if file["project"] == name])
        yield _lost(name, project.media["lost"].files if "lost" in project.media else 0)
        yield _missing(name, [day for day in project.days.missing if date.fromisoformat(day) < latest])
        yield _suspense(name, {reason: totals.records for reason, totals in project.suspense.items()})


def _at_risk(project: str, files: Sequence[Row]) -> Condition:
    subject = f"{project}/files at risk"
    if not files:
        return Condition(subject, OK, f"{project}: no file is at risk anymore")
    first = min(files, key=lambda file: file["hours_left"])
    name = f"{first['conf_num']}/{first['kind']}/{first['name']}"
    hint = f"{name} has {first['hours_left']:g} h left; `postroom status` lists all"
    return Condition(subject, "some", f"{project}: files at risk: {len(files)}; {hint}")


def _lost(project: str, files: int) -> Condition:
    """The state is the number of lost files, so that each further loss is sent too."""
    hint = "`postroom query \"SELECT * FROM media WHERE state = 'lost'\"` lists the reasons"
    return Condition(
        f"{project}/files lost", str(files) if files else OK, f"{project}: files lost so far: {files}; {hint}"
    )


def _missing(project: str, days: Sequence[str]) -> Condition:
    subject = f"{project}/days missing"
    if not days:
        return Condition(subject, OK, f"{project}: no day is overdue for collection")
    more = f" and {len(days) - _MAX_LISTED_DAYS} more" if len(days) > _MAX_LISTED_DAYS else ""
    listed = ", ".join(days[:_MAX_LISTED_DAYS])
    sentence = f"{project}: days overdue for collection: {listed}{more}; `postroom nightly` collects them"
    return Condition(subject, "some", sentence)


def _suspense(project: str, records: Mapping[str, int]) -> Condition:
    """The state names reasons and records, so that each further record is sent too."""
    subject = f"{project}/records in suspense"
    if not records:
        return Condition(subject, OK, f"{project}: no record is in suspense")
    listed = ", ".join(f"{count} {reason}" for reason, count in records.items())
    hint = "`postroom billing suspense list` shows them; a final export needs a decision"
    return Condition(subject, listed, f"{project}: records in suspense: {listed}; {hint}")


def changed_conditions(states: Iterable[Condition], notified: Mapping[str, str]) -> list[Condition]:
    """Conditions that differ from the last sent ones. A condition that was never sent counts as ok."""
    return [state for state in states if state.state != notified.get(state.subject, OK)]
