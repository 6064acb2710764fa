"""HTTP client of EnableX's file host (urllib3): allowed hosts, redirects, ranges.

Source: enablex-api.md section 6. Basic authentication is sent pre-emptively, to allowed hosts only. Redirects are
followed by this module, at most three, and without credentials outside these hosts.
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
    """The host sent a part that was not requested; a request without a range may still succeed."""


@dataclass(frozen=True)
class Body:
    """A file's body while it is downloaded, starting at `first_byte`.

    `is_length_delimited`: HTTP itself detects a truncated body. `total_bytes`: size of the complete file, if the host
    sends it.
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
        """The value for If-Range: a strong ETag, else Last-Modified, else None."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.last_modified

    @property
    def version_token(self) -> str:
        """Identifies these bytes for a resumed upload; empty without a validator or a total size."""
        if self.total_bytes is None or self.validator is None:
            return ""
        return f"{self.validator} {self.total_bytes}"


class FileHost:
    """The file hosts of a project and the portal account for them. Threads may share it."""

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
        """Download a file, following at most three redirects.

        With `first_byte`, request the rest from this offset, on condition that the file still matches `validator` (if
        given). A host without range support, or with a changed file, sends the complete file; then `Body.first_byte`
        is 0.

        Raises:
            FileRefused, FileGone, FileUnavailable: depending on the HTTP status; 403 is FileRefused here.
            RangeMismatchError: the host sent neither the requested part nor the complete file.
        """
        origin = url = secured(url)
        if not self._may_see_credentials(url):
            raise FileRefused(
                f"{urlsplit(url).hostname} is not an allowed file host; if EnableX serves files there,"
                f" add it to projects.{self._project}.file_hosts"
            )
        range_headers = {"Range": f"bytes={first_byte}-"} if first_byte else {}
        if first_byte and validator:
            range_headers["If-Range"] = validator
        for _ in range(MAX_REDIRECTS + 1):
            with self._stream(url, range_headers) as response:
                if response.status not in _REDIRECTS or "location" not in response.headers:
                    yield self._body(response, url, first_byte)
                    return
                url = _redirect_target(origin, url, response.headers["location"])
        raise FileUnavailable(f"more than {MAX_REDIRECTS} redirects from {public_url(origin)}")

    @contextmanager
    def _stream(self, url: str, extra_headers: dict[str, str]) -> Iterator[urllib3.BaseHTTPResponse]:
        """Send one request. With urllib3, because it reads a body at a sixth of the CPU time of httpx."""
        headers = {"Accept-Encoding": "identity", "User-Agent": "postroom", **extra_headers}
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
                raise FileUnavailable(f"{public_url(url)}: incomplete or not reachable: {why}") from None

    def _pool(self, url: str) -> urllib3.PoolManager:
        """The pool of the proxy that the environment names for the URL, or the direct one."""
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
            raise FileUnavailable(f"{where} sent {headers['content-encoding']} encoding, identity was requested")
        length = headers.get("content-length", "")
        start, total = (0, int(length) if length.isdecimal() else None) if status == 200 else _range_of(headers, where)
        if start not in {0, first_byte}:
            raise RangeMismatchError(f"{where} sent bytes from {start}, requested from {first_byte}")
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
    """First byte of a part, and the size of the complete file."""
    match = _CONTENT_RANGE.fullmatch(headers.get("content-range", ""))
    if match is None or int(match[2]) + 1 != int(match[3]):
        raise RangeMismatchError(f"{where} sent a part that was not requested")
    return int(match[1]), int(match[3])


def secured(url: str) -> str:
    """Normalise a file URL: http becomes https except on loopback (section 11.12); a user in it is removed.

    Raises:
        FileRefused: not an http or https URL.
    """
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
    """A redirect can leave the host, but not from another host to loopback; http becomes https."""
    try:
        url = secured(urljoin(at, location))
    except ValueError:
        raise FileRefused(f"{public_url(origin)} redirects to an invalid URL") from None
    if urlsplit(url).hostname in _LOOPBACK and urlsplit(origin).hostname not in _LOOPBACK:
        raise FileRefused(f"{public_url(origin)} redirects to this machine ({public_url(url)})")
    return url
