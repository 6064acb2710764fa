"""The simulated world: unlimited, reproducible traffic, looked up by day, id or moment (pure).

Everything is a function of (seed, project, UTC day). No clock and no I/O: `now` is an argument. `traffic` generates
the days, `documents` renders them as the API does, and this module searches a bounded number of days.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from pipeline.enablex.simulator import documents, session_files, traffic
from pipeline.enablex.simulator.documents import Document
from pipeline.enablex.simulator.traffic import Connection, Project, Room, Session, SimFile

__all__ = ["Connection", "Project", "Room", "Session", "SimFile", "World"]

HISTORY_DAYS = 92
"""History of the API. Requests without dates cover this many days, which bounds their cost."""

FILE_REACH_DAYS = 4
"""A file that has not expired belongs to a session that began at most this many days ago: 72 h, plus midnight."""


@dataclass(frozen=True)
class World:
    """Unlimited, reproducible traffic. Equal worlds have equal traffic.

    Days are UTC dates, ranges are inclusive. Results contain only what is visible at `now`.
    """

    seed: int = 7
    projects: tuple[str, ...] = ("acme", "globex")
    sessions_per_day: int = 12
    file_bytes: int = 20_000
    begin: date | None = None

    def project(self, name: str) -> Project:
        """The project's credentials. Raises KeyError for a name that is not in `projects`."""
        if name not in self.projects:
            raise KeyError(name)
        return traffic.make_project(self.seed, name)

    def sessions(self, project: str, day: date) -> tuple[Session, ...]:
        """The sessions that began on `day`, sorted by start."""
        if project not in self.projects:
            raise KeyError(project)
        if day < self._first_day:
            return ()
        return _days.get(self, project, day)

    @property
    def _first_day(self) -> date:
        return max(self.begin or traffic.EARLIEST, traffic.EARLIEST)

    def sessions_between(self, project: str, first: date, last: date) -> Iterator[Session]:
        """Sessions that began on any day from `first` to `last`; one day in memory at a time."""
        for number in range(max(first, self._first_day).toordinal(), last.toordinal() + 1):
            yield from self.sessions(project, date.fromordinal(number))

    def session(self, project: str, conf_num: str) -> Session | None:
        """The session with this `conf_num`; None if there is none."""
        day = traffic.day_of_conf_num(conf_num)
        sessions = self.sessions(project, day) if day else ()
        return next((s for s in sessions if s.conf_num == conf_num), None)

    def room(self, project: str, room_id: str) -> Room | None:
        """The room with this id, including rooms that no longer exist."""
        for room in traffic.permanent_rooms(self.seed, project):
            if room.room_id == room_id:
                return room
        return next((s.room for s in self._around_creation(project, room_id) if s.room.room_id == room_id), None)

    def sessions_of_room(self, project: str, room_id: str, now: datetime) -> list[Session]:
        """Every session of a room in the last `HISTORY_DAYS`, sorted by start."""
        if any(room.room_id == room_id for room in traffic.permanent_rooms(self.seed, project)):
            sessions = self.sessions_between(project, now.date() - timedelta(days=HISTORY_DAYS), now.date())
        else:
            sessions = self._around_creation(project, room_id)
        return [s for s in sessions if s.room.room_id == room_id]

    def running(self, project: str, room_id: str, now: datetime) -> Session | None:
        """The session that runs in this room at `now`; None if there is none."""
        for session in self.sessions_between(project, now.date() - timedelta(days=1), now.date()):
            if session.room.room_id == room_id and session.began_at <= now < session.ended_at:
                return session
        return None

    def rooms(self, project: str, now: datetime) -> list[Room]:
        """The rooms that exist at `now`: permanent, scheduled (until the following day), ad hoc while in use."""
        rooms = [room for room in traffic.permanent_rooms(self.seed, project) if room.created_at <= now]
        day = now.date()
        for session in self.sessions_between(project, day - timedelta(days=1), day + timedelta(days=1)):
            room = session.room
            is_deleted = room.kind == "adhoc" and session.ended_at <= now
            if room.kind != "permanent" and room.created_at <= now and not is_deleted:
                rooms.append(room)
        return rooms

    def session_files(self, session: Session) -> tuple[SimFile, ...]:
        """Every file of this session, listed or not, in the order of its archive record."""
        app_id = self.project(session.project).app_id
        return session_files.session_files(self.seed, session, app_id, self.file_bytes)

    def files_of_day(self, project: str, day: date) -> tuple[SimFile, ...]:
        """Every file of the sessions that began on `day`, listed or not, expired or not."""
        return tuple(file for session in self.sessions(project, day) for file in self.session_files(session))

    def files(self, project: str, now: datetime) -> tuple[SimFile, ...]:
        """The files that can be downloaded at `now`: listed in an archive record, and not expired."""
        first = now.date() - timedelta(days=FILE_REACH_DAYS)
        return tuple(
            file
            for session in self.sessions_between(project, first, now.date())
            for file in self.session_files(session)
            if file.listed_at <= now < file.expires_at
        )

    def file(self, path: str) -> SimFile | None:
        """The file at this path of the file host, of any project, listed or not, expired or not."""
        parts = re.fullmatch(r"/path/([0-9a-f]{24})/([0-9]{12})/[^/]+", path)
        if parts is None:
            return None
        owner = next((name for name in self.projects if self.project(name).app_id == parts[1]), None)
        session = self.session(owner, parts[2]) if owner else None
        files = self.session_files(session) if session else ()
        return next((file for file in files if file.path == path), None)

    def cdr_documents(
        self,
        project: str,
        now: datetime,
        first: date | None = None,
        last: date | None = None,
        *,
        by: str = "trans_date",
    ) -> list[Document]:
        """The CDRs visible at `now` whose `by` ("trans_date" or "connect_dt") falls on `first` to `last`.

        Without dates: the last `HISTORY_DAYS`. Order: by that time, then `cdr_id`.
        """
        first, last = _span(now, first, last)
        sessions = self.sessions_between(project, _day_before(first), last)
        return self.cdr_records(project, sessions, now, first, last, by=by)

    def cdr_records(
        self,
        project: str,
        sessions: Iterable[Session],
        now: datetime,
        first: date = date.min,
        last: date = date.max,
        *,
        by: str = "trans_date",
    ) -> list[Document]:
        """The CDRs of these sessions visible at `now` and on `first` to `last`, sorted by that time, then `cdr_id`."""
        owner = self.project(project)
        rows = []
        for session in sessions:
            for connection in session.connections:
                at = connection.trans_at if by == "trans_date" else connection.connected_at
                if connection.visible_at <= now and first <= at.date() <= last:
                    rows.append((at, connection.cdr_id, session, connection))
        rows.sort(key=lambda row: row[:2])
        return [documents.cdr_document(owner, session, connection, now) for _, _, session, connection in rows]

    def archive_documents(
        self, project: str, now: datetime, files_url: str, first: date | None = None, last: date | None = None
    ) -> list[Document]:
        """The archive records as of `now` whose `trans_date` is on `first` to `last`."""
        first, last = _span(now, first, last)
        sessions = self.sessions_between(project, _day_before(first), last)
        return self.archive_records(project, sessions, now, files_url, first, last)

    def archive_records(
        self,
        project: str,
        sessions: Iterable[Session],
        now: datetime,
        files_url: str,
        first: date = date.min,
        last: date = date.max,
    ) -> list[Document]:
        """The archive records of these sessions as of `now`, on `first` to `last`, sorted by the session's end."""
        owner = self.project(project)
        ended = [s for s in sessions if first <= s.ended_at.date() <= last]
        records = (
            documents.archive_document(owner, session, self.session_files(session), now, files_url)
            for session in sorted(ended, key=lambda s: s.ended_at)
        )
        return [record for record in records if record is not None]

    def room_documents(self, project: str, now: datetime) -> list[Document]:
        """The rooms that exist at `now`, as in the reply of `GET /rooms`."""
        return [documents.room_document(self.project(project), room) for room in self.rooms(project, now)]

    def _around_creation(self, project: str, room_id: str) -> Iterator[Session]:
        """Sessions of the days on which this room can have been used. Its id contains its time of creation."""
        if re.fullmatch(r"[0-9a-f]{24}", room_id):
            created = datetime.fromtimestamp(int(room_id[:8], 16), UTC).date()
            yield from self.sessions_between(project, created, created + timedelta(days=2))


