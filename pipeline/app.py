"""`open_app`: the real clients, stores, ledger, clock and executor, opened together and closed together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any, Generic, TypeVar

from structlog.contextvars import bound_contextvars

from pipeline.core.concurrency import Threads
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
from pipeline.core.executor import Engine
from pipeline.core.log import Redact, item_fields
from pipeline.core.models import Outcome
from pipeline.core.progress import Progress, Silent
from pipeline.core.rate_limit import Pacer
from pipeline.core.retry import retrying
from pipeline.core.settings.load import Loaded, load
from pipeline.core.settings.sections import Settings
from pipeline.core.tracing import span
from pipeline.enablex.client import EnablexClient
from pipeline.enablex.file_host import FileHost
from pipeline.media.delivery import Delivery
from pipeline.storage import MIB, ObjectStore, open_store
from pipeline.storage.run_store import Ledger

Item = TypeVar("Item")
Result = TypeVar("Result")

Clock = Callable[[], datetime]

_FAILURES_IN_A_ROW = {Unreachable: 3, Throttled: 3, FileRefused: 2}
"""So many of a kind in a row mean that the service, not the item, is at fault (enablex-api.md section 6, point 4)."""


_WAITING_FOR_ENGINE = 512
"""Most items that can be with other processes at the same time; a thread here waits for each."""


@dataclass(frozen=True)
class Done(Generic[Item, Result]):
    """One item after its turn: a result, or an error; `not_tried` when its group had been given up before."""

    item: Item
    result: Result | None = None
    error: PipelineError | None = None
    not_tried: bool = False


@dataclass(frozen=True)
class App:
    """Everything a flow needs; flows build nothing themselves."""

    settings: Settings
    lake: ObjectStore
    vault: ObjectStore
    ledger: Ledger
    clock: Clock
    executor: Executor
    engine: Engine
    progress: Progress
    redact: Callable[[str], str]
    clients: dict[str, EnablexClient]
    file_hosts: dict[str, FileHost]
    delivery: Delivery | None = None
    is_stopping: Callable[[], bool] = lambda: False
    now: datetime | None = None

    def only(self, projects: Iterable[str]) -> App:
        """The same for some of the projects."""
        chosen = {name: self.settings.projects[name] for name in projects}
        return replace(self, settings=self.settings.model_copy(update={"projects": chosen}))

    def each(
        self,
        label: str,
        items: Iterable[Item],
        action: Callable[[Item], Result],
        *,
        at_once: int,
        group: Callable[[Item], Hashable] = lambda _item: None,
    ) -> list[Done[Item, Result]]:
        """Run an action for every item on the executor, started in order, `at_once` under way; results in that order.

        A PipelineError is that item's result. Refused credentials, or several failures of one kind in a row, give up
        the rest of the item's group; a store that cannot be used stops everything. Once `is_stopping`, what is under
        way is finished, nothing more is begun, and Stopped is raised.
        """
        todo = list(items)
        breaker = Breaker()
        futures: list[Future[Done[Item, Result]]] = []
        running: set[Future[Done[Item, Result]]] = set()
        with self.progress.task(label, len(todo)) as advance:
            for item in todo:
                if len(running) >= at_once:
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


class Breaker:
    """Notes failures per group and says when to give the rest of it up. Shared by threads; a race costs one try."""

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
    label: str, item: Item, action: Callable[[Item], Result], breaker: Breaker, group: Hashable
) -> Done[Item, Result]:
    if breaker.is_open(group):
        return Done(item, not_tried=True)
    try:
        with bound_contextvars(**item_fields(item)), span(_step(label)):
            result = action(item)
    except (StoreUnavailable, Stopped):
        raise
    except PipelineError as error:
        breaker.failed(group, error)
        return Done(item, error=error)
    breaker.succeeded(group)
    return Done(item, result)


def _step(label: str) -> str:
    """`collect` of "collect 2026-01-01 to 2026-01-28 (1 of 13)": spans of the same work are called alike."""
    return "".join(takewhile(lambda letter: letter.isalpha() or letter == " ", label)).strip()


def load_settings(config: Path | None, environ: Mapping[str, str]) -> Loaded:
    """`load`, and what of the settings only the tables can check.

    Raises:
        ConfigError: naming the key, where it stands, and what would be valid.
    """
    loaded = load(config, environ)
    if names := loaded.settings.privacy.pseudonymise:
        from pipeline.tables.schemas import PERSONAL_COLUMNS  # noqa: PLC0415 - Arrow is slow to load

        if unknown := [name for name in names if name not in PERSONAL_COLUMNS]:
            key = "privacy.pseudonymise"
            raise ConfigError(
                f'{key} ({loaded.origin(key)}): "{unknown[0]}" is not a personal column;'
                f" those are {', '.join(PERSONAL_COLUMNS)}"
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
    """Open what the settings name; `now` makes it that moment for the whole run (rehearsal, replay, tests)."""
    clock: Clock = (lambda: now) if now is not None else (lambda: datetime.now(UTC))
    with ExitStack() as stack:
        ledger = Ledger(settings.ledger.url)
        stack.callback(ledger.close)
        engine = Engine(**settings.engine.model_dump())
        stack.callback(engine.close)
        waiting = 0 if engine.is_here else _WAITING_FOR_ENGINE
        workers = max(waiting, settings.media.concurrency, settings.collect.concurrency * len(settings.projects), 1)
        executor = stack.enter_context(Threads(workers, thread_name_prefix="postroom"))
        clients = {name: _client(settings, name, clock) for name in settings.projects}
        per_second = settings.media.max_mib_per_s * MIB
        bandwidth = Pacer(per_second) if per_second else None
        hosts = {name: _file_host(settings, name, bandwidth) for name in settings.projects}
        for name in settings.projects:
            stack.callback(clients[name].close)
            stack.callback(hosts[name].close)
        yield App(
            settings=settings,
            lake=_store(settings, settings.lake.url),
            vault=_store(settings, settings.vault.url),
            ledger=ledger,
            clock=clock,
            executor=executor,
            engine=engine,
            progress=progress or Silent(),
            redact=Redact(settings.secrets()).text,
            clients=clients,
            file_hosts=hosts,
            delivery=Delivery(_store(settings, settings.media.adopt)) if settings.media.adopt else None,
            is_stopping=is_stopping,
            now=now,
        )


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


def _store(settings: Settings, url: str) -> ObjectStore:
    s3, media = settings.s3, settings.media
    return open_store(url, endpoint_url=s3.endpoint_url, region=s3.region, part_bytes=media.part_mib * MIB)


def _client(settings: Settings, name: str, clock: Clock) -> EnablexClient:
    project, collect = settings.projects[name], settings.collect
    return EnablexClient(
        base_url=project.base_url,
        app_id=project.app_id,
        app_key=project.app_key.get_secret_value(),
        pacer=Pacer(collect.requests_per_second),
        concurrency=collect.concurrency,
        timeout_s=collect.timeout_s,
        retrying=partial(retrying, collect.max_attempts),
        clock=clock,
    )


def _file_host(settings: Settings, name: str, bandwidth: Pacer | None) -> FileHost:
    project = settings.projects[name]
    return FileHost(
        project=name,
        user=project.files_user,
        password=project.files_password.get_secret_value(),
        hosts=project.file_hosts,
        bandwidth=bandwidth,
    )


NOT_TRIED = "not tried: given up after the failures before it"


def record_item(app: App, outcome: Outcome, done: Done[Any, Any], counts: Mapping[str, int] | None) -> None:
    """Take one item's result, or failure, into the outcome; secrets masked."""
    if counts is not None:
        outcome.succeeded(**counts)
    elif done.error is not None:
        outcome.fail(done.item, app.redact(str(done.error)))
    else:
        outcome.fail(done.item, NOT_TRIED, was_tried=False)
