"""Test every part of the installation; `doctor_checks` evaluates the results.

Writes a few small objects under `doctor/` of both roots. Requests archive listings of the last days from EnableX, and
for `--probe` CDRs of a day, within the rate limit. Responses are not landed.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, available_timezones

import msgspec
from sqlalchemy.engine import make_url

from pipeline.cli import doctor_checks
from pipeline.cli.doctor_checks import Check, DoctorReport, FileFacts, ProbeResult, as_toml
from pipeline.core.context import App
from pipeline.core.errors import ApiError, ConfigError, FileError, FileUnavailable, FixityError, RecordError, StoreError
from pipeline.core.models import ListedFile, Period, RawResponse, RunResult
from pipeline.core.urls import public_url
from pipeline.enablex.file_host import Body, FileHost, RangeMismatchError
from pipeline.enablex.protocol import Request, period_request
from pipeline.media.content import ErrorPage, Inspector
from pipeline.media.copy import media_days
from pipeline.storage import LocalStore, ObjectStore, Retention
from pipeline.storage.selftest import check_lock, check_store
from pipeline.tables.normalize import archives, cdr
from pipeline.tables.normalize.cdr_batch import decoded
from pipeline.tables.normalize.field_scanner import is_compiled

_FILES_PER_HOST = 3
"""Files to try before a host counts as refusing: a single file may have been deleted early."""

_SAMPLE_BYTES = 64 * 1024
_RANGE_FROM = 100
_PROBED_DAYS = 7
"""Days before today that are searched for one with CDRs."""

_LOCKED_FOR = timedelta(days=1)
"""Lock of the test object: long enough to be checked, short enough for a bucket that is only tested."""


def run_checks(app: App) -> Iterator[Check]:
    """Check this machine, the run store, the stores, and each project's API, clock and files."""
    yield _time_zones(app)
    yield doctor_checks.reader_check(is_compiled())
    yield from _disks(app)
    yield _attempt(
        "run store", app.run_store.ping, f"runs can be recorded in {app.run_store.where}", "set run_store.url"
    )
    yield from _store("lake", app.lake)
    yield from _store("vault", app.vault)
    yield from _lock(app)
    if not app.settings.projects:
        step = "add [projects.NAME] with app_id and app_key to the settings file, or try `postroom demo`"
        yield Check("projects", False, "no project is configured", step)
    for name, project in app.settings.projects.items():
        yield from _project(app, name)
        if project.to_date_is_inclusive:
            yield doctor_checks.to_date_check(_probe_to_date(app, name))


def probe_api(app: App) -> list[ProbeResult]:
    """Test the open questions of enablex-api.md section 12 with the live account of each project."""
    return [
        result for name in app.settings.projects for result in (_probe_to_date(app, name), *_probe_files(app, name))
    ]


# --- this machine --------------------------------------------------------------------------------------------------


def _time_zones(app: App) -> Check:
    zone = app.settings.billing.time_zone
    offset = datetime(2026, 1, 1, tzinfo=UTC).astimezone(ZoneInfo("Asia/Kolkata")).utcoffset()
    if offset != timedelta(hours=5, minutes=30) or zone not in available_timezones():
        return Check("time zones", False, f"no usable data for {zone}", "install tzdata: pip install --upgrade tzdata")
    return Check(
        "time zones", True, f"{len(available_timezones())} zones, tzdata {version('tzdata')}; billing in {zone}"
    )


def _disks(app: App) -> Iterator[Check]:
    folders = {"temp": tempfile.gettempdir()}
    for name, store in (("lake", app.lake), ("vault", app.vault)):
        if isinstance(store, LocalStore):
            folders[name] = store.filesystem()[1]
    run_store = make_url(app.settings.run_store.url)
    if run_store.get_backend_name() == "sqlite" and run_store.database:
        folders["run store"] = str(Path(run_store.database).absolute().parent)
    for name, path in folders.items():
        existing = next(folder for folder in (Path(path), *Path(path).parents) if folder.exists())
        yield doctor_checks.disk_check(f"{name} disk", path, shutil.disk_usage(existing).free)


# --- stores --------------------------------------------------------------------------------------------------------


