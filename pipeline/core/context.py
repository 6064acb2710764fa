"""`App`: settings, stores and clients of a run, and how it runs its items. `jobs.runtime` opens one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from structlog.contextvars import bound_contextvars

from pipeline.core.errors import (
    ConfigError,
    CredentialsRefused,
    FileRefused,
    PipelineError,
    Stopped,
    StoreUnavailable,
    Throttled,
    Unreachable,
)
from pipeline.core.executor import WorkerPool
from pipeline.core.log import item_fields
from pipeline.core.models import RunResult
from pipeline.core.progress import Progress
from pipeline.core.settings.sections import Settings
from pipeline.core.tracing import span

if TYPE_CHECKING:
    from pipeline.enablex.client import EnablexClient
    from pipeline.enablex.file_host import FileHost
    from pipeline.storage import ObjectStore
    from pipeline.storage.run_store import RunStore

Item = TypeVar("Item")
Result = TypeVar("Result")

Clock = Callable[[], datetime]

_MAX_CONSECUTIVE_FAILURES = {Unreachable: 3, Throttled: 3, FileRefused: 2}
"""After this many consecutive failures of one kind, the service is at fault (enablex-api.md section 6, point 4)."""


@dataclass(frozen=True)
class ItemResult(Generic[Item, Result]):
    """One item's result or error; `skipped` if the circuit breaker of its group was open."""

    item: Item
    result: Result | None = None
    error: PipelineError | None = None
    skipped: bool = False


def _run_locally(app: App, action: Callable[[App, Any], Any]) -> Callable[[Any], Any]:
    return partial(action, app)


@dataclass(frozen=True)
class App:
    """Settings, stores, clients and clock of a run; its flows construct none themselves."""

    settings: Settings
    lake: ObjectStore
    vault: ObjectStore
    run_store: RunStore
    clock: Clock
    executor: Executor
    workers: WorkerPool
    progress: Progress
    redact: Callable[[str], str]
    clients: dict[str, EnablexClient]
    file_hosts: dict[str, FileHost]
    delivery_bucket: ObjectStore | None = None
    dispatcher: Callable[[App, Callable[[App, Any], Any]], Callable[[Any], Any]] = _run_locally
    is_stopping: Callable[[], bool] = lambda: False
    now: datetime | None = None

    @property
    def retention(self) -> timedelta:
        """Time that EnableX keeps a file after the start of its session."""
        return timedelta(hours=self.settings.media.retention_hours)

    def dispatch(self, action: Callable[[App, Item], Result]) -> Callable[[Item], Result]:
        """Bind an action to this app, or to the app of a worker process, as `open_app` configured.

        `action` is a module-level function. Item, result and errors are pickled if they cross processes.
        """
        return self.dispatcher(self, action)

    def for_projects(self, projects: Iterable[str]) -> App:
        """A copy of the app that contains only these projects."""
        chosen = {name: self.settings.projects[name] for name in projects}
        return replace(self, settings=self.settings.model_copy(update={"projects": chosen}))

    def map_items(
        self,
        label: str,
        items: Iterable[Item],
        action: Callable[[Item], Result],
        *,
        max_concurrency: int,
        group: Callable[[Item], Hashable] = lambda _item: None,
    ) -> list[ItemResult[Item, Result]]:
        """Run an action for every item, at most `max_concurrency` concurrently; results in the order of the items.

        A PipelineError becomes the item's result. Refused credentials, or several consecutive failures of one kind,
        skip the remaining items of the group.

        Raises:
            StoreUnavailable: a store cannot be used; no further item is started.
            Stopped: `is_stopping` returned true; running items were finished first.
        """
        todo = list(items)
        breaker = CircuitBreaker()
        futures: list[Future[ItemResult[Item, Result]]] = []
        running: set[Future[ItemResult[Item, Result]]] = set()
        with self.progress.task(label, len(todo)) as advance:
            for item in todo:
                if len(running) >= max_concurrency:
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        future.result()  # raises StoreUnavailable before another item starts
                if self.is_stopping():
                    wait(running)
                    raise Stopped(f"stop requested; {label}: {len(todo) - len(futures)} left for the next run")
                future = self.executor.submit(_attempt, label, item, action, breaker, group(item))
                future.add_done_callback(lambda _future: advance())
                running.add(future)
                futures.append(future)
            return [future.result() for future in futures]


class CircuitBreaker:
    """Counts failures per group and opens after too many. Shared by threads; a race costs one extra attempt."""

    def __init__(self) -> None:
        self._open_groups: set[Hashable] = set()
        self._consecutive: Counter[tuple[Hashable, type]] = Counter()

    def is_open(self, group: Hashable) -> bool:
        return group in self._open_groups

    def succeeded(self, group: Hashable) -> None:
        for kind in _MAX_CONSECUTIVE_FAILURES:
            self._consecutive[group, kind] = 0

    def failed(self, group: Hashable, error: PipelineError) -> None:
        if isinstance(error, CredentialsRefused):
            self._open_groups.add(group)
        for kind, limit in _MAX_CONSECUTIVE_FAILURES.items():
            if isinstance(error, kind):
                self._consecutive[group, kind] += 1
                if self._consecutive[group, kind] >= limit:
                    self._open_groups.add(group)


def _attempt(
    label: str, item: Item, action: Callable[[Item], Result], breaker: CircuitBreaker, group: Hashable
) -> ItemResult[Item, Result]:
    if breaker.is_open(group):
        return ItemResult(item, skipped=True)
    try:
        with bound_contextvars(**item_fields(item)), span(_step(label)):
            result = action(item)
    except (StoreUnavailable, Stopped):
        raise
    except PipelineError as error:
        breaker.failed(group, error)
        return ItemResult(item, error=error)
    breaker.succeeded(group)
    return ItemResult(item, result)


def _step(label: str) -> str:
    """`collect` of "collect 2026-01-01 to 2026-01-28 (1 of 13)", so that spans of one step share a name."""
    return "".join(takewhile(lambda letter: letter.isalpha() or letter == " ", label)).strip()


def chosen_projects(settings: Settings, project: str | None) -> list[str]:
    """The requested project, or all. Raises ConfigError if it is not configured, or if no project is."""
    if not settings.projects:
        raise ConfigError(
            "no project is configured; add [projects.NAME] with app_id and app_key to the settings file,"
            " or try `postroom demo`"
        )
    if project is not None and project not in settings.projects:
        raise ConfigError(f"--project {project}: not configured; configured: {', '.join(settings.projects)}")
    return [project] if project else list(settings.projects)


SKIPPED = "skipped: too many failures in a row for this project"


def record_item(
    app: App, outcome: RunResult, item_result: ItemResult[Any, Any], counts: Mapping[str, int] | None
) -> None:
    """Add one item's counts, error or skip to the run result; secrets are masked."""
    if counts is not None:
        outcome.add_success(**counts)
    elif item_result.error is not None:
        outcome.add_failure(item_result.item, app.redact(str(item_result.error)))
    else:
        outcome.add_failure(item_result.item, SKIPPED, attempted=False)
