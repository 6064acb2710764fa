"""Results of `doctor`: a `Check` for each part of the installation, a `ProbeResult` for each open question (pure).

`doctor.py` sends the requests.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from itertools import groupby

from pipeline.core.errors import ApiError, CredentialsRefused, FileError, FileRefused, Throttled, UnreadableReply
from pipeline.storage.selftest import StoreFacts

_MAX_SKEW = timedelta(minutes=2)
"""Deadlines are in hours and receipts in milliseconds; S3 refuses a clock that is off by 15 minutes."""

_MIN_FREE = 2**30
"""One day of CDRs being sorted, or four parts of uploads, fit into 1 GiB; with less, runs fail."""

_LOW_FREE = 10 * 2**30
_GIB = 2**30

_TO_DATE = "is to_date inclusive"
_RANGE = "does the file host honour Range"
_LENGTHS = "does the file host send lengths"
_ETAGS = "does the file host send ETags"

_DAY_AFTER = "requests include the next day, which is correct in both cases"
_RESUMES = "an interrupted copy is resumed"
_RESTARTS = "an interrupted copy starts from the beginning"
_DETECTS_TRUNCATION = "a truncated body is detected"
_READS_TWICE = "a file whose content does not show truncation is downloaded twice"
_BY_HEADERS = "a stored file is compared with its source by the host's headers"
_BY_CONTENT = "a stored file is compared with its source by downloading it"
_PER_FILE = "it is determined for each file"


@dataclass(frozen=True)
class Check:
    """One part of the installation: whether it works, what was observed, and the next step.

    `ok` is None if it could not be checked. If `ok` is True, `next_step` is optional advice.
    """

    name: str
    ok: bool | None
    detail: str
    next_step: str = ""


@dataclass(frozen=True)
class ProbeResult:
    """Result of a test on the live account for a question that EnableX's documentation leaves open."""

    project: str
    question: str
    answer: str
    evidence: str
    means: str
    """The consequence for this program."""

    setting: str = ""
    """The line of `[projects.NAME]` for this result; empty if the program determines it automatically."""


@dataclass(frozen=True)
class DoctorReport:
    """All checks; with `--probe` also the results on the live account, and as lines of a settings file."""

    checks: list[Check]
    answers: list[ProbeResult] | None = None
    toml: list[str] | None = None


@dataclass(frozen=True)
class FileFacts:
    """Headers of one file, and answers to: is a truncated body detectable, and is Range supported."""

    length_answer: str
    etag: str | None
    last_modified: str | None
    range_answer: str


def clock_check(name: str, date: str | None, before: datetime, after: datetime) -> Check:
    """Compare the local clock, read before and after a request, with the `Date` of its response."""
    try:
        parsed = parsedate_to_datetime(date or "")
    except ValueError:
        return Check(name, None, "no response with a valid Date header to compare with")
    server_time = parsed.replace(tzinfo=parsed.tzinfo or UTC)
    behind, ahead = server_time - after, before - server_time
    skew_s = max(behind, ahead, timedelta()).total_seconds()
    if skew_s <= _MAX_SKEW.total_seconds():
        return Check(name, True, "the clocks of this machine and EnableX agree")
    direction = "behind" if behind > ahead else "ahead of"
    return Check(
        name,
        False,
        f"this machine's clock is {skew_s:.0f} s {direction} EnableX's",
        "set the clock, preferably by NTP (chrony, systemd-timesyncd): days, deadlines and receipts depend on it",
    )


def reader_check(is_compiled: bool) -> Check:
    """Whether CDRs are read by the compiled module, which is installed only if it can be compiled."""
    if is_compiled:
        return Check("CDR reader", True, "compiled")
    advice = "for builds 2 to 3 times as fast, install a C compiler and Python's headers, then reinstall Postroom"
    return Check("CDR reader", True, "not compiled", advice)


def disk_check(name: str, path: str, free_bytes: int) -> Check:
    """Free space in a folder that is written to."""
    detail = f"{free_bytes / _GIB:,.1f} GiB free in {path}"
    if free_bytes < _MIN_FREE:
        return Check(name, False, detail, "free disk space, or use another disk (TMPDIR for temporary files)")
    advice = "low for recordings: free disk space soon, or use another disk"
    return Check(name, True, detail, advice if free_bytes < _LOW_FREE else "")


def store_checks(name: str, facts: StoreFacts) -> list[Check]:
    """Writing, conditional writes and checksums of one store whose self-test succeeded."""
    if facts.is_synced:
        return [Check(f"{name} writable", True, "written, synced to disk, read back; a second put is refused")]
    advice = "run one writer at a time, or use leases: run_store.url on PostgreSQL"
    unsupported = [
        operation
        for operation, is_supported in (
            ("PUT", facts.has_conditional_put),
            ("multipart uploads", facts.has_conditional_multipart),
        )
        if not is_supported
    ]
    conditions = (
        Check(f"{name} conditions", True, f"If-None-Match is not supported for {' and '.join(unsupported)}", advice)
        if unsupported
        else Check(f"{name} conditions", True, "If-None-Match is supported for PUT and multipart uploads")
    )
    return [
        Check(f"{name} writable", True, "written, read back; a second put is refused"),
        conditions,
        Check(f"{name} checksums", True, *_checksums(facts)),
    ]


