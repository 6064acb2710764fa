"""Read documents that are not quite JSON: find the end of one by its structure, repair its values (pure).

Structure: outside of strings, brackets open and close (their kinds are not matched against each other); a string starts
and ends with a quotation mark, and a backslash protects the next byte. A document ends at a comma at depth 0.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

import msgspec

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""Errors of msgspec for bytes that are not JSON, or nested too deeply."""

REPAIRED = "$repaired"
"""Top-level member of a repaired document: the sorted dotted paths of its repaired values."""

TOO_DEEP = "nested too deeply"
SPACE = b" \t\n\r"

_EXCERPT_CHARACTERS = 100
"""Shown on either side of the place at which a document is no JSON."""

_MAX_DIGITS = 4300
"""Python's own limit for integers."""

_STRING = r'"(?:[^"\\]++|\\.)*+"'
_OPENING, _COMMA = b"{[", ord(",")
_INSIDE = re.compile(rf'(?:[^"\[\]{{}}]++|{_STRING})*+[\[\]{{}}]'.encode(), re.DOTALL)
_AT_TOP = re.compile(rf'(?:[^"\[\]{{}},]++|{_STRING})*+[\[\]{{}},]'.encode(), re.DOTALL)
_BRACKET = re.compile(_INSIDE.pattern.decode(), re.DOTALL)
_RAW_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])


def document_end(text: bytes, start: int) -> int | None:
    """The offset of the comma behind the document at `start`, or of the bracket that closes the list.

    None if the text ends before.
    """
    depth, at = 0, start
    while match := (_INSIDE if depth else _AT_TOP).match(text, at):
        at = match.end()
        symbol = text[at - 1]
        if symbol in _OPENING:
            depth += 1
        elif symbol == _COMMA or depth == 0:
            return at - 1
        else:
            depth -= 1
    return None


# --- repair of values ---------------------------------------------------------------------------------------------

_HEX = "[0-9a-fA-F]"
_ESCAPE = (
    r'\\["\\/bfnrt]'
    rf"|\\u(?:[0-9abcefABCEF]{_HEX}{{3}}|[dD][0-7]{_HEX}{{2}}|[dD][89abAB]{_HEX}{{2}}\\u[dD][c-fC-F]{_HEX}{{2}})"
)
_WORD_CHARACTER = r"[0-9A-Za-z_.+\-]"
_SCALAR = r"(?:true|false|null|-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?)"
_SURE_SCALAR = (  # certainly within the range of a float
    r"(?:true|false|null|-?(?:0|[1-9][0-9]{0,99})(?:\.[0-9]++)?(?:[eE][+-]?[0-9]{1,2})?)" + f"(?!{_WORD_CHARACTER})"
)
# Bytes that are no UTF-8 are read as lone surrogates (`surrogateescape`).
_SOUND = rf'(?:[ \t\n\r{{}}\[\],:]++|"(?:[^"\\\x00-\x1f\ud800-\udfff]++|{_ESCAPE})*+"|{_SURE_SCALAR})*+'
_FAULT = re.compile(rf"{_SOUND}(?:({_STRING})|({_WORD_CHARACTER}++)|.)", re.DOTALL)
_NUMBER = re.compile(_SCALAR)
_PART = re.compile(rf"({_ESCAPE})|\\u{_HEX}{{0,4}}|\\.|([\x00-\x1f])", re.DOTALL)
_WORD_BEFORE = re.compile(rf"{_WORD_CHARACTER}++\Z")


@dataclass(frozen=True)
class Repair:
    """A document with repaired values, which is JSON unless its structure is faulty; their dotted paths."""

    content: bytes
    paths: frozenset[str] = frozenset()

    def document(self) -> bytes | None:
        """The JSON object with its member `$repaired`; None if this is no JSON object."""
        try:
            members = _RAW_FIELDS.decode(self.content)
        except UNREADABLE:
            return None
        if not self.paths:
            return self.content
        end = self.content.rindex(b"}")
        comma = b"," if members else b""
        listed = msgspec.json.encode(sorted(self.paths))
        return b'%s%s"%s":%s}' % (self.content[:end], comma, REPAIRED.encode(), listed)


def repaired(document: bytes) -> bytes | None:
    """The document with repaired values as a JSON object; unchanged if it is one; None if it is still none."""
    return repair(document).document()


def repair(document: bytes) -> Repair:
    """Repair all values of a document.

    In strings, bytes that are no UTF-8, halves of surrogate pairs and invalid escapes become U+FFFD, control characters
    are escaped. Outside of strings, words that are no JSON and numbers that no float holds become strings of their
    text.
    """
    text = document.decode("utf-8", "surrogateescape")
    places = _Places(text)
    pieces: list[str] = []
    paths: set[str] = set()
    copied = at = 0
    while match := _FAULT.match(text, at):
        at = match.end()
        if match[1] is not None:
            fixed = _fixed_string(match[1])
        elif match[2] is not None:
            fixed = _fixed_word(match[2])
        else:
            continue
        start = match.start(match.lastindex or 0)
        if fixed == text[start:at]:
            continue
        paths.add(".".join(key for key in places.path(start, at, fixed) if key is not None))
        pieces += text[copied:start], fixed
        copied = at
    pieces.append(text[copied:])
    return Repair("".join(pieces).encode("utf-8", "surrogateescape"), frozenset(paths))


