"""Conditions of jobs, files and days; only changes are announced (pure)."""

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
_NAMED = 5


@dataclass(frozen=True)
class Condition:
    """How one subject stands, and the sentence to say when that is new."""

    subject: str
    state: str
    sentence: str


def job_states(command: str, projects: Sequence[str], failures: Iterable[Failure]) -> list[Condition]:
    """One state per project: whether a run of the command worked for it. Failures of no project are every project's."""
    return [_job_state(command, project, failed) for project, failed in failures_by_project(projects, failures).items()]


def _job_state(command: str, project: str, failed: Sequence[Failure]) -> Condition:
    subject = f"{project}/{command}"
    if not failed:
        return Condition(subject, OK, f"{project}: {command} works again")
    more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
    return Condition(subject, FAILED, f"{project}: {command} failed: {failed[0].item}: {failed[0].error}{more}")


def status_states(status: RunResult[StatusReport], missing_days: int) -> Iterator[Condition]:
    """Three states per project, of the outcome of `flows.status`: files at risk, files lost, days missing."""
    latest = datetime.fromisoformat(status.details.now).date() - timedelta(days=missing_days)
    for name, project in status.details.projects.items():
        yield _at_risk(name, [file for file in status.at_risk if file["project"] == name])
        yield _lost(name, project.media["lost"].files if "lost" in project.media else 0)
        yield _missing(name, [day for day in project.days.missing if date.fromisoformat(day) < latest])


def _at_risk(project: str, files: Sequence[Row]) -> Condition:
    subject = f"{project}/files at risk"
    if not files:
        return Condition(subject, OK, f"{project}: no file is at risk any more")
    first = min(files, key=lambda file: file["hours_left"])
    name = f"{first['conf_num']}/{first['kind']}/{first['name']}"
    left = f"{name} has {first['hours_left']:g} h left; `postroom status` names all"
    return Condition(subject, "some", f"{project}: files at risk: {len(files)}; {left}")


def _lost(project: str, files: int) -> Condition:
    """Each number of lost files is a state of its own: no loss goes untold because there was one before."""
    why = "`postroom query \"SELECT * FROM media WHERE state = 'lost'\"` has the reasons"
    return Condition(
        f"{project}/files lost", str(files) if files else OK, f"{project}: files lost so far: {files}; {why}"
    )


def _missing(project: str, days: Sequence[str]) -> Condition:
    subject = f"{project}/days missing"
    if not days:
        return Condition(subject, OK, f"{project}: no day is missing for long any more")
    more = f" and {len(days) - _NAMED} more" if len(days) > _NAMED else ""
    return Condition(
        subject,
        "some",
        f"{project}: days missing for long: {', '.join(days[:_NAMED])}{more}; `postroom nightly` collects them",
    )


def changed_conditions(states: Iterable[Condition], notified: Mapping[str, str]) -> list[Condition]:
    """Conditions that differ from the last notified ones; without one, a condition is assumed to be ok."""
    return [state for state in states if state.state != notified.get(state.subject, OK)]
