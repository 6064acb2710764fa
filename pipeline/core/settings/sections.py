"""Every setting with its type, default and limits: one class per section of the settings file."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from datetime import date
from typing import Annotated, Literal, Self
from urllib.parse import SplitResult, quote_plus, unquote_plus, urlsplit
from zoneinfo import available_timezones

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from pipeline.core.executor import Backend
from pipeline.core.settings.prices import Prices

_PREFIX = "POSTROOM_"
_PASSWORD_IN_URL = re.compile(r"(?<=://)([^/@:]*):([^@]*)@")
_MIN_SECRET_PATH = 8
"""Characters from which the path of a secret URL is masked on its own; a shorter one is no secret."""
Rounding = Literal["ceil_per_connection", "exact", "vendor"]
LOOPBACK_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})


def _https_or_loopback(url: str) -> SplitResult:
    parts = urlsplit(url)
    if (parts.scheme == "https" and parts.hostname) or (parts.scheme == "http" and parts.hostname in LOOPBACK_HOSTS):
        return parts
    raise ValueError("must start with https:// (http:// only for a loopback address)")


def _base_url(url: str) -> str:
    parts = _https_or_loopback(url)
    if parts.username or parts.password:
        raise ValueError("must not carry credentials; use app_id and app_key")
    return url.rstrip("/")


def _secret_url(url: SecretStr) -> SecretStr:
    if text := url.get_secret_value():
        _https_or_loopback(text)
    return url


def _root_url(url: str) -> str:
    if not url.startswith(("file:", "s3://")):
        raise ValueError('must be "file:PATH" or "s3://BUCKET/PREFIX"')
    return url


def _bucket_url(url: str) -> str:
    if url and not url.startswith("s3://"):
        raise ValueError('must be "s3://BUCKET/PREFIX"')
    return url


def _cron(text: str) -> str:
    from apscheduler.triggers.cron import CronTrigger  # noqa: PLC0415 - slow to import; defaults are not validated

    fields = text.split()
    if len(fields) == 5 and any(char.isdigit() for char in fields[4]):
        raise ValueError('days of the week are written as names, "mon" to "sun"; crons differ about their numbers')
    try:
        CronTrigger.from_crontab(text)
    except ValueError as error:
        raise ValueError(f'must be five fields as in cron, such as "15 2 * * *" (UTC): {error}') from None
    return text


Cron = Annotated[str, AfterValidator(_cron)]


def _known_zone(name: str) -> str:
    if name not in available_timezones():
        raise ValueError('must be an IANA time zone such as "Asia/Kolkata"')
    return name


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Root(_Section):
    """A place for objects: `file:PATH`, or `s3://BUCKET/PREFIX`."""

    url: Annotated[str, AfterValidator(_root_url)]
    """`file:PATH` or `s3://BUCKET/PREFIX`."""


class Lock(_Section):
    """Object Lock for new objects under `media/` and `manifests/` in the vault."""

    mode: Literal["off", "governance", "compliance"] = "off"
    """`governance` can be lifted with a special permission; `compliance` by nobody."""
    days: int = Field(default=0, ge=0, le=36500)
    """Days that an object is locked from the moment it is stored."""
    accept_irreversible: bool = False
    """Required with mode = "compliance"."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.mode != "off" and self.days == 0:
            raise ValueError(f'mode = "{self.mode}" needs days: how long stored objects cannot be deleted')
        if self.mode == "compliance" and not self.accept_irreversible:
            raise ValueError(
                f'mode = "compliance" keeps every file for {self.days} days, and not even the owner of the'
                " account can shorten this; set accept_irreversible = true as well"
            )
        return self


class Vault(Root):
    """Raw replies, media, manifests, audits."""

    lock: Lock = Lock()


class S3(_Section):
    """What boto3's own configuration chain does not have."""

    endpoint_url: str | None = None
    """URL of an S3 server other than AWS."""
    region: str | None = None
    """Region of the buckets."""


class Project(_Section):
    """One EnableX project: its API credentials, and the portal account that can download its files."""

    base_url: Annotated[str, AfterValidator(_base_url)] = "https://api.enablex.io/video/v2"
    """URL of the API."""
    app_id: str = Field(min_length=1)
    """App ID of the project."""
    app_key: SecretStr = Field(min_length=1)
    """App key of the project."""
    files_user: str = ""
    """E-mail address of the portal account that can download files; not the App ID."""
    files_password: SecretStr = SecretStr("")
    """Its password."""
    file_hosts: tuple[str, ...] = ("*.enablex.io",)
    """The only hosts that receive these credentials; `*.` stands for one or more labels."""
    start_date: date | None = None
    """First day of the project. `nightly` collects every missing day from then on; default: from the first day that was
    ever collected."""
    to_date_is_inclusive: bool = False
    """Whether the API's `to_date` includes that day, as `postroom doctor --probe` reports. If false, the following day
    is requested as well: correct in both cases, at twice the bytes."""
    nightly: Cron | None = None
    """Cron expression that replaces `nightly` of `[schedule]` for this project."""