def _fixed_string(token: str) -> str:
    readable = token.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return _PART.sub(lambda part: part[1] or (f"\\u{ord(part[2]):04x}" if part[2] else "\ufffd"), readable)


def _fixed_word(word: str) -> str:
    is_sound = _NUMBER.fullmatch(word) and (word[0] in "tfn" or _is_held(word))
    return word if is_sound else f'"{word}"'


def _is_held(number: str) -> bool:
    """Whether the parser holds a number: integers of up to 4,300 digits exactly, others as a float."""
    digits = number.removeprefix("-")
    return len(digits) <= _MAX_DIGITS if digits.isdigit() else math.isfinite(float(number))


@dataclass
class _Places:
    """Finds the paths of tokens in the order of the text. A list element has None in place of its key."""

    text: str
    _keys: list[str | None] = field(default_factory=list)
    _at: int = 0

    def path(self, start: int, end: int, fixed: str) -> list[str | None]:
        while match := _BRACKET.match(self.text, self._at, start):
            self._at = match.end()
            if self.text[self._at - 1] in "{[":
                self._keys.append(self._key_before(self._at - 1))
            elif self._keys:
                self._keys.pop()
        is_key = self.text[end:].lstrip(" \t\n\r")[:1] == ":"
        key = _decoded_key(fixed) if is_key else self._key_before(start)
        return [*self._keys[1:], key]  # the outermost bracket is the document's

    def _key_before(self, at: int) -> str | None:
        before = self.text[:at].rstrip(" \t\n\r")
        if not before.endswith(":"):
            return None
        before = before[:-1].rstrip(" \t\n\r")
        if before.endswith('"'):
            start = len(before) - 1
            while (start := before.rfind('"', 0, start)) >= 0:
                backslashes = start - len(before[:start].rstrip("\\"))
                if backslashes % 2 == 0:
                    return _decoded_key(_fixed_string(before[start:]))
        word = _WORD_BEFORE.search(before)
        return _decoded_key(_fixed_word(word[0])) if word else None


def _decoded_key(token: str) -> str:
    try:
        return str(msgspec.json.decode(token))
    except UNREADABLE:
        return token


def decoded(content: bytes) -> Any:
    """The JSON value of these bytes, an object or list after a repair; a repaired object has the member `$repaired`.

    Raises:
        msgspec.DecodeError, UnicodeDecodeError, RecursionError: it is no JSON after the repair either.
    """
    try:
        return msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        fixed = repair(content)
        try:
            value = msgspec.json.decode(fixed.document() or fixed.content)
        except (msgspec.DecodeError, UnicodeDecodeError):
            value = None
        if not isinstance(value, dict | list):
            raise
        return value


# --- what is wrong with a document --------------------------------------------------------------------------------

_TOKEN = re.compile(r'"(?:[^"\\]++|\\.)*+(?:"|\Z)|(?:true|false|null)(?!\w)|[^\W\d_]\w*+|[^"\w]++|.', re.DOTALL)
_QUOTED = re.compile(_STRING, re.DOTALL)
_MASKED_FROM = 3 * _EXCERPT_CHARACTERS
"""Characters before the place that are masked: strings become shorter."""

_OFFSET = re.compile(r" \(byte (\d+)\)")


def fault(document: bytes) -> tuple[str, str]:
    """Why a document is no JSON object after its repair, and the text around that place without contents of strings.

    Letters outside of strings are masked too: they may belong to a string with other quotation marks.
    """
    content = repair(document).content
    if not content.strip(SPACE):
        return "nothing between two commas", ""
    message, place = "not an object", 0
    try:
        _RAW_FIELDS.decode(content)
    except msgspec.ValidationError:
        pass
    except RecursionError:
        message = TOO_DEEP
    except UNREADABLE as error:
        found = _OFFSET.search(str(error))
        message = _OFFSET.sub("", str(error))
        place = int(found[1]) if found else len(content)
    return message, _masked(content.decode("utf-8", "replace"), len(content[:place].decode("utf-8", "ignore")))


def _masked(text: str, place: int) -> str:
    """The text around a place, from the end of a string before it."""
    begin = 0
    for match in _QUOTED.finditer(text):
        if match.end() > place - _MASKED_FROM:
            break
        begin = match.end()
    pieces: list[str] = []
    length = center = 0
    for match in _TOKEN.finditer(text, begin):
        piece = match[0]
        if piece[0] == '"':
            piece = '"*"'
        elif piece[0].isalpha() and piece not in {"true", "false", "null"}:
            piece = "*"
        if match.start() <= place:
            center = length
        elif length > center + _EXCERPT_CHARACTERS:
            break
        pieces.append(piece)
        length += len(piece)
    return "".join(pieces)[max(0, center - _EXCERPT_CHARACTERS) : center + _EXCERPT_CHARACTERS]
