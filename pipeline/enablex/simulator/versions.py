"""What lies under a file's URL at some moment, and how HTTP describes it: validators, conditions, parts (pure)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from email.utils import format_datetime

from pipeline.enablex.simulator import media
from pipeline.enablex.simulator.messages import Reply, Request, text_reply
from pipeline.enablex.simulator.traffic import SimFile

STRONG, WEAK, NONE = "strong", "weak", "none"
"""How well a version can be distinguished from another one: ETag and Last-Modified, a weak ETag, or neither."""

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Part:
    """Bytes from `first` to `last`, both included."""

    first: int
    last: int

    @property
    def length(self) -> int:
        return self.last - self.first + 1


@dataclass(frozen=True)
class Version:
    """A file as it is now: its first `size_bytes`, or with `altered` other bytes in their place."""

    file: SimFile
    size_bytes: int
    modified_at: datetime
    altered: bool = False
    validators: str = STRONG

    @property
    def etag(self) -> str:
        """As in the header, quotes included; other bytes, other ETag. Not sent if there are no validators."""
        digest = hashlib.blake2b(f"{self.file.path}/{self.size_bytes}/{self.altered}".encode(), digest_size=8)
        weak = "W/" if self.validators == WEAK else ""
        return f'{weak}"{digest.hexdigest()}"'

    @property
    def headers(self) -> Headers:
        told: Headers = (("Accept-Ranges", "bytes"),)
        if self.validators == NONE:
            return told
        return ("ETag", self.etag), ("Last-Modified", format_datetime(self.modified_at, usegmt=True)), *told

    def known_to(self, request: Request) -> bool:
        """Whether If-None-Match names this version; weak ETags are good enough here."""
        known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
        return self.validators != NONE and (self.etag.removeprefix("W/") in known or known == ["*"])

    def part_for(self, request: Request) -> Part | None:
        """The part that Range asks for; None for the whole: no Range, or an If-Range that means another version."""
        known = request.headers.get("if-range")
        if known is not None and (self.validators != STRONG or known != self.etag):
            return None
        return _part(request.headers.get("range", ""), self.size_bytes)

    def whole(self) -> Reply:
        return self._reply(200, self.headers, 0, self.size_bytes)

    def some(self, part: Part, start: int | None = None) -> Reply:
        """206 with a part of the file. With `start` the bytes from there come under its name instead."""
        told = ("Content-Range", f"bytes {part.first}-{part.last}/{self.size_bytes}")
        return self._reply(206, (*self.headers, told), part.first if start is None else start, part.length)

    def beyond_the_end(self) -> Reply:
        told = ("Content-Range", f"bytes */{self.size_bytes}")
        return text_reply(416, "", "text/plain", (*self.headers, told))

    def unchanged(self) -> Reply:
        """304: the length that a 200 would say, and no body."""
        kind = media.CONTENT_TYPES[self.file.format]
        return Reply(304, content_type=kind, headers=self.headers, length=self.size_bytes)

    def _reply(self, status: int, headers: Headers, start: int, length: int) -> Reply:
        stream = _first(length, media.open_media(self.file, start, altered=self.altered))
        kind = media.CONTENT_TYPES[self.file.format]
        return Reply(status, content_type=kind, headers=headers, stream=stream, length=length)


def other_part(part: Part, size: int) -> Part:
    """Another part of a file, of the same length if the file has one; of a single byte there is no other."""
    length = min(part.length, size - 1) or 1
    first = 0 if part.first else size - length
    return Part(first, first + length - 1)


def _first(count: int, blocks: Iterator[bytes]) -> Iterator[bytes]:
    """The first `count` bytes of a stream."""
    for block in blocks:
        yield block[:count]
        count -= len(block)
        if count <= 0:
            return


def _part(asked: str, size: int) -> Part | None:
    """The one range a Range asks for; None for none, several or nonsense: the whole file is sent."""
    found = re.fullmatch(r"bytes=([0-9]*)-([0-9]*)", asked.replace(" ", ""))
    if found is None or found[1] + found[2] == "":
        return None
    if found[1] == "":
        return Part(max(0, size - int(found[2])), size - 1) if int(found[2]) else Part(size, size)
    first = int(found[1])
    last = min(int(found[2]), size - 1) if found[2] else size - 1
    return Part(first, last) if first <= last or first >= size else None
