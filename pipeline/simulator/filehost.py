"""The host that session files are downloaded from, and the foreign host that some links lead to."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from email.utils import format_datetime

from pipeline.simulator import media
from pipeline.simulator.faults import Faults
from pipeline.simulator.messages import Reply, Request, html_reply, json_reply, text_reply
from pipeline.simulator.world import SimFile, World

_CHALLENGE = ("WWW-Authenticate", 'Basic realm="Recordings"')


def _redirect(to: str) -> Reply:
    return text_reply(302, "", "text/plain", (("Location", to),))


_STRIKES: dict[str, Callable[[str], Reply]] = {
    "files_down": lambda _: Reply(0, drop=True),
    "files_500": lambda _: html_reply(500, "Internal Server Error"),
    "files_403": lambda _: html_reply(403, "Forbidden"),
    "files_401": lambda _: text_reply(401, "Unauthorized\n", "text/plain", (_CHALLENGE,)),
    "redirect_loop": _redirect,
}
"""Faults that strike whoever asks, in this order; each gets the path asked for."""


class FileHost:
    """Answers GET and HEAD for files. A foreign host asks for no credentials and has no faults of its own."""

    def __init__(self, world: World, faults: Faults, foreign_url: str, *, foreign: bool = False) -> None:
        self._world = world
        self._faults = faults
        self._foreign_url = foreign_url
        self._foreign = foreign

    def answer(self, request: Request, now: datetime) -> Reply:
        if request.method not in ("GET", "HEAD"):
            return text_reply(405, "Method Not Allowed\n", "text/plain", (("Allow", "GET, HEAD"),))
        file = self._world.file(_plain_path(request.path))
        if self._foreign:
            return _whole(request, file) if file else html_reply(404, "Not Found")
        refusal = self._refusal(request, file, now)
        if refusal is not None:
            return refusal
        return self._served(request, file) if file else html_reply(404, "Not Found")

    def _refusal(self, request: Request, file: SimFile | None, now: datetime) -> Reply | None:
        """What keeps the file from this caller, if anything does."""
        path = request.path
        struck = next((make(path) for name, make in _STRIKES.items() if self._faults.hits(name, path)), None)
        if struck is not None:
            return struck
        if not self._may_read(request, file):
            return html_reply(403, "Forbidden")
        if self._faults.hits("redirect_foreign", path):
            return _redirect(self._foreign_url + path)
        if file is None or now < file.listed_at:
            return html_reply(404, "Not Found")
        return self._expired(path) if now >= file.expires_at else None

    def _may_read(self, request: Request, file: SimFile | None) -> bool:
        """A project's pair opens that project's files; where there is no file, anybody's pair will do."""
        names = self._world.projects if file is None else (file.project,)
        pairs = [(p.files_user, p.files_password) for p in map(self._world.project, names)]
        return request.credentials in pairs

    def _expired(self, path: str) -> Reply:
        for name, status in (("expired_403", 403), ("expired_410", 410), ("expired_html", 200)):
            if self._faults.hits(name, path):
                return html_reply(status, "Expired")
        return html_reply(404, "Not Found")

    def _served(self, request: Request, file: SimFile) -> Reply:
        hits, path = self._faults.hits, request.path
        if hits("html_200", path):
            return html_reply(200, "Something went wrong")
        if hits("json_error_200", path):
            return json_reply({"result": 50000, "error": "Internal error", "desc": "Try again later"})
        size = self._faults.amount("big_file", path) if file.text is None else None
        if size is not None:
            file = replace(file, size_bytes=media.media_size(file.format, int(size)))
        altered = hits("wrong_bytes", path)
        if "range" in request.headers and hits("no_range", path):
            headers = {name: value for name, value in request.headers.items() if name != "range"}
            request = replace(request, headers=headers)
        return self._cut(_whole(request, file, altered=altered), path)

    def _cut(self, reply: Reply, path: str) -> Reply:
        """The ways in which a body can be framed badly, or end too early."""
        hits, half = self._faults.hits, (reply.length or 0) // 2
        if hits("short_body", path):
            return replace(reply, stop_after=half)
        if hits("cut_no_length", path):
            return replace(reply, length=None, stop_after=half)
        if hits("no_length", path):
            return replace(reply, length=None)
        if hits("chunked", path):
            return replace(reply, length=None, chunked=True)
        return reply


def _plain_path(path: str) -> str:
    """The path a file has in the world, whichever of its URLs was asked for."""
    path = re.sub(r"^/v[0-9]+(?=/)", "", path)
    return re.sub(r"/([0-9]{1,2})/a1(\.[a-z0-9]+)$", r"/a\1\2", path)


def _whole(request: Request, file: SimFile, *, altered: bool = False) -> Reply:
    """The file, or the part of it that a Range asks for, with validators."""
    etag = hashlib.blake2b(f"{file.path}/{file.size_bytes}/{altered}".encode(), digest_size=8).hexdigest()
    headers: tuple[tuple[str, str], ...] = (
        ("ETag", f'"{etag}"'),
        ("Last-Modified", format_datetime(file.created_at, usegmt=True)),
        ("Accept-Ranges", "bytes"),
    )
    kind = media.CONTENT_TYPES[file.format]
    asked = request.headers.get("range", "")
    if request.headers.get("if-range", f'"{etag}"') != f'"{etag}"':
        asked = ""
    part = _part(asked, file.size_bytes)
    if part is None:
        stream = media.open_media(file, altered=altered)
        return Reply(200, content_type=kind, headers=headers, stream=stream, length=file.size_bytes)
    if part.first >= file.size_bytes:
        headers += (("Content-Range", f"bytes */{file.size_bytes}"),)
        return text_reply(416, "", "text/plain", headers)
    headers += (("Content-Range", f"bytes {part.first}-{part.last}/{file.size_bytes}"),)
    length = part.last - part.first + 1
    stream = _first(length, media.open_media(file, part.first, altered=altered))
    return Reply(206, content_type=kind, headers=headers, stream=stream, length=length)


def _first(count: int, blocks: Iterator[bytes]) -> Iterator[bytes]:
    """The first `count` bytes of a stream."""
    for block in blocks:
        yield block[:count]
        count -= len(block)
        if count <= 0:
            return


@dataclass(frozen=True)
class _Part:
    """Bytes from first to last, both included."""

    first: int
    last: int


def _part(asked: str, size: int) -> _Part | None:
    """The one range a Range asks for; None for none, several or nonsense: the whole file is sent."""
    found = re.fullmatch(r"bytes=([0-9]*)-([0-9]*)", asked.replace(" ", ""))
    if found is None or found[1] + found[2] == "":
        return None
    if found[1] == "":
        return _Part(max(0, size - int(found[2])), size - 1) if int(found[2]) else _Part(size, size)
    first = int(found[1])
    last = min(int(found[2]), size - 1) if found[2] else size - 1
    return _Part(first, last) if first <= last or first >= size else None
