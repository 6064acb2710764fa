"""The CDR and archive routes: the documents of a query, and faults applied to them."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from pipeline.enablex.simulator.documents import Document
from pipeline.enablex.simulator.faults import Faults
from pipeline.enablex.simulator.messages import Reply, json_reply, shape_a, shape_b
from pipeline.enablex.simulator.world import HISTORY_DAYS, Session, World

_ROOM_PERIOD = re.compile(r"/room-period/([^/]+)/([^/]+)/([^/]+)")
_OTHER_ROOM_PERIOD = re.compile(r"/room-period/([^/]+)/period/([^/]+)/([^/]+)")


@dataclass(frozen=True)
class _Query:
    """Filters of a request. No dates: all history. No room and no conf_num: the whole project."""

    first: date | None = None
    last: date | None = None
    room_id: str | None = None
    conf_num: str | None = None

    def matches(self, session: Session) -> bool:
        return self.conf_num in (None, session.conf_num) and self.room_id in (None, session.room.room_id)


_LONGEST = timedelta(days=HISTORY_DAYS)
"""Of a longer period, only the last days are returned."""


class Reports:
    """Replies to `/cdr/...` and `/archive/...` of every project."""

    def __init__(
        self, world: World, faults: Faults, files_url: str, foreign_url: str, played: Callable[[str], list[Session]]
    ) -> None:
        self._world = world
        self._faults = faults
        self._files_url = files_url
        self._foreign_url = foreign_url
        self._played = played
        self._replies = 0

    def answer(self, source: str, tail: str, path: str, project: str, now: datetime) -> Reply:
        """The reply for `source` ("cdr" or "archive") and `tail`, the rest of the path."""
        query = self._parse_path(tail, path)
        if isinstance(query, Reply):
            return query
        if source == "cdr":
            documents: list[Any] = list(self._cdrs(query, path, project, now))
        else:
            documents = list(self._archives(query, path, project, now))
        return self._envelope(source, self._with_faults(documents, path), path)

    def _parse_path(self, tail: str, path: str) -> _Query | Reply:
        """The query of the tail of a path, or the error reply of an invalid one."""
        if period := re.fullmatch(r"/period/([^/]+)/([^/]+)", tail):
            return self._between(path, period[1], period[2])
        if tail.startswith("/room-period/"):
            is_other_form = self._faults.hits("room_period_other_spelling", path)
            match = (_OTHER_ROOM_PERIOD if is_other_form else _ROOM_PERIOD).fullmatch(tail)
            return self._between(path, match[2], match[3], match[1]) if match else _incomplete_path(tail)
        if match := re.fullmatch(r"/room/([^/]+)", tail):
            return _Query(room_id=match[1])
        if match := re.fullmatch(r"/conf/([^/]+)", tail):
            return _Query(conf_num=match[1])
        return _incomplete_path(tail)

    def _between(self, path: str, first_text: str, last_text: str, room_id: str | None = None) -> _Query | Reply:
        first, last = _day(first_text), _day(last_text)
        if first is None or last is None:
            return shape_b(400, "INVALID_PARAM", "from_date and to_date must be YYYY-MM-DD")
        if first > last:
            return shape_a(400, 10203, "Invalid to_date: before from_date")
        if last > date.min and self._faults.hits("to_date_exclusive", path):
            last -= timedelta(days=1)
        return _Query(max(first, last - _LONGEST) if last - date.min > _LONGEST else first, last, room_id)

    def _sessions(self, query: _Query, project: str, now: datetime) -> Iterable[Session] | None:
        """The sessions selected by room or conf_num; None for a query by dates only."""
        if query.conf_num is not None:
            session = self._world.session(project, query.conf_num)
            return [session] if session else []
        if query.room_id is not None:
            return self._world.sessions_of_room(project, query.room_id, now)
        return None

    def _cdrs(self, query: _Query, path: str, project: str, now: datetime) -> Iterable[Document]:
        late_h = self._faults.amount("all_late", path) or 0.0
        seen_at = now - timedelta(hours=late_h)
        by = "connect_dt" if query.first and self._faults.hits("filter_connect_dt", path) else "trans_date"
        first, last = query.first or date.min, query.last or date.max
        sessions = self._sessions(query, project, now)
        if sessions is None:
            documents = self._world.cdr_documents(project, seen_at, first, last, by=by)
        else:
            documents = self._world.cdr_records(project, sessions, seen_at, first, last, by=by)
        played = [s for s in self._played(project) if query.matches(s)]
        documents = [*documents, *self._world.cdr_records(project, played, seen_at, first, last, by=by)]
        no_id, no_details, no_usage = (
            self._faults.picker(name, path) for name in ("no_cdr_id", "empty_room_details", "null_usage")
        )
        for document in documents:
            cdr_id = document["cdr_id"]
            if no_details(cdr_id) and "room_details" in document["room"]:
                document["room"]["room_details"] = {}
            if no_usage(cdr_id):
                document["usage"] = None
            if no_id(cdr_id):
                del document["cdr_id"]
        return documents

    def _archives(self, query: _Query, path: str, project: str, now: datetime) -> Iterable[Document]:
        late_h = self._faults.amount("archive_late", path) or 0.0
        seen_at = now - timedelta(hours=late_h)
        first, last = query.first or date.min, query.last or date.max
        sessions = self._sessions(query, project, now)
        self._replies += 1
        host = self._files_url
        url = f"{host}/v{self._replies}" if self._faults.hits("url_changes", path) else host
        if sessions is None:
            documents = self._world.archive_documents(project, seen_at, url, first, last)
        else:
            documents = self._world.archive_records(project, sessions, seen_at, url, first, last)
        affects = {name: self._faults.picker(name, path) for name in (*_RECORD_CHANGES, "foreign_url")}
        for document in documents:
            for name, change in _RECORD_CHANGES.items():
                if affects[name](document["_id"]):
                    change(document)
            if affects["foreign_url"](document["_id"]):
                for key in ("recording", "transcoded", "chatdata", "metadata"):
                    _replace_in(document, key, lambda text: text.replace(host, self._foreign_url))
        return documents

    def _with_faults(self, documents: list[Any], path: str) -> list[Any]:
        """The documents with the faults common to both sources applied."""
        has_unknown_field, follows_invalid, is_duplicate = (
            self._faults.picker(name, path) for name in ("unknown_field", "broken_document", "duplicate_rows")
        )
        faulty: list[Any] = []
        for number, document in enumerate(documents):
            key = str(document.get("_id") or document.get("call_log_id"))
            if follows_invalid(key):
                faulty.append(_INVALID_DOCUMENTS[number % len(_INVALID_DOCUMENTS)])
            if has_unknown_field(key):
                document["beta"] = {"score": 0.5, "tags": ["a", None]}
            faulty += [document, document] if is_duplicate(key) else [document]
        if self._faults.hits("shuffle_rows", path):
            self._replies += 1
            random.Random(f"{self._world.seed}/{self._replies}").shuffle(faulty)
        limit = self._faults.amount("row_limit", path)
        return faulty if limit is None else faulty[: int(limit)]

    def _envelope(self, source: str, documents: list[Any], path: str) -> Reply:
        hits = self._faults.hits
        payload: Document = {source: documents}
        if not documents:
            if hits("empty_404", path):
                return shape_a(404, 40001, "No record found")
            if hits("empty_null", path):
                payload = {source: None}
            elif hits("empty_missing_key", path):
                payload = {}
        if hits("result_missing", path):
            return json_reply(payload)
        return json_reply({"result": 0 if hits("result_number", path) else "0", **payload})


def _incomplete_path(tail: str) -> Reply:
    """The error reply of an incomplete path. Codes are the documented ones, some of which occur twice."""
    route, *parts = tail.strip("/").split("/")
    match route:
        case "conf":
            return shape_a(400, 10201, "Missing conf_num")
        case "room":
            return shape_a(400, 10202, "Missing room_id")
        case "period":
            return shape_a(400, 10203, "Missing to_date")
        case "room-period" if not parts:
            return shape_a(400, 10204, "Missing room_id")
        case "room-period" if len(parts) < 3:
            return shape_a(400, 10203, "Missing to_date")
        case _:
            return shape_b(404, "NOT_FOUND", "No such route")


def _day(text: str) -> date | None:
    """A date in the form YYYY-MM-DD; None for other texts."""
    try:
        return date.fromisoformat(text) if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text) else None
    except ValueError:
        return None


_INVALID_DOCUMENTS: tuple[Any, ...] = (
    "not a document",
    None,
    {"user": {"name": "nobody"}},
    42,
    {"conf_num": None, "room": "?"},
)
"""Values of `broken_document`, each in place of a document."""


def _same_basename(document: Document) -> None:
    """`…/a2.mkv` becomes `…/2/a1.mkv`; the file host serves both."""
    _replace_in(document, "recording", lambda url: re.sub(r"/a([0-9]+)(\.[a-z0-9]+)$", r"/\1/a1\2", url))


def _unknown_key(document: Document) -> None:
    """Move the metadata file and the last recording to undocumented keys, the recording as a bare URL in a list."""
    if document.get("metadata"):
        document["session_log"] = document.pop("metadata")
    if document.get("recording"):
        document["live_recording"] = [document["recording"].pop()["url"]]


def _empty_entries(document: Document) -> None:
    for key in ("recording", "transcoded"):
        document[key] = [None, {"url": None}, {}, *(document.get(key) or [])]


_RECORD_CHANGES: dict[str, Callable[[Document], None]] = {
    "same_basename": _same_basename,
    "unknown_archive_key": _unknown_key,
    "empty_archive_entries": _empty_entries,
}
"""Faults of an archive record, in the order in which they are applied."""


def _replace_in(document: Document, key: str, change: Callable[[str], str]) -> None:
    """Change every URL under a key, a single one or those of a list."""
    value = document.get(key)
    if isinstance(value, str):
        document[key] = change(value)
    elif isinstance(value, list):
        document[key] = [
            {**entry, "url": change(entry["url"])} if entry and entry.get("url") else entry for entry in value
        ]
