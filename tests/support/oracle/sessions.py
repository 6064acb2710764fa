"""Rows of `sessions` and `usage_daily` (rules, sections 6 and 7)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any
from urllib.parse import urlsplit

from tests.support.oracle.documents import FIELDS, Unreadable
from tests.support.oracle.inputs import StoredReply
from tests.support.oracle.records import Place, Reject, within_days
from tests.support.oracle.rows import Connection, Row
from tests.support.oracle.stays import seconds_between

_KINDS = {"recording": "recording", "transcoded": "transcoded", "chatdata": "chat", "metadata": "metadata"}
_DAY, _HOUR = timedelta(days=1), timedelta(hours=1)
ATTRIBUTION = ("room_id", "owner_ref", "billing_code")
_FROM_ROOM = (*ATTRIBUTION, "room_name", "room_mode", "room_is_scheduled", "room_is_adhoc")
_MEASURED = ("published_min", "subscribed_min", "screen_min")


@dataclass(frozen=True)
class ListedFile:
    """A file of an archive record; `moment`: of the first record that lists it."""

    conf_num: str
    kind: str
    name: str
    moment: datetime


@dataclass
class Session:
    connections: list[Connection]
    files: list[ListedFile] = field(default_factory=list)

    @property
    def start(self) -> datetime:
        return min(one.start for one in self.connections)

    @property
    def seconds(self) -> Fraction:
        return seconds_between(self.start, max(one.end for one in self.connections))

    def has(self, kind: str) -> bool:
        return any(file.kind == kind for file in self.files)

    def attribution(self, name: str) -> Any:
        """The last value that is not null, by start, day and id."""
        ordered = sorted(self.connections, key=lambda one: (one.start, one.row["day"], one.row["cdr_id"]))
        return next((one.row[name] for one in reversed(ordered) if one.row[name] is not None), None)


def sessions(connections: Iterable[Connection], files: Iterable[ListedFile]) -> list[Session]:
    """Connections of one `conf_num` cut into sessions, with their files."""
    by_conf: dict[str, list[Connection]] = defaultdict(list)
    for one in connections:
        by_conf[one.row["conf_num"]].append(one)
    result: list[Session] = []
    for same_conf in by_conf.values():
        ordered = sorted(same_conf, key=lambda one: (one.start, one.row["cdr_id"]))
        for chain in _chains(ordered):
            if chain[-1].start - chain[0].start <= _DAY:
                result.append(Session(chain))
            else:
                by_date: dict[date, list[Connection]] = defaultdict(list)
                for one in chain:
                    by_date[one.start.date()].append(one)
                result += [Session(same_date) for same_date in by_date.values()]
    for file in files:
        session = _session_of(file, [one for one in result if one.connections[0].row["conf_num"] == file.conf_num])
        if session:
            session.files.append(file)
    return result


def _chains(ordered: list[Connection]) -> list[list[Connection]]:
    chains: list[list[Connection]] = []
    for one in ordered:
        if chains and one.start - chains[-1][-1].start <= _DAY:
            chains[-1].append(one)
        else:
            chains.append([one])
    return chains


def _session_of(file: ListedFile, same_conf: list[Session]) -> Session | None:
    """The session of the last connection that began before the file, else of the first one after it."""
    near = [
        (one.start, number)
        for number, session in enumerate(same_conf)
        for one in session.connections
        if file.moment.date() - 3 * _DAY <= one.start.date()
        and (one.start.date() <= file.moment.date() or one.start <= file.moment + _HOUR)
    ]
    before = [one for one in near if one[0] <= file.moment + _HOUR]
    if not near:
        return None
    return same_conf[(max(before) if before else min(near))[1]]


def listed_files(replies: Iterable[StoredReply]) -> tuple[list[ListedFile], list[Reject]]:
    """Every file ever listed, once, and the archive documents that are rejects."""
    files: dict[tuple[str, str, str], ListedFile] = {}
    rejects: list[Reject] = []
    for stored in replies:
        for ordinal, document in enumerate(stored.reply.documents):
            value = document.value if document.is_json and isinstance(document.value, dict) else {}
            conf_num = value.get("conf_num")
            moment = _moment(value) or datetime.combine(stored.reply.day, time(12), UTC)
            if not conf_num or not within_days(moment.date(), stored.reply.day):
                reason = "more than 3 days" if conf_num else "missing or unreadable" if value else "not an object"
                rejects.append(Reject(Place(stored, ordinal), document, reason))
                continue
            for key, kind in _KINDS.items():
                for url in _urls(value.get(key)):
                    name = urlsplit(url).path.rsplit("/", 1)[-1]
                    files.setdefault((conf_num, kind, name), ListedFile(conf_num, kind, name, moment))
    return list(files.values()), rejects


def _moment(value: Mapping[str, Any]) -> datetime | None:
    try:
        return FIELDS["trans_at"][1](value["trans_date"]) if value.get("trans_date") else None
    except Unreadable:
        return None


def _urls(value: Any) -> list[str]:
    if isinstance(value, list):
        return [url for item in value for url in _urls(item)]
    if isinstance(value, dict):
        return _urls(value.get("url"))
    return [value] if isinstance(value, str) and value else []


def session_row(session: Session) -> Row:
    refs = [one.row["user_ref"] for one in session.connections]
    participant_min = _minutes(session.connections)
    return {
        "conf_num": session.connections[0].row["conf_num"],
        "day": session.start.date(),
        **{name: session.attribution(name) for name in _FROM_ROOM},
        "first_connected_at": session.start,
        "last_disconnected_at": max(one.end for one in session.connections),
        "duration_s": session.seconds,
        "connections": len(session.connections),
        "unique_users": len({ref for ref in refs if ref is not None}) + refs.count(None),
        "sip_connections": sum(one.row["is_sip"] for one in session.connections),
        "participant_s": sum((one.counted_s for one in session.connections), Fraction(0)),
        "participant_min": participant_min,
        "connect_billed_min": sum((one.billed_min or Decimal(0) for one in session.connections), Decimal(0)),
        **{name: sum(one.row[name] or 0 for one in session.connections) for name in _MEASURED},
        "price": sum(one.row["price"] or 0 for one in session.connections),
        "is_recorded": session.has("recording"),
        "is_transcoded": session.has("transcoded"),
        "recording_min": participant_min if session.has("recording") else Decimal(0),
        "transcoding_min": transcoding_min(session),
        "media_files": len(session.files),
    }


def transcoding_min(session: Session) -> Decimal:
    return Decimal(-(-session.seconds // 60)) if session.has("transcoded") else Decimal(0)


def _minutes(connections: Iterable[Connection]) -> Decimal:
    return sum((one.row["participant_min"] or Decimal(0) for one in connections), Decimal(0))


def attributed(one: Connection, session: Session) -> tuple[Any, ...]:
    """Room, owner and billing code of a connection; what it lacks is its session's."""
    return tuple(one.row[name] if one.row[name] is not None else session.attribution(name) for name in ATTRIBUTION)


