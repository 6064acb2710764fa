"""A second, slow reading of one document that is not quite JSON: a recursive descent over characters.

It shares no code with `pipeline.enablex.lenient`. Rules: docs/guide/stores.md, "Documents that are not JSON".
"""

from __future__ import annotations

import math
import string
from typing import Any

_WORD = set(string.ascii_letters + string.digits + "_.+-")
_SHORT = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_LITERALS = {"true": True, "false": False, "null": None}


class NoJson(ValueError):
    """The text is no JSON object, even with repaired values."""


def split(text: bytes) -> list[bytes]:
    """The documents in the inside of a list, without white space around them."""
    documents, depth, start, at = [], 0, 0, 0
    while at < len(text):
        symbol = text[at : at + 1]
        if symbol == b'"':
            at += 1
            while at < len(text) and text[at : at + 1] != b'"':
                at += 2 if text[at : at + 1] == b"\\" else 1
        elif symbol in (b"{", b"["):
            depth += 1
        elif symbol in (b"}", b"]"):
            depth -= 1
        elif symbol == b"," and depth == 0:
            documents.append(text[start:at].strip(b" \t\r\n"))
            start = at + 1
        at += 1
    last = text[start:].strip(b" \t\r\n")
    return [*documents, last] if documents or last else []


def read(document: bytes) -> dict[str, Any]:
    """The object of a document; repaired paths are in `$repaired`. Raises NoJson."""
    reader = _Reader(document)
    value = reader.value(())
    reader.space()
    if reader.at != len(reader.text) or not isinstance(value, dict):
        raise NoJson
    if reader.repaired:
        value["$repaired"] = sorted({".".join(path) for path in reader.repaired})
    return value


class _Reader:
    def __init__(self, document: bytes) -> None:
        self.text = document.decode("utf-8", "surrogateescape")
        self.at = 0
        self.repaired: list[tuple[str, ...]] = []

    def next(self) -> str:
        return self.text[self.at : self.at + 1]

    def space(self) -> None:
        while self.next() in (" ", "\t", "\r", "\n"):
            self.at += 1

    def expect(self, symbol: str) -> None:
        self.space()
        if self.next() != symbol:
            raise NoJson
        self.at += 1

    def value(self, path: tuple[str, ...]) -> Any:
        self.space()
        if self.next() == "{":
            return self.members(path)
        if self.next() == "[":
            return self.items(path)
        if self.next() == '"':
            text, is_repaired = self.quoted()
        else:
            text, is_repaired = self.word()
        if is_repaired:
            self.repaired.append(path)
        return text

    def members(self, path: tuple[str, ...]) -> dict[str, Any]:
        self.expect("{")
        found: dict[str, Any] = {}
        self.space()
        while self.next() != "}":
            key, is_repaired = self.quoted() if self.next() == '"' else self.word()
            if not isinstance(key, str):
                raise NoJson
            if is_repaired:
                self.repaired.append((*path, key))
            self.expect(":")
            found[key] = self.value((*path, key))
            self.space()
            if self.next() == "}":
                break
            self.expect(",")
            self.space()
            if self.next() == "}":
                raise NoJson
        self.at += 1
        return found

    def items(self, path: tuple[str, ...]) -> list[Any]:
        self.expect("[")
        found: list[Any] = []
        self.space()
        while self.next() != "]":
            found.append(self.value(path))
            self.space()
            if self.next() == "]":
                break
            self.expect(",")
            self.space()
            if self.next() == "]":
                raise NoJson
        self.at += 1
        return found

    def word(self) -> tuple[Any, bool]:
        start = self.at
        while self.next() and self.next() in _WORD:
            self.at += 1
        word = self.text[start : self.at]
        if not word:
            raise NoJson
        if word in _LITERALS:
            return _LITERALS[word], False
        if _is_number(word):
            if word.lstrip("-").isdigit():
                return (int(word), False) if len(word.lstrip("-")) <= 4300 else (word, True)
            return (float(word), False) if math.isfinite(float(word)) else (word, True)
        return word, True

    def quoted(self) -> tuple[str, bool]:
        self.at += 1
        start = self.at
        while self.next() != '"':
            if not self.next():
                raise NoJson
            self.at += 2 if self.next() == "\\" else 1
        raw = self.text[start : self.at].encode("utf-8", "surrogateescape")
        self.at += 1
        text = raw.decode("utf-8", "replace")
        is_repaired = text.encode() != raw
        plain: list[str] = []
        at = 0
        while at < len(text):
            if text[at] != "\\":
                is_repaired |= ord(text[at]) < 32
                plain.append(text[at])
                at += 1
                continue
            follows = text[at + 1]
            if follows in _SHORT:
                plain.append(_SHORT[follows])
                at += 2
                continue
            digits = _hex(text, at + 2) if follows == "u" else ""
            at += 2 + len(digits)
            code = int(digits, 16) if len(digits) == 4 else 0xD800
            if 0xD800 <= code < 0xDC00 and len(digits) == 4 and text[at : at + 2] == "\\u":
                low = _hex(text, at + 2)
                if len(low) == 4 and 0xDC00 <= int(low, 16) < 0xE000:
                    code = 0x10000 + ((code - 0xD800) << 10) + int(low, 16) - 0xDC00
                    at += 6
            is_fault = 0xD800 <= code < 0xE000
            is_repaired |= is_fault
            plain.append("\ufffd" if is_fault else chr(code))
        return "".join(plain), is_repaired


def _hex(text: str, at: int) -> str:
    digits = ""
    while len(digits) < 4 and text[at + len(digits) : at + len(digits) + 1] in set(string.hexdigits):
        digits += text[at + len(digits)]
    return digits


def _is_number(word: str) -> bool:
    rest = word.removeprefix("-")
    whole, dot, rest = rest.partition(".") if "." in rest else (rest, "", "")
    if not dot:
        whole, mark, power = _power(whole)
        fraction = "0"
    else:
        fraction, mark, power = _power(rest)
    is_whole = whole.isdigit() and (whole == "0" or whole[0] != "0")
    is_power = not mark or power.removeprefix(power[:1] if power[:1] in "+-" else "").isdigit()
    return is_whole and fraction.isdigit() and is_power


def _power(text: str) -> tuple[str, str, str]:
    for mark in "eE":
        if mark in text:
            return text.partition(mark)
    return text, "", ""
