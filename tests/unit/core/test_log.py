"""Logging: events with fields on standard error, without secrets."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline.core.log import MASK, Redact, set_up_logging

SECRETS = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="*"), min_size=3, max_size=12), min_size=1, max_size=3
)


@pytest.fixture
def restored() -> Iterator[None]:
    """Restores structlog, httpx's logger and the root handlers."""
    level, root = logging.getLogger("httpx").level, logging.getLogger()
    handlers, root_level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(root_level)
    structlog.reset_defaults()
    logging.getLogger("httpx").setLevel(level)


def leaks(secrets: list[str], text: str) -> bool:
    return any(secret in text for secret in secrets)  # none has a star in it, so none spans a mask


@given(SECRETS, st.lists(st.text(st.characters(codec="ascii"), max_size=10), min_size=2, max_size=4), st.data())
def test_no_known_secret_gets_through(secrets: list[str], pieces: list[str], data: st.DataObject) -> None:
    """A known secret is masked at any place in a text, even if several secrets overlap."""
    assume(not any(secret in "https://" for secret in secrets))
    text = data.draw(st.sampled_from(secrets)).join(pieces)
    assert not leaks(secrets, Redact(secrets).text(f"{text}\n{secrets[0]}"))


@given(
    SECRETS,
    st.recursive(st.just(None), lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.just("a"), inner)),
)
def test_no_known_secret_gets_through_in_a_structure(secrets: list[str], shape: Any) -> None:
    """Secrets inside lists, mappings and exceptions are masked like those in plain text."""

    def planted(shape: Any) -> Any:
        if isinstance(shape, list):
            return [planted(part) for part in shape] + [secrets[0]]
        if isinstance(shape, dict):
            return {"a": tuple(planted(part) for part in shape.values())}
        return ValueError(f"refused {secrets[0]}")

    event = Redact(secrets)(None, "info", {"event": f"x {secrets[-1]}", "what": planted(shape)})
    assert not leaks(secrets, str(event["what"]) + str(event["event"]))


def test_a_secret_inside_another_leaves_no_rest() -> None:
    """The longer secret is masked first, so that its tail does not remain."""
    assert Redact(["abc", "abcdef"]).text("abcdef abc") == f"{MASK} {MASK}"


@pytest.mark.parametrize(
    "field",
    ["Authorization", "password", "files_password", "client_secret", "user_token", "token", "app_key", "Cookie", "pin"],
)
def test_a_field_named_like_a_secret_is_masked(field: str) -> None:
    """A field with a secret's name is masked at any depth, even if its value is no known secret."""
    redact = Redact([])
    assert redact(None, "", {field: "unknown"}) == {field: MASK}
    assert redact(None, "", {"request": {field: ["unknown"]}}) == {"request": {field: MASK}}


def test_ordinary_fields_stay_what_they_are() -> None:
    """Numbers, flags and null keep their type for whoever reads the JSON; words are not touched."""
    event = {
        "event": "response.landed",
        "documents": 412,
        "took_s": 1.8,
        "new": True,
        "why": None,
        "shipping": "pinned",
    }
    assert Redact(["s3cret"])(None, "", dict(event)) == event


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("GET https://u:p@h.example/a?sig=x now", "GET https://h.example/a now"),
        ("https://ops@example.com:pw@h.example/a.mkv", "https://h.example/a.mkv"),
        ("HTTPS://u:p@h.example/a?sig=x", "HTTPS://h.example/a"),
        ("https://h.example/a#access=x", "https://h.example/a"),
        ("https://h.example?sig=x", "https://h.example"),
        ("\"https://h.example/a?sig=x\" and 'http://u@h/b'", "\"https://h.example/a\" and 'http://h/b'"),
        ("https://h.example/a@b.mkv is no user", "https://h.example/a@b.mkv is no user"),
        ("mail ops@example.com?", "mail ops@example.com?"),
    ],
)
def test_urls_lose_what_may_be_secret(text: str, redacted: str) -> None:
    """User, password, query and fragment of a URL are removed without being known secrets; host and path stay."""
    assert Redact([]).text(text) == redacted


@pytest.mark.usefixtures("restored")
def test_events_go_to_standard_error_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    """In a pipe each event is one JSON line with level and UTC time; standard output has only the result."""
    set_up_logging(level=logging.INFO, secrets=["s3cret"])
    log = structlog.get_logger()
    log.debug("too.quiet")
    log.info("response.landed", source="cdr", documents=412)
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    event = json.loads(line)
    assert out == ""
    assert event.pop("timestamp").endswith("Z")
    assert event == {"event": "response.landed", "level": "info", "source": "cdr", "documents": 412}


@pytest.mark.usefixtures("restored")
def test_a_traceback_is_redacted_too(capsys: pytest.CaptureFixture[str]) -> None:
    """A secret in an exception or in a bound context field does not reach standard error."""
    set_up_logging(level=logging.INFO, secrets=["s3cret"])
    structlog.contextvars.bind_contextvars(note="s3cret")
    try:
        raise ValueError("https://u:s3cret@h/a?sig=s3cret refused s3cret")  # noqa: TRY301
    except ValueError:
        structlog.get_logger().exception("it.broke")
    finally:
        structlog.contextvars.clear_contextvars()
    err = capsys.readouterr().err
    assert "ValueError" in err
    assert "it.broke" in err
    assert "s3cret" not in err


@pytest.mark.usefixtures("restored")
def test_requests_are_not_logged_by_the_http_library(capsys: pytest.CaptureFixture[str]) -> None:
    """httpx logs every URL at INFO; this is switched off, because URLs can contain secrets."""
    set_up_logging(level=logging.DEBUG)
    assert not logging.getLogger("httpx").isEnabledFor(logging.INFO)


@pytest.mark.usefixtures("restored")
def test_libraries_warn_like_we_do(capsys: pytest.CaptureFixture[str]) -> None:
    """A library's warning is one redacted JSON line with the run's fields; its INFO lines are dropped."""
    set_up_logging(level=logging.INFO, secrets=["s3cret"])
    with structlog.contextvars.bound_contextvars(run_id="r1"):
        logging.getLogger("urllib3").warning("retrying %s", "https://u:p@h/x?key=s3cret")
        logging.getLogger("urllib3").info("connected")
    (line,) = capsys.readouterr().err.splitlines()
    event = json.loads(line)
    assert (event["event"], event["level"], event["run_id"]) == ("retrying https://h/x", "warning", "r1")
