"""The host of session files, and the foreign host of some links."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from pipeline.enablex.simulator import media
from pipeline.enablex.simulator.faults import Faults
from pipeline.enablex.simulator.messages import Reply, Request, html_reply, json_reply, text_reply
from pipeline.enablex.simulator.versions import NONE, WEAK, Part, Version, other_part
from pipeline.enablex.simulator.world import SimFile, World

OTHER_HOST_URL = "http://files.example.invalid"
"""Plain http under a reserved name (RFC 2606). A client must never send a request to it."""

_CHALLENGE = ("WWW-Authenticate", 'Basic realm="Recordings"')

_PNG_BEGINNING = bytes.fromhex("89504e470d0a1a0a 0000000d 49484452 00000280 00000168 0802000000")
"""Signature and header of an image of 640 x 360."""

_MISSING_BYTES = 7
"""With `bad_length`, Content-Length minus the bytes sent."""


def _redirect(target: str) -> Reply:
    return text_reply(302, "", "text/plain", (("Location", target),))


def _not_allowed(allowed: str) -> Reply:
    return text_reply(405, "Method Not Allowed\n", "text/plain", (("Allow", allowed),))


def _picture(file: SimFile) -> Reply:
    """The start of a PNG image, followed by random bytes."""
    body = _PNG_BEGINNING + hashlib.shake_256(file.path.encode()).digest(8192)
    return Reply(200, body, "image/png", length=len(body))


_REFUSALS: dict[str, Callable[[str], Reply]] = {
    "files_down": lambda _: Reply(0, drop=True),
    "files_500": lambda _: html_reply(500, "Internal Server Error"),
    "files_503": lambda _: html_reply(503, "Down for maintenance"),
    "files_429": lambda _: text_reply(429, "Too Many Requests\n", "text/plain", (("Retry-After", "1"),)),
    "files_403": lambda _: html_reply(403, "Forbidden"),
    "files_401": lambda _: text_reply(401, "Unauthorized\n", "text/plain", (_CHALLENGE,)),
    "redirect_loop": _redirect,
}
"""Faults that apply with any credentials, in this order; each function receives the requested path."""

_OTHER_CONTENT: dict[str, Callable[[SimFile], Reply]] = {
    "html_200": lambda _: html_reply(200, "Something went wrong"),
    "json_error_200": lambda _: json_reply({"result": 50000, "error": "Internal error", "desc": "Try again later"}),
    "empty_file": lambda file: Version(file, 0, file.created_at).whole(),
    "other_kind": _picture,
}
"""Faults that reply with status 200 and other content instead of the file, also to a Range request."""

_FRAMINGS: dict[str, Callable[[Reply, int], Reply]] = {
    "short_body": lambda reply, length: replace(reply, stop_after=length // 2),
    "bad_length": lambda reply, length: replace(reply, length=length + _MISSING_BYTES, stop_after=length),
    "cut_no_length": lambda reply, length: replace(reply, length=None, stop_after=length // 2),
    "no_length": lambda reply, _: replace(reply, length=None),
    "chunked": lambda reply, _: replace(reply, length=None, chunked=True),
}
"""Faults of the framing of a body of this length, in this order."""


class FileHost:
    """Replies to GET and HEAD of files. A foreign host requires no credentials and has no faults."""

    def __init__(self, world: World, faults: Faults, foreign_url: str, *, foreign: bool = False) -> None:
        self._world = world
        self._faults = Faults() if foreign else faults
        self._foreign_url = foreign_url
        self._foreign = foreign

    def answer(self, request: Request, now: datetime) -> Reply:
        if request.method not in ("GET", "HEAD"):
            return _not_allowed("GET, HEAD")
        if request.method == "HEAD" and self._faults.hits("no_head", request.path):
            return _not_allowed("GET")
        file = self._world.file(_plain_path(request.path))
        refusal = None if self._foreign else self._refusal(request, file, now)
        if refusal is not None:
            return refusal
        return self._served(request, file, now) if file else html_reply(404, "Not Found")

    def _refusal(self, request: Request, file: SimFile | None, now: datetime) -> Reply | None:
        """The reply that refuses the file; None if the client may read it."""
        path = request.path
        fault = next((make(path) for name, make in _REFUSALS.items() if self._faults.hits(name, path)), None)
        if fault is not None:
            return fault
        if not self._may_read(request, file):
            return html_reply(403, "Forbidden")
        for name, host_url in (("redirect_foreign", self._foreign_url), ("redirect_to_http_other", OTHER_HOST_URL)):
            if self._faults.hits(name, path):
                return _redirect(host_url + path)
        if file is None or now < file.listed_at:
            return html_reply(404, "Not Found")
        if now >= file.expires_at:
            return self._expired(path)
        return html_reply(404, "Not Found") if self._faults.hits("gone_early", path) else None

    def _may_read(self, request: Request, file: SimFile | None) -> bool:
        """Whether the credentials are those of the file's project, or without a file those of any project."""
        names = self._world.projects if file is None else (file.project,)
        accepted = [(p.files_user, p.files_password) for p in map(self._world.project, names)]
        return request.credentials in accepted

    def _expired(self, path: str) -> Reply:
        for name, status in (("expired_403", 403), ("expired_410", 410), ("expired_html", 200)):
            if self._faults.hits(name, path):
                return html_reply(status, "Expired")
        return html_reply(404, "Not Found")

    def _served(self, request: Request, file: SimFile, now: datetime) -> Reply:
        """The file as of `now`, or a part of it, or other content in its place."""
        path = request.path
        other = next((make(file) for name, make in _OTHER_CONTENT.items() if self._faults.hits(name, path)), None)
        if other is not None:
            return other
        version = self._version(file, path, now)
        if version.matches_if_none_match(request):
            return version.unchanged()
        part = version.part_for(request)
        if part is None or self._faults.hits("no_range", path):
            return self._framed(version.whole(), request)
        return self._framed(self._some(version, part, path), request)

    def _version(self, file: SimFile, path: str, now: datetime) -> Version:
        """The content of this URL as of `now`, with its validators."""
        hits = self._faults.hits
        size = self._faults.amount("big_file", path) if file.text is None else None
        if size is not None:
            file = replace(file, size_bytes=media.media_size(file.format, int(size)))
        version = Version(file, file.size_bytes, file.created_at)
        if file.text is None:
            version = self._aged(version, path, now)
        if hits("wrong_bytes", path):
            version = replace(version, altered=True)
        if hits("no_validators", path):
            return replace(version, validators=NONE)
        return replace(version, validators=WEAK) if hits("weak_etag", path) else version

    def _aged(self, version: Version, path: str, now: datetime) -> Version:
        """A media file that grows after its listing (`growing`), or is replaced after it (`replaced`)."""
        listed_at = version.file.listed_at
        age_min = (now - listed_at).total_seconds() / 60
        growing_min = self._faults.amount("growing", path)
        if growing_min is not None and age_min < growing_min:
            version = replace(version, size_bytes=version.size_bytes // 2)
        elif growing_min is not None:
            version = replace(version, modified_at=listed_at + timedelta(minutes=growing_min))
        replaced_h = self._faults.amount("replaced", path)
        if replaced_h is not None and age_min >= replaced_h * 60:
            version = replace(version, altered=True, modified_at=listed_at + timedelta(hours=replaced_h))
        return version

    def _some(self, version: Version, part: Part, path: str) -> Reply:
        """The requested part, another part, or other bytes under the headers of the requested part."""
        if part.first >= version.size_bytes:
            return version.beyond_the_end()
        if self._faults.hits("wrong_range", path):
            return version.some(other_part(part, version.size_bytes))
        if part.first > 0 and self._faults.hits("lying_range", path):
            return version.some(part, start=0)
        return version.some(part)

    def _framed(self, reply: Reply, request: Request) -> Reply:
        """The reply, or with a fault one whose body is truncated or framed differently."""
        path, length = request.path, reply.length or 0
        position = self._faults.place("cut_anywhere", path) if request.method == "GET" else None
        if position is not None:
            return replace(reply, stop_after=int(position * length))
        framings = (make(reply, length) for name, make in _FRAMINGS.items() if self._faults.hits(name, path))
        return next(framings, reply)


def _plain_path(path: str) -> str:
    """The path of a file in the world, for each of its URLs."""
    path = re.sub(r"^/v[0-9]+(?=/)", "", path)
    return re.sub(r"/([0-9]{1,2})/a1(\.[a-z0-9]+)$", r"/a\1\2", path)
