"""The bytes of a session's files: playable media of any size, chat and metadata as JSON.

A media file is a sample (about one second of video and sound) followed by one block that its container ignores: an EBML
Void element for Matroska and WebM, which is valid because the samples' Segments have a size, or a `free` box for MP4
and MOV. The padding makes every file unique and gives it any size. Each byte of it can be computed independently, so a
Range can start anywhere, and memory use is constant.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import lru_cache
from importlib.resources import files
from typing import Protocol

CHUNK_BYTES = 64 * 1024
"""Padding consists of chunks of this size that differ in a number."""

BLOCK_BYTES = 8 * CHUNK_BYTES
"""Largest block returned: one write each, twice as fast as single chunks."""

CONTENT_TYPES = {
    "mkv": "video/x-matroska",
    "webm": "video/webm",
    "mov": "video/quicktime",
    "mp4": "video/mp4",
    "json": "application/json",
}
"""Content type by file extension."""

_VOID_HEADER_BYTES = 9
_FREE_HEADER_BYTES = 16


class MediaFile(Protocol):
    """What the bytes of a file depend on. The path is the seed of the padding."""

    @property
    def path(self) -> str: ...
    @property
    def format(self) -> str: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def text(self) -> bytes | None: ...


def media_size(ending: str, target_bytes: int) -> int:
    """The size in bytes nearest to `target_bytes` that a padded sample with this extension can have."""
    return max(target_bytes, len(_sample(ending)) + len(_padding_header(ending, 0)))


def open_media(file: MediaFile, start: int = 0, *, altered: bool = False) -> Iterator[bytes]:
    """The file's bytes from `start` to its end, in blocks of at most `BLOCK_BYTES`.

    With `altered`, different bytes of the same size: still a playable file; for a JSON file the same text with tabs
    instead of spaces. A JSON file is returned complete, regardless of `size_bytes`.
    """
    if file.text is not None:
        text = file.text.replace(b" ", b"\t") if altered else file.text
        if start < len(text):
            yield text[start:]
        return
    header = _sample(file.format)
    header += _padding_header(file.format, file.size_bytes - len(header))
    if start < len(header):
        yield header[start:]
    yield from _padding(
        f"{file.path}?altered" if altered else file.path,
        max(0, start - len(header)),
        file.size_bytes - len(header),
    )


def sha256(file: MediaFile) -> str:
    """SHA-256 of the whole file, in hex. Computed once per file from its stream."""
    return _digest(file.path, file.format, file.size_bytes, file.text)


@lru_cache(maxsize=65_536)
def _digest(path: str, ending: str, size_bytes: int, text: bytes | None) -> str:
    digest = hashlib.sha256()
    for block in open_media(_Parts(path, ending, size_bytes, text)):
        digest.update(block)
    return digest.hexdigest()


class _Parts:
    """A MediaFile made of its fields, so that the cache of digests keeps no files."""

    def __init__(self, path: str, ending: str, size_bytes: int, text: bytes | None) -> None:
        self.path, self.format, self.size_bytes, self.text = path, ending, size_bytes, text


@lru_cache(maxsize=8)
def _sample(ending: str) -> bytes:
    return files("pipeline.enablex.simulator.samples").joinpath(f"sample.{ending}").read_bytes()


def _padding_header(ending: str, space: int) -> bytes:
    """Header of a padding block of `space` bytes, including the header. Both forms use a 64-bit size."""
    if ending in ("mkv", "webm"):
        return b"\xec\x01" + max(0, space - _VOID_HEADER_BYTES).to_bytes(7, "big")
    return b"\x00\x00\x00\x01free" + max(_FREE_HEADER_BYTES, space).to_bytes(8, "big")


def _padding(seed: str, start: int, end: int) -> Iterator[bytes]:
    """Bytes `start` to `end` of an unlimited stream: one hashed chunk, repeated with a running number.

    Hashing every chunk would take 10 s instead of 1 s for a file of 5 GB.
    """
    if start >= end:
        return
    base = hashlib.shake_256(seed.encode()).digest(CHUNK_BYTES - 8)
    stop, step = -(-end // CHUNK_BYTES), BLOCK_BYTES // CHUNK_BYTES
    for number in range(start // CHUNK_BYTES, stop, step):
        numbers = range(number, min(number + step, stop))
        block = b"".join([part for n in numbers for part in (n.to_bytes(8, "big"), base)])
        first = number * CHUNK_BYTES
        yield block[max(0, start - first) : end - first]
