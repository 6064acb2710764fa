"""The API host: authentication, routing, and the faults applied before and after a route."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from email.utils import format_datetime

from pipeline.enablex.simulator.faults import Faults
from pipeline.enablex.simulator.messages import Reply, Request, html_reply, shape_a, shape_b, text_reply
from pipeline.enablex.simulator.reports import Reports
from pipeline.enablex.simulator.rooms import RoomBook
from pipeline.enablex.simulator.world import World

BASE_PATH = "/video/v2"


def _throttled(*headers: tuple[str, str]) -> Reply:
    return shape_b(429, "RATE_LIMITED", "Too many requests", headers)


_REPLACEMENTS: dict[str, Callable[[datetime], Reply]] = {
    "api_down": lambda _: Reply(0, drop=True),
    "api_500": lambda _: shape_a(500, 50000, "Internal error"),
    "api_503_html": lambda _: html_reply(503, "Down for maintenance"),
    "api_502_text": lambda _: text_reply(502, "Bad Gateway\n", "text/plain"),
    "api_empty_body": lambda _: text_reply(200, "", "application/json"),
    "rate_limit": lambda _: _throttled(("Retry-After", "1")),
    "rate_limit_bare": lambda _: _throttled(),
    "retry_after_date": lambda now: _throttled(
        ("Retry-After", format_datetime((now + timedelta(seconds=2)).replace(microsecond=0), usegmt=True))
    ),
    "unauthorized_a": lambda _: shape_a(401, 10000, "Application not found"),
    "key_rotated": lambda _: shape_b(401, "CREDENTIAL_EXPIRED", "This key pair was rotated"),
    "suspended": lambda _: shape_b(403, "PROJECT_SUSPENDED", "The project is suspended"),
    "error_on_200": lambda _: shape_a(200, 50000, "Internal error"),
}
"""Faults that replace the reply. The first active one in this order applies."""


class Api:
    """Replies to requests below `BASE_PATH`."""

    def __init__(self, world: World, faults: Faults, reports: Reports, rooms: RoomBook) -> None:
        self._faults = faults
        self._reports = reports
        self._rooms = rooms
        self._projects = {(p.app_id, p.app_key): p.name for p in map(world.project, world.projects)}

    def answer(self, request: Request, now: datetime) -> Reply:
        path = request.path
        delay_s = self._faults.amount("slow", path) or 0.0
        skew_s = self._faults.amount("date_skew", path) or 0.0
        replacement = next((make(now) for name, make in _REPLACEMENTS.items() if self._faults.hits(name, path)), None)
        reply = replacement or self._truncated(self._dropped(self._routed(request, now), request), path)
        return replace(reply, delay_s=delay_s, date_skew_s=skew_s)

    def _routed(self, request: Request, now: datetime) -> Reply:
        project = self._projects.get(request.credentials or ("", ""))
        if project is None:
            return shape_b(401, "UNAUTHORIZED", "APP_ID or APP_KEY is wrong or missing")
        route = request.path.removeprefix(BASE_PATH).rstrip("/")
        match = re.fullmatch(r"/(cdr|archive|rooms|dialin)((?:/[^/]+)*)", route)
        if match is None or not request.path.startswith(BASE_PATH):
            return shape_b(404, "NOT_FOUND", "No such route")
        if match[1] in ("rooms", "dialin"):
            return self._on_200(self._rooms.answer(route, request, project, now), request.path)
        if request.method not in ("GET", "HEAD"):
            return shape_b(405, "METHOD_NOT_ALLOWED", "Only GET is supported")
        reply = self._reports.answer(match[1], match[2], request.path, project, now)
        return self._on_200(reply, request.path)

    def _on_200(self, reply: Reply, path: str) -> Reply:
        """Fault `errors_as_200`: an error of shape A is sent with HTTP status 200."""
        if reply.status >= 400 and b'"result"' in reply.body and self._faults.hits("errors_as_200", path):
            return replace(reply, status=200)
        return reply

    def _dropped(self, reply: Reply, request: Request) -> Reply:
        """Faults `lost_reply…`: the write was performed, but its reply is lost."""
        if request.method not in ("POST", "PATCH", "DELETE"):
            return reply
        if self._faults.hits("lost_reply", request.path):
            return Reply(0, drop=True)
        if self._faults.hits("lost_reply_502", request.path):
            return text_reply(502, "Bad Gateway\n", "text/plain")
        return reply

    def _truncated(self, reply: Reply, path: str) -> Reply:
        half = len(reply.body) // 2
        if self._faults.hits("truncated_body", path):
            return replace(reply, stop_after=half)
        if self._faults.hits("truncated_json", path):
            return replace(reply, body=reply.body[:half], length=half)
        return reply
