"""Asking every part of the set-up whether it works, for real; `checks.py` judges what is seen.

What it writes are a few small objects under `doctor/` of both roots; what it asks EnableX for are archive listings of
the last days, and for `--probe` CDRs of a day, at the usual pace. Nothing of that is landed.
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

_FILES_TRIED = 3
"""Of one host, before it counts as refusing: a single file may have been taken away early."""

_SAMPLE_BYTES = 64 * 1024
_RANGE_FROM = 100
_PROBED_DAYS = 7
"""So far back a day with CDRs is looked for."""

_LOCKED_FOR = timedelta(days=1)
"""A probe's lock: long enough to be seen, short enough for a bucket that is only tried."""


def run_checks(app: App) -> Iterator[Check]:
    """Every part of the set-up: this machine, run store, stores, and each project's API, clock and files."""
    yield _time_zones(app)
    yield doctor_checks.reader_check(is_compiled())
    yield from _disks(app)
    yield _tried("run store", app.run_store.ping, f"a run can be noted in {app.run_store.where}", "set run_store.url")
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
    """For each project: what the live account answers to the open questions of enablex-api.md section 12."""
    return [
        answer for name in app.settings.projects for answer in (_probe_to_date(app, name), *_probe_files(app, name))
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
    places = {"temp": tempfile.gettempdir()}
    for name, store in (("lake", app.lake), ("vault", app.vault)):
        if isinstance(store, LocalStore):
            places[name] = store.filesystem()[1]
    run_store = make_url(app.settings.run_store.url)
    if run_store.get_backend_name() == "sqlite" and run_store.database:
        places["run store"] = str(Path(run_store.database).absolute().parent)
    for name, path in places.items():
        there = next(place for place in (Path(path), *Path(path).parents) if place.exists())
        yield doctor_checks.disk_check(f"{name} disk", path, shutil.disk_usage(there).free)


# --- stores --------------------------------------------------------------------------------------------------------


def _store(name: str, store: ObjectStore) -> Iterable[Check]:
    try:
        return doctor_checks.store_checks(name, check_store(store))
    except (StoreError, FixityError) as error:
        return [
            Check(
                f"{name} writable", False, str(error), f"see {name}.url and [s3] in the settings (docs/guide/vault.md)"
            )
        ]


def _lock(app: App) -> Iterator[Check]:
    lock = app.settings.vault.lock
    if lock.mode != "off":
        retention = Retention(lock.mode, app.clock() + _LOCKED_FOR)
        yield _tried(
            "vault lock",
            lambda: check_lock(app.vault, retention),
            f"Object Lock holds: {lock.mode}, a probe until tomorrow",
            "make a bucket with Object Lock, or give the rights that docs/guide/vault.md lists",
        )


def _tried(name: str, action: Callable[[], object], said: str, next_step: str) -> Check:
    try:
        action()
    except (StoreError, ConfigError) as error:
        return Check(name, False, str(error), next_step)
    return Check(name, True, said)


# --- EnableX -------------------------------------------------------------------------------------------------------


@dataclass
class _Documents:
    """A sink that keeps the documents of one reply and lets its bytes go."""

    documents: list[msgspec.Raw] = field(default_factory=list)

    def write(self, chunk: bytes) -> None:
        """Nothing is landed."""

    def note(self, documents: Sequence[msgspec.Raw]) -> None:
        self.documents += documents


def _project(app: App, name: str) -> Iterator[Check]:
    today, before = app.clock().date(), app.clock()
    try:
        answer = app.clients[name].fetch(period_request("archive", today), _Documents)
        dated = answer.head.headers.get("date")
        clock = doctor_checks.clock_check(f"{name} clock", dated, before, app.clock())
        files = _newest_by_host(app, name)
    except ApiError as error:
        yield Check(f"{name} API", False, app.redact(str(error)), doctor_checks.api_step(error, name))
        yield doctor_checks.clock_check(f"{name} clock", None, before, before)
        yield Check(f"{name} files", None, "without the API no file is known to try")
        return
    yield Check(
        f"{name} API", True, f"{urlsplit(app.settings.projects[name].base_url).hostname} takes app_id and app_key"
    )
    yield clock
    yield from _files(app, name, files)


def _files(app: App, name: str, files: dict[str, list[ListedFile]]) -> Iterator[Check]:
    project = app.settings.projects[name]
    if not project.files_user:
        step = f"put the portal account's e-mail address into projects.{name}.files_user: files do not open with app_id"
        yield Check(f"{name} files", False, "no portal account is set", step)
    elif not files:
        yield Check(
            f"{name} files", None, "no file is listed now to try the portal account on", "try again after a session"
        )
    for host, newest in sorted(files.items()) if project.files_user else ():
        _, error = _opened(app.file_hosts[name], newest)
        shown = f"{host}/…/{newest[0].name}"
        yield doctor_checks.file_check(f"{name} files", error, shown, name)


def _newest_by_host(app: App, name: str) -> dict[str, list[ListedFile]]:
    """The newest files that are listed, by the host that they are on; the last days are asked until there is one."""
    for day in reversed(list(media_days(app))):
        if files := _listed(app, name, day):
            files.sort(key=lambda file: file.ended_at, reverse=True)
            hosts = dict.fromkeys(urlsplit(file.url).hostname or "no host" for file in files)
            return {
                host: [file for file in files if (urlsplit(file.url).hostname or "no host") == host][:_FILES_TRIED]
                for host in hosts
            }
    return {}


def _listed(app: App, name: str, day: date) -> list[ListedFile]:
    request = period_request("archive", day)
    page = RawResponse("", "archive", name, day, str(request), app.clock(), 200, 0, "", 0, (), "")
    records = []
    for document in _ask(app, name, request):
        try:
            records.append((page, archives.archive_record(decoded(document), page)))
        except (RecordError, RecursionError):
            continue  # a build makes a reject of it
    return archives.listed_files(records)


def _ask(app: App, name: str, request: Request) -> list[msgspec.Raw]:
    return app.clients[name].fetch(request, _Documents).sink.documents


@dataclass(frozen=True)
class _Opened:
    """A file that could be opened: its answer's head, and some of its first bytes."""

    file: ListedFile
    body: Body
    sample: bytes


def _opened(host: FileHost, files: Iterable[ListedFile]) -> tuple[_Opened | None, FileError | None]:
    """The first of these files that opens; or why the last one did not."""
    failure: FileError | None = None
    for file in files:
        try:
            with host.open(file.url) as body:
                sample = next(iter(body.chunks), b"")[:_SAMPLE_BYTES]
            _require_the_file(file, sample)
            return _Opened(file, body, sample), None
        except ErrorPage as page:
            failure = FileUnavailable(f"{public_url(file.url)}: an error page instead of the file: {page}")
        except FileError as error:
            failure = error
    return None, failure


def _require_the_file(file: ListedFile, sample: bytes) -> None:
    """Raises ErrorPage when these first bytes are not of a file."""
    if not sample:
        raise ErrorPage("an empty body")
    inspector = Inspector(file.kind)
    inspector.feed(sample)
    inspector.verdict()


# --- open questions ------------------------------------------------------------------------------------------------


def _probe_to_date(app: App, name: str) -> ProbeResult:
    """Ask for a day with CDRs and the day after, and then for that day alone, as the setting would."""
    today = app.clock().date()
    try:
        for day in reversed(list(Period(today - timedelta(days=_PROBED_DAYS), today - timedelta(days=1)))):
            if whole := _connections(day, _ask(app, name, period_request("cdr", day))):
                alone = _connections(day, _ask(app, name, period_request("cdr", day, to_date_is_inclusive=True)))
                return doctor_checks.to_date_answer(name, str(day), len(whole), len(whole & alone))
    except ApiError as error:
        return doctor_checks.to_date_unknown(name, app.redact(str(error)))
    return doctor_checks.to_date_answer(name, "", 0, 0)


def _connections(day: date, documents: Iterable[msgspec.Raw]) -> set[str]:
    """The connections of a day among documents."""
    found = set()
    for document in documents:
        try:
            row = cdr.cdr_row(decoded(document))
        except (RecordError, RecursionError):
            continue
        if cdr.row_day(row) == day:
            found.add(row["cdr_id"])
    return found


def _probe_files(app: App, name: str) -> list[ProbeResult]:
    """Ask for the newest file that opens, and then for the rest of it."""
    try:
        hosts = _newest_by_host(app, name)
    except ApiError as error:
        return doctor_checks.no_file_answers(name, app.redact(str(error)))
    host, failure = app.file_hosts[name], None
    for files in hosts.values():
        opened, failure = _opened(host, files)
        if opened:
            body = opened.body
            length = (
                "yes" if body.total_bytes is not None else "no, but cuts show" if body.is_length_delimited else "no"
            )
            facts = FileFacts(length, body.etag, body.last_modified, _range_said(host, opened))
            return doctor_checks.file_answers(name, public_url(opened.file.url), facts)
    return doctor_checks.no_file_answers(name, str(failure) if failure else "no file is listed now")


def _range_said(host: FileHost, opened: _Opened) -> str:
    try:
        with host.open(opened.file.url, first_byte=_RANGE_FROM, validator=opened.body.validator) as part:
            if part.first_byte == 0:
                return "no: it sends the whole file"
            return doctor_checks.range_answer(opened.sample, next(iter(part.chunks), b""), _RANGE_FROM)
    except RangeMismatchError as error:
        return f"no: {error}"
    except FileError as error:
        return f"unknown: {error}"


def doctor(app: App, *, probe: bool = False) -> RunResult[DoctorReport]:
    """Try every part of the set-up; with `probe` also ask the live account what EnableX's documents leave open."""
    outcome = RunResult("doctor")
    found = list(run_checks(app))
    for check in found:
        if check.ok is False:
            outcome.add_failure(check.name, f"{check.detail}; {check.next_step}")
        else:
            outcome.add_success(checks_passed=int(check.ok is True), not_tried=int(check.ok is None))
    if not probe:
        return outcome.with_details(DoctorReport(found))
    answers = probe_api(app)
    return outcome.with_details(DoctorReport(found, answers, as_toml(answers, app.clock())))
