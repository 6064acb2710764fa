"""Requests as documented, and every kind of reply as documents or as the right error.

The codes are read from enablex-api.md section 2, so a code that is added there needs a verdict here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import (
    ApiError,
    CredentialsRefused,
    PipelineError,
    Refused,
    Throttled,
    Transient,
    Unreachable,
    UnreadableReply,
)
from pipeline.enablex.protocol import (
    Reply,
    ReplyHead,
    ReplyReader,
    Request,
    period_request,
    read_documents,
    retry_after_s,
    room_period_requests,
    rooms_request,
)
from tests.support.paths import ROOT

NOW = datetime(2026, 11, 23, 2, 15, tzinfo=UTC)
CDRS = period_request("cdr", date(2026, 11, 22))
SECTION_2 = (ROOT / "docs/reference/enablex-api.md").read_text().split("\n## ")[2]

Kind = type[ApiError]


def documents(
    status: int, body: object, headers: Mapping[str, str] | None = None, request: Request = CDRS
) -> list[msgspec.Raw]:
    """The documents of an answer, or its error."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_documents(Reply(request, status, headers or {}, content), now=NOW)


def refusal(status: int, body: object, headers: Mapping[str, str] | None = None) -> ApiError:
    """The error of an error reply."""
    with pytest.raises(ApiError) as caught:
        documents(status, body, headers)
    return caught.value


def judged(status: int, chunks: Iterable[bytes]) -> tuple[list[bytes], ApiError | None]:
    """The documents, or the error, of a reply in these chunks."""
    reader = ReplyReader(ReplyHead(CDRS, status, {}))
    try:
        received = [document for chunk in chunks for document in reader.feed(chunk)]
        return [bytes(document) for document in received + reader.finish(NOW)], None
    except ApiError as error:
        return [], error


# --- requests ---


@pytest.mark.parametrize("source", ["cdr", "archive"])
def test_a_day_is_asked_for_as_documented(source: Any) -> None:
    """One UTC day is requested with the next day as `to_date`, which may be exclusive, and no trailing slash."""
    request = period_request(source, date(2026, 12, 31))
    assert str(request) == f"GET /{source}/period/2026-12-31/2027-01-01"
    assert request.payload == source
    alone = period_request(source, date(2026, 12, 31), to_date_is_inclusive=True)
    assert str(alone) == f"GET /{source}/period/2026-12-31/2026-12-31"


def test_a_room_is_asked_for_in_both_spellings() -> None:
    """The documented path comes first, the one of a public client second; a room id cannot escape its segment."""
    requests = room_period_requests("cdr", "65ec/../x", date(2026, 12, 31))
    assert [str(request) for request in requests] == [
        "GET /cdr/room-period/65ec%2F..%2Fx/2026-12-31/2027-01-01",
        "GET /cdr/room-period/65ec%2F..%2Fx/period/2026-12-31/2027-01-01",
    ]
    assert {request.payload for request in requests} == {"cdr"}


def test_all_rooms_are_one_question() -> None:
    """There is no paging: one request for all rooms, whose payload is `rooms`."""
    assert (str(rooms_request()), rooms_request().payload) == ("GET /rooms", "rooms")


# --- success (sections 1.3 and 12) ---


@pytest.mark.parametrize("result", [{"result": 0}, {"result": "0"}, {"result": 0.0}, {}])
@pytest.mark.parametrize("status", [200, 201, 206])
def test_zero_is_success_however_it_is_written(result: dict[str, Any], status: int) -> None:
    """`result` 0, "0" or absent on any 2xx is success, and the documents are returned as raw bytes, in order."""
    body = json.dumps({**result, "cdr": [{"cdr_id": "b", "x": 1.50}, {"cdr_id": "a"}]}).encode()
    received = documents(status, body)
    assert [bytes(document) for document in received] == [b'{"cdr_id": "b", "x": 1.5}', b'{"cdr_id": "a"}']


def test_documents_are_not_touched() -> None:
    """Spaces, number formats and key order inside a document are evidence and stay as received."""
    document = b'{ "z":1.50,\n "a": "\\u00e9" , "z":2E3 }'
    assert [bytes(received) for received in documents(200, b'{"result":"0","cdr":[%s]}' % document)] == [document]


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, {"result": "0", "cdr": []}),
        (200, {"result": "0", "cdr": None}),
        (200, {"result": "0", "cdr": ""}),
        (200, {"result": "0", "cdr": {}}),
        (200, {"result": "0"}),
        (200, {"cdr": []}),
        (404, {"result": 40001, "error": "Room not found", "desc": "No room matches"}),
        (404, {"result": "40001"}),
    ],
)
def test_nothing_found_is_no_error(status: int, body: object) -> None:
    """An empty list, null, a missing list, and 404 with 40001 all mean no documents."""
    assert documents(status, body) == []


