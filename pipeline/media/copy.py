"""One file: URL to vault as a stream, SHA-256 on the way; stored only when it is whole and really the file.

Source: docs/enablex-api.md section 6. Basic authentication goes out pre-emptively, to allowed hosts only; redirects are
followed by hand, at most three, and lose the credentials when they leave those hosts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatch
from itertools import count
from urllib.parse import urljoin, urlsplit, urlunsplit

import httpx

from pipeline import layout
from pipeline.errors import FileError, FileGone, FileRefused, FileUnavailable, ObjectDiffers
from pipeline.media.content import ErrorPage, Inspector, Verdict
from pipeline.media.manifest import Entry, next_manifest, public_url, write_manifest
from pipeline.model import ListedFile, MediaItem, StoredMedia
from pipeline.store.base import ObjectStore, read_bytes

MAX_REDIRECTS = 3
TIMEOUT = httpx.Timeout(connect=10.0, read=60.0, write=30.0, pool=None)
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


@dataclass(frozen=True)
class Body:
    """A file's body on its way: `has_length` when the protocol itself would notice a cut."""

    chunks: Iterator[bytes]
    has_length: bool
    content_type: str | None
    etag: str | None


class FileHost:
    """Where a project's files lie, and the portal account that opens them. Threads may share it."""

    def __init__(self, *, project: str, user: str, password: str, hosts: tuple[str, ...]) -> None:
        self._project, self._hosts = project, hosts
        self._auth = httpx.BasicAuth(user, password) if user else None
        self._http = httpx.Client(
            timeout=TIMEOUT,
            follow_redirects=False,
            headers={"Accept-Encoding": "identity", "User-Agent": "postroom"},
        )

    def close(self) -> None:
        self._http.close()

    @contextmanager
    def open(self, url: str) -> Iterator[Body]:
        """The body of a file, after at most three redirects.

        Raises:
            FileRefused, FileGone, FileUnavailable: by what the server said; 403 is FileRefused here.
        """
        origin = url = secured(url)
        if not self._may_see_credentials(url):
            raise FileRefused(
                f"{urlsplit(url).hostname} is not an allowed file host; if EnableX serves files there,"
                f" add it to projects.{self._project}.file_hosts"
            )
        for _ in range(MAX_REDIRECTS + 1):
            with self._stream(url) as response:
                if not response.has_redirect_location:
                    yield self._body(response)
                    return
                url = _redirect_target(origin, url, response.headers["location"])
        raise FileUnavailable(f"more than {MAX_REDIRECTS} redirects from {public_url(origin)}")

    @contextmanager
    def _stream(self, url: str) -> Iterator[httpx.Response]:
        auth = self._auth if self._may_see_credentials(url) else None
        try:
            with self._http.stream("GET", url, auth=auth) as response:
                yield response
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            why = str(error) or type(error).__name__
            raise FileUnavailable(f"{public_url(url)}: not whole or not reachable: {why}") from None

    def _may_see_credentials(self, url: str) -> bool:
        parts = urlsplit(url)
        host = (parts.hostname or "").lower()
        return any(
            fnmatch(f"{host}:{parts.port}" if ":" in pattern else host, pattern.lower()) for pattern in self._hosts
        )

    def _body(self, response: httpx.Response) -> Body:
        status, where = response.status_code, public_url(str(response.url))
        if status in {404, 410}:
            raise FileGone(f"HTTP {status} from {where}", status=status)
        if status in {401, 403}:
            raise FileRefused(
                f"HTTP {status} from {where}; check projects.{self._project}.files_user and files_password",
                status=status,
            )
        if status != 200:
            raise FileUnavailable(f"HTTP {status} from {where}", status=status)
        headers = response.headers
        if headers.get("content-encoding", "identity") != "identity":
            raise FileUnavailable(f"encoded as {headers['content-encoding']} by {where} though identity was asked for")
        return Body(
            chunks=response.iter_raw(),
            has_length="content-length" in headers or "chunked" in headers.get("transfer-encoding", ""),
            content_type=headers.get("content-type"),
            etag=headers.get("etag"),
        )


