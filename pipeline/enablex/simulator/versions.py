"""The version of a file at a moment, and its HTTP replies: validators, conditional requests, ranges (pure)."""

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
"""Validators of a version: ETag and Last-Modified, a weak ETag and Last-Modified, or neither."""

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
    """One version of a file: its first `size_bytes`, or with `altered` different bytes of that size."""

    file: SimFile
    size_bytes: int
    modified_at: datetime
    altered: bool = False
    validators: str = STRONG

    @property
    def etag(self) -> str:
        """The header value with its quotes, different for different bytes. Not sent without validators."""
        digest = hashlib.blake2b(f"{self.file.path}/{self.size_bytes}/{self.altered}".encode(), digest_size=8)
        weak = "W/" if self.validators == WEAK else ""
        return f'{weak}"{digest.hexdigest()}"'

    @property
    def headers(self) -> Headers:
        ranges: Headers = (("Accept-Ranges", "bytes"),)
        if self.validators == NONE:
            return ranges
        return ("ETag", self.etag), ("Last-Modified", format_datetime(self.modified_at, usegmt=True)), *ranges

    def matches_if_none_match(self, request: Request) -> bool:
        """Whether If-None-Match names this version, by weak comparison (RFC 9110)."""
        etags = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
        return self.validators != NONE and (self.etag.removeprefix("W/") in etags or etags == ["*"])

    def part_for(self, request: Request) -> Part | None:
        """The requested range; None for the whole file: no Range header, or an If-Range with another version."""
        condition = request.headers.get("if-range")
        if condition is not None and (self.validators != STRONG or condition != self.etag):
            return None
        return _part(request.headers.get("range", ""), self.size_bytes)

    def whole(self) -> Reply:
        return self._reply(200, self.headers, 0, self.size_bytes)

    def some(self, part: Part, start: int | None = None) -> Reply:
        """206 with a part of the file. With `start`, the body has the bytes from there, under the same headers."""
        content_range = ("Content-Range", f"bytes {part.first}-{part.last}/{self.size_bytes}")
        return self._reply(206, (*self.headers, content_range), part.first if start is None else start, part.length)

    def beyond_the_end(self) -> Reply:
        content_range = ("Content-Range", f"bytes */{self.size_bytes}")
        return text_reply(416, "", "text/plain", (*self.headers, content_range))

    def unchanged(self) -> Reply:
        """304 without a body. Content-Length is that of a reply with status 200."""
        kind = media.CONTENT_TYPES[self.file.format]
        return Reply(304, content_type=kind, headers=self.headers, length=self.size_bytes)

    def _reply(self, status: int, headers: Headers, start: int, length: int) -> Reply:
        stream = _first(length, media.open_media(self.file, start, altered=self.altered))
        kind = media.CONTENT_TYPES[self.file.format]
        return Reply(status, content_type=kind, headers=headers, stream=stream, length=length)


def other_part(part: Part, size: int) -> Part:
    """Another part of a file, of the same length where possible. A file of one byte has no other part."""
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


def _part(header: str, size: int) -> Part | None:
    """The single range of a Range header; None for none, several or malformed ones, which get the whole file."""
    match = re.fullmatch(r"bytes=([0-9]*)-([0-9]*)", header.replace(" ", ""))
    if match is None or match[1] + match[2] == "":
        return None
    if match[1] == "":
        return Part(max(0, size - int(match[2])), size - 1) if int(match[2]) else Part(size, size)
    first = int(match[1])
    last = min(int(match[2]), size - 1) if match[2] else size - 1
    return Part(first, last) if first <= last or first >= size else None