def test_one_bare_document_is_a_list_of_one() -> None:
    """A document in place of the list is returned as one document, which the row builder checks."""
    assert [bytes(received) for received in documents(200, b'{"result":0,"cdr":{"cdr_id":"1"}}')] == [b'{"cdr_id":"1"}']


@pytest.mark.parametrize(
    "noise", [{"error": None}, {"error": ""}, {"desc": "ok"}, {"message": "done"}, {"status": "ok"}]
)
def test_success_may_be_chatty(noise: dict[str, Any]) -> None:
    """Empty error fields and a success message do not turn a success into an error."""
    assert len(documents(200, {"result": "0", **noise, "cdr": [{}]})) == 1


@given(
    st.lists(
        st.dictionaries(
            st.text(max_size=5),
            st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(max_size=8) | st.just({"error": ["]}"]}),
            max_size=4,
        ),
        max_size=8,
    ),
    st.booleans(),
)
def test_every_document_comes_out_whole(sent: list[dict[str, Any]], ascii_only: bool) -> None:
    """Documents with any content, including brackets and the word `error`, are counted and read as sent."""
    body = json.dumps({"result": "0", "cdr": sent}, ensure_ascii=ascii_only).encode(errors="surrogatepass")
    assert [json.loads(bytes(document)) for document in documents(200, body)] == sent


# --- result codes (sections 2.5 to 2.7) ---

SPECIAL: dict[str, Kind] = {
    "10000": CredentialsRefused,  # application not found
    "40002": CredentialsRefused,  # unauthorised
    "10105": Unreachable,  # server busy (retry)
    **dict.fromkeys(("50000", "50001", "50002", "50003"), Unreachable),
}
RESULT_CODES = sorted(set(re.findall(r"\b\d{5}\b", SECTION_2[SECTION_2.index("### 2.5") : SECTION_2.index("### 2.8")])))


def test_the_codes_are_really_read_from_the_contract() -> None:
    """The three tables of result codes were found, so the tests below cover all of them."""
    assert len(RESULT_CODES) >= 50
    assert RESULT_CODES[0] == "10000"
    assert set(SPECIAL) <= set(RESULT_CODES)


@pytest.mark.parametrize("code", RESULT_CODES)
@pytest.mark.parametrize("status", [200, 400])
@pytest.mark.parametrize("spelled", [int, str])
def test_every_result_code_has_its_verdict(code: str, status: int, spelled: Any) -> None:
    """Each documented code, as number or text, on HTTP 200 or 400, is retried, stops the project, or is refused."""
    error = refusal(status, {"result": spelled(code), "error": "short words", "desc": "long words"})
    assert type(error) is SPECIAL.get(code, Refused)
    assert error.code == code
    assert "short words; long words" in str(error)


@pytest.mark.parametrize("result", [1, "1", -1, 99999, "abc", [], {}, "0x0", True, "nan"])
def test_a_result_that_is_not_zero_is_an_error(result: Any) -> None:
    """An unknown or non-numeric result is never success, even with documents."""
    assert type(refusal(200, {"result": result, "cdr": [{"cdr_id": "1"}]})) is Refused


# --- HTTP status and error codes (sections 2.2, 2.3 and 2.8) ---

STATUSES: dict[int, Kind] = {
    302: Refused,
    400: Refused,
    401: CredentialsRefused,
    403: CredentialsRefused,
    404: Refused,
    405: Refused,
    408: Unreachable,
    409: Refused,
    410: Refused,
    422: Refused,
    425: Unreachable,
    429: Throttled,
    500: Unreachable,
    502: Unreachable,
    503: Unreachable,
    504: Unreachable,
}
NOT_JSON = [b"", b"  ", b"<html><title>Maintenance</title></html>", b"Bad gateway", b"[]", b'"text"', b'{"result": ']


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize(
    "body",
    [
        *NOT_JSON,
        b"{}",
        b"null",
        b'{"result": "0", "cdr": [{"cdr_id": "1"}]}',
        b'{"cdr": []}',
        b'{"status": "error", "error_code": "SOMETHING", "message": "m", "request_id": "req_1"}',
        b'{"result": 10201, "error": "conf_num missing", "desc": "d"}',
    ],
)
def test_a_status_decides_whatever_the_body(status: int, body: bytes) -> None:
    """An HTTP error is an error with any body, JSON or not, even one that claims success."""
    error = refusal(status, body)
    assert type(error) is STATUSES[status]
    assert error.status == status
    assert f"HTTP {status}" in str(error)


