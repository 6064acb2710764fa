"""Items in worker processes: the settings that a worker receives, and the App it opens from them."""

from __future__ import annotations

import logging
import pickle
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from datetime import datetime
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

from pydantic import SecretStr

from pipeline.core import tracing
from pipeline.core.context import App
from pipeline.core.log import set_up_logging
from pipeline.core.settings.sections import Executor, RunStoreSettings, Settings

Item = TypeVar("Item")
Result = TypeVar("Result")

OpenApp = Callable[..., AbstractContextManager[App]]
"""`runtime.open_app`, passed as an argument because that module imports this one."""


@dataclass(frozen=True)
class WorkerConfig:
    """Settings and clock of a worker's own App. Its repr, which Dask logs, contains no secret."""

    settings: Settings
    now: datetime | None


def dispatch(open_app: OpenApp, app: App, action: Callable[[App, Item], Result]) -> Callable[[Item], Result]:
    """Bind an action to this app, or to the App of a worker process, as the worker pool is configured."""
    if app.workers.is_local:
        return partial(action, app)

    @cache
    def config() -> WorkerConfig:
        return WorkerConfig(settings_for_workers(app.settings, app.workers.workers), app.now)

    return lambda item: app.workers.run(_act, open_app, config(), tracing.inject_context(), action, item)


def settings_for_workers(settings: Settings, workers: int) -> Settings:
    """The settings for workers: no API keys, no run store, absolute folder paths, each worker's part of the bandwidth.

    The password of the file host and the key of pseudonyms remain: copying and building need them.
    """
    without_key = {"app_key": SecretStr("")}
    projects = {name: project.model_copy(update=without_key) for name, project in settings.projects.items()}
    media = settings.media.model_copy(
        update={"bandwidth_limit_mib_per_s": settings.media.bandwidth_limit_mib_per_s / workers}
    )
    return settings.model_copy(
        update={
            "lake": settings.lake.model_copy(update={"url": _absolute(settings.lake.url)}),
            "vault": settings.vault.model_copy(update={"url": _absolute(settings.vault.url)}),
            "projects": projects,
            "media": media,
            "run_store": RunStoreSettings(url="sqlite://"),
            "executor": Executor(),
        }
    )


def _absolute(url: str) -> str:
    is_relative = url.startswith("file:") and not url.startswith("file://")
    return f"file:{Path(url.removeprefix('file:')).absolute()}" if is_relative else url


_apps: dict[bytes, App] = {}
_opened = ExitStack()
_opening = threading.Lock()


def _act(
    open_app: OpenApp,
    config: WorkerConfig,
    carrier: Mapping[str, Any],
    action: Callable[[App, Item], Result],
    item: Item,
) -> Result:
    app = _app(open_app, config)
    with tracing.attach_context(carrier):
        return action(app, item)


def _app(open_app: OpenApp, config: WorkerConfig) -> App:
    """The App of this process for these settings; stays open until the process ends."""
    key = pickle.dumps(config)
    with _opening:
        if key not in _apps:
            set_up_logging(level=logging.WARNING, secrets=tuple(config.settings.secrets()))
            _apps[key] = app = _opened.enter_context(open_app(config.settings, now=config.now))
            tracing.start_export(app.redact)
        return _apps[key]
