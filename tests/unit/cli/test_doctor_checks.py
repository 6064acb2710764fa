"""Checks of `doctor`: from observations to results and next steps."""

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
    ("ahead_s", "ok", "detail"),
    [(0, True, "agree"), (119, True, "agree"), (121, False, "121 s behind"), (-121, False, "121 s ahead of")],
)
def test_a_clock_fails_above_two_minutes(ahead_s: int, ok: bool, detail: str) -> None:
    """A skew above 2 minutes fails, with its seconds and direction."""
    check = doctor_checks.clock_check("clock", format_datetime(NOW + timedelta(seconds=ahead_s)), NOW, NOW)
    assert check.ok is ok
    assert detail in check.detail


def test_a_slow_response_is_no_skew() -> None:
    """A Date between request and response is correct, even if the response took 6 minutes."""
    date = format_datetime(NOW + timedelta(minutes=3))
    assert doctor_checks.clock_check("clock", date, NOW, NOW + timedelta(minutes=6)).ok


@pytest.mark.parametrize("date", [None, "", "yesterday"])
def test_without_a_date_the_check_is_skipped(date: str | None) -> None:
    """With a missing or unreadable Date the check neither passes nor fails."""
    assert doctor_checks.clock_check("clock", date, NOW, NOW).ok is None


def test_free_disk_space_has_two_limits() -> None:
    """Below 1 GiB a disk fails; below 10 GiB it passes with advice; above, without."""
    checks = [doctor_checks.disk_check("disk", "/data", free) for free in (GIB - 1, 10 * GIB - 1, 10 * GIB)]
    assert [(check.ok, bool(check.next_step)) for check in checks] == [(False, True), (True, True), (True, False)]


def test_a_reader_that_is_not_compiled_passes() -> None:
    """Without the compiled module the check passes, and advises how to get it."""
    compiled, not_compiled = doctor_checks.reader_check(True), doctor_checks.reader_check(False)
    assert (compiled.ok, compiled.next_step) == (True, "")
    assert not_compiled.ok
    assert "compiler" in not_compiled.next_step


def test_a_store_without_checksums_passes() -> None:
    """Missing checksums and conditional writes are no failure, because they are not required; the result names them."""
    checks = {
        check.name: check
        for check in doctor_checks.store_checks(
            "vault", StoreFacts(has_conditional_put=False, has_conditional_multipart=False)
        )
    }
    assert all(check.ok for check in checks.values())
    assert "not supported for PUT and multipart uploads" in checks["vault conditions"].detail
    assert "read back" in checks["vault checksums"].next_step


@pytest.mark.parametrize(
    ("whole", "alone", "answer", "ok"),
    [(9, 9, "yes", True), (9, 0, "no", False), (9, 2, "in part", False), (0, 0, "unknown", None)],
)
def test_to_date_is_decided_by_the_returned_cdrs(whole: int, alone: int, answer: str, ok: bool | None) -> None:
    """All, none or some of a day's CDRs are three answers; without CDRs it is unknown. Only "yes" gives a setting."""
    result = doctor_checks.to_date_answer("acme", "2026-11-21", whole, alone)
    assert result.answer == answer
    assert bool(result.setting) == (answer == "yes")
    assert doctor_checks.to_date_check(result).ok is ok


@pytest.mark.parametrize(
    ("rest", "answer"), [(b"cdef", "yes"), (b"cd", "yes"), (b"cdefgh", "yes"), (b"abcd", "no"), (b"", "unknown")]
)
def test_range_support_is_decided_by_the_bytes(rest: bytes, answer: str) -> None:
    """The response to a request from byte 2 on is compared with the start of the file, up to the shorter length."""
    assert doctor_checks.range_answer(b"abcdef", rest, 2).startswith(answer)


def test_results_are_valid_settings() -> None:
    """Printed results are valid lines of a settings file: settings, and comments for the rest."""
    results = [
        doctor_checks.to_date_answer("acme", "2026-11-21", 9, 9),
        ProbeResult("zeta", "is y", "no", "seen", "nothing"),
    ]
    settings = tomllib.loads("\n".join(doctor_checks.as_toml(results, NOW)))
    assert settings == {"projects": {"acme": {"to_date_is_inclusive": True}, "zeta": {}}}
    assert set(settings["projects"]["acme"]) <= set(Project.model_fields)
