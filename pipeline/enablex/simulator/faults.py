"""Every fault of the simulator, switched on and off by name, reproducible.

A fault is switched on with a text, `name[@PART][=VALUE]`:

- `api_503_html` affects every matching request, `api_503_html=3` the first three (then it is inactive),
  `api_503_html=0.2` that share of them, selected by a hash of the seed: the same ones in every run;
- `html_200@/a1.mkv` affects only requests whose path contains PART;
- `name=on` and `name=off` switch a fault on and off.

A fault of records (`no_cdr_id`) with a share affects that share of the records, the same ones in every reply. For a
fault with an amount (`slow`, `big_file`) the value is the amount.
"""

from __future__ import annotations

import difflib
import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

REQUEST, RECORD, AMOUNT = "request", "record", "amount"


class UnknownFaultError(ValueError):
    """No fault has this name, or its value is invalid."""


@dataclass(frozen=True)
class FaultKind:
    """One fault: the host or route it affects, its effect, and the meaning of its number.

    `counts`: whether a number after the name counts requests or records, or is an amount in `unit`.
    """

    name: str
    target: str
    meaning: str
    counts: str = REQUEST
    default: float = 0.0
    unit: str = ""


_API = (
    FaultKind("slow", "api", "every reply is delayed", AMOUNT, 1.0, "seconds"),
    FaultKind("date_skew", "api", "the Date header is ahead", AMOUNT, 7200.0, "seconds"),
    FaultKind("api_down", "api", "the connection is dropped without a reply"),
    FaultKind("api_500", "api", "500 with shape A, result 50000"),
    FaultKind("api_503_html", "api", "503 with an HTML maintenance page"),
    FaultKind("api_502_text", "api", "502 with a line of plain text"),
    FaultKind("api_empty_body", "api", "200 without a body"),
    FaultKind("rate_limit", "api", "429 RATE_LIMITED with Retry-After: 1"),
    FaultKind("rate_limit_bare", "api", "429 RATE_LIMITED without Retry-After"),
    FaultKind("retry_after_date", "api", "429 RATE_LIMITED with Retry-After as a date, two seconds ahead"),
    FaultKind("unauthorized_a", "api", "401 with shape A, result 10000, for any credentials"),
    FaultKind("key_rotated", "api", "401 with shape B, CREDENTIAL_EXPIRED"),
    FaultKind("suspended", "api", "403 with shape B, PROJECT_SUSPENDED"),
    FaultKind("error_on_200", "api", "200 with shape A, result 50000"),
    FaultKind("errors_as_200", "api", "errors of shape A with HTTP 200"),
    FaultKind("truncated_body", "api", "correct Content-Length, half the body, then the connection closes"),
    FaultKind("truncated_json", "api", "half the JSON, with the Content-Length of that half"),
    FaultKind("lost_reply", "api", "POST, PATCH and DELETE are performed, then the connection is dropped"),
    FaultKind("lost_reply_502", "api", "POST, PATCH and DELETE are performed, then a proxy returns 502"),
)
"""Whole API. Of the faults that replace the reply, the first active one applies."""

_REPORTS = (
    FaultKind("result_number", "reports", 'result is 0 instead of "0"'),
    FaultKind("result_missing", "reports", "the reply has no result"),
    FaultKind("empty_null", "reports", "no records: the payload is null"),
    FaultKind("empty_missing_key", "reports", "no records: the payload key is missing"),
    FaultKind("empty_404", "reports", "no records: 404 with result 40001"),
    FaultKind("to_date_exclusive", "reports", "documents of to_date are omitted"),
    FaultKind("room_period_other_spelling", "reports", "only /room-period/{room}/period/{from}/{to} exists"),
    FaultKind("shuffle_rows", "reports", "the documents of each reply are in a different order"),
    FaultKind("row_limit", "reports", "a reply silently ends after N documents", AMOUNT, 10.0, "documents"),
    FaultKind("broken_document", "reports", "an invalid document precedes this document", RECORD),
    FaultKind("duplicate_rows", "reports", "this document occurs twice", RECORD),
    FaultKind("unknown_field", "reports", "this document has an undocumented field", RECORD),
)
"""CDR and archive routes."""

_CDR = (
    FaultKind("filter_connect_dt", "cdr", "the period applies to room.connect_dt, not trans_date"),
    FaultKind("all_late", "cdr", "every CDR becomes visible later than usual", AMOUNT, 6.0, "hours"),
    FaultKind("no_cdr_id", "cdr", "cdr_id is missing", RECORD),
    FaultKind("empty_room_details", "cdr", "room_details is {}", RECORD),
    FaultKind("null_usage", "cdr", "usage is null", RECORD),
)

