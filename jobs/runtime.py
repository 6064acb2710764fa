"""`open_app`: the clients, stores, run store, clock and executor of a run, opened and closed together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from jobs.workers import dispatch
from pipeline.core.concurrency import ContextThreadPool
from pipeline.core.context import App, Clock
from pipeline.core.errors import ConfigError
from pipeline.core.executor import WorkerPool
from pipeline.core.log import Redact
from pipeline.core.progress import Progress, Silent
from pipeline.core.rate_limit import RateLimiter
from pipeline.core.retry import retrying
from pipeline.core.settings.load import Loaded, load
from pipeline.core.settings.sections import Settings
from pipeline.enablex.client import EnablexClient
from pipeline.enablex.file_host import FileHost
from pipeline.storage import MIB, ObjectStore, open_store
from pipeline.storage.run_store import RunStore

_MAX_DISPATCHED = 512
"""Maximum items in worker processes at the same time; one thread of this process waits for each."""


def load_settings(config: Path | None, environ: Mapping[str, str]) -> Loaded:
    """`load`, and checks of settings that need the schemas of the tables.

    Raises:
        ConfigError: with the key, its origin and the valid values.
    """
    loaded = load(config, environ)
    if names := loaded.settings.privacy.pseudonymise:
        from pipeline.tables.schemas import PERSONAL_COLUMNS  # noqa: PLC0415 - Arrow is slow to load

        if unknown := [name for name in names if name not in PERSONAL_COLUMNS]:
            key = "privacy.pseudonymise"
            raise ConfigError(
                f'{key} ({loaded.origin(key)}): "{unknown[0]}" is not a personal column;'
                f" use {', '.join(PERSONAL_COLUMNS)}"
            )
    return loaded


@contextmanager
def open_app(
    settings: Settings,
    *,
    now: datetime | None = None,
    progress: Progress | None = None,
    is_stopping: Callable[[], bool] = lambda: False,
) -> Iterator[App]:
    """Open the App of a run. `now` fixes the clock for the whole run (rehearsal, replay, tests)."""
    clock: Clock = (lambda: now) if now is not None else (lambda: datetime.now(UTC))
    with ExitStack() as stack:
        run_store = RunStore(settings.run_store.url)
        stack.callback(run_store.close)
        workers = WorkerPool(**settings.executor.model_dump())
        stack.callback(workers.close)
        dispatched = 0 if workers.is_local else _MAX_DISPATCHED
        threads = max(dispatched, settings.media.concurrency, settings.collect.concurrency * len(settings.projects), 1)
        executor = stack.enter_context(ContextThreadPool(threads, thread_name_prefix="postroom"))
        clients = {name: _client(settings, name, clock) for name in settings.projects}
        per_second = settings.media.bandwidth_limit_mib_per_s * MIB
        bandwidth = RateLimiter(per_second) if per_second else None
        hosts = {name: _file_host(settings, name, bandwidth) for name in settings.projects}
        for name in settings.projects:
            stack.callback(clients[name].close)
            stack.callback(hosts[name].close)
        yield App(
            settings=settings,
            lake=_store(settings, settings.lake.url),
            vault=_store(settings, settings.vault.url),
            run_store=run_store,
            clock=clock,
            executor=executor,
            workers=workers,
            progress=progress or Silent(),
            redact=Redact(settings.secrets()).text,
            clients=clients,
            file_hosts=hosts,
            delivery_bucket=_store(settings, settings.media.delivery_url) if settings.media.delivery_url else None,
            dispatcher=partial(dispatch, open_app),
            is_stopping=is_stopping,
            now=now,
        )


def _store(settings: Settings, url: str) -> ObjectStore:
    s3, media = settings.s3, settings.media
    return open_store(url, endpoint_url=s3.endpoint_url, region=s3.region, part_bytes=media.multipart_part_mib * MIB)


def _client(settings: Settings, name: str, clock: Clock) -> EnablexClient:
    project, collect = settings.projects[name], settings.collect
    return EnablexClient(
        base_url=project.base_url,
        app_id=project.app_id,
        app_key=project.app_key.get_secret_value(),
        rate_limiter=RateLimiter(collect.requests_per_second),
        concurrency=collect.concurrency,
        timeout_s=collect.timeout_s,
        retrying=partial(retrying, collect.max_attempts),
        clock=clock,
    )


def _file_host(settings: Settings, name: str, bandwidth: RateLimiter | None) -> FileHost:
    project = settings.projects[name]
    return FileHost(
        project=name,
        user=project.files_user,
        password=project.files_password.get_secret_value(),
        hosts=project.file_hosts,
        bandwidth=bandwidth,
    )