def _store(name: str, store: ObjectStore) -> Iterable[Check]:
    try:
        return doctor_checks.store_checks(name, check_store(store))
    except (StoreError, FixityError) as error:
        return [
            Check(
                f"{name} writable",
                False,
                str(error),
                f"check {name}.url and [s3] in the settings (docs/guide/vault.md)",
            )
        ]


def _lock(app: App) -> Iterator[Check]:
    lock = app.settings.vault.lock
    if lock.mode != "off":
        retention = Retention(lock.mode, app.clock() + _LOCKED_FOR)
        yield _attempt(
            "vault lock",
            lambda: check_lock(app.vault, retention),
            f"Object Lock works: a test object is locked until tomorrow ({lock.mode})",
            "create a bucket with Object Lock, or grant the permissions listed in docs/guide/vault.md",
        )


def _attempt(name: str, action: Callable[[], object], detail: str, next_step: str) -> Check:
    try:
        action()
    except (StoreError, ConfigError) as error:
        return Check(name, False, str(error), next_step)
    return Check(name, True, detail)


# --- EnableX -------------------------------------------------------------------------------------------------------


@dataclass
class _Documents:
    """A sink that keeps the documents of one response and discards its bytes."""

    documents: list[msgspec.Raw] = field(default_factory=list)

    def write(self, chunk: bytes) -> None:
        """Discard the bytes: nothing is landed."""

    def note(self, documents: Sequence[msgspec.Raw]) -> None:
        self.documents += documents


def _project(app: App, name: str) -> Iterator[Check]:
    today, before = app.clock().date(), app.clock()
    try:
        answer = app.clients[name].fetch(period_request("archive", today), _Documents)
        date_header = answer.head.headers.get("date")
        clock = doctor_checks.clock_check(f"{name} clock", date_header, before, app.clock())
        files = _newest_by_host(app, name)
    except ApiError as error:
        yield Check(f"{name} API", False, app.redact(str(error)), doctor_checks.api_step(error, name))
        yield doctor_checks.clock_check(f"{name} clock", None, before, before)
        yield Check(f"{name} files", None, "no file to test: the API did not list any")
        return
    yield Check(
        f"{name} API", True, f"{urlsplit(app.settings.projects[name].base_url).hostname} accepts app_id and app_key"
    )
    yield clock
    yield from _files(app, name, files)


def _files(app: App, name: str, files: dict[str, list[ListedFile]]) -> Iterator[Check]:
    project = app.settings.projects[name]
    if not project.files_user:
        step = f"set projects.{name}.files_user to the portal account's e-mail address: app_id does not open files"
        yield Check(f"{name} files", False, "no portal account is set", step)
    elif not files:
        yield Check(
            f"{name} files", None, "no file is listed to test the portal account with", "try again after a session"
        )
    for host, newest in sorted(files.items()) if project.files_user else ():
        _, error = _open_first(app.file_hosts[name], newest)
        shown = f"{host}/…/{newest[0].name}"
        yield doctor_checks.file_check(f"{name} files", error, shown, name)


def _newest_by_host(app: App, name: str) -> dict[str, list[ListedFile]]:
    """The newest listed files by host, of the newest day that has files."""
    for day in reversed(list(media_days(app))):
        if files := _listed(app, name, day):
            files.sort(key=lambda file: file.ended_at, reverse=True)
            hosts = dict.fromkeys(urlsplit(file.url).hostname or "no host" for file in files)
            return {
                host: [file for file in files if (urlsplit(file.url).hostname or "no host") == host][:_FILES_PER_HOST]
                for host in hosts
            }
    return {}


def _listed(app: App, name: str, day: date) -> list[ListedFile]:
    request = period_request("archive", day)
    response = RawResponse("", "archive", name, day, str(request), app.clock(), 200, 0, "", 0, (), "")
    records = []
    for document in _request_documents(app, name, request):
        try:
            records.append((response, archives.archive_record(decoded(document), response)))
        except (RecordError, RecursionError):
            continue  # a build records it as a reject
    return archives.listed_files(records)


def _request_documents(app: App, name: str, request: Request) -> list[msgspec.Raw]:
    return app.clients[name].fetch(request, _Documents).sink.documents


@dataclass(frozen=True)
class _Opened:
    """A file that was opened: its response, and its first bytes."""

    file: ListedFile
    body: Body
    sample: bytes


