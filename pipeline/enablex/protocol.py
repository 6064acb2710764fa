"""EnableX's wire, without I/O: a request per endpoint; status, headers and body to documents, or an error.

`ReplyReader` judges a reply while it streams by; `read_documents` does the same for one that is already there.
Source: enablex-api.md sections 1 to 5 and 9. Success is HTTP 2xx and a `result` that is absent or numerically 0
(both documented and observed as `0` and `"0"`); errors come in three shapes and may ride on HTTP 200 (observed).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote

import msgspec

from pipeline.core.errors import ApiError, CredentialsRefused, Refused, Throttled, Unreachable, UnreadableReply
from pipeline.core.models import Source
from pipeline.enablex.envelope import UNREADABLE, Envelope, EnvelopeError

MAX_ERROR_BYTES = 2**20
"""Of a reply that is an error by its status; a maintenance page is smaller, and its rest is not worth reading."""

_RAW_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])

_RETRY_RESULTS = {50000, 50001, 50002, 50003, 10105}
_CREDENTIAL_CODES = {"UNAUTHORIZED", "CREDENTIAL_EXPIRED", "PROJECT_SUSPENDED", "10000", "40002"}
_NO_SUCH_ROOM = 40001
_ENVELOPE_KEYS = {"result", "error", "error_code", "status"}


@dataclass(frozen=True)
class Request:
    """One call. `payload` names the key of the reply that holds the documents; `body` is JSON for POST and PATCH."""

    method: str
    path: str
    payload: str
    body: bytes = field(default=b"", repr=False)

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@dataclass(frozen=True)
class ReplyHead:
    """An answer before its body: what was asked, the status, header names in lower case."""

    request: Request
    status: int
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Reply(ReplyHead):
    """A small answer, whole."""

    body: bytes


def period_request(source: Source, day: date, *, to_date_is_inclusive: bool = False) -> Request:
    """Ask for one UTC day.

    `to_date` may or may not be inclusive (unknown, section 12), so the day after is named too unless it is known to be;
    rows of that day are known by their timestamps and by their keys.
    """
    to_date = day if to_date_is_inclusive else day + timedelta(days=1)
    return Request("GET", f"/{source}/period/{day}/{to_date}", source)


def room_period_requests(source: Source, room_id: str, day: date) -> tuple[Request, Request]:
    """Ask for one room's UTC day: as documented, and as a public client spells it (section 11.4)."""
    days = f"{day}/{day + timedelta(days=1)}"
    room = quote(room_id, safe="")
    return (
        Request("GET", f"/{source}/room-period/{room}/{days}", source),
        Request("GET", f"/{source}/room-period/{room}/period/{days}", source),
    )


def rooms_request() -> Request:
    """Ask for all rooms that exist now (section 9.1: no paging)."""
    return Request("GET", "/rooms", "rooms")


class ReplyReader:
    """Judges one reply as it streams by: feed it the body, take documents, and trust them only after `finish`.

    Documents are their own bytes, in the order received. Memory: some MiB.
    """

    def __init__(self, head: ReplyHead) -> None:
        self._head = head
        self._envelope = Envelope(head.request.payload)
        self._error_body = b""

    def feed(self, chunk: bytes) -> Sequence[msgspec.Raw]:
        """Documents that are whole by now. Raises UnreadableReply when the body cannot become the promised JSON."""
        if self._head.status >= 300:
            self._error_body += chunk[: MAX_ERROR_BYTES - len(self._error_body)]
            return []
        try:
            return self._envelope.feed(chunk)
        except EnvelopeError as error:
            raise self._unreadable(f"not the promised JSON: {error}") from None

    @property
    def has_enough(self) -> bool:
        """Whether the rest of the body can say nothing more: it is an error's, and long."""
        return len(self._error_body) >= MAX_ERROR_BYTES

    def finish(self, now: datetime) -> list[msgspec.Raw]:
        """The last documents; from here on all of them count.

        No match may look like an empty array, null, a missing key, or 404 with code 40001 (section 12): all are `[]`.
        `now` is only for a Retry-After that names a date.

        Raises:
            UnreadableReply, Throttled, Unreachable, CredentialsRefused, Refused: see errors.py for which to retry.
        """
        is_error = self._head.status >= 300
        documents = [] if is_error else self._last_documents()
        fields = _fields_or_none(self._error_body) if is_error else self._envelope.fields
        try:
            problem = _problem(self._head, fields)
        except UNREADABLE as error:
            raise self._unreadable(f"not the promised JSON: {error}") from None
        if problem is None or (self._head.status == 404 and problem.result == _NO_SUCH_ROOM):
            return documents
        raise _error(self._head, problem, now, verdict)

    def _last_documents(self) -> list[msgspec.Raw]:
        try:
            documents = self._envelope.finish()
        except EnvelopeError as error:
            raise self._unreadable(f"not the promised JSON: {error}") from None
        if not self._envelope.has_payload and not self._envelope.fields.keys() & _ENVELOPE_KEYS:
            raise self._unreadable(f'JSON without "result" and "{self._head.request.payload}"; is base_url right')
        return documents

    def _unreadable(self, why: str) -> UnreadableReply:
        return _unreadable(self._head, why, self._envelope.size_bytes)


