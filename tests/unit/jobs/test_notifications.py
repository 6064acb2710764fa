"""Conditions and their changes: each change once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from jobs.monitoring.notifications import FAILED, OK, Condition, changed_conditions, job_states, status_states
from jobs.status import FileTotals, ProjectStatus, StatusReport
from pipeline.core.models import Failure, RunResult
from pipeline.ingest.settlement import DayStates

STATES = st.lists(st.dictionaries(st.sampled_from("abc"), st.sampled_from([OK, FAILED, "3"]), max_size=3), max_size=8)


@given(STATES)
def test_each_change_is_sent_once(runs: list[dict[str, str]]) -> None:
    """In any sequence of runs, a subject is sent exactly when its state changed; the first state is sent unless ok."""
    notified: dict[str, str] = {}
    previous: dict[str, str] = {}
    for run in runs:
        changed = changed_conditions([Condition(subject, state, "") for subject, state in run.items()], notified)
        assert {condition.subject for condition in changed} == {
            subject for subject, state in run.items() if state != previous.get(subject, OK)
        }
        notified |= {condition.subject: condition.state for condition in changed}
        previous |= run


def test_a_failure_belongs_to_its_project() -> None:
    """A failure with a project counts for that project only; a failure without a project counts for every project."""
    own = Failure("acme/cdr/2026-11-22", "refused", project="acme")
    states = {state.subject: state for state in job_states("nightly", ["acme", "globex"], [own, own])}
    assert states["acme/nightly"].sentence == "acme: nightly failed: acme/cdr/2026-11-22: refused (and 1 more)"
    assert states["globex/nightly"].state == OK
    shared = job_states("nightly", ["acme", "globex"], [Failure("nightly", "no disk")])
    assert [state.state for state in shared] == [FAILED, FAILED]
    by_name = job_states("rooms apply", ["acme", "globex"], [Failure("globex", "no answer")])
    assert [state.state for state in by_name] == [OK, FAILED]


def status(*, at_risk: int = 0, lost: int = 0, missing: tuple[str, ...] = ()) -> RunResult[StatusReport]:
    outcome = RunResult("status")
    file = {"project": "acme", "conf_num": "c1", "kind": "recording", "name": "a.mkv"}
    outcome.at_risk = [{**file, "hours_left": 5.0 + number} for number in reversed(range(at_risk))]
    project = ProjectStatus(
        days=DayStates(None, list(missing), [], 0),
        last_done={},
        media={"lost": FileTotals(lost, 0)} if lost else {},
        pending=0,
        at_risk=at_risk,
        next_deadline=None,
        hours_left=None,
        last_good_runs={},
        lateness=None,
        unlisted=[],
    )
    return outcome.with_details(StatusReport("2026-11-23T02:15:00+00:00", {"acme": project}))


def test_files_and_days_are_conditions() -> None:
    """Sent are files at risk with the most urgent one, every further loss, and days missing longer than the setting."""
    ok = {state.subject: state.state for state in status_states(status(), 2)}
    assert set(ok.values()) == {OK}
    not_ok = status(at_risk=3, lost=2, missing=("2026-11-19", "2026-11-20", "2026-11-21", "2026-11-22"))
    at_risk, lost, missing, _ = status_states(not_ok, 2)
    assert at_risk.sentence.startswith("acme: files at risk: 3; c1/recording/a.mkv has 5 h left")
    assert lost.sentence.startswith("acme: files lost so far: 2;")
    assert missing.sentence.startswith("acme: days overdue for collection: 2026-11-19, 2026-11-20; ")
    notified = {state.subject: state.state for state in (at_risk, lost, missing)}
    assert changed_conditions(status_states(not_ok, 2), notified) == []
    changed = changed_conditions(status_states(status(at_risk=9, lost=3), 2), notified)
    assert [condition.subject for condition in changed] == ["acme/files lost", "acme/days missing"]
