"""httpx at the edge: pace, send, retry; what comes back is judged by `wire`.

One client per project, for credentials belong to a project. Threads may share it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import httpx
import msgspec
from tenacity import Retrying

from pipeline.enablex.wire import Reply, Request, read_documents
from pipeline.errors import Throttled, Unreachable, UnreadableReply

TIMEOUT = httpx.Timeout(connect=10.0, read=120.0, write=30.0, pool=None)
"""A day's CDRs come in one body that the server assembles first: reading may wait long, connecting may not."""


@dataclass(frozen=True)
class Answer:
    """A readable reply and its documents, each as its own bytes."""

    reply: Reply
    documents: list[msgspec.Raw]


class UnreadableAnswer(UnreadableReply):
    """An unreadable reply together with its bytes, so that it can be landed as evidence."""

    def __init__(self, error: UnreadableReply, reply: Reply) -> None:
        super().__init__(str(error), endpoint=error.endpoint, status=error.status)
        self.reply = reply


class Pacer:
    """At most `per_second` starts a second over all threads; a throttled reply pauses everybody."""

    def __init__(
        self,
        per_second: float,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._gap_s = 1.0 / per_second
        self._monotonic, self._sleep = monotonic, sleep
        self._lock = threading.Lock()
        self._next_start = 0.0

    def wait(self) -> None:
        """Return when it is this caller's turn."""
        with self._lock:
            now = self._monotonic()
            start = max(now, self._next_start)
            self._next_start = start + self._gap_s
        if start > now:
            self._sleep(start - now)

    def pause(self, seconds: float) -> None:
        """Let nobody start for this long."""
        with self._lock:
            self._next_start = max(self._next_start, self._monotonic() + seconds)


class EnablexClient:
    """Calls of one project."""

    def __init__(
        self,
        *,
        base_url: str,
        app_id: str,
        app_key: str,
        pacer: Pacer,
        concurrency: int,
        retrying: Callable[[], Retrying],
        clock: Callable[[], datetime],
    ) -> None:
        # No redirects: credentials go to base_url and nowhere else.
        self._http = httpx.Client(
            base_url=base_url,
            auth=(app_id, app_key),
            timeout=TIMEOUT,
            follow_redirects=False,
            headers={"Accept": "application/json", "User-Agent": "postroom"},
        )
        self._pacer, self._retrying, self._clock = pacer, retrying, clock
        self._slots = threading.BoundedSemaphore(concurrency)

    def fetch(self, request: Request) -> Answer:
        """Ask, and ask again where that may help.

        Raises:
            ApiError: the last one, when tries ran out or asking again cannot help.
        """
        return self._retrying()(self._fetch_once, request)

    def close(self) -> None:
        self._http.close()

    def _fetch_once(self, request: Request) -> Answer:
        with self._slots:
            self._pacer.wait()
            reply = self._send(request)
        try:
            return Answer(reply, read_documents(reply, now=self._clock()))
        except Throttled as error:
            self._pacer.pause(error.retry_after_s or 0.0)
            raise
        except UnreadableReply as error:
            raise UnreadableAnswer(error, reply) from None

    def _send(self, request: Request) -> Reply:
        try:
            response = self._http.request(request.method, request.path.lstrip("/"))
        except httpx.HTTPError as error:
            why = str(error) or type(error).__name__
            raise Unreachable(
                f"{request}: cannot reach {self._http.base_url.host}: {why}; check the network and base_url",
                endpoint=str(request),
            ) from None
        headers = {name.lower(): value for name, value in response.headers.items()}
        return Reply(request, response.status_code, headers, response.content)
