"""`App`: everything that a run needs, and how it runs its items. `jobs.runtime` opens one."""

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

_FAILURES_IN_A_ROW = {Unreachable: 3, Throttled: 3, FileRefused: 2}
"""This many failures of a kind in a row are the service's, not the item's (enablex-api.md section 6, point 4)."""


@dataclass(frozen=True)
class ItemResult(Generic[Item, Result]):
    """The result or the error of one item; `skipped` when the circuit breaker of its group was open."""

    item: Item
    result: Result | None = None
    error: PipelineError | None = None
    skipped: bool = False


def _here(app: App, action: Callable[[App, Any], Any]) -> Callable[[Any], Any]:
    return partial(action, app)


@dataclass(frozen=True)
class App:
    """Everything a flow needs; flows build nothing themselves."""

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
    dispatcher: Callable[[App, Callable[[App, Any], Any]], Callable[[Any], Any]] = _here
    is_stopping: Callable[[], bool] = lambda: False
    now: datetime | None = None

    @property
    def retention(self) -> timedelta:
        """How long EnableX keeps a file after its session began."""
        return timedelta(hours=self.settings.media.retention_hours)

    def dispatch(self, action: Callable[[App, Item], Result]) -> Callable[[Item], Result]:
        """The action for one item, run with this app or with that of another process, as `open_app` decided.

        `action` is a function of a module; item, result and errors are pickled on the way to another process.
        """
        return self.dispatcher(self, action)

    def for_projects(self, projects: Iterable[str]) -> App:
        """The same for some of the projects."""
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

        A PipelineError is that item's result. Refused credentials, or several failures of one kind in a row, give up
        the rest of the item's group; a store that cannot be used stops everything. Once `is_stopping`, what is under
        way is finished, nothing more is begun, and Stopped is raised.
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
                        future.result()  # a store that cannot be used is raised here, before more is begun
                if self.is_stopping():
                    wait(running)
                    raise Stopped(f"asked to stop; {label}: {len(todo) - len(futures)} left for the next run")
                future = self.executor.submit(_attempt, label, item, action, breaker, group(item))
                future.add_done_callback(lambda _future: advance())
                running.add(future)
                futures.append(future)
            return [future.result() for future in futures]


class CircuitBreaker:
    """Counts failures per group; opens when the rest must be skipped. Shared by threads; a race costs one attempt."""

    def __init__(self) -> None:
        self._given_up: set[Hashable] = set()
        self._in_a_row: Counter[tuple[Hashable, type]] = Counter()

    def is_open(self, group: Hashable) -> bool:
        return group in self._given_up

    def succeeded(self, group: Hashable) -> None:
        for kind in _FAILURES_IN_A_ROW:
            self._in_a_row[group, kind] = 0

    def failed(self, group: Hashable, error: PipelineError) -> None:
        if isinstance(error, CredentialsRefused):
            self._given_up.add(group)
        for kind, most in _FAILURES_IN_A_ROW.items():
            if isinstance(error, kind):
                self._in_a_row[group, kind] += 1
                if self._in_a_row[group, kind] >= most:
                    self._given_up.add(group)


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
    """`collect` of "collect 2026-01-01 to 2026-01-28 (1 of 13)": spans of the same work are called alike."""
    return "".join(takewhile(lambda letter: letter.isalpha() or letter == " ", label)).strip()


def chosen_projects(settings: Settings, project: str | None) -> list[str]:
    """The one project asked for, or all; ConfigError when there is none such, or none at all."""
    if not settings.projects:
        raise ConfigError(
            "no project is configured; add [projects.NAME] with app_id and app_key to the settings file,"
            " or try `postroom demo`"
        )
    if project is not None and project not in settings.projects:
        raise ConfigError(f"--project {project}: not configured; there are {', '.join(settings.projects)}")
    return [project] if project else list(settings.projects)


SKIPPED = "skipped: too many failures in a row for this project"


def record_item(app: App, outcome: RunResult, done: ItemResult[Any, Any], counts: Mapping[str, int] | None) -> None:
    """Take one item's result, or failure, into the outcome; secrets masked."""
    if counts is not None:
        outcome.add_success(**counts)
    elif done.error is not None:
        outcome.add_failure(done.item, app.redact(str(done.error)))
    else:
        outcome.add_failure(done.item, SKIPPED, was_tried=False)
