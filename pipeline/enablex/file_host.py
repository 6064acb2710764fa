"""The host that EnableX keeps files on, over HTTP: who may see the credentials, where a redirect may lead, what came.

Source: enablex-api.md section 6. Basic authentication goes out pre-emptively, to allowed hosts only; redirects are
followed manually, at most three, and lose the credentials when they leave those hosts.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from urllib.parse import urljoin, urlsplit, urlunsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.exceptions import HTTPError

from pipeline.core.errors import FileGone, FileRefused, FileUnavailable
from pipeline.core.rate_limit import RateLimiter
from pipeline.core.tracing import request_span
from pipeline.core.urls import public_url

MAX_REDIRECTS = 3
TIMEOUT = urllib3.Timeout(connect=10.0, read=60.0)
_CHUNK_BYTES = 2**20
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_CONNECTIONS = 64
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


class RangeMismatchError(FileUnavailable):
    """The host sends another part of the file than the one asked for: the whole file may still be had."""


@dataclass(frozen=True)
class Body:
    """A file's body on its way, from `first_byte` on.

    `is_length_delimited` when the protocol itself would notice a cut; `total_bytes` of the whole file when stated.
    """

    chunks: Iterator[bytes]
    first_byte: int
    total_bytes: int | None
    is_length_delimited: bool
    content_type: str | None
    etag: str | None
    last_modified: str | None

    @property
    def validator(self) -> str | None:
        """What If-Range takes: a strong ETag, else the date of the last change; None when neither came."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.last_modified

    @property
    def version_token(self) -> str:
        """Identifies these bytes across requests; empty when they cannot be identified reliably."""
        if self.total_bytes is None or self.validator is None:
            return ""
        return f"{self.validator} {self.total_bytes}"