def read_documents(reply: Reply, *, now: datetime) -> list[msgspec.Raw]:
    """The documents of a reply that is already here; raises what `ReplyReader.finish` raises."""
    reader = ReplyReader(reply)
    return [*reader.feed(reply.body), *reader.finish(now)]


def read_object(reply: Reply, *, now: datetime, judge: Judge | None = None) -> dict[str, Any]:
    """The JSON object of a small reply (rooms, users, tokens, dial-in), as it came.

    Raises:
        UnreadableReply, or what `judge` (by default `verdict`) makes of a reply with an error.
    """
    fields = _fields_or_none(reply.body)
    try:
        problem = _problem(reply, fields)
        told = {key: msgspec.json.decode(raw) for key, raw in fields.items()}
    except UNREADABLE as error:
        raise _unreadable(reply, f"not the promised JSON: {error}", len(reply.body)) from None
    if problem is not None:
        raise _error(reply, problem, now, judge or verdict)
    if not fields:
        raise _unreadable(reply, "not the promised JSON", len(reply.body))
    if reply.request.payload not in fields and not fields.keys() & _ENVELOPE_KEYS:
        raise _unreadable(
            reply, f'JSON without "result" and "{reply.request.payload}"; is base_url right', len(reply.body)
        )
    return told


def _unreadable(head: ReplyHead, why: str, size_bytes: int) -> UnreadableReply:
    kind = head.headers.get("content-type", "no content type")
    return UnreadableReply(
        f"{head.request}: {why if size_bytes else 'an empty body'} ({kind}, {size_bytes} bytes);"
        " EnableX or a proxy is at fault",
        endpoint=str(head.request),
        status=head.status,
    )


@dataclass(frozen=True)
class Problem:
    """The error in a reply: all three error shapes of section 2 as one."""

    result: float | None
    code: str
    text: str
    request_id: str


def _fields_or_none(body: bytes) -> Mapping[str, msgspec.Raw]:
    try:
        return _RAW_FIELDS.decode(body)
    except UNREADABLE:
        return {}


def _problem(reply: ReplyHead, envelope: Mapping[str, msgspec.Raw]) -> Problem | None:
    """All three error shapes of section 2 as one; None when the envelope is a success."""
    fields = {key: msgspec.json.decode(raw) for key, raw in envelope.items() if key != reply.request.payload}
    result = _number(fields.get("result"))
    named = fields.get("error_code") or (fields.get("status") == "error") or (fields.get("error") and not result)
    fine = 200 <= reply.status < 300 and not named and (fields.get("result") is None or result == 0)
    if fine:
        return None
    error = fields.get("error")
    short = error.get("reason") or error.get("message") if isinstance(error, dict) else error
    texts = [str(text) for text in (short, fields.get("desc"), fields.get("message")) if text]
    code = str(fields.get("error_code") or ("" if not result else f"{result:.0f}"))
    return Problem(result, code, "; ".join(dict.fromkeys(texts)), str(fields.get("request_id") or ""))


def _error(reply: ReplyHead, problem: Problem, now: datetime, judge: Judge) -> ApiError:
    status = reply.status
    facts = ", ".join(filter(None, (f"HTTP {status}", problem.code, problem.text, problem.request_id)))
    kind, advice = judge(status, problem)
    error = kind(
        f"{reply.request}: {advice} ({facts})",
        endpoint=str(reply.request),
        status=status,
        code=problem.code,
        request_id=problem.request_id,
    )
    if isinstance(error, Throttled | Unreachable):
        error.retry_after_s = retry_after_s(reply.headers, now)
    return error


Judge = Callable[[int, Problem], tuple[type[ApiError], str]]
"""Which error a status and a problem are, and the next step for the operator."""


def verdict(status: int, problem: Problem) -> tuple[type[ApiError], str]:
    """Which error, and the next step for the operator (section 2.8)."""
    if status == 429 or problem.code == "RATE_LIMITED":
        return Throttled, "asked too often; lower collect.requests_per_second"
    if status in {401, 403} or problem.code in _CREDENTIAL_CODES:
        return CredentialsRefused, "credentials refused; check app_id and app_key"
    if status in {408, 425} or status >= 500 or problem.result in _RETRY_RESULTS:
        return Unreachable, "EnableX cannot answer now; try again later"
    if 300 <= status < 400:
        return Refused, "answered with a redirect; check base_url"
    return Refused, "refused; check base_url and what was asked"


def retry_after_s(headers: Mapping[str, str], now: datetime) -> float | None:
    """Seconds to wait by the Retry-After header, given as seconds or as an HTTP date; None without a usable one."""
    text = headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d{1,9}(\.\d+)?", text):
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return max(0.0, (moment.replace(tzinfo=moment.tzinfo or UTC) - now).total_seconds())


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None
