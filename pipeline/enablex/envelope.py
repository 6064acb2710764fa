"""A reply's JSON split into its documents while it arrives (pure, bounded memory).

EnableX sends everything in one object: `{"result": "0", "cdr": [ …millions… ]}`. Documents come out as their own bytes,
unread but known to be JSON, some MiB at a time. The splitting leans on one fact: a prefix of the array that is a valid
array once `]` is put behind it ends between two documents, whatever braces and commas stand inside their strings. So a
likely place is guessed and the fastest parser at hand decides whether it is one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import msgspec

BLOCK_BYTES = 8 * 2**20
"""So much is gathered before it is split: the parser is at its best on some MiB, and memory stays small."""

MAX_DOCUMENT_BYTES = 64 * 2**20
"""A CDR has 1 to 2 kB; a reply in which no document ends for this many bytes is not one of EnableX's."""

_GUESSES = 8
_BETWEEN = re.compile(rb"\}\s*,\s*\{")
_TAIL_BYTES = 64 * 1024
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\Z)|[\[\]{},]', re.DOTALL)  # a text may be cut off at the end

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What the parser raises for bytes that are not JSON, or nested too deeply to be meant."""

_RAW_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_RAW_LIST = msgspec.json.Decoder(list[msgspec.Raw])


class EnvelopeError(ValueError):
    """The bytes are not one JSON object, or were cut."""


class Envelope:
    """Feed it the chunks of one reply; take documents out as they become whole; then `finish`.

    `payload` names the key that holds the documents. After `finish`, `fields` has every other key with its raw value,
    and `has_payload` is whether there was such a key at all.
    """

    def __init__(self, payload: str) -> None:
        self._payload = payload
        self._opening = re.compile(rb'"%s"\s*:\s*\[' % re.escape(payload.encode()))
        self._buffer = bytearray()
        self._head: bytes | None = None
        self._wait_bytes = 0
        self._has_documents = False
        self.size_bytes = 0
        self.has_payload = False
        self.fields: Mapping[str, msgspec.Raw] = {}

    def feed(self, chunk: bytes) -> Sequence[msgspec.Raw]:
        """Take some bytes; return the documents that are whole by now, in order.

        Raises:
            EnvelopeError: no document ends within `MAX_DOCUMENT_BYTES`.
        """
        self._buffer += chunk
        self.size_bytes += len(chunk)
        if len(self._buffer) < max(BLOCK_BYTES, self._wait_bytes):
            return []
        if self._head is None and not self._find_head():
            self._wait_for_more()
            return []
        end, documents = self._take()
        if not documents:
            self._wait_for_more()
            return []
        del self._buffer[: end + self._comma_bytes(end)]
        self._has_documents, self._wait_bytes = True, 0
        return documents

    def _take(self) -> tuple[int, Sequence[msgspec.Raw]]:
        """Whole documents from what was gathered, and where the last one of them ends."""
        for end in self._ends():
            if documents := self._documents(end):
                return end, documents
        return 0, []

    def finish(self) -> list[msgspec.Raw]:
        """The last documents; then `fields` is complete.

        A payload of null, "" or {} is no document, and one bare value instead of an array is one.

        Raises:
            EnvelopeError: the reply is not JSON, or was cut.
        """
        if self._head is None and not self._find_head():
            fields = dict(_fields(bytes(self._buffer)))
            self.has_payload = self._payload in fields
            bare = fields.pop(self._payload, None)
            self.fields = fields
            return _bare_documents(bare)
        end = len(self._buffer)
        while (end := self._buffer.rfind(b"]", 0, end)) >= 0:
            around = self._fields_around(end)
            documents = None if around is None else self._last_documents(end)
            if around is not None and documents is not None:
                self.fields, self.has_payload = around, True
                return documents
        raise EnvelopeError("cut short, or not JSON, after the last whole document")

    def _find_head(self) -> bool:
        """Look for the payload's opening bracket; what stands before it is the head."""
        for found in self._opening.finditer(bytes(self._buffer)):
            head = bytes(self._buffer[: found.end()])
            try:
                fields = _fields(head + b"]}")
            except EnvelopeError:
                continue  # the same words inside a text or deeper down
            if self._payload in fields:
                self._head = head
                del self._buffer[: found.end()]
                return True
        return False

    def _ends(self) -> Iterator[int]:
        """Offsets behind a document, likely ones first; the last one is sure, if there is any at all."""
        start = max(0, len(self._buffer) - _TAIL_BYTES)
        likely = [start + found.start() + 1 for found in _BETWEEN.finditer(self._buffer[start:])]
        yield from likely[: -_GUESSES - 1 : -1]
        sure = _last_end(self._buffer)
        if sure is not None:
            yield sure

    def _comma_bytes(self, end: int) -> int:
        """From behind a document to behind the comma that follows it."""
        return self._buffer.index(b",", end) + 1 - end

    def _fields_around(self, end: int) -> Mapping[str, msgspec.Raw] | None:
        """The envelope without the documents, if the bracket at `end` closes them."""
        try:
            fields = dict(_fields((self._head or b"") + bytes(self._buffer[end:])))
        except EnvelopeError:
            return None
        # More than the empty array put together here: the key stands twice, and documents would be lost.
        return fields if bytes(fields.pop(self._payload)) == b"[]" else None

    def _last_documents(self, end: int) -> list[msgspec.Raw] | None:
        if not self._buffer[:end].strip():
            return None if self._has_documents else []  # a comma with nothing behind it is not JSON
        return self._documents(end)

    def _documents(self, end: int) -> list[msgspec.Raw] | None:
        """What stands before `end`, if it is whole documents with commas between them."""
        text = bytearray(b"[")
        with memoryview(self._buffer) as gathered:
            text += gathered[:end]
        text += b"]"
        try:
            return _RAW_LIST.decode(text)
        except UNREADABLE:
            return None

    def _wait_for_more(self) -> None:
        """Nothing ends here: try again when there is twice as much, so that the search stays linear."""
        if len(self._buffer) > MAX_DOCUMENT_BYTES:
            raise EnvelopeError(f"nothing in {MAX_DOCUMENT_BYTES >> 20} MiB that ends a document")
        self._wait_bytes = 2 * len(self._buffer)


def _fields(text: bytes) -> Mapping[str, msgspec.Raw]:
    try:
        return _RAW_FIELDS.decode(text)
    except UNREADABLE as error:
        raise EnvelopeError(str(error)) from None


def _bare_documents(payload: msgspec.Raw | None) -> list[msgspec.Raw]:
    if payload is None or bytes(payload) in {b"null", b'""', b"{}"}:
        return []
    try:
        return _RAW_LIST.decode(payload)  # an array after all, under a key that is spelled with escapes
    except msgspec.DecodeError:
        return [payload]


def _last_end(text: bytes | bytearray) -> int | None:
    """Behind the last document that is followed by another one, by reading every token: slow, and always right."""
    depth, end = 0, None
    for token in _TOKEN.finditer(text):
        mark = token[0]
        if mark in {b"{", b"["}:
            depth += 1
        elif mark in {b"}", b"]"}:
            depth -= 1
        elif mark == b"," and depth == 0:
            end = token.start()
    return end
