"""HTTP requests and replies of the simulator's hosts, and their common error shapes (pure)."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Request:
    """One HTTP request. `path` has no query; header names are in lower case."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes = b""

    @property
    def credentials(self) -> tuple[str, str] | None:
        """User and password of a Basic Authorization header; None if it is absent or malformed."""
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
    """One HTTP reply, including its faults.

    `stream` replaces `body`. `length` is the Content-Length header; with None the body is `chunked` or ends with the
    connection. `stop_after`: bytes of the body after which the connection closes. `drop`: close without a reply.
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
    """A document as compact JSON, non-ASCII characters unescaped."""
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
    """The newer error envelope. Its request id is a hash of the message, so that replies are reproducible."""
    request_id = f"req_{binascii.crc32(message.encode()):016x}"
    document = {"status": "error", "error_code": code, "message": message, "request_id": request_id}
    return json_reply(document, status, headers)