def _checksums(facts: StoreFacts) -> tuple[str, str]:
    if facts.returns_crc64nvme:
        return "the store returns CRC64NVME of whole objects", ""
    if facts.returns_md5:
        return "the store returns MD5 as ETag, and no CRC64NVME", ""
    return (
        "the store returns no usable checksum",
        "no action required: every file is read back to verify it, which takes longer",
    )


def api_step(error: ApiError, project: str) -> str:
    """The next step after an API error."""
    key = f"projects.{project}"
    if isinstance(error, CredentialsRefused):
        return f"copy App ID and App Key from the portal's project page to {key}.app_id and app_key"
    if isinstance(error, Throttled):
        return "another client uses the same credentials: lower collect.requests_per_second"
    if isinstance(error, UnreadableReply):
        return f"check that {key}.base_url and any proxy lead to the Video API; else try again later"
    return f"check the network, the proxy and {key}.base_url; try again later"


def file_check(name: str, error: FileError | None, shown: str, project: str) -> Check:
    """Result of opening one listed file of one host with the portal account."""
    if error is None:
        return Check(name, True, f"opened {shown}")
    key = f"projects.{project}"
    step = "try again later; the file host or a proxy is failing"
    if isinstance(error, FileRefused):
        step = (
            f"set {key}.files_user and files_password to the portal account's e-mail address and password"
            if error.status
            else f'if this is a host of EnableX: add "{shown.partition("/")[0]}" to {key}.file_hosts'
        )
    return Check(name, False, str(error), step)


def to_date_answer(project: str, day: str, whole: int, alone: int) -> ProbeResult:
    """Is `to_date` inclusive: of a day's `whole` CDRs, `alone` are returned if the day is both ends of the period."""
    evidence = f"{alone} of the {whole} CDRs of {day} were returned when only that day was requested"
    if whole == 0:
        return to_date_unknown(project, "no CDR found to test with")
    if alone == whole:
        means = "a day can be requested alone, which halves the bytes"
        return ProbeResult(project, _TO_DATE, "yes", evidence, means, "to_date_is_inclusive = true")
    return ProbeResult(project, _TO_DATE, "in part" if alone else "no", evidence, _DAY_AFTER)


def to_date_unknown(project: str, why: str) -> ProbeResult:
    return ProbeResult(project, _TO_DATE, "unknown", why, _DAY_AFTER)


def to_date_check(answer: ProbeResult) -> Check:
    """Whether the setting `to_date_is_inclusive` is still correct."""
    name = f"{answer.project} to_date"
    if answer.answer == "unknown":
        return Check(name, None, answer.evidence)
    step = f"remove to_date_is_inclusive from projects.{answer.project}, and collect the days since it was added"
    return Check(name, answer.answer == "yes", answer.evidence, "" if answer.answer == "yes" else step)


def file_answers(project: str, shown: str, facts: FileFacts) -> list[ProbeResult]:
    """Support of the file host for Range, lengths and validators."""
    validators = [f"ETag {'weak' if facts.etag.startswith('W/') else 'strong'}"] if facts.etag else []
    validators += ["Last-Modified"] if facts.last_modified else []
    can_resume = facts.range_answer == "yes" and bool(validators)
    detects_truncation = facts.length_answer != "no"
    return [
        ProbeResult(project, _RANGE, facts.range_answer, shown, _RESUMES if can_resume else _RESTARTS),
        ProbeResult(
            project,
            _LENGTHS,
            facts.length_answer,
            shown,
            _DETECTS_TRUNCATION if detects_truncation else _READS_TWICE,
        ),
        ProbeResult(project, _ETAGS, ", ".join(validators) or "no", shown, _BY_HEADERS if validators else _BY_CONTENT),
    ]


def no_file_answers(project: str, why: str) -> list[ProbeResult]:
    """The same questions if there is no file to test with."""
    return [ProbeResult(project, question, "unknown", why, _PER_FILE) for question in (_RANGE, _LENGTHS, _ETAGS)]


def range_answer(whole: bytes, rest: bytes, first_byte: int) -> str:
    """Whether `rest`, the response to a request from `first_byte` on, continues `whole`, the start of the file."""
    expected = whole[first_byte:]
    shared = min(len(expected), len(rest))
    if shared == 0:
        return "unknown: the file is too short"
    return "yes" if expected[:shared] == rest[:shared] else "no: it returns other bytes than the range it states"


def as_toml(answers: Iterable[ProbeResult], now: datetime) -> list[str]:
    """The results as lines of the settings file: the setting if there is one, and each result as a comment."""
    lines: list[str] = []
    for project, results in groupby(answers, lambda answer: answer.project):
        lines += [f"[projects.{project}]", f"# observed on {now:%Y-%m-%d} by `postroom doctor --probe`:"]
        for result in results:
            lines += [f"# {result.question}? {result.answer} ({result.evidence}): {result.means}"]
            lines += [result.setting] if result.setting else []
    return lines