def usage_rows(all_sessions: Iterable[Session]) -> list[Row]:
    """Connections on the day of their row, sessions on the day they began."""
    parts: dict[tuple[Any, ...], list[Connection]] = defaultdict(list)
    begun: dict[tuple[Any, ...], list[Session]] = defaultdict(list)
    for session in all_sessions:
        for one in session.connections:
            parts[one.row["day"], *attributed(one, session)].append(one)
        begun[session.start.date(), *(session.attribution(name) for name in ATTRIBUTION)].append(session)
    rows = []
    for key in sorted({*parts, *begun}, key=str):
        connections, whole = parts.get(key, []), begun.get(key, [])
        refs = [one.row["user_ref"] for one in connections]
        rows.append(
            dict(zip(("day", *ATTRIBUTION), key, strict=True))
            | {
                "sessions": len(whole),
                "connections": len(connections),
                "unique_users": len({ref for ref in refs if ref is not None}) + refs.count(None),
                "participant_s": sum((one.counted_s for one in connections), Fraction(0)),
                "participant_min": _minutes(connections),
                "connect_billed_min": sum((one.billed_min or Decimal(0) for one in connections), Decimal(0)),
                **{name: sum(one.row[name] or 0 for one in connections) for name in _MEASURED},
                "sip_min": _minutes(one for one in connections if one.row["is_sip"]),
                "recording_min": sum(
                    (_minutes(session.connections) for session in whole if session.has("recording")), Decimal(0)
                ),
                "transcoding_min": sum((transcoding_min(session) for session in whole), Decimal(0)),
                "suspense": sum(one.is_open for one in connections),
            }
        )
    return rows