DOCUMENTED_STATUSES = {
    int(code) for code in re.findall(r"^\| (\d{3})(?: / (\d{3}))? \|", SECTION_2, re.M) for code in code if code
}


def test_every_documented_status_is_tried() -> None:
    """Each status in the contract's table is a case above."""
    assert {400, 429, 500, 503} <= DOCUMENTED_STATUSES
    assert {status for status in DOCUMENTED_STATUSES if status >= 300} <= set(STATUSES)


ERROR_CODES: dict[str, tuple[int, Kind]] = {
    "UNAUTHORIZED": (401, CredentialsRefused),
    "CREDENTIAL_EXPIRED": (401, CredentialsRefused),
    "PROJECT_SUSPENDED": (403, CredentialsRefused),
    "RATE_LIMITED": (429, Throttled),
    "INVALID_PARAM": (422, Refused),
}


def test_every_documented_error_code_is_tried() -> None:
    """Each code of the newer envelope in the contract's table is a case below."""
    assert set(re.findall(r"^\| `([A-Z_]+)` \|", SECTION_2, re.M)) == set(ERROR_CODES)


@pytest.mark.parametrize("code", ERROR_CODES)
@pytest.mark.parametrize("on_200", [False, True])
def test_every_error_code_has_its_verdict(code: str, on_200: bool) -> None:
    """The newer envelope has the same verdict with its own status and with HTTP 200."""
    status, kind = ERROR_CODES[code]
    body = {"status": "error", "error_code": code, "message": "what happened", "request_id": "req_0a1b2c3d4e5f6071"}
    error = refusal(200 if on_200 else status, body)
    assert type(error) is kind
    assert (error.code, error.request_id) == (code, "req_0a1b2c3d4e5f6071")
    assert "req_0a1b2c3d4e5f6071" in str(error)
    assert "what happened" in str(error)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        ("Room not found", "Room not found"),
        ({"reason": "it is closed"}, "it is closed"),
        ({"message": "it is closed"}, "it is closed"),
    ],
)
def test_error_text_is_read_from_every_shape(error: object, text: str) -> None:
    """`error` as text or as an object with `reason`: the message contains EnableX's text."""
    assert text in str(refusal(200, {"result": 40001, "error": error}))


def test_404_is_empty_only_with_code_40001() -> None:
    """A 404 of a proxy, or with another code, is an error: a wrong base_url must not look like empty days."""
    assert type(refusal(404, b"<html>no such page</html>")) is Refused
    assert type(refusal(404, {"result": 10201})) is Refused
    assert type(refusal(200, {"result": 40001})) is Refused


@pytest.mark.parametrize("status", [200, 201])
@pytest.mark.parametrize("body", [*NOT_JSON, b'{"result":"0","cdr":[{"a":1},', b"\xff\xfe{}", b'{"result":"0"}x'])
def test_a_success_that_is_not_json_is_unreadable(status: int, body: bytes) -> None:
    """Empty, HTML, plain text and truncated JSON on 2xx are unreadable: retried, never an empty day."""
    error = refusal(status, body)
    assert type(error) is UnreadableReply
    assert isinstance(error, Transient)
    assert f"{len(body)} bytes" in str(error) or "empty body" in str(error)


@pytest.mark.parametrize("body", [{}, {"hello": "world"}, {"archive": []}, {"cpaas": 1}])
def test_json_of_another_server_is_unreadable(body: object) -> None:
    """JSON with neither `result` nor the documented list comes from another server: the message names base_url."""
    error = refusal(200, body)
    assert type(error) is UnreadableReply
    assert "base_url" in str(error)


def test_an_error_names_the_request() -> None:
    """The error has endpoint, status, code and request id, and its text has the next step."""
    error = refusal(401, {"result": 40002, "error": "Unauthorised"})
    assert error.endpoint == "GET /cdr/period/2026-11-22/2026-11-23"
    assert str(error) == (
        "GET /cdr/period/2026-11-22/2026-11-23: credentials refused; check app_id and app_key"
        " (HTTP 401, 40002, Unauthorised)"
    )


ERROR_BODIES = st.one_of(
    st.fixed_dictionaries({"result": st.integers(1, 99999) | st.integers(1, 99999).map(str)}),
    st.fixed_dictionaries({"status": st.just("error")}),
    st.fixed_dictionaries({"error_code": st.sampled_from([*ERROR_CODES, "OTHER"])}),
    st.fixed_dictionaries({"error": st.text(min_size=1) | st.just({"reason": "r"})}),
)
EXTRAS = st.fixed_dictionaries(
    {},
    optional={
        "cdr": st.sampled_from([None, [], [{"cdr_id": "1"}], {"cdr_id": "1"}]),
        "result": st.sampled_from([0, "0"]),
        "desc": st.text(max_size=9),
        "message": st.none() | st.text(max_size=9),
        "request_id": st.none() | st.text(max_size=9),
    },
)


