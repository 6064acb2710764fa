"""Everything that can go wrong, each by name, switchable one by one and reproducible.

A fault is put on as text, `name[@PART][=VALUE]`:

- `api_503_html` hits every matching request, `api_503_html=3` the first three (then it has healed),
  `api_503_html=0.2` that share of them, chosen by a hash of the seed: the same ones in every run;
- `html_200@/a1.mkv` hits only requests whose path contains PART;
- `name=on`, `name=off` say what they say.

A fault of records (`no_cdr_id`) with a share hits that share of the records, the same ones in every
reply. A fault with an amount (`slow`, `big_file`) takes the value as its amount instead.
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
    """No fault has this name, or its value cannot be read."""


@dataclass(frozen=True)
class FaultKind:
    """A fault that exists: which host it concerns, what it does, and what its number counts.

    `counts` is what a number after the name means: requests, records, or an amount of `unit`.
    """

    name: str
    target: str
    meaning: str
    counts: str = REQUEST
    default: float = 0.0
    unit: str = ""


_API = (
    FaultKind("slow", "api", "every reply waits", AMOUNT, 1.0, "seconds"),
    FaultKind("date_skew", "api", "the Date header is ahead", AMOUNT, 7200.0, "seconds"),
    FaultKind("api_down", "api", "the connection is dropped without a reply"),
    FaultKind("api_500", "api", "500 with shape A, result 50000"),
    FaultKind("api_503_html", "api", "503 with an HTML maintenance page"),
    FaultKind("api_502_text", "api", "502 with a line of plain text"),
    FaultKind("api_empty_body", "api", "200 without a body"),
    FaultKind("rate_limit", "api", "429 RATE_LIMITED with Retry-After: 1"),
    FaultKind("rate_limit_bare", "api", "429 RATE_LIMITED without Retry-After"),
    FaultKind("retry_after_date", "api", "429 RATE_LIMITED with Retry-After as a date, two seconds ahead"),
    FaultKind("unauthorized_a", "api", "401 with shape A, result 10000, whatever the credentials"),
    FaultKind("key_rotated", "api", "401 with shape B, CREDENTIAL_EXPIRED"),
    FaultKind("suspended", "api", "403 with shape B, PROJECT_SUSPENDED"),
    FaultKind("error_on_200", "api", "200 with shape A, result 50000"),
    FaultKind("errors_as_200", "api", "refusals of shape A ride on HTTP 200"),
    FaultKind("truncated_body", "api", "right Content-Length, half the body, then the connection closes"),
    FaultKind("truncated_json", "api", "half the JSON, with the Content-Length of that half"),
    FaultKind("lost_reply", "api", "POST, PATCH and DELETE are carried out, then the connection is dropped"),
    FaultKind("lost_reply_502", "api", "POST, PATCH and DELETE are carried out, then a proxy answers 502"),
)
"""Whole API. Of those that replace the answer before it is given, the first that is on strikes."""

_REPORTS = (
    FaultKind("result_number", "reports", 'result is 0 instead of "0"'),
    FaultKind("result_missing", "reports", "the reply has no result"),
    FaultKind("empty_null", "reports", "nothing found: the payload is null"),
    FaultKind("empty_missing_key", "reports", "nothing found: the payload key is missing"),
    FaultKind("empty_404", "reports", "nothing found: 404 with result 40001"),
    FaultKind("to_date_exclusive", "reports", "documents of to_date itself are left out"),
    FaultKind("room_period_other_spelling", "reports", "only /room-period/{room}/period/{from}/{to} exists"),
    FaultKind("shuffle_rows", "reports", "the documents of a reply come in another order each time"),
    FaultKind("row_limit", "reports", "a reply silently ends after N documents", AMOUNT, 10.0, "documents"),
    FaultKind("broken_document", "reports", "something unusable stands before this document", RECORD),
    FaultKind("duplicate_rows", "reports", "this document comes twice", RECORD),
    FaultKind("unknown_field", "reports", "this document has a field nobody documented", RECORD),
)
"""CDR and archive routes alike."""

_CDR = (
    FaultKind("filter_connect_dt", "cdr", "the period is matched with room.connect_dt, not trans_date"),
    FaultKind("all_late", "cdr", "every CDR shows up later than usual", AMOUNT, 6.0, "hours"),
    FaultKind("no_cdr_id", "cdr", "cdr_id is missing", RECORD),
    FaultKind("empty_room_details", "cdr", "room_details is {}", RECORD),
    FaultKind("null_usage", "cdr", "usage is null", RECORD),
)

_ARCHIVE = (
    FaultKind("archive_late", "archive", "every archive record shows up later", AMOUNT, 12.0, "hours"),
    FaultKind("url_changes", "archive", "file URLs differ from reply to reply; old ones keep working"),
    FaultKind("foreign_url", "archive", "file URLs lead to a host that is not EnableX", RECORD),
    FaultKind("unknown_archive_key", "archive", "files are listed under keys nobody documented", RECORD),
    FaultKind("same_basename", "archive", "all recordings of a record have the same file name", RECORD),
    FaultKind("empty_archive_entries", "archive", 'lists of files begin with null, {"url": null} and {}', RECORD),
)

_ROOMS = (
    FaultKind("server_busy", "rooms", "tokens are refused with 10105"),
    FaultKind("room_failure", "rooms", "500 with 50000 to 50004, by what was asked"),
    FaultKind("plan_quality_sd", "rooms", "the project's plan ends at SD: HD is refused with 10021"),
    FaultKind("sparse_room", "rooms", "rooms come without owner_ref and with few settings"),
    FaultKind("no_room_data", "rooms", "rooms come without data"),
    FaultKind("late_listing", "rooms", "a listing leaves out what was made in the last minute"),
)

_FILES = (
    FaultKind("no_head", "files", "HEAD is refused with 405"),
    FaultKind("files_down", "files", "the connection is dropped without a reply"),
    FaultKind("files_500", "files", "500"),
    FaultKind("files_503", "files", "503 with an HTML maintenance page"),
    FaultKind("files_429", "files", "429 with Retry-After: 1"),
    FaultKind("files_403", "files", "403, whatever the credentials"),
    FaultKind("files_401", "files", "401 with a Basic challenge, whatever the credentials"),
    FaultKind("redirect_loop", "files", "302 to itself, without end"),
    FaultKind("redirect_foreign", "files", "302 to another host, which needs no credentials"),
    FaultKind("redirect_to_http_other", "files", "302 to plain http on another host, which belongs to no one"),
    FaultKind("expired_403", "files", "an expired file answers 403"),
    FaultKind("expired_410", "files", "an expired file answers 410"),
    FaultKind("expired_html", "files", "an expired file answers 200 with an HTML page"),
    FaultKind("gone_early", "files", "404 although the file has not expired"),
    FaultKind("html_200", "files", "200 with an HTML error page instead of the file"),
    FaultKind("json_error_200", "files", "200 with a JSON error instead of the file"),
    FaultKind("empty_file", "files", "200 with Content-Length: 0"),
    FaultKind("other_kind", "files", "200 with a PNG image, which soon is noise, instead of the file"),
    FaultKind("big_file", "files", "media files are this large", AMOUNT, 5_000_000_000.0, "bytes"),
    FaultKind("growing", "files", "until N minutes after listing, half of a media file", AMOUNT, 30.0, "minutes"),
    FaultKind("replaced", "files", "from N hours after listing, other bytes of a media file", AMOUNT, 2.0, "hours"),
    FaultKind("wrong_bytes", "files", "other bytes of the same size under the same URL"),
    FaultKind("no_validators", "files", "neither ETag nor Last-Modified"),
    FaultKind("weak_etag", "files", "the ETag is weak"),
    FaultKind("no_range", "files", "Range is ignored: 200 with the whole file"),
    FaultKind("wrong_range", "files", "206 with another part than was asked for, as its Content-Range states"),
    FaultKind("lying_range", "files", "206 with the right Content-Range, but bytes from the beginning of the file"),
    FaultKind("cut_anywhere", "files", "right Content-Length, then the connection closes, each time at another byte"),
    FaultKind("short_body", "files", "right Content-Length, half the bytes, then the connection closes"),
    FaultKind("bad_length", "files", "Content-Length is a few bytes more than the body, then the connection closes"),
    FaultKind("cut_no_length", "files", "no Content-Length, half the bytes, then the connection closes"),
    FaultKind("no_length", "files", "no Content-Length; the end of the connection ends the file"),
    FaultKind("chunked", "files", "Transfer-Encoding: chunked"),
)
"""File host, in the order in which they strike."""

FAULTS = {kind.name: kind for kind in (*_API, *_REPORTS, *_CDR, *_ARCHIVE, *_ROOMS, *_FILES)}
"""Every fault there is, by name."""


@dataclass
class _Active:
    """A fault that is on. `left` counts down to healing; `share` is of requests or records; `turns` by path."""

    kind: FaultKind
    part: str
    text: str
    left: int | None = None
    share: float | None = None
    amount: float | None = None
    seen: int = field(default=0)
    turns: Counter[str] = field(default_factory=Counter)

    def strikes(self, seed: int) -> bool:
        """Whether the next matching request is hit; counts it."""
        self.seen += 1
        if self.left is not None:
            self.left -= 1
            return True
        if self.share is None or self.kind.counts == RECORD:
            return True
        return _chance(seed, self.kind.name, str(self.seen)) < self.share


class Faults:
    """The faults that are on. Safe to use from many threads."""

    def __init__(self, seed: int = 0, faults: Iterable[str] = ()) -> None:
        self._seed = seed
        self._lock = threading.Lock()
        self._active: dict[tuple[str, str], _Active] = {}
        for text in faults:
            self.on(text)

    def on(self, text: str) -> None:
        """Switch a fault on, or over: `name[@PART][=VALUE]`. UnknownFaultError if it cannot be understood."""
        fault = _parse(text)
        if fault is None:
            self.off(text.partition("=")[0])
            return
        with self._lock:
            self._active[fault.kind.name, fault.part] = fault

    def off(self, name: str) -> None:
        """Switch a fault off: `name@PART` that one, `name` all of the name."""
        name, _, part = name.partition("@")
        _kind(name)
        with self._lock:
            for key in [k for k in self._active if k[0] == name and part in ("", k[1])]:
                del self._active[key]

    def clear(self) -> None:
        with self._lock:
            self._active.clear()

    def active(self) -> tuple[str, ...]:
        """The faults that are on and not yet healed, as they were put on."""
        with self._lock:
            return tuple(fault.text for fault in self._active.values() if fault.left != 0)

    def hits(self, name: str, path: str) -> bool:
        """Whether this request is hit. Ask only when the fault would make a difference: asking counts."""
        return self._strike(name, path) is not None

    def amount(self, name: str, path: str) -> float | None:
        """The amount of a fault that has one, or None when it is off."""
        fault = self._strike(name, path)
        return fault.amount if fault else None

    def picker(self, name: str, path: str) -> Callable[[str], bool]:
        """For this request: which records, by id, are hit. Ask once per request."""
        fault = self._strike(name, path)
        if fault is None:
            return lambda _: False
        share = 1.0 if fault.share is None else fault.share
        return lambda record: _chance(self._seed, name, record) < share

    def place(self, name: str, path: str) -> float | None:
        """Where in this reply, from 0 to 1, a fault strikes; None when it does not.

        Another place each time, but the same ones in every run: it depends on the seed, the path, and how
        often the fault has struck there.
        """
        fault = self._strike(name, path)
        if fault is None:
            return None
        with self._lock:
            fault.turns[path] += 1
            turn = fault.turns[path]
        return _chance(self._seed, name, f"{path}/{turn}")

    def _strike(self, name: str, path: str) -> _Active | None:
        _kind(name)
        with self._lock:
            for fault in self._active.values():
                if fault.kind.name == name and fault.part in path and fault.left != 0 and fault.strikes(self._seed):
                    return fault
        return None


def _kind(name: str) -> FaultKind:
    if name not in FAULTS:
        near = difflib.get_close_matches(name, FAULTS, n=1, cutoff=0.0)
        raise UnknownFaultError(f"no fault is called {name!r}; the nearest is {near[0]!r}")
    return FAULTS[name]


def _parse(text: str) -> _Active | None:
    """The fault a text means; None when the text switches one off."""
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
        raise UnknownFaultError(f"{text!r}: a share is between 0.0 and 1.0")
    return fault


def _number(text: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise UnknownFaultError(f"{text!r}: want name, name=3, name=0.2, name=on or name=off")
    return number


def _chance(seed: int, name: str, what: str) -> float:
    """A number from 0 to 1 that depends on nothing but its arguments."""
    digest = hashlib.blake2b(f"{seed}/{name}/{what}".encode(), digest_size=6).digest()
    return int.from_bytes(digest, "big") / (1 << 48)