def _open_first(host: FileHost, files: Iterable[ListedFile]) -> tuple[_Opened | None, FileError | None]:
    """The first of these files that opens, or the error of the last one."""
    failure: FileError | None = None
    for file in files:
        try:
            with host.open(file.url) as body:
                sample = next(iter(body.chunks), b"")[:_SAMPLE_BYTES]
            _require_media(file, sample)
            return _Opened(file, body, sample), None
        except ErrorPage as error_page:
            failure = FileUnavailable(f"{public_url(file.url)}: an error page instead of the file: {error_page}")
        except FileError as error:
            failure = error
    return None, failure


def _require_media(file: ListedFile, sample: bytes) -> None:
    """Raises ErrorPage if these first bytes are not those of a file of its kind."""
    if not sample:
        raise ErrorPage("an empty body")
    inspector = Inspector(file.kind)
    inspector.feed(sample)
    inspector.verdict()


# --- open questions ------------------------------------------------------------------------------------------------


def _probe_to_date(app: App, name: str) -> ProbeResult:
    """Request a day with CDRs and the next day, then that day alone, as with `to_date_is_inclusive`."""
    today = app.clock().date()
    try:
        for day in reversed(list(Period(today - timedelta(days=_PROBED_DAYS), today - timedelta(days=1)))):
            if whole := _connections(day, _request_documents(app, name, period_request("cdr", day))):
                request = period_request("cdr", day, to_date_is_inclusive=True)
                alone = _connections(day, _request_documents(app, name, request))
                return doctor_checks.to_date_answer(name, str(day), len(whole), len(whole & alone))
    except ApiError as error:
        return doctor_checks.to_date_unknown(name, app.redact(str(error)))
    return doctor_checks.to_date_answer(name, "", 0, 0)


def _connections(day: date, documents: Iterable[msgspec.Raw]) -> set[str]:
    """`cdr_id` of the documents that belong to a day."""
    ids = set()
    for document in documents:
        try:
            row = cdr.cdr_row(decoded(document))
        except (RecordError, RecursionError):
            continue
        if cdr.row_day(row) == day:
            ids.add(row["cdr_id"])
    return ids


def _probe_files(app: App, name: str) -> list[ProbeResult]:
    """Request the newest file that opens, then the rest of it with Range."""
    try:
        hosts = _newest_by_host(app, name)
    except ApiError as error:
        return doctor_checks.no_file_answers(name, app.redact(str(error)))
    host, failure = app.file_hosts[name], None
    for files in hosts.values():
        opened, failure = _open_first(host, files)
        if opened:
            facts = FileFacts(
                _length_answer(opened.body),
                opened.body.etag,
                opened.body.last_modified,
                _range_answer(host, opened),
            )
            return doctor_checks.file_answers(name, public_url(opened.file.url), facts)
    return doctor_checks.no_file_answers(name, str(failure) if failure else "no file is listed")


def _length_answer(body: Body) -> str:
    if body.total_bytes is not None:
        return "yes"
    return "no, but truncation is detected" if body.is_length_delimited else "no"


def _range_answer(host: FileHost, opened: _Opened) -> str:
    try:
        with host.open(opened.file.url, first_byte=_RANGE_FROM, validator=opened.body.validator) as part:
            if part.first_byte == 0:
                return "no: it returns the whole file"
            return doctor_checks.range_answer(opened.sample, next(iter(part.chunks), b""), _RANGE_FROM)
    except RangeMismatchError as error:
        return f"no: {error}"
    except FileError as error:
        return f"unknown: {error}"


def doctor(app: App, *, probe: bool = False) -> RunResult[DoctorReport]:
    """Check every part of the installation; with `probe` also test what EnableX's documentation leaves open."""
    outcome = RunResult("doctor")
    checks = list(run_checks(app))
    for check in checks:
        if check.ok is False:
            outcome.add_failure(check.name, f"{check.detail}; {check.next_step}")
        else:
            outcome.add_success(checks_passed=int(check.ok is True), not_tried=int(check.ok is None))
    if not probe:
        return outcome.with_details(DoctorReport(checks))
    answers = probe_api(app)
    return outcome.with_details(DoctorReport(checks, answers, as_toml(answers, app.clock())))
