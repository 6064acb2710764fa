"""Data classes that rooms share: frozen, validated on construction. No I/O, no clock."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, cast, runtime_checkable

from typing_extensions import TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Row = dict[str, Any]
"""One table row by column name, in the order of its schema."""
Source = Literal["cdr", "archive", "rooms"]
SOURCES: tuple[Source, ...] = ("cdr", "archive", "rooms")
DAILY_SOURCES: tuple[Source, ...] = ("cdr", "archive")
"""Sources requested by day; `rooms` is a snapshot of the current state, stored under the day of the request."""

SECRET_NAME = re.compile(r"token|passw|secret|app_key|meeting_id|authorization|cookie|^pin$", re.IGNORECASE)
"""Fields with such a name are kept out of tables, logs and output, at any depth."""

AT_RISK = timedelta(hours=24)
"""A file that is not stored and has less than this left is at risk (stores.md)."""

STORED = frozenset({"stored", "malformed"})
"""States of media in the vault."""


DecisionOutcome = Literal["released", "excluded"]
"""What can be decided about a record in suspense."""


@dataclass(frozen=True, order=True)
class Period:
    """Inclusive UTC dates, as in the API."""

    first: date
    last: date

    def __post_init__(self) -> None:
        if self.first > self.last:
            raise ValueError(f"--from {self.first} is after --to {self.last}; swap them")

    def __iter__(self) -> Iterator[date]:
        for offset in range((self.last - self.first).days + 1):
            yield self.first + timedelta(days=offset)

    def __contains__(self, day: date) -> bool:
        return self.first <= day <= self.last

    def widened(self, days: int) -> Period:
        """The same period with `days` more on both sides."""
        return Period(self.first - timedelta(days=days), self.last + timedelta(days=days))


@dataclass(frozen=True, order=True)
class RawResponse:
    """One landed response: the request, its time, and the properties of the body.

    `days` are the UTC dates of its documents. `malformed` are the ordinals of documents that are not JSON. `broken` is
    why the structure of the body is broken after `documents` documents, if it is.
    """

    response_id: str
    source: Source
    project: str
    day: date
    request: str
    asked_at: datetime
    status: int
    size_bytes: int
    sha256: str
    documents: int
    days: tuple[date, ...]
    body_key: str
    malformed: tuple[int, ...] = ()
    broken: str = ""


@dataclass(frozen=True)
class ListedFile:
    """A file in EnableX's archive listings, merged over all observations of its record.

    `day` is the UTC date of the record's `trans_date` in the first observation, so that a key never changes.
    `url` is from the newest observation; its query may contain secrets, so it is kept out of tables and logs.
    """

    project: str
    day: date
    conf_num: str
    room_id: str
    kind: str
    name: str
    url: str
    ended_at: datetime
    first_listed_at: datetime

    @property
    def identity(self) -> tuple[str, str, str]:
        return (self.conf_num, self.kind, self.name)


@dataclass(frozen=True)
class MediaItem:
    """A listed file that no manifest names, and its deadline."""

    file: ListedFile
    expires_at: datetime

    @property
    def project(self) -> str:
        return self.file.project

    @property
    def day(self) -> date:
        return self.file.day

    def __str__(self) -> str:
        return f"{self.file.project}/{self.file.conf_num}/{self.file.kind}/{self.file.name}"

    def deadline(self, now: datetime) -> Row:
        """The file's entry in `at_risk` and `lost` of run results and `status`."""
        return {
            "project": self.file.project,
            "conf_num": self.file.conf_num,
            "kind": self.file.kind,
            "name": self.file.name,
            "expires_at": self.expires_at.isoformat(),
            "hours_left": round((self.expires_at - now) / timedelta(hours=1), 1) + 0.0,  # never -0.0
        }

    def is_at_risk(self, now: datetime) -> bool:
        return self.expires_at - now < AT_RISK


@dataclass(frozen=True)
class Probe:
    """Properties of a media file: FFmpeg's names of container and codecs, duration in seconds, size in pixels."""

    container: str
    duration_s: float | None = None
    video_codec: str | None = None
    audio_codec: str | None = None
    width_px: int | None = None
    height_px: int | None = None


@dataclass(frozen=True)
class Failure:
    """One failed item and its error, in one line.

    `project` is set if the item belongs to one project. `attempted` is false if it was skipped after other failures.
    """

    item: str
    error: str
    attempted: bool = True
    project: str | None = None


@runtime_checkable
class SupportsToDict(Protocol):
    """Details with their own form in JSON."""

    def to_dict(self) -> Mapping[str, object]: ...


