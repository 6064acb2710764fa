"""The CDR and archive routes: which documents a question gets, and how faults disfigure the answer."""

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

_SPELLED = re.compile(r"/room-period/([^/]+)/([^/]+)/([^/]+)")
_SPELLED_OTHERWISE = re.compile(r"/room-period/([^/]+)/period/([^/]+)/([^/]+)")


@dataclass(frozen=True)
class _Question:
    """What is asked for. No dates: all history. No room and no conf_num: the whole project."""

    first: date | None = None
    last: date | None = None
    room_id: str | None = None
    conf_num: str | None = None

    def asks_for(self, session: Session) -> bool:
        return self.conf_num in (None, session.conf_num) and self.room_id in (None, session.room.room_id)


_LONGEST = timedelta(days=HISTORY_DAYS)
"""A period that is longer is answered from its last days only."""


class Reports:
    """Answers `/cdr/...` and `/archive/...` of every project."""

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
        """The reply for `source` ("cdr" or "archive") and the rest of the path after it."""
        question = self._question(tail, path)
        if isinstance(question, Reply):
            return question
        if source == "cdr":
            found: list[Any] = list(self._cdrs(question, path, project, now))
        else:
            found = list(self._archives(question, path, project, now))
        return self._envelope(source, self._disfigured(found, path), path)

    def _question(self, tail: str, path: str) -> _Question | Reply:
        """What the tail of a path asks, or the refusal it deserves."""
        if period := re.fullmatch(r"/period/([^/]+)/([^/]+)", tail):
            return self._between(path, period[1], period[2])
        if tail.startswith("/room-period/"):
            otherwise = self._faults.hits("room_period_other_spelling", path)
            spelled = (_SPELLED_OTHERWISE if otherwise else _SPELLED).fullmatch(tail)
            return self._between(path, spelled[2], spelled[3], spelled[1]) if spelled else _short_of(tail)
        if one := re.fullmatch(r"/room/([^/]+)", tail):
            return _Question(room_id=one[1])
        if one := re.fullmatch(r"/conf/([^/]+)", tail):
            return _Question(conf_num=one[1])
        return _short_of(tail)

    def _between(self, path: str, first_text: str, last_text: str, room_id: str | None = None) -> _Question | Reply:
        first, last = _day(first_text), _day(last_text)
        if first is None or last is None:
            return shape_b(400, "INVALID_PARAM", "from_date and to_date must be YYYY-MM-DD")
        if first > last:
            return shape_a(400, 10203, "Invalid to_date: before from_date")
        if last > date.min and self._faults.hits("to_date_exclusive", path):
            last -= timedelta(days=1)
        return _Question(max(first, last - _LONGEST) if last - date.min > _LONGEST else first, last, room_id)

    def _sessions(self, question: _Question, project: str, now: datetime) -> Iterable[Session] | None:
        """The sessions in question; None when only dates narrow them."""
        if question.conf_num is not None:
            session = self._world.session(project, question.conf_num)
            return [session] if session else []
        if question.room_id is not None:
            return self._world.sessions_of_room(project, question.room_id, now)
        return None

    def _cdrs(self, question: _Question, path: str, project: str, now: datetime) -> Iterable[Document]:
        late_h = self._faults.amount("all_late", path) or 0.0
        seen_at = now - timedelta(hours=late_h)
        by = "connect_dt" if question.first and self._faults.hits("filter_connect_dt", path) else "trans_date"
        first, last = question.first or date.min, question.last or date.max
        sessions = self._sessions(question, project, now)
        if sessions is None:
            found = self._world.cdr_documents(project, seen_at, first, last, by=by)
        else:
            found = self._world.cdr_records(project, sessions, seen_at, first, last, by=by)
        played = [s for s in self._played(project) if question.asks_for(s)]
        found = [*found, *self._world.cdr_records(project, played, seen_at, first, last, by=by)]
        no_id, no_details, no_usage = (
            self._faults.picker(name, path) for name in ("no_cdr_id", "empty_room_details", "null_usage")
        )
        for document in found:
            cdr_id = document["cdr_id"]
            if no_details(cdr_id) and "room_details" in document["room"]:
                document["room"]["room_details"] = {}
            if no_usage(cdr_id):
                document["usage"] = None
            if no_id(cdr_id):
                del document["cdr_id"]
        return found

    def _archives(self, question: _Question, path: str, project: str, now: datetime) -> Iterable[Document]:
        late_h = self._faults.amount("archive_late", path) or 0.0
        seen_at = now - timedelta(hours=late_h)
        first, last = question.first or date.min, question.last or date.max
        sessions = self._sessions(question, project, now)
        self._replies += 1
        host = self._files_url
        url = f"{host}/v{self._replies}" if self._faults.hits("url_changes", path) else host
        if sessions is None:
            found = self._world.archive_documents(project, seen_at, url, first, last)
        else:
            found = self._world.archive_records(project, sessions, seen_at, url, first, last)
        picked = {name: self._faults.picker(name, path) for name in (*_RECORD_CHANGES, "foreign_url")}
        for document in found:
            for name, change in _RECORD_CHANGES.items():
                if picked[name](document["_id"]):
                    change(document)
            if picked["foreign_url"](document["_id"]):
                for key in ("recording", "transcoded", "chatdata", "metadata"):
                    _replace_in(document, key, lambda text: text.replace(host, self._foreign_url))
        return found

    def _disfigured(self, found: list[Any], path: str) -> list[Any]:
        """What every report can suffer, document by document and as a whole."""
        unknown, broken, twice = (
            self._faults.picker(name, path) for name in ("unknown_field", "broken_document", "duplicate_rows")
        )
        told: list[Any] = []
        for number, document in enumerate(found):
            key = str(document.get("_id") or document.get("call_log_id"))
            if broken(key):
                told.append(_BROKEN[number % len(_BROKEN)])
            if unknown(key):
                document["beta"] = {"score": 0.5, "tags": ["a", None]}
            told += [document, document] if twice(key) else [document]
        if self._faults.hits("shuffle_rows", path):
            self._replies += 1
            random.Random(f"{self._world.seed}/{self._replies}").shuffle(told)
        limit = self._faults.amount("row_limit", path)
        return told if limit is None else told[: int(limit)]

    def _envelope(self, source: str, found: list[Any], path: str) -> Reply:
        hits = self._faults.hits
        payload: Document = {source: found}
        if not found:
            if hits("empty_404", path):
                return shape_a(404, 40001, "No record found")
            if hits("empty_null", path):
                payload = {source: None}
            elif hits("empty_missing_key", path):
                payload = {}
        if hits("result_missing", path):
            return json_reply(payload)
        return json_reply({"result": 0 if hits("result_number", path) else "0", **payload})