class Collect(_Section):
    """Requests to EnableX's API, per project."""

    lookback_days: int = Field(default=3, ge=0, le=60)
    """Days before today that are collected again every night, because EnableX corrects records late."""
    requests_per_second: float = Field(default=1.0, gt=0)
    """Limit of the request rate."""
    concurrency: int = Field(default=2, ge=1, le=64)
    """Maximum number of concurrent requests."""
    max_attempts: int = Field(default=5, ge=1, le=20)
    """Attempts per request."""
    timeout_s: float = Field(default=120.0, gt=0)
    """Seconds without data after which a request fails."""


class Media(_Section):
    """Downloads from the file host."""

    retention_hours: int = Field(default=72, ge=1)
    """Hours after which EnableX deletes a file."""
    concurrency: int = Field(default=4, ge=1, le=64)
    """Maximum number of files copied concurrently."""
    multipart_part_mib: int = Field(default=6, ge=5, le=5120)
    """Size of the parts of an upload to S3, in MiB."""
    recheck_after_hours: tuple[Annotated[float, Field(gt=0)], ...] = (1, 24)
    """Ages of a stored file, in hours, at which the file host is asked whether it still has the same file."""
    delivery_url: Annotated[str, AfterValidator(_bucket_url)] = ""
    """Where EnableX's Recording Delivery puts files: `s3://BUCKET/PREFIX`. They are copied inside S3."""
    bandwidth_limit_mib_per_s: float = Field(default=0, ge=0)
    """Limit for all downloads together, in MiB per second; 0 is no limit."""


class Executor(_Section):
    """Where days are built and files are copied.

    `workers`: number of processes with backend "processes". `dask_address`: of the Dask scheduler with backend "dask";
    its workers receive the file host's passwords and the pseudonym key, and need the same lake and vault.
    """

    backend: Backend = "threads"
    """Threads of this process, worker processes, or a Dask cluster."""
    workers: int = Field(default=2, ge=1, le=256)
    """Number of processes with backend "processes"."""
    dask_address: str = ""
    """Address of the Dask scheduler with backend "dask", such as `tcp://HOST:8786`."""

    @model_validator(mode="after")
    def _is_reachable(self) -> Self:
        if self.backend == "dask" and not self.dask_address.startswith(("tcp://", "tls://")):
            raise ValueError('backend = "dask" needs dask_address = "tcp://HOST:8786" (or tls://…)')
        return self


class RunStoreSettings(_Section):
    """Runs, attempts, leases and sent notifications; deleting it loses no fact."""

    url: str = "sqlite:///./data/ledger.db"
    """SQLAlchemy URL; PostgreSQL lets several schedulers share the work."""

    def __repr_args__(self) -> Iterator[tuple[str, str]]:
        yield "url", mask_url(self.url)


class BillingCsv(_Section):
    """CSV files that people open: those of an export, and of `billing compare`."""

    neutralise: bool = True
    """Whether text that a spreadsheet would run as a formula is preceded by an apostrophe. false for files that only
    programs read."""
    separator: Literal[",", ";", "tab"] = ","
    """Between cells."""
    decimal: Literal["point", "comma"] = "point"
    """Decimal mark of numbers."""
    bom: bool = False
    """Whether the file begins with a byte order mark; Excel then reads it as UTF-8."""

    @model_validator(mode="after")
    def _marks_differ(self) -> Self:
        if (self.decimal, self.separator) == ("comma", ","):
            raise ValueError('decimal = "comma" needs separator = ";" or "tab"')
        return self


class Billing(_Section):
    """Days, rounding and prices of billing exports (docs/guide/billing.md)."""

    time_zone: Annotated[str, AfterValidator(_known_zone)] = "UTC"
    """IANA time zone whose days and months are billed."""
    rounding: Rounding = "ceil_per_connection"
    """`ceil_per_connection`: each connection to full minutes; `exact`: not at all; `vendor`: EnableX's own minutes."""
    sweep: bool = True
    """Whether a final export needs every day of the month to have been collected again after the month had settled;
    `nightly` does that once a month."""
    csv: BillingCsv = BillingCsv()
    prices: Prices = Prices()