Details_co = TypeVar("Details_co", default=object, covariant=True)
Other = TypeVar("Other")


@dataclass
class RunResult(Generic[Details_co]):
    """The result of a command, printed as text or, with `--json`, as JSON. Determines the exit code.

    `unknown_fields` counts undocumented fields of EnableX that were read into `extra`.
    `notices` names successful items that need review: files `malformed` or `changed`, `aborted_uploads`.
    `items_succeeded` counts successful items. `is_staged` marks a demonstration: files at risk do not change its exit
    code.
    """

    command: str
    counts: Counter[str] = field(default_factory=Counter)
    failed: list[Failure] = field(default_factory=list)
    at_risk: list[Row] = field(default_factory=list)
    lost: list[Row] = field(default_factory=list)
    unknown_fields: Counter[str] = field(default_factory=Counter)
    notices: dict[str, list[str]] = field(default_factory=dict)
    details: Details_co = field(default=cast("Details_co", None))
    items_succeeded: int = 0
    is_staged: bool = False

    def with_details(self, details: Other) -> RunResult[Other]:
        """The same result with other details."""
        return replace(cast("RunResult[Other]", self), details=details)

    def add_success(self, items: int = 1, **counts: int) -> None:
        """Add successful items and their counts."""
        self.items_succeeded += items
        self.counts.update(counts)

    def add_failure(
        self, item: object, error: BaseException | str, *, attempted: bool = True, project: str | None = None
    ) -> None:
        project = project or getattr(item, "project", None)
        self.failed.append(Failure(str(item), str(error), attempted, project))

    def add_notice(self, kind: str, *things: str) -> None:
        """Name successful items that need review."""
        if things:
            self.notices[kind] = [*self.notices.get(kind, []), *things]

    def merge(self, step: RunResult) -> None:
        """Add the counts, failures, deadlines and notices of a step."""
        self.counts.update(step.counts)
        self.failed += step.failed
        self.items_succeeded += step.items_succeeded
        self.lost += step.lost
        self.at_risk += step.at_risk
        self.unknown_fields.update(step.unknown_fields)
        for kind, things in step.notices.items():
            self.add_notice(kind, *things)

    @property
    def ok(self) -> bool:
        return self.exit_code == 0

    @property
    def is_total_failure(self) -> bool:
        """Whether no item succeeded. Such a run is repeated soon, even if files at risk determine the exit code."""
        return bool(self.failed) and not self.items_succeeded

    @property
    def exit_code(self) -> int:
        """0 done, 1 all items failed, 3 some items failed, 4 files at risk or newly lost (4 takes precedence)."""
        if (self.at_risk or self.lost) and not self.is_staged:
            return 4
        if not self.failed:
            return 0
        return 1 if self.is_total_failure else 3

    def to_dict(self) -> Mapping[str, object]:
        """The result as JSON, with the fields of its details at the top level."""
        return {
            "command": self.command,
            "ok": self.ok,
            "counts": dict(self.counts),
            "failed": [{"item": failure.item, "error": failure.error} for failure in self.failed],
            "at_risk": self.at_risk,
            "lost": self.lost,
            **({"unknown_fields": dict(self.unknown_fields)} if self.unknown_fields else {}),
            **self.notices,
            **_top_level(self.details),
        }


def _top_level(details: object) -> Mapping[str, object]:
    """The fields of details as keys of the JSON, in order, without optional fields (default None) that are None.

    Nested records stay as they are: the JSON encoder writes their fields.
    """
    if details is None:
        return {}
    if isinstance(details, SupportsToDict):
        return details.to_dict()
    named = [(field, getattr(details, field.name)) for field in fields(cast("DataclassInstance", details))]
    return {field.name: value for field, value in named if value is not None or field.default is not None}


def utc_text(moment: datetime) -> str:
    """ISO 8601 in UTC with milliseconds and `Z`, as EnableX writes it."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def successful_projects(outcome: RunResult, projects: Sequence[str]) -> list[str]:
    """The projects of a run without a failure; none if no item succeeded."""
    failed = failures_by_project(projects, outcome.failed)
    return [] if outcome.is_total_failure else [project for project in projects if not failed[project]]


def failures_by_project(projects: Sequence[str], failures: Iterable[Failure]) -> dict[str, list[Failure]]:
    """The failures of each project; one that belongs to no project of the run counts for all."""
    by_project: dict[str, list[Failure]] = {project: [] for project in projects}
    for failure in failures:
        project = failure.project or (failure.item if failure.item in by_project else None)
        for name in [project] if project in by_project else projects:
            by_project[name].append(failure)
    return by_project
