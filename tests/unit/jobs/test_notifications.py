"""What is news: changes, and nothing twice."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from jobs.monitoring.notifications import FAILED, OK, Condition, changed_conditions, job_states, status_states
from jobs.status import FileTotals, ProjectStatus, StatusReport
from pipeline.core.models import Failure, RunResult
from pipeline.ingest.settlement import DayStates

STATES = st.lists(st.dictionaries(st.sampled_from("abc"), st.sampled_from([OK, FAILED, "3"]), max_size=3), max_size=8)


@given(STATES)
def test_each_change_is_told_once(runs: list[dict[str, str]]) -> None:
    """Over any row of runs a subject is told of exactly when its state changed; from nothing, well is no news."""
    told: dict[str, str] = {}
    before: dict[str, str] = {}
    for run in runs:
        fresh = changed_conditions([Condition(subject, state, "") for subject, state in run.items()], told)
        assert {one.subject for one in fresh} == {
            subject for subject, state in run.items() if state != before.get(subject, OK)
        }
        told |= {one.subject: one.state for one in fresh}
        before |= run


def test_a_failure_is_its_projects() -> None:
    """A project's failure is told of that project alone; one of no project is every project's."""
    own = Failure("acme/cdr/2026-11-22", "refused", project="acme")
    states = {state.subject: state for state in job_states("nightly", ["acme", "globex"], [own, own])}
    assert states["acme/nightly"].sentence == "acme: nightly failed: acme/cdr/2026-11-22: refused (and 1 more)"
    assert states["globex/nightly"].state == OK
    of_all = job_states("nightly", ["acme", "globex"], [Failure("nightly", "no disk")])
    assert [state.state for state in of_all] == [FAILED, FAILED]
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


def test_what_is_at_stake_is_told() -> None:
    """Files at risk with the nearest, every further loss, and days missing for longer than the setting says."""
    well = {state.subject: state.state for state in status_states(status(), 2)}
    assert set(well.values()) == {OK}
    bad = status(at_risk=3, lost=2, missing=("2026-11-19", "2026-11-20", "2026-11-21", "2026-11-22"))
    at_risk, lost, missing = status_states(bad, 2)
    assert at_risk.sentence.startswith("acme: files at risk: 3; c1/recording/a.mkv has 5 h left")
    assert lost.sentence.startswith("acme: files lost so far: 2;")
    assert missing.sentence.startswith("acme: days overdue for collection: 2026-11-19, 2026-11-20; ")
    told = {state.subject: state.state for state in (at_risk, lost, missing)}
    assert changed_conditions(status_states(bad, 2), told) == []
    assert [one.subject for one in changed_conditions(status_states(status(at_risk=9, lost=3), 2), told)] == [
        "acme/files lost",
        "acme/days missing",
    ]