class _DayCache:
    """The sessions of recently used days. The limit is a number of connections, because days differ in size."""

    def __init__(self, max_connections: int) -> None:
        self._max_connections = max_connections
        self._connections = 0
        self._days: OrderedDict[tuple[World, str, date], tuple[Session, ...]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, world: World, project: str, day: date) -> tuple[Session, ...]:
        key = (world, project, day)
        with self._lock:
            if key in self._days:
                self._days.move_to_end(key)
                return self._days[key]
        sessions = traffic.make_day(world.seed, project, day, world.sessions_per_day)
        with self._lock:
            if key not in self._days:
                self._days[key] = sessions
                self._connections += _connection_count(sessions)
            while self._connections > self._max_connections and len(self._days) > 4:
                self._connections -= _connection_count(self._days.popitem(last=False)[1])
        return sessions


def _connection_count(sessions: tuple[Session, ...]) -> int:
    return sum(len(s.connections) for s in sessions)


_days = _DayCache(max_connections=200_000)


def _span(now: datetime, first: date | None, last: date | None) -> tuple[date, date]:
    """The requested days, without days after `now`; by default the last `HISTORY_DAYS`."""
    return first or now.date() - timedelta(days=HISTORY_DAYS), min(last or now.date(), now.date())


def _day_before(day: date) -> date:
    """The day before: a session that ended on `day` began on `day` or one day earlier."""
    return date.fromordinal(max(1, day.toordinal() - 1))
