"""Split a reply's JSON into its documents while it arrives (pure, bounded memory).

EnableX sends one object per reply: `{"result": "0", "cdr": [ …millions of documents… ]}`. Documents are returned as raw
bytes, validated as JSON but not decoded, 8 MiB at a time. If a prefix of the array followed by `]` is a valid array,
the prefix ends between two documents, whatever braces and commas their strings contain. So the code guesses a boundary,
and msgspec validates it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import msgspec

BLOCK_BYTES = 8 * 2**20
"""Bytes that are buffered before a split: msgspec is fastest on a few MiB, and memory stays bounded."""

MAX_DOCUMENT_BYTES = 64 * 2**20
"""Limit without a document boundary. A CDR has 1 to 2 kB, so such a reply does not come from EnableX."""

_GUESSES = 8
_BETWEEN = re.compile(rb"\}\s*,\s*\{")
_TAIL_BYTES = 64 * 1024
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\Z)|[\[\]{},]', re.DOTALL)  # a string may be truncated at the end

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""Errors of msgspec for bytes that are not JSON, or nested too deeply."""

_RAW_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_RAW_LIST = msgspec.json.Decoder(list[msgspec.Raw])


class EnvelopeError(ValueError):
    """The bytes are not one JSON object, or are truncated."""


class Envelope:
    """Splits one reply: call `feed` with each chunk, then `finish`; both return complete documents.

    `payload` is the key of the documents. After `finish`, `fields` has every other key with its raw value, and
    `has_payload` is true if the payload key was present.
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
        """Add bytes; return the documents that are now complete, in order.

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
        """The offset after the last complete document of the buffer, and all documents before it."""
        for end in self._boundaries():
            if documents := self._documents(end):
                return end, documents
        return 0, []

    def finish(self) -> list[msgspec.Raw]:
        """Return the remaining documents and complete `fields`.

        A payload of null, "" or {} is no document; any other single value instead of an array is one.

        Raises:
            EnvelopeError: the reply is not JSON, or is truncated.
        """
        if self._head is None and not self._find_head():
            fields = dict(_fields(bytes(self._buffer)))
            self.has_payload = self._payload in fields
            bare = fields.pop(self._payload, None)
            self.fields = fields
            return _bare_documents(bare)
        end = len(self._buffer)
        while (end := self._buffer.rfind(b"]", 0, end)) >= 0:
            outside = self._fields_around(end)
            documents = None if outside is None else self._last_documents(end)
            if outside is not None and documents is not None:
                self.fields, self.has_payload = outside, True
                return documents
        raise EnvelopeError("truncated, or not JSON, after the last complete document")

    def _find_head(self) -> bool:
        """Find the opening bracket of the payload; everything up to it becomes the head."""
        for match in self._opening.finditer(bytes(self._buffer)):
            head = bytes(self._buffer[: match.end()])
            try:
                fields = _fields(head + b"]}")
            except EnvelopeError:
                continue  # the same text inside a string or a nested object
            if self._payload in fields:
                self._head = head
                del self._buffer[: match.end()]
                return True
        return False

    def _boundaries(self) -> Iterator[int]:
        """Offsets after a document, guesses first; the last offset is certain, if the buffer has a boundary."""
        start = max(0, len(self._buffer) - _TAIL_BYTES)
        likely = [start + match.start() + 1 for match in _BETWEEN.finditer(self._buffer[start:])]
        yield from likely[: -_GUESSES - 1 : -1]
        certain = _last_boundary(self._buffer)
        if certain is not None:
            yield certain

    def _comma_bytes(self, end: int) -> int:
        """Bytes from the end of a document to the end of the comma that follows it."""
        return self._buffer.index(b",", end) + 1 - end

    def _fields_around(self, end: int) -> Mapping[str, msgspec.Raw] | None:
        """All other fields of the envelope, if the bracket at `end` closes the payload."""
        try:
            fields = dict(_fields((self._head or b"") + bytes(self._buffer[end:])))
        except EnvelopeError:
            return None
        # Not the empty array of this text: the key occurs twice, and documents would be lost.
        return fields if bytes(fields.pop(self._payload)) == b"[]" else None

    def _last_documents(self, end: int) -> list[msgspec.Raw] | None:
        if not self._buffer[:end].strip():
            return None if self._has_documents else []  # a trailing comma is not JSON
        return self._documents(end)

    def _documents(self, end: int) -> list[msgspec.Raw] | None:
        """The documents before `end`; None if this is not a comma-separated list of complete documents."""
        text = bytearray(b"[")
        with memoryview(self._buffer) as gathered:
            text += gathered[:end]
        text += b"]"
        try:
            return _RAW_LIST.decode(text)
        except UNREADABLE:
            return None

    def _wait_for_more(self) -> None:
        """Require twice as many bytes before the next search, so that all searches together stay linear."""
        if len(self._buffer) > MAX_DOCUMENT_BYTES:
            raise EnvelopeError(f"no document ends within {MAX_DOCUMENT_BYTES >> 20} MiB")
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
        return _RAW_LIST.decode(payload)  # an array whose key is written with escapes
    except msgspec.DecodeError:
        return [payload]


def _last_boundary(text: bytes | bytearray) -> int | None:
    """The offset after the last document that another one follows. Reads every token: slow, but exact."""
    depth, end = 0, None
    for token in _TOKEN.finditer(text):
        symbol = token[0]
        if symbol in {b"{", b"["}:
            depth += 1
        elif symbol in {b"}", b"]"}:
            depth -= 1
        elif symbol == b"," and depth == 0:
            end = token.start()
    return end