class Suspense(_Section):
    """Which records are held back until someone decides (docs/guide/billing.md)."""

    max_stay_hours: float = Field(default=24, gt=0, le=120)
    """Stays that are longer are held."""
    tolerance_min: float = Field(default=10, ge=0)
    """Minutes by which a stay may differ from the duration that EnableX states, before the record is held; at least
    10 % of the stay."""
    unlisted: Literal["bill", "hold"] = "bill"
    """Records that EnableX no longer lists."""
    system_participants: Literal["bill", "skip"] = "bill"
    """Recorders and streaming views that EnableX adds to a session."""


class Privacy(_Section):
    """Columns of tables that are replaced by a keyed token; raw responses in the vault stay as they are."""

    pseudonymise: tuple[str, ...] = ()
    """Columns to replace."""
    key: SecretStr = SecretStr("")
    """Secret key of the tokens."""


class Rooms(_Section):
    """Desired rooms in a file."""

    file: str = "config/rooms.toml"
    """Rooms file; the scheduler applies it every hour, if it exists."""
    prune: bool = False
    """Whether the scheduler deletes rooms that the file created and no longer contains."""


class Metrics(_Section):
    """Prometheus metrics."""

    port: int = Field(default=0, ge=0, le=65535)
    """Port of the scheduler's metrics; 0 is off."""
    address: str = "127.0.0.1"
    """Address that it listens on."""
    textfile: str = ""
    """Text file for node_exporter, replaced after each run."""


class Notify(_Section):
    """Where changes are announced. The URLs are secrets: they grant permission to write."""

    webhook_url: Annotated[SecretStr, AfterValidator(_secret_url)] = SecretStr("")
    """Receives each change once, as JSON."""
    heartbeat_url: Annotated[SecretStr, AfterValidator(_secret_url)] = SecretStr("")
    """Requested after each successful run."""
    missing_after_days: int = Field(default=2, ge=1)
    """Days after which a never-collected day is reported."""

    @property
    def webhook(self) -> str:
        return self.webhook_url.get_secret_value()

    @property
    def heartbeat(self) -> str:
        return self.heartbeat_url.get_secret_value()


class Schedule(_Section):
    """When the scheduler runs each job: five fields as in cron, in UTC, days of the week as names."""

    copy_media: Cron = "*/15 * * * *"
    """`media copy`."""
    nightly: Cron = "15 2 * * *"
    """`nightly`."""
    audit_media: Cron = "30 3 * * sun"
    """`media audit`."""
    rooms_apply: Cron = "5 * * * *"
    """`rooms apply`."""
    rooms_snapshot: Cron = "50 23 * * *"
    """`rooms snapshot`: the list of rooms, for table `rooms`."""


class Settings(BaseSettings):
    """Everything that can be configured; frozen."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True, hide_input_in_errors=True
    )

    lake: Root = Root(url="file:./data/lake")
    vault: Vault = Vault(url="file:./data/vault")
    s3: S3 = S3()
    projects: dict[str, Project] = {}
    collect: Collect = Collect()
    media: Media = Media()
    executor: Executor = Executor()
    run_store: RunStoreSettings = RunStoreSettings()
    billing: Billing = Billing()
    suspense: Suspense = Suspense()
    privacy: Privacy = Privacy()
    rooms: Rooms = Rooms()
    metrics: Metrics = Metrics()
    notify: Notify = Notify()
    schedule: Schedule = Schedule()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only the values from `load`, which reads file and environment and records the origin of each value."""
        del settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)

    def secrets(self) -> Iterator[str]:
        """Every secret that is not empty, for redaction, also as encoded in Basic authentication and in URLs."""
        texts = list(_secret_texts(self.model_dump()))
        for url in filter(None, (self.notify.webhook, self.notify.heartbeat)):
            path = urlsplit(url).path
            texts += [path] if len(path) >= _MIN_SECRET_PATH else []
        for project in self.projects.values():
            for user, password in ((project.app_id, project.app_key), (project.files_user, project.files_password)):
                if text := password.get_secret_value():
                    texts.append(base64.b64encode(f"{user}:{text}".encode()).decode())
        in_url = _PASSWORD_IN_URL.search(self.run_store.url)
        if in_url and in_url[2]:
            texts += [in_url[2], unquote_plus(in_url[2])]
        yield from dict.fromkeys([*texts, *map(quote_plus, texts)])


def _secret_texts(value: object) -> Iterator[str]:
    """All SecretStr values in nested settings, regardless of their names."""
    if isinstance(value, SecretStr):
        yield from filter(None, [value.get_secret_value()])
    elif isinstance(value, Mapping):
        for inside in value.values():
            yield from _secret_texts(inside)


def mask_url(text: str) -> str:
    """Hide the password inside `scheme://user:password@host`."""
    return _PASSWORD_IN_URL.sub(r"\1:********@", text)