@given(ERROR_BODIES, EXTRAS, st.sampled_from([200, 201, 400, 401, 404, 422, 429, 500, 503]), st.booleans())
def test_an_error_is_never_taken_for_documents(
    error: dict[str, Any], extras: dict[str, Any], status: int, error_first: bool
) -> None:
    """No body with a documented form of error yields documents, with any status and any other fields."""
    body = {**error, **extras, **error} if error_first else {**extras, **error}
    if status == 404 and str(body.get("result")) == "40001":
        assert documents(status, body) == []
    else:
        assert isinstance(refusal(status, body), ApiError)


@given(st.sampled_from([100, 199, 200, 201, 204, 299, 300, 404, 429, 500, 599]), st.binary(max_size=60))
def test_any_bytes_are_documents_or_an_error_of_ours(status: int, body: bytes) -> None:
    """Any bytes give a list or an ApiError, and no other error."""
    received, error = judged(status, [body])
    assert received == []
    assert error is None or error.status == status


@given(
    st.sampled_from([200, 404, 500]),
    st.sampled_from(
        [
            b'{"result": "0", "cdr": [{"a": "]},{"}, {"b": [{}, []]}, {"c": "\\"}"}], "desc": "\xc3\xa9"}',
            b'{"cdr": [{"a": 1}, {"b": 2}], "result": 40001, "error": "not found"}',
            b'{"result": "0", "cdr": [{"a": 1}, {"b"',
            b'{"result": "0", "cdr": null}',
            b"<html>maintenance</html>",
            b"",
        ]
    ),
    st.lists(st.integers(0, 90), max_size=8),
)
def test_a_verdict_is_blind_to_chunks(status: int, body: bytes, cuts: list[int]) -> None:
    """A reply in any chunks has the same documents, or the same type and text of the error."""
    edges = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    whole, whole_error = judged(status, [body])
    received, error = judged(status, [body[start:end] for start, end in pairwise(edges)])
    assert received == whole
    assert (type(error), str(error)) == (type(whole_error), str(whole_error))


@pytest.mark.parametrize(
    "body",
    [
        b'{"result": 1' + b"0" * 400 + b"}",
        b'{"result": "0", "desc": "\xff", "cdr": []}',
        b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b', "cdr": []}',
    ],
    ids=["huge number", "bad UTF-8 beside the list", "deep nesting beside the list"],
)
def test_hostile_json_is_an_error_of_ours(body: bytes) -> None:
    """JSON that breaks parsers is an error that names the request, not a crash."""
    with pytest.raises(PipelineError):
        documents(200, body)


# --- Retry-After ---


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("7", 7.0),
        (" 120 ", 120.0),
        ("1.5", 1.5),
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90.0),
        (format_datetime(NOW - timedelta(hours=1), usegmt=True), 0.0),
        ("Mon, 23 Nov 2026 07:46:00 +0530", 60.0),
    ],
)
def test_retry_after_is_read(text: str, seconds: float) -> None:
    """Seconds or an HTTP date give the seconds from now, never negative."""
    assert retry_after_s({"retry-after": text}, NOW) == seconds


@pytest.mark.parametrize("headers", [{}, *({"retry-after": text} for text in ("", "soon", "-5", "inf", "nan", "1e3"))])
def test_an_unusable_retry_after_is_none(headers: dict[str, str]) -> None:
    """Without a valid header, the program's own backoff applies."""
    assert retry_after_s(headers, NOW) is None


@pytest.mark.parametrize(
    "text", ["9" * 400, "Mon, 01 Jan 2026 00:00:00 +9999999999999999999999"], ids=["endless", "no such zone"]
)
def test_an_absurd_retry_after_does_not_stop_the_night(text: str) -> None:
    """An infinite wait or an impossible date is ignored."""
    received = retry_after_s({"retry-after": text}, NOW)
    assert received is None or received < float("inf")


@pytest.mark.parametrize(
    ("status", "body"), [(429, b""), (503, b"<html>"), (200, {"status": "error", "error_code": "RATE_LIMITED"})]
)
def test_a_wait_that_the_server_names_is_on_the_error(status: int, body: object) -> None:
    """The error has Retry-After, for throttling and for maintenance."""
    error = refusal(status, body, {"retry-after": "42"})
    assert isinstance(error, Transient)
    assert error.retry_after_s == 42.0
    without = refusal(status, body)
    assert isinstance(without, Transient)
    assert without.retry_after_s is None
