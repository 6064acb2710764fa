"""EnableX's protocol, without I/O: one request per endpoint; replies become documents or an error.

`ReplyReader` reads a reply while it streams; `read_documents` reads one that is in memory.
Source: enablex-api.md sections 1 to 5 and 9. Success is HTTP 2xx with a `result` that is absent or numerically 0
(documented and observed as `0` and `"0"`). Errors have three shapes and can arrive with HTTP 200 (observed).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote

import msgspec

from pipeline.core.errors import ApiError, CredentialsRefused, Refused, Throttled, Unreachable, UnreadableReply
from pipeline.core.models import Source
from pipeline.enablex.envelope import BOM, Block, Envelope, EnvelopeError
from pipeline.enablex.lenient import UNREADABLE

MAX_ERROR_BYTES = 2**20
"""Bytes that are read of a reply with an error status; maintenance pages are smaller."""

_RAW_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])

_RETRY_RESULTS = {50000, 50001, 50002, 50003, 10105}
_CREDENTIAL_CODES = {"UNAUTHORIZED", "CREDENTIAL_EXPIRED", "PROJECT_SUSPENDED", "10000", "40002"}
_NO_SUCH_ROOM = 40001
_ENVELOPE_KEYS = {"result", "error", "error_code", "status"}
_KNOWN_KEYS = {*_ENVELOPE_KEYS, "desc", "message", "request_id"}
_SHOWN_KEYS = 5
_SHOWN_KEY_CHARACTERS = 40


@dataclass(frozen=True)
class Request:
    """One call. `payload` is the key of the documents in the reply; `body` is JSON for POST and PATCH."""

    method: str
    path: str
    payload: str
    body: bytes = field(default=b"", repr=False)

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@dataclass(frozen=True)
class ReplyHead:
    """A reply without its body: the request, the status, headers with lower-case names."""

    request: Request
    status: int
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Reply(ReplyHead):
    """A small reply with its complete body."""

    body: bytes


def period_request(source: Source, day: date, *, to_date_is_inclusive: bool = False) -> Request:
    """Request one UTC day.

    Whether `to_date` is inclusive is undocumented (section 12), so the next day is requested too unless it is known to
    be inclusive. Rows of the next day are recognised by their timestamps and keys.
    """
    to_date = day if to_date_is_inclusive else day + timedelta(days=1)
    return Request("GET", f"/{source}/period/{day}/{to_date}", source)


def room_period_requests(source: Source, room_id: str, day: date) -> tuple[Request, Request]:
    """Requests for one room and UTC day: as documented, and as in a public client (section 11.4)."""
    days = f"{day}/{day + timedelta(days=1)}"
    room = quote(room_id, safe="")
    return (
        Request("GET", f"/{source}/room-period/{room}/{days}", source),
        Request("GET", f"/{source}/room-period/{room}/period/{days}", source),
    )


def rooms_request() -> Request:
    """Request all existing rooms (section 9.1: no paging)."""
    return Request("GET", "/rooms", "rooms")


class ReplyReader:
    """Reads one reply while it streams: `feed` and `finish` return documents, which are valid only after `finish`.

    Documents are raw bytes, in the order received. Memory: a buffer of about 8 MiB. `broken` is why the structure of
    the reply is broken, if it is; then `rest` returns the last documents before the break.
    """

    def __init__(self, head: ReplyHead) -> None:
        self._head = head
        self._envelope = Envelope(head.request.payload)
        self._error_body = b""
        self.broken = ""

    def feed(self, chunk: bytes) -> Block:
        """Add bytes; return the documents that are now complete. Raises UnreadableReply if the structure is broken."""
        if self._head.status >= 300:
            self._error_body += chunk[: MAX_ERROR_BYTES - len(self._error_body)]
            return Block()
        try:
            return self._envelope.feed(chunk)
        except EnvelopeError as error:
            raise self._broken(error) from None

    def rest(self) -> Block:
        """The complete documents before the break that were not returned yet; none if the structure is not broken."""
        return self._envelope.rest() if self.broken else Block()

    @property
    def has_enough(self) -> bool:
        """Whether the rest of the body need not be read: it belongs to an error and exceeds `MAX_ERROR_BYTES`."""
        return len(self._error_body) >= MAX_ERROR_BYTES

    def finish(self, now: datetime) -> Block:
        """Return the remaining documents. From here on all documents of the reply are valid.

        No match can be an empty array, null, a missing key, or 404 with code 40001 (section 12); each returns `[]`.
        `now` is used for a Retry-After that is a date.

        Raises:
            UnreadableReply, Throttled, Unreachable, CredentialsRefused, Refused: errors.py states which are retried.
        """
        is_error = self._head.status >= 300
        documents = Block() if is_error else self._last_documents()
        fields = _fields_or_none(self._error_body) if is_error else self._envelope.fields
        try:
            problem = _problem(self._head, fields)
        except UNREADABLE as error:
            raise self._unreadable(f"not the promised JSON: {error}") from None
        if problem is None:
            self._check_shape()
            return documents
        if self._head.status == 404 and problem.result == _NO_SUCH_ROOM:
            return documents
        raise _error(self._head, problem, now, verdict)

    def _last_documents(self) -> Block:
        try:
            return self._envelope.finish()
        except EnvelopeError as error:
            raise self._broken(error) from None

    def _check_shape(self) -> None:
        """A reply without the promised key is an empty day only if nothing else is there instead."""
        keys, payload = self._envelope.fields.keys(), self._head.request.payload
        if self._envelope.has_payload:
            return
        if others := sorted(keys - _KNOWN_KEYS):
            named = ", ".join(f'"{key[:_SHOWN_KEY_CHARACTERS]}"' for key in others[:_SHOWN_KEYS])
            more = ", ..." if len(others) > _SHOWN_KEYS else ""
            raise self._unreadable(f'unknown shape: no "{payload}", but {named}{more}; is base_url right')
        if not keys & _ENVELOPE_KEYS:
            raise self._unreadable(f'JSON without "result" and "{payload}"; is base_url right')

    def _broken(self, error: EnvelopeError) -> UnreadableReply:
        self.broken = str(error)
        return self._unreadable(f"not the promised JSON: {error}")

    def _unreadable(self, why: str) -> UnreadableReply:
        return _unreadable(self._head, why, self._envelope.size_bytes)


def read_documents(reply: Reply, *, now: datetime) -> list[msgspec.Raw]:
    """The documents of a reply that is in memory. Raises the errors of `ReplyReader.finish`."""
    reader = ReplyReader(reply)
    return [*reader.feed(reply.body), *reader.finish(now)]


def read_object(reply: Reply, *, now: datetime, judge: Judge | None = None) -> dict[str, Any]:
    """The JSON object of a small reply (rooms, users, tokens, dial-in), unchanged.

    Raises:
        UnreadableReply: the body is not the documented JSON.
        ApiError: the reply is an error; `judge` (default: `verdict`) chooses the type.
    """
    fields = _fields_or_none(reply.body)
    try:
        problem = _problem(reply, fields)
        values = {key: msgspec.json.decode(raw) for key, raw in fields.items()}
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
    return values


def _unreadable(head: ReplyHead, why: str, size_bytes: int) -> UnreadableReply:
    kind = head.headers.get("content-type", "no content type")
    return UnreadableReply(
        f"{head.request}: {why if size_bytes else 'an empty body'} ({kind}, {size_bytes} bytes);"
        " the fault is at EnableX or a proxy",
        endpoint=str(head.request),
        status=head.status,
    )


@dataclass(frozen=True)
class Problem:
    """The error of a reply, from any of the three shapes of section 2."""

    result: float | None
    code: str
    text: str
    request_id: str


def _fields_or_none(body: bytes) -> Mapping[str, msgspec.Raw]:
    try:
        return _RAW_FIELDS.decode(body.removeprefix(BOM))
    except UNREADABLE:
        return {}


def _problem(reply: ReplyHead, envelope: Mapping[str, msgspec.Raw]) -> Problem | None:
    """The error of a reply, from any of the three shapes of section 2; None on success."""
    fields = {key: msgspec.json.decode(raw) for key, raw in envelope.items() if key != reply.request.payload}
    result = _number(fields.get("result"))
    is_error = fields.get("error_code") or (fields.get("status") == "error") or (fields.get("error") and not result)
    is_success = 200 <= reply.status < 300 and not is_error and (fields.get("result") is None or result == 0)
    if is_success:
        return None
    error = fields.get("error")
    summary = error.get("reason") or error.get("message") if isinstance(error, dict) else error
    texts = [str(text) for text in (summary, fields.get("desc"), fields.get("message")) if text]
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
"""Maps HTTP status and problem to the error type and the advice in its message."""


def verdict(status: int, problem: Problem) -> tuple[type[ApiError], str]:
    """Map HTTP status and problem to the error type and the advice in its message (section 2.8)."""
    if status == 429 or problem.code == "RATE_LIMITED":
        return Throttled, "too many requests; lower collect.requests_per_second"
    if status in {401, 403} or problem.code in _CREDENTIAL_CODES:
        return CredentialsRefused, "credentials refused; check app_id and app_key"
    if status in {408, 425} or status >= 500 or problem.result in _RETRY_RESULTS:
        return Unreachable, "EnableX temporarily unavailable; try again later"
    if 300 <= status < 400:
        return Refused, "redirected; check base_url"
    return Refused, "refused; check base_url and the request"


def retry_after_s(headers: Mapping[str, str], now: datetime) -> float | None:
    """Seconds to wait according to Retry-After (seconds or an HTTP date); None without a valid header."""
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