def _short_of(tail: str) -> Reply:
    """The refusal of a path that stops too early; the code table is the documented one, duplicates and all."""
    route, *given = tail.strip("/").split("/")
    match route:
        case "conf":
            return shape_a(400, 10201, "Missing conf_num")
        case "room":
            return shape_a(400, 10202, "Missing room_id")
        case "period":
            return shape_a(400, 10203, "Missing to_date")
        case "room-period" if not given:
            return shape_a(400, 10204, "Missing room_id")
        case "room-period" if len(given) < 3:
            return shape_a(400, 10203, "Missing to_date")
        case _:
            return shape_b(404, "NOT_FOUND", "No such route")


def _day(text: str) -> date | None:
    """A date in the one form that URLs know."""
    try:
        return date.fromisoformat(text) if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text) else None
    except ValueError:
        return None


_BROKEN: tuple[Any, ...] = ("not a document", None, {"user": {"name": "nobody"}}, 42, {"conf_num": None, "room": "?"})
"""What may stand where a document should."""


def _same_basename(document: Document) -> None:
    """`…/a2.mkv` becomes `…/2/a1.mkv`; the file host has both."""
    _replace_in(document, "recording", lambda url: re.sub(r"/a([0-9]+)(\.[a-z0-9]+)$", r"/\1/a1\2", url))


def _unknown_key(document: Document) -> None:
    """The metadata file moves to a key of its own, and so does the last recording, as a bare URL in a list."""
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
"""Faults of one archive record, in the order in which they are done to it."""


def _replace_in(document: Document, key: str, change: Callable[[str], str]) -> None:
    """Change every URL under a key, whether it stands alone or in a list."""
    value = document.get(key)
    if isinstance(value, str):
        document[key] = change(value)
    elif isinstance(value, list):
        document[key] = [
            {**entry, "url": change(entry["url"])} if entry and entry.get("url") else entry for entry in value
        ]
