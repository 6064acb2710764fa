"""Request and reply as the simulator's hosts see them, and the error shapes they share (pure)."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Request:
    """One HTTP request. `path` is without the query; header names are in lower case."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes = b""

    @property
    def credentials(self) -> tuple[str, str] | None:
        """User and password of a Basic Authorization header; None without one that can be read."""
        scheme, _, encoded = self.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "basic":
            return None
        try:
            user, colon, password = base64.b64decode(encoded, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return None
        return (user, password) if colon else None


@dataclass(frozen=True)
class Reply:
    """One HTTP reply, with the ways in which it can break.

    `stream` replaces `body`; `length` is the Content-Length said, None for none: then the body ends with the
    connection, or is `chunked`. `stop_after` cuts the body there and closes; `drop` closes without a word.
    """

    status: int = 200
    body: bytes = b""
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    stream: Iterator[bytes] | None = None
    length: int | None = None
    chunked: bool = False
    stop_after: int | None = None
    drop: bool = False
    date_skew_s: float = 0.0
    delay_s: float = 0.0


def json_reply(document: Any, status: int = 200, headers: tuple[tuple[str, str], ...] = ()) -> Reply:
    """Anything as JSON, written compactly, non-ASCII as it is."""
    body = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    return Reply(status, body, headers=headers, length=len(body))


def text_reply(status: int, text: str, content_type: str, headers: tuple[tuple[str, str], ...] = ()) -> Reply:
    body = text.encode()
    return Reply(status, body, f"{content_type}; charset=utf-8", headers, length=len(body))


def html_reply(status: int, title: str) -> Reply:
    page = f"<!DOCTYPE html>\n<html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>\n"
    return text_reply(status, page, "text/html")


def shape_a(status: int, result: int, error: str) -> Reply:
    """The classic error envelope."""
    return json_reply({"result": result, "error": error, "desc": f"{error}."}, status)


def shape_b(status: int, code: str, message: str, headers: tuple[tuple[str, str], ...] = ()) -> Reply:
    """The newer error envelope; its request id depends on what is said, so that replies are reproducible."""
    request_id = f"req_{binascii.crc32(message.encode()):016x}"
    document = {"status": "error", "error_code": code, "message": message, "request_id": request_id}
    return json_reply(document, status, headers)
