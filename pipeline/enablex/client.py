"""HTTP client of the API (httpx): rate limit, send, retry. `protocol` reads a reply while it streams into a sink.

One client per project, because credentials belong to a project. Threads may share it.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar
from urllib.parse import urlsplit

import msgspec
from tenacity import Retrying

from pipeline.core.errors import Refused, Throttled, TimedOut, Unreachable, UnreadableReply
from pipeline.core.rate_limit import RateLimiter
from pipeline.core.retry import MAX_RETRY_AFTER_S
from pipeline.core.tracing import request_span
from pipeline.enablex.protocol import Reply, ReplyHead, ReplyReader, Request
from pipeline.enablex.rooms import read_small

if TYPE_CHECKING:
    import ssl

    import httpx

CONNECT_TIMEOUT_S = 10.0
_MAX_SMALL_BYTES = 64 * 2**20
"""Limit of a reply that is read into memory: about 100,000 rooms. Landed replies stream to disk."""

_MAX_LANDED_BYTES = 32 * 2**30


class Sink(Protocol):
    """Destination of one reply while it arrives: its bytes and its documents."""

    def write(self, chunk: bytes) -> None: ...

    def note(self, documents: Sequence[msgspec.Raw]) -> None: ...


AnySink = TypeVar("AnySink", bound=Sink)
Result = TypeVar("Result")


@dataclass(frozen=True)
class Answer(Generic[AnySink]):
    """A readable reply: its head, and the sink that took its body."""

    head: ReplyHead
    sink: AnySink


class UnreadableAnswer(UnreadableReply):
    """An unreadable reply with the sink that has its bytes, so that it can be landed as evidence.

    If its structure is broken, `broken` is the reason, and the sink has noted all documents before the break.
    """

    def __init__(self, error: UnreadableReply, head: ReplyHead, sink: Any, broken: str) -> None:
        super().__init__(str(error), endpoint=error.endpoint, status=error.status)
        self.head, self.sink, self.broken = head, sink, broken


@functools.cache
def _tls_context() -> ssl.SSLContext:
    """Trusted CA certificates, read once per process because this is the slowest step of opening a client."""
    import httpx  # noqa: PLC0415 - as below

    return httpx.create_ssl_context()


class EnablexClient:
    """Calls of one project."""

    def __init__(
        self,
        *,
        base_url: str,
        app_id: str,
        app_key: str,
        rate_limiter: RateLimiter,
        concurrency: int,
        timeout_s: float,
        retrying: Callable[[], Retrying],
        clock: Callable[[], datetime],
    ) -> None:
        self._base_url, self._auth, self._timeout_s = base_url, (app_id, app_key), timeout_s
        self._opening = threading.Lock()
        self._opened: httpx.Client | None = None
        self._rate_limiter, self._retrying, self._clock = rate_limiter, retrying, clock
        self._slots = threading.BoundedSemaphore(concurrency)

    def fetch(self, request: Request, make_sink: Callable[[], AnySink]) -> Answer[AnySink]:
        """Send a request and retry transient errors; every attempt gets a new sink.

        Raises:
            ApiError: the last error, after the last attempt or if it is not transient.
        """
        return self.retry(lambda: self._paced(lambda: self._stream(request, make_sink())))

    def call(self, request: Request) -> dict[str, Any]:
        """Send an idempotent request with a small reply that is not landed, and retry transient errors.

        Raises:
            ApiError: as `fetch`.
        """
        return self.retry(lambda: self.send(request))

    def send(self, request: Request) -> dict[str, Any]:
        """Send a request once. After a `Transient` other than `Throttled`, it is unknown whether it was executed."""
        return self._paced(lambda: self._exchange(request))

    def retry(self, action: Callable[[], Result]) -> Result:
        """Run an action and retry it while it raises `Transient`, with the limits of this client's requests."""
        return self._retrying()(action)

    def close(self) -> None:
        if self._opened:
            self._opened.close()

    @property
    def _http(self) -> httpx.Client:
        """Opened by the first request: import and opening are slow, and many commands send no request."""
        with self._opening:
            if self._opened is None:
                import httpx  # noqa: PLC0415 - see above

                # No redirects: credentials are sent only to base_url.
                self._opened = httpx.Client(
                    base_url=self._base_url,
                    auth=self._auth,
                    # The server assembles a day's CDRs before it sends the body, so the read timeout is long.
                    timeout=httpx.Timeout(self._timeout_s, connect=CONNECT_TIMEOUT_S, pool=None),
                    follow_redirects=False,
                    verify=_tls_context(),
                    headers={"Accept": "application/json", "User-Agent": "postroom"},
                )
            return self._opened

    def _paced(self, action: Callable[[], Result]) -> Result:
        with self._slots:
            self._rate_limiter.acquire()
            try:
                return action()
            except Throttled as error:
                self._rate_limiter.back_off(min(error.retry_after_s or 0.0, MAX_RETRY_AFTER_S))
                raise

    def _stream(self, request: Request, sink: AnySink) -> Answer[AnySink]:
        with (
            request_span(request.method, self._base_url) as note_status,
            self._translate_errors(request),
            self._http.stream(request.method, request.path.lstrip("/")) as response,
        ):
            note_status(response.status_code)
            head = ReplyHead(request, response.status_code, _headers(response))
            self._receive(head, response, sink)
        return Answer(head, sink)

    def _exchange(self, request: Request) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"} if request.body else None
        method, path, body = request.method, request.path.lstrip("/"), bytearray()
        with (
            request_span(method, self._base_url) as note_status,
            self._translate_errors(request),
            self._http.stream(method, path, content=request.body or None, headers=headers) as response,
        ):
            note_status(response.status_code)
            for chunk in response.iter_bytes():
                body += chunk
                if len(body) > _MAX_SMALL_BYTES:
                    raise _too_large(request, _MAX_SMALL_BYTES)
        reply = Reply(request, response.status_code, _headers(response), bytes(body))
        return read_small(reply, now=self._clock())

    @contextmanager
    def _translate_errors(self, request: Request) -> Iterator[None]:
        """Turn errors of httpx into ApiError."""
        import httpx  # noqa: PLC0415 - as above

        host = urlsplit(self._base_url).hostname
        try:
            yield
        except httpx.ReadTimeout:
            raise TimedOut(
                f"{request}: request to {host} timed out; raise collect.timeout_s if days are large",
                endpoint=str(request),
            ) from None
        except httpx.HTTPError as error:
            why = str(error) or type(error).__name__
            raise Unreachable(
                f"{request}: cannot reach {host}: {why}; check the network and base_url",
                endpoint=str(request),
            ) from None

    def _receive(self, head: ReplyHead, response: httpx.Response, sink: Sink) -> None:
        reader = ReplyReader(head)
        try:
            for chunk in response.iter_bytes():
                if response.num_bytes_downloaded > _MAX_LANDED_BYTES:
                    raise _too_large(head.request, _MAX_LANDED_BYTES)
                sink.write(chunk)
                sink.note(reader.feed(chunk))
                if reader.has_enough:
                    break
            sink.note(reader.finish(self._clock()))
        except UnreadableReply as error:
            sink.note(reader.rest())
            raise UnreadableAnswer(error, head, sink, reader.broken) from None


def _too_large(request: Request, max_bytes: int) -> Refused:
    return Refused(f"{request}: the reply is larger than {max_bytes:,} bytes; check base_url", endpoint=str(request))


def _headers(response: httpx.Response) -> dict[str, str]:
    return {name.lower(): value for name, value in response.headers.items()}
