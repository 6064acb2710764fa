"""The retry policy: which errors are retried, how often, after which wait."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from pipeline.core.errors import ApiError, PipelineError, Refused, StoreUnavailable, Throttled, Unreachable
from pipeline.core.retry import MAX_RETRY_AFTER_S, retrying


class Service:
    """Raises the given errors, then answers; records the number of calls and the waits."""

    def __init__(self, *errors: Exception) -> None:
        self._errors: Iterator[Exception] = iter(errors)
        self.calls = 0
        self.slept_s: list[float] = []

    def __call__(self) -> str:
        self.calls += 1
        for error in self._errors:
            raise error
        return "answer"

    def ask(self, max_attempts: int) -> str:
        with capture_logs() as self.events:
            return retrying(max_attempts, sleep=self.slept_s.append)(self)


def throttled(after_s: float | None) -> Throttled:
    error = Throttled("slow down")
    error.retry_after_s = after_s
    return error


def test_a_service_that_recovers_is_asked_until_it_answers() -> None:
    """Transient failures are retried until the call returns its answer."""
    service = Service(Unreachable("no"), throttled(None), StoreUnavailable("full"))
    assert service.ask(5) == "answer"
    assert service.calls == 4
    assert len(service.slept_s) == 3


@pytest.mark.parametrize("max_attempts", [1, 2, 5])
def test_the_last_real_error_comes_out(max_attempts: int) -> None:
    """After the last attempt, the last error is raised unchanged."""
    errors = [Unreachable(f"try {number}") for number in range(1, 9)]
    service = Service(*errors)
    with pytest.raises(Unreachable) as caught:
        service.ask(max_attempts)
    assert caught.value is errors[max_attempts - 1]
    assert service.calls == max_attempts
    assert len(service.slept_s) == max_attempts - 1


@pytest.mark.parametrize(
    "error", [Refused("no"), PipelineError("no"), ApiError("no"), KeyError("bug"), OSError("disk")]
)
def test_other_errors_are_not_tried_again(error: Exception) -> None:
    """Only `Transient` errors are retried; a refusal or a bug is raised immediately."""
    service = Service(error)
    with pytest.raises(type(error)) as caught:
        service.ask(5)
    assert caught.value is error
    assert (service.calls, service.slept_s) == (1, [])


def test_waits_grow_and_stay_bounded() -> None:
    """Waits double with jitter of at most 0.5 seconds, and never exceed 30 seconds."""
    service = Service(*[Unreachable("no")] * 19)
    service.ask(20)
    for number, wait_s in enumerate(service.slept_s):
        base_s = 0.5 * 2**number
        assert min(base_s, 30.0) <= wait_s <= min(base_s + 0.5, 30.0)


@pytest.mark.parametrize(
    ("asked_s", "least_s", "most_s"),
    [(120.0, 120.0, 120.0), (0.0, 0.5, 1.0), (None, 0.5, 1.0), (86_400.0, MAX_RETRY_AFTER_S, MAX_RETRY_AFTER_S)],
)
def test_a_server_that_names_a_wait_is_obeyed(asked_s: float | None, least_s: float, most_s: float) -> None:
    """Retry-After makes the wait longer, never shorter, and at most 15 minutes."""
    service = Service(throttled(asked_s))
    service.ask(2)
    assert least_s <= service.slept_s[0] <= most_s


def test_a_retry_is_logged() -> None:
    """Every retry logs an event with its number, its wait and the error."""
    service = Service(Unreachable("EnableX cannot answer now"))
    service.ask(2)
    (event,) = service.events
    assert (event["event"], event["attempt"], event["error"]) == ("request.retried", 1, "EnableX cannot answer now")
    assert event["wait_s"] == round(service.slept_s[0], 1)
