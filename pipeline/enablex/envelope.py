"""Split a reply's JSON into its documents while it arrives (pure, bounded memory).

EnableX sends one object per reply: `{"result": "0", "cdr": [ …millions of documents… ]}`. Documents are returned as raw
bytes, validated as JSON but not decoded, 8 MiB at a time. If a prefix of the array followed by `]` is a valid array,
the prefix ends between two documents, whatever braces and commas their strings contain. So the code guesses a boundary,
and msgspec validates it. A block that contains a document that is no JSON is split document by document instead: such
a document ends where its structure ends (`lenient`), so it costs no other one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from pipeline.enablex.lenient import REPAIRED, SPACE, UNREADABLE, document_end, repaired

BLOCK_BYTES = 8 * 2**20
"""Bytes that are buffered before a split: msgspec is fastest on a few MiB, and memory stays bounded."""

MAX_DOCUMENT_BYTES = 64 * 2**20
"""Limit without a document boundary. A CDR has 1 to 2 kB, so such a reply does not come from EnableX."""

_GUESSES = 3
_BETWEEN = re.compile(rb"\}\s*,\s*\{")
_TAIL_BYTES = 64 * 1024
_OFFSET = re.compile(r"\(byte (\d+)\)\Z")
_GROUP_BYTES = 24 * 1024
"""Validated together in a block that has a faulty document: most groups have none."""

_MAX_HEAD_BYTES = 64 * 1024
"""An envelope that is no JSON is repaired up to this size: it has a few short fields."""

BOM = b"\xef\xbb\xbf"
"""A byte-order mark, which some proxies put before a reply."""

_RAW_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_RAW_LIST = msgspec.json.Decoder(list[msgspec.Raw])
_RAW = msgspec.json.Decoder(msgspec.Raw)


class EnvelopeError(ValueError):
    """The bytes are not one JSON object, or are truncated."""


class Block(list[msgspec.Raw]):
    """Documents in order. `malformed` are the places in this list of documents that are not JSON.

    Bytes in strings that are no UTF-8, and numbers that no float holds, are not found here.
    """

    def __init__(self, documents: Iterable[msgspec.Raw] = (), malformed: Iterable[int] = ()) -> None:
        super().__init__(documents)
        self.malformed = list(malformed)

    def add(self, documents: Sequence[msgspec.Raw]) -> None:
        self.malformed += [len(self) + at for at in getattr(documents, "malformed", ())]
        self += documents


class Envelope:
    """Splits one reply: call `feed` with each chunk, then `finish`; both return complete documents.

    `payload` is the key of the documents. After `finish`, `fields` has every other key with its raw value, and
    `has_payload` is true if the payload key was present. After an EnvelopeError, `rest` returns the documents that are
    complete and not returned yet.
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

    def feed(self, chunk: bytes) -> Block:
        """Add bytes; return the documents that are now complete, in order.

        Raises:
            EnvelopeError: no document ends within `MAX_DOCUMENT_BYTES`.
        """
        documents = Block()
        for block in self.blocks(chunk):
            documents.add(block)
        return documents

    def blocks(self, chunk: bytes) -> Iterator[Sequence[msgspec.Raw]]:
        """Like `feed`, one block at a time, until less than `BLOCK_BYTES` is left."""
        self._buffer += chunk
        self.size_bytes += len(chunk)
        has_new = False
        while len(self._buffer) >= max(BLOCK_BYTES, self._wait_bytes):
            end, documents = self._take() if self._has_head() else (0, Block())
            if not documents:
                # An error would lose the documents of this call; the next one raises it.
                self._wait_for_more(is_limited=not has_new)
                return
            self._drop(end)
            has_new = True
            yield documents

    def rest(self) -> Block:
        """The complete documents of a reply whose structure is broken after them."""
        if not self._has_head():
            return Block()
        end, documents, is_last = self._walk()
        if documents and not is_last:
            self._drop(end)
        else:
            self._buffer.clear()
        return documents

    def _drop(self, end: int) -> None:
        """Remove the documents up to `end`, and the comma that follows."""
        del self._buffer[: self._buffer.index(b",", end) + 1]
        self._has_documents, self._wait_bytes = True, 0

    def _take(self) -> tuple[int, Sequence[msgspec.Raw]]:
        """The offset after the last complete document of the buffer, and all documents before it."""
        for end in self._likely_ends():
            documents, fault_at = self._documents(end)
            if documents:
                return end, Block(documents)
            if fault_at < end - _TAIL_BYTES:
                break  # not a wrong guess
        end, documents, _ = self._walk(with_last=False)
        return end, documents

    def _walk(self, *, with_last: bool = True) -> tuple[int, Block, bool]:
        """The documents of the buffer one by one; the end of the last one; whether the list ends there.

        Most documents end before `},{`: msgspec validates this, several at a time where all are JSON. A complete JSON
        value is a complete document; any other one ends where its structure ends.
        """
        text, documents = bytes(self._buffer), Block()
        between = _BETWEEN.search(text)
        separator = between[0] if between else b"},{"
        end = start = single_until = 0
        while True:
            many = text.find(separator, start + _GROUP_BYTES) + 1 if start >= single_until else 0
            if many and (group := _valid_list(text[start:many])):
                documents += group
                end = many
            elif many:
                single_until = many
                continue
            else:
                one = text.find(separator, start) + 1
                document = _valid(text[start:one]) if one else None
                if document is None:
                    found = document_end(text, start)
                    if found is None:
                        return end, documents, False
                    is_last = text[found : found + 1] != b","
                    content = text[start:found].strip(SPACE)
                    if is_last and not with_last:
                        return end, documents, True
                    if is_last and not (content or documents or self._has_documents):
                        return found, documents, True
                    document, one = _valid(content), found
                    if document is None:
                        documents.malformed.append(len(documents))
                        document = msgspec.Raw(content)
                    if is_last:
                        documents.append(document)
                        return found, documents, True
                documents.append(document)
                end = one
            start = text.index(b",", end) + 1

    def finish(self) -> Block:
        """Return the remaining documents and complete `fields`.

        A payload of null, "" or {} is no document; any other single value instead of an array is one.

        Raises:
            EnvelopeError: the structure of the reply is broken, or it is truncated.
        """
        if not self._has_head():
            fields = dict(_fields(bytes(self._buffer)))
            self.has_payload = self._payload in fields
            bare = fields.pop(self._payload, None)
            self.fields = fields
            return Block(_bare_documents(bare))
        end = len(self._buffer)
        while (end := self._buffer.rfind(b"]", 0, end)) >= 0:
            outside = self._fields_around(end)
            documents = None if outside is None else self._last_documents(end)
            if outside is not None and documents is not None:
                self.fields, self.has_payload = outside, True
                return documents
        return self._finish_by_structure()

    def _finish_by_structure(self) -> Block:
        end, documents, is_last = self._walk()
        outside = self._fields_around(end, is_lenient=True) if is_last else None
        if outside is None:
            raise EnvelopeError("truncated, or not JSON, after the last complete document")
        self.fields, self.has_payload = outside, True
        return documents

    def _has_head(self) -> bool:
        return self._head is not None or self._find_head()

    def _find_head(self) -> bool:
        """Find the opening bracket of the payload; everything up to it becomes the head."""
        if self._buffer.startswith(BOM):
            del self._buffer[: len(BOM)]
        for match in self._opening.finditer(bytes(self._buffer)):
            head = bytes(self._buffer[: match.end()])
            try:
                fields = _fields(head + b"]}", is_lenient=len(head) <= _MAX_HEAD_BYTES)
            except EnvelopeError:
                continue  # the same text inside a string or a nested object
            if self._payload in fields:
                self._head = head
                del self._buffer[: match.end()]
                return True
        return False

    def _likely_ends(self) -> Iterator[int]:
        """Offsets at which a document may end, last first."""
        start = max(0, len(self._buffer) - _TAIL_BYTES)
        likely = [start + match.start() + 1 for match in _BETWEEN.finditer(self._buffer[start:])]
        yield from likely[: -_GUESSES - 1 : -1]

    def _fields_around(self, end: int, *, is_lenient: bool = False) -> Mapping[str, msgspec.Raw] | None:
        """All other fields of the envelope, if the bracket at `end` closes the payload."""
        try:
            fields = dict(_fields((self._head or b"") + bytes(self._buffer[end:]), is_lenient=is_lenient))
        except EnvelopeError:
            return None
        # Not the empty array of this text: the key occurs twice, and documents would be lost.
        return fields if bytes(fields.pop(self._payload)) == b"[]" else None

    def _last_documents(self, end: int) -> Block | None:
        if not self._buffer[:end].strip():
            return None if self._has_documents else Block()  # a trailing comma is not JSON
        documents, _ = self._documents(end)
        return None if documents is None else Block(documents)

    def _documents(self, end: int) -> tuple[list[msgspec.Raw] | None, int]:
        """The documents before `end`; None if this is not a comma-separated list of JSON, and the offset of the fault.

        The offset is at least `end` if the text only ends too early, and `end` if it is unknown.
        """
        text = bytearray(b"[")
        with memoryview(self._buffer) as gathered:
            text += gathered[:end]
        text += b"]"
        try:
            return _RAW_LIST.decode(text), end
        except UNREADABLE as error:
            found = _OFFSET.search(str(error))
            return None, int(found[1]) if found else end

    def _wait_for_more(self, *, is_limited: bool) -> None:
        """Require twice as many bytes before the next search, so that all searches together stay linear."""
        if len(self._buffer) > MAX_DOCUMENT_BYTES and is_limited:
            raise EnvelopeError(f"no document ends within {MAX_DOCUMENT_BYTES >> 20} MiB")
        self._wait_bytes = 2 * len(self._buffer)


def _valid_list(content: bytes) -> list[msgspec.Raw] | None:
    """The documents of comma-separated JSON; None if it is none."""
    try:
        return _RAW_LIST.decode(b"[%s]" % content)
    except UNREADABLE:
        return None


def _valid(content: bytes) -> msgspec.Raw | None:
    """The content without white space around it; None if it is no JSON value."""
    try:
        return _RAW.decode(content)
    except UNREADABLE:
        return None


def _fields(text: bytes, *, is_lenient: bool = False) -> Mapping[str, msgspec.Raw]:
    """The members of an object. Leniently, values that are no JSON are repaired."""
    try:
        return _RAW_FIELDS.decode(text)
    except UNREADABLE as error:
        fixed = repaired(text) if is_lenient else None
        if fixed is None:
            raise EnvelopeError(str(error)) from None
        return {key: value for key, value in _RAW_FIELDS.decode(fixed).items() if key != REPAIRED}


def _bare_documents(payload: msgspec.Raw | None) -> list[msgspec.Raw]:
    if payload is None or bytes(payload) in {b"null", b'""', b"{}"}:
        return []
    try:
        return _RAW_LIST.decode(payload)  # an array whose key is written with escapes
    except msgspec.DecodeError:
        return [payload]
