"""What `doctor` makes of what it saw: a `Check` for each part of the set-up, an `Answer` for each open question (pure).

The asking is in `doctor.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from itertools import groupby

from pipeline.core.errors import ApiError, CredentialsRefused, FileError, FileRefused, Throttled, UnreadableReply
from pipeline.storage.selftest import StoreFacts

_SKEW_AT_MOST = timedelta(minutes=2)
"""Deadlines are in hours and receipts in milliseconds; S3 refuses a clock that is 15 minutes wrong."""

_FREE_AT_LEAST = 2**30
"""A day of CDRs being sorted, or four parts of uploads, fit into a gibibyte; with less, runs stop half-way."""

_FREE_COMFORTABLY = 10 * 2**30
_GIB = 2**30

_TO_DATE = "is to_date inclusive"
_RANGE = "does the file host honour Range"
_LENGTHS = "does the file host send lengths"
_ETAGS = "does the file host send ETags"

_DAY_AFTER = "the day after is named too, which is right either way"
_GOES_ON = "an interrupted copy is resumed"
_BEGINS_AGAIN = "an interrupted copy starts from the beginning"
_CUTS_SHOW = "a body that is cut short shows"
_TWICE = "files that do not say themselves that they are whole are read twice"
_BY_HEAD = "a stored file is compared with its source by the host's headers"
_BY_READING = "a stored file is compared with its source by reading all of it"
_SEEN_EACH_TIME = "it is determined for each file"


@dataclass(frozen=True)
class Check:
    """One part of the set-up: whether it works, what was seen, and what to do about it.

    `ok` is None when there was nothing to try it on. Where `ok` is True, `next_step` is advice, and may be empty.
    """

    name: str
    ok: bool | None
    detail: str
    next_step: str = ""


@dataclass(frozen=True)
class ProbeResult:
    """What the live account answers to a question that EnableX's documents leave open, and how that is known."""

    project: str
    question: str
    answer: str
    evidence: str
    means: str
    """What this program makes of it."""

    setting: str = ""
    """A line of `[projects.NAME]` with this result, where the program does not determine it automatically."""


@dataclass(frozen=True)
class DoctorReport:
    """Every check; with `--probe` also what the live account answered, and that as lines of a settings file."""

    checks: list[Check]
    answers: list[ProbeResult] | None = None
    toml: list[str] | None = None


@dataclass(frozen=True)
class FileFacts:
    """What the file host said about one file, and what it made of a question for the rest of it."""

    length_said: str
    etag: str | None
    last_modified: str | None
    range_said: str


def clock_check(name: str, date: str | None, before: datetime, after: datetime) -> Check:
    """Our clock against the `Date` of an answer that came between two looks at it."""
    try:
        said = parsedate_to_datetime(date or "")
    except ValueError:
        return Check(name, None, "no answer with a usable Date to compare with")
    theirs = said.replace(tzinfo=said.tzinfo or UTC)
    late, early = theirs - after, before - theirs
    skew_s = max(late, early, timedelta()).total_seconds()
    if skew_s <= _SKEW_AT_MOST.total_seconds():
        return Check(name, True, "this machine and EnableX agree on the time")
    way = "behind" if late > early else "ahead of"
    return Check(
        name,
        False,
        f"this machine's clock is {skew_s:.0f} s {way} EnableX's",
        "set the clock, best by NTP (chrony, systemd-timesyncd): days, deadlines and receipts depend on it",
    )


def reader_check(is_compiled: bool) -> Check:
    """Whether CDRs are read by the compiled module, which installs only where it can be compiled."""
    if is_compiled:
        return Check("CDR reader", True, "compiled")
    advice = "for builds two to three times as fast, install a C compiler and Python's headers, then Postroom again"
    return Check("CDR reader", True, "not compiled", advice)


def disk_check(name: str, path: str, free_bytes: int) -> Check:
    """Free space where something is written."""
    said = f"{free_bytes / _GIB:,.1f} GiB free in {path}"
    if free_bytes < _FREE_AT_LEAST:
        return Check(name, False, said, "free space there, or name another place (TMPDIR for scratch)")
    advice = "that is little for recordings: free space soon, or name another place"
    return Check(name, True, said, advice if free_bytes < _FREE_COMFORTABLY else "")


def store_checks(name: str, facts: StoreFacts) -> list[Check]:
    """Writing, conditions and checksums of one store that took our probes."""
    if facts.is_synced:
        return [Check(f"{name} writable", True, "written, synced to the disk, read back, kept from being put over")]
    alone = "let no two writers work on one store at the same time, or take leases: run_store.url on PostgreSQL"
    unheeded = [
        how
        for how, heeded in (("PUT", facts.has_conditional_put), ("parts", facts.has_conditional_multipart))
        if not heeded
    ]
    conditions = (
        Check(f"{name} conditions", True, f"If-None-Match is not heeded by {' and '.join(unheeded)}", alone)
        if unheeded
        else Check(f"{name} conditions", True, "a second writer is refused: by PUT, and by uploads in parts")
    )
    return [
        Check(f"{name} writable", True, "written, read back, kept from being put over"),
        conditions,
        Check(f"{name} checksums", True, *_checksums(facts)),
    ]


