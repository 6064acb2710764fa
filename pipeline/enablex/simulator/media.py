"""The bytes of a session's files: playable media of any size, chat and metadata as JSON.

A media file is a shipped sample (about one second of video and sound) followed by one block that its
container ignores: an EBML Void element for Matroska and WebM, which is legal there because the samples'
Segments state their size, a `free` box for MP4 and MOV. The padding makes every file unique and as large
as wanted, also many gigabytes, and every byte of it can be computed on its own, so a Range may start
anywhere and memory stays flat.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import lru_cache
from importlib.resources import files
from typing import Protocol

CHUNK_BYTES = 64 * 1024
"""Padding repeats in chunks of this size, each with its own number."""

BLOCK_BYTES = 8 * CHUNK_BYTES
"""Bytes are handed out in blocks of at most this size: one write each, and twice as quick as by the chunk."""

CONTENT_TYPES = {
    "mkv": "video/x-matroska",
    "webm": "video/webm",
    "mov": "video/quicktime",
    "mp4": "video/mp4",
    "json": "application/json",
}
"""Per ending, as a file server that goes by the name would say."""

_VOID_HEADER_BYTES = 9
_FREE_HEADER_BYTES = 16


class MediaFile(Protocol):
    """What the bytes of a file depend on. The path is the seed: other path, other padding."""

    @property
    def path(self) -> str: ...
    @property
    def format(self) -> str: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def text(self) -> bytes | None: ...


def media_size(ending: str, wanted: int) -> int:
    """The size nearest to `wanted`, in bytes, that a padded sample of this ending can have."""
    return max(wanted, len(_sample(ending)) + len(_padding_header(ending, 0)))


def open_media(file: MediaFile, start: int = 0, *, altered: bool = False) -> Iterator[bytes]:
    """The file's bytes from `start` to its end, in blocks of at most `BLOCK_BYTES`.

    With `altered` other bytes of the same size come out: still a playable file, for a JSON file the same
    text with its spaces changed. A JSON file is handed out as it is, whatever its stated size.
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
    """SHA-256 of the whole file, in hex; computed once per file, by reading it as a stream."""
    return _digest(file.path, file.format, file.size_bytes, file.text)


@lru_cache(maxsize=65_536)
def _digest(path: str, ending: str, size_bytes: int, text: bytes | None) -> str:
    digest = hashlib.sha256()
    for block in open_media(_Parts(path, ending, size_bytes, text)):
        digest.update(block)
    return digest.hexdigest()


class _Parts:
    """A MediaFile from its parts, so that a digest can be remembered without remembering the file."""

    def __init__(self, path: str, ending: str, size_bytes: int, text: bytes | None) -> None:
        self.path, self.format, self.size_bytes, self.text = path, ending, size_bytes, text


@lru_cache(maxsize=8)
def _sample(ending: str) -> bytes:
    return files("pipeline.enablex.simulator.samples").joinpath(f"sample.{ending}").read_bytes()


def _padding_header(ending: str, space: int) -> bytes:
    """Header of a padding block that takes `space` bytes, header included; both forms use a 64-bit size."""
    if ending in ("mkv", "webm"):
        return b"\xec\x01" + max(0, space - _VOID_HEADER_BYTES).to_bytes(7, "big")
    return b"\x00\x00\x00\x01free" + max(_FREE_HEADER_BYTES, space).to_bytes(8, "big")


def _padding(seed: str, start: int, end: int) -> Iterator[bytes]:
    """Bytes `start` to `end` of an endless stream: one hashed chunk, repeated under a running number.

    Hashing every chunk would be as random, but make a 5 GB file cost ten seconds instead of one.
    """
    if start >= end:
        return
    base = hashlib.shake_256(seed.encode()).digest(CHUNK_BYTES - 8)
    beyond, step = -(-end // CHUNK_BYTES), BLOCK_BYTES // CHUNK_BYTES
    for number in range(start // CHUNK_BYTES, beyond, step):
        numbers = range(number, min(number + step, beyond))
        block = b"".join([part for n in numbers for part in (n.to_bytes(8, "big"), base)])
        first = number * CHUNK_BYTES
        yield block[max(0, start - first) : end - first]