def copy_file(item: MediaItem, host: FileHost, vault: ObjectStore, *, now: datetime) -> StoredMedia:
    """Copy one file into the vault; memory: one chunk.

    A body whose length the server states is stored as it is; if it does not open, it is marked unreadable. A body
    without a length must be whole by its own account, or come twice with the same SHA-256. An object of other bytes
    under the key, which no manifest names, stays, and the file takes a numbered name.

    Raises:
        FileError: nothing was stored. FileGone only when the server's answer is final: from `expires_at` on, a refusal
            or an error page counts as one too (section 6, point 4).
        StoreError: nothing was stored.
    """
    file = item.file
    for number in count(1):
        name = layout.numbered_name(file.name, number)
        key = layout.media_key(file.project, file.day, file.room_id, file.conf_num, file.kind, name)
        try:
            try:
                return _copy_once(item, host, vault, key, None)
            except _Unproved as unproved:
                return _copy_once(item, host, vault, key, unproved.sha256)
        except ObjectDiffers:
            continue
        except (FileRefused, _NotTheFile) as error:
            if now >= item.expires_at and (error.status or isinstance(error, _NotTheFile)):
                raise FileGone(f"{error}, after its deadline", status=error.status) from None
            raise
    raise AssertionError("unreachable")


class _NotTheFile(FileUnavailable):
    """An error page with status 200."""


class _Unproved(FileError):
    """Neither the protocol nor the content says whether these were all the bytes."""

    def __init__(self, sha256: str) -> None:
        super().__init__("no length, and a content that does not show its end")
        self.sha256 = sha256


def _copy_once(item: MediaItem, host: FileHost, vault: ObjectStore, key: str, expected: str | None) -> StoredMedia:
    digest, inspector = hashlib.sha256(), Inspector(item.file.kind)
    verdict = Verdict.UNKNOWN

    def checked(body: Body) -> Iterator[bytes]:
        """The chunks; raises at the end, before the object takes its name, when they are not the whole file."""
        nonlocal verdict
        for chunk in body.chunks:
            digest.update(chunk)
            inspector.feed(chunk)
            yield chunk
        verdict = inspector.verdict()
        if not body.has_length:
            _require_whole(verdict, digest.hexdigest(), expected)

    with host.open(item.file.url) as body:
        try:
            size_bytes = vault.put_new(key, checked(body))
        except ErrorPage as page:
            raise _NotTheFile(f"an error page instead of the file: {page}") from None
        return StoredMedia(
            key=key,
            size_bytes=size_bytes,
            sha256=digest.hexdigest(),
            content_type=body.content_type,
            etag=body.etag,
            is_readable=verdict is not Verdict.BROKEN,
        )


def _require_whole(verdict: Verdict, sha256: str, expected: str | None) -> None:
    if verdict is Verdict.BROKEN:
        raise FileUnavailable("the body came without a length and was cut short, or the file is damaged")
    if verdict is Verdict.UNKNOWN and expected is None:
        raise _Unproved(sha256)
    if verdict is Verdict.UNKNOWN and expected != sha256:
        raise FileUnavailable("two downloads without a length gave different bytes")


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


def write_entry(vault: ObjectStore, file: ListedFile, entry: Entry) -> None:
    """Add a file to its session's manifest, as the next number; the last thing done for a file.

    Two writers of one session cannot overwrite each other: the later one finds the number taken and takes the next.
    """
    while True:
        stored = vault.list(layout.manifest_prefix(file.project, file.day, file.conf_num))
        names = [name for one in stored if (name := layout.parse_manifest_key(one.key))]
        last = max((name.revision for name in names), default=0)
        newest = layout.manifest_key(file.project, file.day, file.conf_num, last)
        previous = read_bytes(vault, newest) if last else None
        manifest = next_manifest(file, [entry], previous)
        key = layout.manifest_key(file.project, file.day, file.conf_num, manifest.revision)
        try:
            vault.put_new(key, write_manifest(manifest))
        except ObjectDiffers:
            continue
        return
