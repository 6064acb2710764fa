"""EnableX's wire, without I/O: a request per endpoint; status, headers and body to documents, or an error.

Source: docs/enablex-api.md sections 1 to 5. Success is HTTP 2xx and a `result` that is absent or numerically 0 (both
documented and observed as `0` and `"0"`); errors come in three shapes and may ride on HTTP 200 (observed).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import msgspec

from pipeline.errors import ApiError, CredentialsRefused, Refused, Throttled, Unreachable, UnreadableReply
from pipeline.model import Source

RAW_JSON = msgspec.json.Decoder(dict[str, msgspec.Raw])
RAW_LIST = msgspec.json.Decoder(list[msgspec.Raw])

_RETRY_RESULTS = {50000, 50001, 50002, 50003, 10105}
_CREDENTIAL_CODES = {"UNAUTHORIZED", "CREDENTIAL_EXPIRED", "PROJECT_SUSPENDED", "10000", "40002"}
_NO_SUCH_ROOM = 40001


@dataclass(frozen=True)
class Request:
    """One call. `payload` names the key of the reply that holds the documents."""

    method: str
    path: str
    payload: str

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@dataclass(frozen=True)
class Reply:
    """An answer as received; header names in lower case."""

    request: Request
    status: int
    headers: Mapping[str, str]
    body: bytes


def period_request(source: Source, day: date) -> Request:
    """Ask for one UTC day.

    `to_date` may or may not be inclusive (unknown, section 12), so the day after is named too; rows of that day are
    known by their timestamps and by their keys.
    """
    return Request("GET", f"/{source}/period/{day}/{day + timedelta(days=1)}", source)


def read_documents(reply: Reply, *, now: datetime) -> list[msgspec.Raw]:
    """The documents of a reply, each still as its own bytes, in the order received.

    No match may look like an empty array, null, a missing key, or 404 with code 40001 (section 12): all are `[]`.
    `now` is only for a Retry-After that names a date.

    Raises:
        UnreadableReply, Throttled, Unreachable, CredentialsRefused, Refused: see errors.py for which to retry.
    """
    envelope = _envelope(reply)
    problem = _problem(reply, envelope)
    if problem is not None:
        if reply.status == 404 and problem.result == _NO_SUCH_ROOM:
            return []
        raise _error(reply, problem, now)
    return _payload(reply, envelope)


@dataclass(frozen=True)
class _Problem:
    result: float | None
    code: str
    text: str
    request_id: str


def _envelope(reply: Reply) -> dict[str, msgspec.Raw]:
    try:
        return RAW_JSON.decode(reply.body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if reply.status >= 300:
            return {}
        what = "an empty body" if not reply.body.strip() else f"not the promised JSON: {error}"
        raise UnreadableReply(
            f"{reply.request}: {what} ({_kind(reply)}, {len(reply.body)} bytes); EnableX or a proxy is at fault",
            endpoint=str(reply.request),
            status=reply.status,
        ) from None


def _problem(reply: Reply, envelope: Mapping[str, msgspec.Raw]) -> _Problem | None:
    """All three error shapes of section 2 as one; None when the envelope says success."""
    fields = {key: msgspec.json.decode(raw) for key, raw in envelope.items() if key != reply.request.payload}
    result = _number(fields.get("result"))
    named = fields.get("error_code") or (fields.get("status") == "error") or (fields.get("error") and not result)
    fine = 200 <= reply.status < 300 and not named and (fields.get("result") is None or result == 0)
    if fine:
        return None
    error = fields.get("error")
    short = error.get("reason") or error.get("message") if isinstance(error, dict) else error
    texts = [str(text) for text in (short, fields.get("desc"), fields.get("message")) if text]
    code = str(fields.get("error_code") or ("" if not result else f"{result:g}"))
    return _Problem(result, code, "; ".join(dict.fromkeys(texts)), str(fields.get("request_id") or ""))


def _error(reply: Reply, problem: _Problem, now: datetime) -> ApiError:
    status = reply.status
    facts = ", ".join(filter(None, (f"HTTP {status}", problem.code, problem.text, problem.request_id)))
    kind, advice = _verdict(status, problem)
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


def _verdict(status: int, problem: _Problem) -> tuple[type[ApiError], str]:
    """Which error, and what to tell the operator (section 2.8)."""
    if status == 429 or problem.code == "RATE_LIMITED":
        return Throttled, "asked too often; lower collect.requests_per_second"
    if status in {408, 425} or status >= 500 or problem.result in _RETRY_RESULTS:
        return Unreachable, "EnableX cannot answer now; try again later"
    if status in {401, 403} or problem.code in _CREDENTIAL_CODES:
        return CredentialsRefused, "credentials refused; check app_id and app_key"
    if 300 <= status < 400:
        return Refused, "answered with a redirect; check base_url"
    return Refused, "refused; check base_url and what was asked"


def _payload(reply: Reply, envelope: Mapping[str, msgspec.Raw]) -> list[msgspec.Raw]:
    raw = envelope.get(reply.request.payload)
    if raw is None and "result" not in envelope:
        raise UnreadableReply(
            f'{reply.request}: JSON without "result" and "{reply.request.payload}"; is base_url right?',
            endpoint=str(reply.request),
            status=reply.status,
        )
    if raw is None or bytes(raw).strip() in {b"null", b'""', b"{}"}:
        return []
    try:
        return RAW_LIST.decode(raw)
    except msgspec.DecodeError:
        return [raw]  # one bare document instead of a list of one: the row builder judges it


def retry_after_s(headers: Mapping[str, str], now: datetime) -> float | None:
    """Seconds to wait by the Retry-After header, given as seconds or as an HTTP date; None without a usable one."""
    text = headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, (moment.replace(tzinfo=moment.tzinfo or UTC) - now).total_seconds())


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _kind(reply: Reply) -> str:
    return reply.headers.get("content-type", "no content type")
