"""Check from a stream of bytes whether a file is complete, and whether it is an error page (pure, bounded memory).

EnableX documents no sizes, so a truncated body without a declared length can be detected only from its content:
Matroska and WebM (EBML elements) and MP4 and MOV (ISO boxes) declare the size of every part, and JSON must parse. An
error page is detected from the first bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from enum import Enum

import msgspec

JSON_KINDS = frozenset({"chat", "metadata"})
_JSON_LIMIT_BYTES = 32 * 2**20
"""JSON up to this size is parsed to check that it is complete; more than one day of chat."""

_JSON_MOST_BYTES = 2**30
"""JSON larger than this is rejected: no chat or log of a session has this size, and the body may be endless."""

_EBML = b"\x1a\x45\xdf\xa3"
_EBML_SEGMENT = b"\x18\x53\x80\x67"
_HEAD_BYTES = 512
_OTHER_FORMATS = (
    b"\x89PNG\r\n",
    b"\xff\xd8\xff",  # JPEG
    b"GIF8",
    b"%PDF-",
    b"PK\x03\x04",  # ZIP
    b"\x1f\x8b",  # gzip
    b"%!PS",
)
"""First bytes of formats that no session file has. Encrypted files have other first bytes."""

_BLANKS = b"\xef\xbb\xbf \t\r\n"
"""Bytes skipped before the first character of a text: byte order mark and white space."""


class Verdict(Enum):
    """WHOLE: complete. BROKEN: truncated, empty or damaged. UNKNOWN: the format does not show its end."""

    WHOLE = "whole"
    BROKEN = "broken"
    UNKNOWN = "unknown"


class ErrorPage(Exception):
    """The body is an error page, not the file."""


class Inspector:
    """Inspects a body chunk by chunk, then returns the verdict."""

    def __init__(self, kind: str) -> None:
        self._is_json = kind in JSON_KINDS
        self._head = b""
        self._walker: Walker | None = None
        self._json = bytearray()
        self._size_bytes = 0
        self._is_head_checked = False

    def feed(self, chunk: bytes) -> None:
        """Inspect one chunk. Raises ErrorPage as soon as the first bytes show an error page."""
        self._size_bytes += len(chunk)
        if self._is_json and self._size_bytes > _JSON_MOST_BYTES:
            raise ErrorPage(f"more than {_JSON_MOST_BYTES:,} bytes of JSON")
        if self._is_json and self._size_bytes <= _JSON_LIMIT_BYTES:
            self._json += chunk
        if self._walker:
            self._walker.feed(chunk)
        elif not self._is_head_checked:
            self._head = (self._head + chunk).lstrip(_BLANKS)
            if len(self._head) >= _HEAD_BYTES:
                self._check_head()

    def verdict(self) -> Verdict:
        """The verdict on the whole body. Raises ErrorPage for an error page shorter than 512 bytes."""
        if not self._is_head_checked:
            self._check_head()
        if self._size_bytes == 0 and not self._is_json:
            raise ErrorPage("an empty body")
        if self._is_json:
            return self._json_verdict()
        return self._walker.verdict() if self._walker else Verdict.UNKNOWN

    def _check_head(self) -> None:
        self._is_head_checked = True
        if self._head.startswith(b"<") or (self._head.startswith(b"{") and not self._is_json):
            raise ErrorPage(self._head[:60].decode(errors="replace"))
        if self._head.startswith(_OTHER_FORMATS):
            raise ErrorPage(f"the body starts with {self._head[:4]!r}, which is no recording, chat or log")
        if self._head.startswith(_EBML):
            self._walker = Walker(_ebml_part, required={_EBML_SEGMENT})
        elif self._head[4:8] == b"ftyp":
            self._walker = Walker(_iso_part, required={b"moov", b"mdat"})
        if self._walker:
            self._walker.feed(self._head)
        self._head = b""

    def _json_verdict(self) -> Verdict:
        if self._size_bytes > _JSON_LIMIT_BYTES:
            return Verdict.UNKNOWN
        try:
            document = msgspec.json.decode(bytes(self._json))
        except (msgspec.DecodeError, UnicodeDecodeError):
            return Verdict.BROKEN
        except RecursionError:  # too deeply nested for the parser
            return Verdict.UNKNOWN
        if isinstance(document, dict) and (document.get("error") or document.get("error_code")):
            raise ErrorPage(str(document.get("error") or document.get("error_code"))[:60])
        return Verdict.WHOLE


Part = tuple[bytes, int, int | None]
"""(name, header bytes, payload bytes or None for "to the end")."""


class Walker:
    """Reads the top-level parts of a container by their declared sizes, without keeping payloads."""

    def __init__(self, read_part: Callable[[bytes], Part | None], required: Set[bytes]) -> None:
        self._read_part, self._required = read_part, required
        self._header = b""
        self._skip_bytes: int | None = 0
        self._seen: set[bytes] = set()

    def feed(self, chunk: bytes) -> None:
        while chunk and self._skip_bytes is not None:
            taken = min(self._skip_bytes, len(chunk))
            self._skip_bytes -= taken
            chunk = chunk[taken:]
            if not chunk:
                return
            self._header += chunk[:16]
            chunk = chunk[16:] if len(chunk) > 16 else b""
            part = self._read_part(self._header)
            if part is None:
                continue
            name, header_bytes, payload_bytes = part
            self._seen.add(name)
            chunk, self._header = self._header[header_bytes:] + chunk, b""
            self._skip_bytes = payload_bytes

    def verdict(self) -> Verdict:
        if self._skip_bytes is None:
            return Verdict.UNKNOWN
        is_complete = self._skip_bytes == 0 and not self._header and self._required <= self._seen
        return Verdict.WHOLE if is_complete else Verdict.BROKEN


def _iso_part(header: bytes) -> Part | None:
    if len(header) < 8:
        return None
    size, name = int.from_bytes(header[:4]), header[4:8]
    if size == 0:
        return name, 8, None
    if size != 1:
        return name, 8, max(0, size - 8)
    return None if len(header) < 16 else (name, 16, max(0, int.from_bytes(header[8:16]) - 16))


def _ebml_part(header: bytes) -> Part | None:
    id_bytes = _vint_bytes(header[0])
    if len(header) <= id_bytes:
        return None
    size_bytes = _vint_bytes(header[id_bytes])
    if len(header) < id_bytes + size_bytes:
        return None
    size = int.from_bytes(header[id_bytes : id_bytes + size_bytes]) & ((1 << 7 * size_bytes) - 1)
    is_unknown = size == (1 << 7 * size_bytes) - 1
    return header[:id_bytes], id_bytes + size_bytes, None if is_unknown else size


def _vint_bytes(first: int) -> int:
    """Length of an EBML variable-length number from its first byte; 8 for the invalid zero."""
    return min(8, 9 - first.bit_length())