def _checksums(facts: StoreFacts) -> tuple[str, str]:
    if facts.returns_crc64nvme:
        return "the store states CRC64NVME of whole objects", ""
    if facts.returns_md5:
        return "the store states MD5 as ETag, and no CRC64NVME", ""
    return (
        "the store states no checksum that can be compared",
        "nothing to do: every file is read back, which costs time",
    )


def api_step(error: ApiError, project: str) -> str:
    """What to do about an API that did not answer as it should."""
    key = f"projects.{project}"
    if isinstance(error, CredentialsRefused):
        return f"copy App ID and App Key from the portal's project page to {key}.app_id and app_key"
    if isinstance(error, Throttled):
        return "something else asks with the same pair: lower collect.requests_per_second"
    if isinstance(error, UnreadableReply):
        return f"see whether {key}.base_url, or a proxy, leads to the Video API; else try again later"
    return f"check the network, the proxy and {key}.base_url; try again later"


def file_check(name: str, error: FileError | None, shown: str, project: str) -> Check:
    """One listed file of one host, opened with the portal account."""
    if error is None:
        return Check(name, True, f"opened {shown}")
    key = f"projects.{project}"
    step = "try again later; the file host, or a proxy, is at fault"
    if isinstance(error, FileRefused):
        step = (
            f"put the portal account's e-mail address and password into {key}.files_user and files_password"
            if error.status
            else f'if EnableX serves files there: add "{shown.partition("/")[0]}" to {key}.file_hosts'
        )
    return Check(name, False, str(error), step)


def to_date_answer(project: str, day: str, whole: int, alone: int) -> ProbeResult:
    """Is `to_date` inclusive: how many of a day's CDRs come when the day is both ends of the requested period."""
    evidence = f"{alone} of the {whole} CDRs of {day} came when only that day was asked for"
    if whole == 0:
        return to_date_unknown(project, "no CDR of the last days to ask with")
    if alone == whole:
        means = "a day can be requested alone, at half the bytes"
        return ProbeResult(project, _TO_DATE, "yes", evidence, means, "to_date_is_inclusive = true")
    return ProbeResult(project, _TO_DATE, "in part" if alone else "no", evidence, _DAY_AFTER)


def to_date_unknown(project: str, why: str) -> ProbeResult:
    return ProbeResult(project, _TO_DATE, "unknown", why, _DAY_AFTER)


def to_date_check(answer: ProbeResult) -> Check:
    """Whether the setting `to_date_is_inclusive` is still true."""
    name = f"{answer.project} to_date"
    if answer.answer == "unknown":
        return Check(name, None, answer.evidence)
    step = f"take to_date_is_inclusive out of projects.{answer.project}, and collect the days since it was put there"
    return Check(name, answer.answer == "yes", answer.evidence, "" if answer.answer == "yes" else step)


def file_answers(project: str, shown: str, facts: FileFacts) -> list[ProbeResult]:
    """Range, lengths and validators of the file host."""
    validators = [f"ETag {'weak' if facts.etag.startswith('W/') else 'strong'}"] if facts.etag else []
    validators += ["Last-Modified"] if facts.last_modified else []
    goes_on = facts.range_said == "yes" and bool(validators)
    return [
        ProbeResult(project, _RANGE, facts.range_said, shown, _GOES_ON if goes_on else _BEGINS_AGAIN),
        ProbeResult(project, _LENGTHS, facts.length_said, shown, _CUTS_SHOW if facts.length_said != "no" else _TWICE),
        ProbeResult(project, _ETAGS, ", ".join(validators) or "no", shown, _BY_HEAD if validators else _BY_READING),
    ]


def no_file_answers(project: str, why: str) -> list[ProbeResult]:
    """The same questions when there is no file to ask with."""
    return [ProbeResult(project, question, "unknown", why, _SEEN_EACH_TIME) for question in (_RANGE, _LENGTHS, _ETAGS)]


def range_answer(whole: bytes, rest: bytes, first_byte: int) -> str:
    """What a host made of a question for everything from `first_byte` on, given both beginnings."""
    expected = whole[first_byte:]
    shared = min(len(expected), len(rest))
    if shared == 0:
        return "unknown: the file is too short"
    return "yes" if expected[:shared] == rest[:shared] else "no: it states a range, and sends other bytes"


def as_toml(answers: Iterable[ProbeResult], now: datetime) -> list[str]:
    """Answers as text for the settings file: settings where the program has one, and what each answer means to it."""
    lines: list[str] = []
    for project, answered in groupby(answers, lambda answer: answer.project):
        lines += [f"[projects.{project}]", f"# seen on {now:%Y-%m-%d} by `postroom doctor --probe`:"]
        for one in answered:
            lines += [f"# {one.question}? {one.answer} ({one.evidence}): {one.means}"]
            lines += [one.setting] if one.setting else []
    return lines