class FileHost:
    """Where a project's files lie, and the portal account that opens them. Threads may share it."""

    def __init__(
        self, *, project: str, user: str, password: str, hosts: tuple[str, ...], bandwidth: RateLimiter | None = None
    ) -> None:
        self._project, self._hosts, self._bandwidth = project, hosts, bandwidth
        pair = base64.b64encode(f"{user}:{password}".encode()).decode()
        self._credentials = {"Authorization": f"Basic {pair}"} if user else {}
        self._direct = urllib3.PoolManager(maxsize=_CONNECTIONS)
        self._proxies = {
            scheme: urllib3.ProxyManager(proxy, maxsize=_CONNECTIONS)
            for scheme, proxy in getproxies().items()
            if scheme in {"http", "https"}
        }

    def close(self) -> None:
        for pool in (self._direct, *self._proxies.values()):
            pool.clear()

    @contextmanager
    def open(self, url: str, *, first_byte: int = 0, validator: str | None = None) -> Iterator[Body]:
        """The body of a file, after at most three redirects.

        With `first_byte` the rest from there is asked for, if the file is still the one of `validator` (where there is
        one); a host that does not do that sends the whole file, and `Body.first_byte` is 0.

        Raises:
            FileRefused, FileGone, FileUnavailable: by what the server said; 403 is FileRefused here.
            WrongPart: it sends neither the part asked for nor the whole.
        """
        origin = url = secured(url)
        if not self._may_see_credentials(url):
            raise FileRefused(
                f"{urlsplit(url).hostname} is not an allowed file host; if EnableX serves files there,"
                f" add it to projects.{self._project}.file_hosts"
            )
        asked = {"Range": f"bytes={first_byte}-"} if first_byte else {}
        if first_byte and validator:
            asked["If-Range"] = validator
        for _ in range(MAX_REDIRECTS + 1):
            with self._stream(url, asked) as response:
                if response.status not in _REDIRECTS or "location" not in response.headers:
                    yield self._body(response, url, first_byte)
                    return
                url = _redirect_target(origin, url, response.headers["location"])
        raise FileUnavailable(f"more than {MAX_REDIRECTS} redirects from {public_url(origin)}")

    @contextmanager
    def _stream(self, url: str, asked: dict[str, str]) -> Iterator[urllib3.BaseHTTPResponse]:
        """urllib3 and not httpx, which the API is asked with: it hands a body over at a sixth of the cost."""
        headers = {"Accept-Encoding": "identity", "User-Agent": "postroom", **asked}
        if self._may_see_credentials(url):
            headers |= self._credentials
        with request_span("GET", url) as note_status:
            try:
                response = self._pool(url).request(
                    "GET", url, headers=headers, timeout=TIMEOUT, redirect=False, retries=False, preload_content=False
                )
                note_status(response.status)
                try:
                    yield response
                finally:
                    response.close()
            except HTTPError as error:
                why = f"{type(error).__name__}: {error}".splitlines()[0].replace(url, public_url(url))
                raise FileUnavailable(f"{public_url(url)}: not whole or not reachable: {why}") from None

    def _pool(self, url: str) -> urllib3.PoolManager:
        """By way of the proxy that the environment names for the URL, or directly."""
        parts = urlsplit(url)
        proxy = self._proxies.get(parts.scheme)
        return self._direct if proxy is None or proxy_bypass(parts.hostname or "") else proxy

    def _may_see_credentials(self, url: str) -> bool:
        parts = urlsplit(url)
        host = (parts.hostname or "").lower()
        return any(
            fnmatch(f"{host}:{parts.port}" if ":" in pattern else host, pattern.lower()) for pattern in self._hosts
        )

    def _body(self, response: urllib3.BaseHTTPResponse, url: str, first_byte: int) -> Body:
        status, where = response.status, public_url(url)
        if status in {404, 410}:
            raise FileGone(f"HTTP {status} from {where}", status=status)
        if status in {401, 403}:
            raise FileRefused(
                f"HTTP {status} from {where}; check projects.{self._project}.files_user and files_password",
                status=status,
            )
        if status == 416:
            raise RangeMismatchError(f"HTTP 416 from {where}: the file is shorter now", status=status)
        if status != 200 and not (status == 206 and first_byte):
            raise FileUnavailable(f"HTTP {status} from {where}", status=status)
        headers = response.headers
        if headers.get("content-encoding", "identity") != "identity":
            raise FileUnavailable(f"encoded as {headers['content-encoding']} by {where} though identity was asked for")
        length = headers.get("content-length", "")
        start, total = (0, int(length) if length.isdecimal() else None) if status == 200 else _range_of(headers, where)
        if start not in {0, first_byte}:
            raise RangeMismatchError(f"{where} sent bytes from {start} on, {first_byte} was asked for")
        return Body(
            chunks=self._paced(response.stream(_CHUNK_BYTES, decode_content=False)),
            first_byte=start,
            total_bytes=total,
            is_length_delimited="content-length" in headers or "chunked" in headers.get("transfer-encoding", ""),
            content_type=headers.get("content-type"),
            etag=headers.get("etag"),
            last_modified=headers.get("last-modified"),
        )

    def _paced(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            if self._bandwidth is not None:
                self._bandwidth.acquire(len(chunk))
            yield chunk


def _range_of(headers: Mapping[str, str], where: str) -> tuple[int, int]:
    """Where a part begins, and the size of the whole."""
    match = _CONTENT_RANGE.fullmatch(headers.get("content-range", ""))
    if match is None or int(match[2]) + 1 != int(match[3]):
        raise RangeMismatchError(f"{where} sent another part than the one asked for")
    return int(match[1]), int(match[3])


def secured(url: str) -> str:
    """The URL to ask: http becomes https but on loopback (section 11.12), no user in it; other schemes are refused."""
    try:
        parts = urlsplit(url)
        host, _ = (parts.hostname or "").lower(), parts.port
    except ValueError:
        raise FileRefused(f"not a usable URL: {public_url(url)[:100]}") from None
    if parts.scheme not in {"http", "https"} or not host:
        raise FileRefused(f"not an http or https URL: {public_url(url)[:100]}")
    netloc = parts.netloc.rpartition("@")[2]
    if parts.scheme == "http" and host not in _LOOPBACK:
        return urlunsplit(parts._replace(scheme="https", netloc=netloc.removesuffix(":80")))
    return urlunsplit(parts._replace(netloc=netloc))


def _redirect_target(origin: str, at: str, location: str) -> str:
    """A redirect may leave the host, but not for plain http, nor from outside to this machine."""
    try:
        url = secured(urljoin(at, location))
    except ValueError:
        raise FileRefused(f"{public_url(origin)} redirects to what is not a URL") from None
    if urlsplit(url).hostname in _LOOPBACK and urlsplit(origin).hostname not in _LOOPBACK:
        raise FileRefused(f"{public_url(origin)} redirects to this machine ({public_url(url)})")
    return url
