"""Doctor's judgements: what is seen, and what is said of it."""

from __future__ import annotations

import tomllib
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from pipeline.cli import doctor_checks
from pipeline.cli.doctor_checks import ProbeResult
from pipeline.core.settings.sections import Project
from pipeline.storage.selftest import StoreFacts

NOW = datetime(2026, 11, 23, 2, 15, tzinfo=UTC)
GIB = 2**30


@pytest.mark.parametrize(
    ("ahead_s", "ok", "said"),
    [(0, True, "agree"), (119, True, "agree"), (121, False, "121 s behind"), (-121, False, "121 s ahead of")],
)
def test_a_clock_is_wrong_from_two_minutes_on(ahead_s: int, ok: bool, said: str) -> None:
    """EnableX's Date so many seconds ahead of ours: which clock is wrong, by how much."""
    check = doctor_checks.clock_check("clock", format_datetime(NOW + timedelta(seconds=ahead_s)), NOW, NOW)
    assert check.ok is ok
    assert said in check.detail


def test_a_slow_answer_is_no_skew() -> None:
    """A Date from any moment between question and answer is right, however long the answer took."""
    date = format_datetime(NOW + timedelta(minutes=3))
    assert doctor_checks.clock_check("clock", date, NOW, NOW + timedelta(minutes=6)).ok


@pytest.mark.parametrize("date", [None, "", "yesterday"])
def test_without_a_date_nothing_is_claimed(date: str | None) -> None:
    """A missing or unreadable Date is neither right nor wrong."""
    assert doctor_checks.clock_check("clock", date, NOW, NOW).ok is None


def test_a_disk_is_full_before_it_is_full() -> None:
    """Below 1 GiB a disk fails, below 10 GiB there is advice, above there is nothing to say."""
    found = [doctor_checks.disk_check("disk", "/data", free) for free in (GIB - 1, 10 * GIB - 1, 10 * GIB)]
    assert [(check.ok, bool(check.next_step)) for check in found] == [(False, True), (True, True), (True, False)]


def test_a_reader_that_is_not_compiled_is_only_slow() -> None:
    """Without the compiled module everything works; what would make it faster is said."""
    compiled, not_compiled = doctor_checks.reader_check(True), doctor_checks.reader_check(False)
    assert (compiled.ok, compiled.next_step) == (True, "")
    assert not_compiled.ok
    assert "compiler" in not_compiled.next_step


def test_a_store_without_checksums_costs_time_and_no_trust() -> None:
    """Missing checksums and conditions are no failure, for the program does without; what that means is said."""
    found = {
        check.name: check
        for check in doctor_checks.store_checks(
            "vault", StoreFacts(has_conditional_put=False, has_conditional_multipart=False)
        )
    }
    assert all(check.ok for check in found.values())
    assert "not heeded by PUT and parts" in found["vault conditions"].detail
    assert "read back" in found["vault checksums"].next_step


@pytest.mark.parametrize(
    ("whole", "alone", "answer", "ok"),
    [(9, 9, "yes", True), (9, 0, "no", False), (9, 2, "in part", False), (0, 0, "unknown", None)],
)
def test_to_date_is_told_by_what_came(whole: int, alone: int, answer: str, ok: bool | None) -> None:
    """All, none or some of a day's CDRs are three answers; no CDR is none; only "yes" makes or keeps a setting."""
    told = doctor_checks.to_date_answer("acme", "2026-11-21", whole, alone)
    assert told.answer == answer
    assert bool(told.setting) == (answer == "yes")
    assert doctor_checks.to_date_check(told).ok is ok


@pytest.mark.parametrize(
    ("rest", "answer"), [(b"cdef", "yes"), (b"cd", "yes"), (b"cdefgh", "yes"), (b"abcd", "no"), (b"", "unknown")]
)
def test_a_range_is_told_by_its_bytes(rest: bytes, answer: str) -> None:
    """What came for "from byte 2 on" is compared with the file's own beginning, as far as both go."""
    assert doctor_checks.range_answer(b"abcdef", rest, 2).startswith(answer)


def test_answers_are_settings() -> None:
    """Answers can stand in a settings file as they are printed: a setting where there is one, all else is a comment."""
    asked = [
        doctor_checks.to_date_answer("acme", "2026-11-21", 9, 9),
        ProbeResult("zeta", "is y", "no", "seen", "nothing"),
    ]
    told = tomllib.loads("\n".join(doctor_checks.as_toml(asked, NOW)))
    assert told == {"projects": {"acme": {"to_date_is_inclusive": True}, "zeta": {}}}
    assert set(told["projects"]["acme"]) <= set(Project.model_fields)