_ARCHIVE = (
    FaultKind("archive_late", "archive", "every archive record becomes visible later", AMOUNT, 12.0, "hours"),
    FaultKind("url_changes", "archive", "file URLs differ in each reply; earlier ones remain valid"),
    FaultKind("foreign_url", "archive", "file URLs refer to a host that is not EnableX", RECORD),
    FaultKind("unknown_archive_key", "archive", "files are listed under undocumented keys", RECORD),
    FaultKind("same_basename", "archive", "all recordings of a record have the same file name", RECORD),
    FaultKind("empty_archive_entries", "archive", 'lists of files start with null, {"url": null} and {}', RECORD),
)

_ROOMS = (
    FaultKind("server_busy", "rooms", "tokens are refused with 10105"),
    FaultKind("room_failure", "rooms", "500 with 50000 to 50004, depending on the request"),
    FaultKind("plan_quality_sd", "rooms", "the project's plan is limited to SD: HD is refused with 10021"),
    FaultKind("sparse_room", "rooms", "rooms have no owner_ref and few settings"),
    FaultKind("no_room_data", "rooms", "rooms have no data"),
    FaultKind("late_listing", "rooms", "a listing omits rooms created in the last minute"),
)

_FILES = (
    FaultKind("no_head", "files", "HEAD is refused with 405"),
    FaultKind("files_down", "files", "the connection is dropped without a reply"),
    FaultKind("files_500", "files", "500"),
    FaultKind("files_503", "files", "503 with an HTML maintenance page"),
    FaultKind("files_429", "files", "429 with Retry-After: 1"),
    FaultKind("files_403", "files", "403 for any credentials"),
    FaultKind("files_401", "files", "401 with a Basic challenge for any credentials"),
    FaultKind("redirect_loop", "files", "302 to its own URL"),
    FaultKind("redirect_foreign", "files", "302 to another host, which requires no credentials"),
    FaultKind("redirect_to_http_other", "files", "302 to plain http on another host, under a reserved name"),
    FaultKind("expired_403", "files", "403 for an expired file"),
    FaultKind("expired_410", "files", "410 for an expired file"),
    FaultKind("expired_html", "files", "200 with an HTML page for an expired file"),
    FaultKind("gone_early", "files", "404 for a file that has not expired"),
    FaultKind("html_200", "files", "200 with an HTML error page instead of the file"),
    FaultKind("json_error_200", "files", "200 with a JSON error instead of the file"),
    FaultKind("empty_file", "files", "200 with Content-Length: 0"),
    FaultKind("other_kind", "files", "200 with a PNG signature and random bytes instead of the file"),
    FaultKind("big_file", "files", "size of media files", AMOUNT, 5_000_000_000.0, "bytes"),
    FaultKind("growing", "files", "half of a media file until N minutes after listing", AMOUNT, 30.0, "minutes"),
    FaultKind("replaced", "files", "different bytes of a media file from N hours after listing", AMOUNT, 2.0, "hours"),
    FaultKind("wrong_bytes", "files", "different bytes of the same size under the same URL"),
    FaultKind("no_validators", "files", "neither ETag nor Last-Modified"),
    FaultKind("weak_etag", "files", "the ETag is weak"),
    FaultKind("no_range", "files", "Range is ignored: 200 with the whole file"),
    FaultKind("wrong_range", "files", "206 with a part that was not requested, and its Content-Range"),
    FaultKind("lying_range", "files", "206 with the requested Content-Range, but bytes from the start of the file"),
    FaultKind("cut_anywhere", "files", "correct Content-Length, the connection closes each time at a different byte"),
    FaultKind("short_body", "files", "correct Content-Length, half the bytes, then the connection closes"),
    FaultKind("bad_length", "files", "Content-Length exceeds the body by 7 bytes, then the connection closes"),
    FaultKind("cut_no_length", "files", "no Content-Length, half the bytes, then the connection closes"),
    FaultKind("no_length", "files", "no Content-Length; the body ends with the connection"),
    FaultKind("chunked", "files", "Transfer-Encoding: chunked"),
)
"""File host. The first active fault in this order applies."""

FAULTS = {kind.name: kind for kind in (*_API, *_REPORTS, *_CDR, *_ARCHIVE, *_ROOMS, *_FILES)}
"""Every fault by name."""


@dataclass
class _Active:
    """An active fault. `left`: requests until it is inactive. `share`: of requests or records. `turns`: by path."""

    kind: FaultKind
    part: str
    text: str
    left: int | None = None
    share: float | None = None
    amount: float | None = None
    seen: int = field(default=0)
    turns: Counter[str] = field(default_factory=Counter)

    def affects_next(self, seed: int) -> bool:
        """Count the next matching request, and return whether it is affected."""
        self.seen += 1
        if self.left is not None:
            self.left -= 1
            return True
        if self.share is None or self.kind.counts == RECORD:
            return True
        return _chance(seed, self.kind.name, str(self.seen)) < self.share


class Faults:
    """The active faults. Threads may share it."""

    def __init__(self, seed: int = 0, faults: Iterable[str] = ()) -> None:
        self._seed = seed
        self._lock = threading.Lock()
        self._active: dict[tuple[str, str], _Active] = {}
        for text in faults:
            self.on(text)

    def on(self, text: str) -> None:
        """Switch a fault on or change its value: `name[@PART][=VALUE]`. Raises UnknownFaultError if invalid."""
        fault = _parse(text)
        if fault is None:
            self.off(text.partition("=")[0])
            return
        with self._lock:
            self._active[fault.kind.name, fault.part] = fault

    def off(self, name: str) -> None:
        """Switch faults off: the one of `name@PART`, or all of `name`."""
        name, _, part = name.partition("@")
        _kind(name)
        with self._lock:
            for key in [k for k in self._active if k[0] == name and part in ("", k[1])]:
                del self._active[key]

    def clear(self) -> None:
        with self._lock:
            self._active.clear()

    def active(self) -> tuple[str, ...]:
        """The texts of all active faults. A fault whose count is used up is inactive."""
        with self._lock:
            return tuple(fault.text for fault in self._active.values() if fault.left != 0)

    def hits(self, name: str, path: str) -> bool:
        """Whether this request is affected. Each call counts, so call it only where the fault would have an effect."""
        return self._next_active(name, path) is not None

    def amount(self, name: str, path: str) -> float | None:
        """The amount of an active fault; None when it is off."""
        fault = self._next_active(name, path)
        return fault.amount if fault else None

    def picker(self, name: str, path: str) -> Callable[[str], bool]:
        """A predicate for this request: whether the record with an id is affected. Call it once per request."""
        fault = self._next_active(name, path)
        if fault is None:
            return lambda _: False
        share = 1.0 if fault.share is None else fault.share
        return lambda record: _chance(self._seed, name, record) < share

    def place(self, name: str, path: str) -> float | None:
        """Position of the fault in this reply, from 0 to 1; None when the reply is not affected.

        A different position each time, but the same ones in every run: it depends on the seed, the path, and the number
        of affected replies of that path.
        """
        fault = self._next_active(name, path)
        if fault is None:
            return None
        with self._lock:
            fault.turns[path] += 1
            turn = fault.turns[path]
        return _chance(self._seed, name, f"{path}/{turn}")

    def _next_active(self, name: str, path: str) -> _Active | None:
        _kind(name)
        with self._lock:
            for fault in self._active.values():
                if (
                    fault.kind.name == name
                    and fault.part in path
                    and fault.left != 0
                    and fault.affects_next(self._seed)
                ):
                    return fault
        return None


def _kind(name: str) -> FaultKind:
    if name not in FAULTS:
        nearest = difflib.get_close_matches(name, FAULTS, n=1, cutoff=0.0)
        raise UnknownFaultError(f"unknown fault {name!r}; did you mean {nearest[0]!r}?")
    return FAULTS[name]


def _parse(text: str) -> _Active | None:
    """The fault described by a text; None if the text switches a fault off."""
    target, _, value = text.partition("=")
    name, _, part = target.partition("@")
    kind = _kind(name.strip())
    value = value.strip()
    if value == "off":
        return None
    fault = _Active(kind, part.strip(), text.strip())
    if kind.counts == AMOUNT:
        fault.amount = kind.default if value in ("", "on") else _number(text, value)
    elif "." in value:
        fault.share = _number(text, value)
    elif value not in ("", "on"):
        fault.left = int(_number(text, value))
    if fault.share is not None and fault.share > 1:
        raise UnknownFaultError(f"{text!r}: a share must be between 0.0 and 1.0")
    return fault


def _number(text: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise UnknownFaultError(f"{text!r}: use name, name=3, name=0.2, name=on or name=off")
    return number


def _chance(seed: int, name: str, key: str) -> float:
    """A number from 0 to 1 that is a hash of the arguments."""
    digest = hashlib.blake2b(f"{seed}/{name}/{key}".encode(), digest_size=6).digest()
    return int.from_bytes(digest, "big") / (1 << 48)
