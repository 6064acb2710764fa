"""Rated connections as rows and tables, and a model of their sessions and sums in exact arithmetic."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from pipeline.core.models import ListedFile, Row
from pipeline.tables.normalize import cdr
from pipeline.tables.normalize.ratings import Decisions, Rated, RatingRules, rate
from pipeline.tables.normalize.sessions import connection_table
from pipeline.tables.schemas import CDR_CONTENT, arrow_schema
from tests.support.cdrs import NEW, OLD, changed
from tests.support.records import listed_file

BEGIN = datetime(2024, 3, 9, 21, tzinfo=UTC)
BEGIN_MS = int(BEGIN.timestamp() * 1000)
HOUR_MS = 3_600_000
UNRATED = pa.schema([*arrow_schema(CDR_CONTENT), pa.field("day", pa.date32())])

_ROOM = ("room_id", "room_name", "owner_ref", "billing_code", "room_mode", "room_is_scheduled", "room_is_adhoc")
_MEASURED = ("published_min", "subscribed_min", "screen_min")
_MS = st.none() | st.integers(0, 6 * HOUR_MS)  # from 21:00 to 03:00: over midnight
_LATER_H = st.sampled_from([0, 0, 0, 1, 20, 24, 30, 48, 100, 200])
"""Hours after the first connections: the same session, the next day, a session of several days, another one."""
_MINUTES = st.none() | st.integers(0, 500) | st.decimals(0, 500, places=3).map(float)


RULES = RatingRules()


def rated(documents: Iterable[Any], rules: RatingRules = RULES, decisions: Decisions | None = None) -> Rated:
    """CDR documents as newest versions with the columns of `ratings`, same order."""
    return rate(unrated(map(cdr.cdr_row, documents)), rules, decisions or {})


def unrated(rows: Iterable[Row]) -> pa.Table:
    """Rows of `cdr_row` with their day: the input of `rate`."""
    return pa.Table.from_pylist([{**row, "day": cdr.row_day(row)} for row in rows], schema=UNRATED)


@st.composite
def calls(draw: Any) -> dict[str, Any]:
    """A CDR document of either shape, with any optional value absent."""
    old = draw(st.booleans())
    begin_ms = BEGIN_MS + draw(_LATER_H) * HOUR_MS
    room = {} if old else {
        "room__room_details__owner_ref": draw(st.sampled_from(["", "t1", "t2"])),
        "room__room_details__settings__billing_code": draw(st.sampled_from(["", "b1", 2])),
        "room__room_details__settings__adhoc": draw(st.sampled_from([None, True, "false"])),
        "room__room_details__name": draw(st.sampled_from(["", "n1", "n2"])),
        "price__connect_duration": draw(st.none() | st.decimals(0, 9, places=4).map(float)),
        "usage__connect_minutes_cal": draw(_MINUTES),
        "sip": draw(st.booleans()),
    }  # fmt: skip
    times = {
        path: None if (ms := draw(_MS)) is None else begin_ms + ms
        for path in ("room__connect_dt", "room__disconnect_dt", "sigserver__connect_dt", "sigserver__disconnect_dt")
    }
    durations = {f"{side}__duration": draw(st.sampled_from([None, None, 600])) for side in ("room", "sigserver")}
    return changed(
        OLD if old else NEW,
        trans_date=begin_ms + draw(st.integers(0, 6 * HOUR_MS)),
        conf_num=draw(st.sampled_from(["s1", "s2", "s3"])),
        cdr_id=draw(st.sampled_from([f"c{n:02}" for n in range(40)])),
        room__room_id=draw(st.sampled_from(["", "r1", "r2"])),
        user__ref=draw(st.sampled_from(["", "u1", "u2"])),
        usage__published_minutes=draw(_MINUTES),
        usage__subscribed_minutes=draw(_MINUTES),
        **room,
        **times,
        **durations,
    )


def file_at(ended_at: datetime, **changes: object) -> ListedFile:
    """A file whose archive record has this time."""
    return listed_file(name=f"{ended_at:%d%H}.mkv", ended_at=ended_at, day=ended_at.date(), **changes)


FILES = st.lists(
    st.builds(
        lambda conf_num, kind, hours: file_at(BEGIN + timedelta(hours=hours), conf_num=conf_num, kind=kind),
        st.sampled_from(["s1", "s2", "unknown"]),
        st.sampled_from(["recording", "transcoded", "chat"]),
        st.integers(-80, 280),
    ),
    max_size=6,
    unique_by=lambda file: file.identity,
)

CALLS = st.lists(calls(), min_size=1, max_size=12, unique_by=lambda document: document["cdr_id"]).map(
    lambda documents: rows_of(*documents)
)


def rows_of(*documents: Any) -> list[dict[str, Any]]:
    """Rated rows of documents, with their day."""
    rows: list[dict[str, Any]] = rated(documents).rows.to_pylist()
    return rows


def connections(rows: list[dict[str, Any]]) -> pa.Table:
    """The input of `session_table` from rows of `rows_of`: sorted by session, day and key."""
    nothing = np.zeros(len(rows), np.int8)
    table = pa.Table.from_pylist(rows, schema=rated(()).rows.schema)
    return connection_table(Rated(table, nothing, nothing, nothing)).sort_by(
        [(name, "ascending") for name in ("conf_num", "day", "cdr_id")]
    )


def in_order(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: (row["conf_num"], row["began_at"], row["day"], row["cdr_id"]))


def ms(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def sum_of(rows: list[dict[str, Any]], name: str) -> Fraction:
    """The exact sum of a column, whose values are read as decimals."""
    return sum((Fraction(Decimal(str(row[name]))) for row in rows if row[name] is not None), Fraction(0))


def believed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Connections whose minutes as stated by EnableX count."""
    return [row for row in rows if row["participant_s"] is not None and "vendor_minutes" not in (row["suspense"] or "")]


def ended_at(row: dict[str, Any]) -> datetime:
    """The latest believed end of a connection, not before its start; else the moment of its record."""
    if "stay_too_long" in (row["suspense"] or "") and row["participant_s"] is None:
        begin: datetime = row["began_at"]
        return begin
    ends = [row[name] for name in ("signal_disconnected_at", "room_disconnected_at") if row[name]]
    near = [end for end in ends if abs(end.date() - row["day"]) <= timedelta(days=3) and end >= row["began_at"]]
    moment = next(row[name] for name in cdr.TIMES if row[name])
    return max(near) if near else max(moment, row["began_at"])


def divided(rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Connections of one session number as sessions: chains of starts at most a day apart; long ones by UTC date."""
    day = timedelta(hours=24)
    chains: list[list[dict[str, Any]]] = []
    for row in in_order(rows):
        if chains and row["began_at"] - chains[-1][-1]["began_at"] <= day:
            chains[-1].append(row)
        else:
            chains.append([row])
    sessions = []
    for chain in chains:
        if chain[-1]["began_at"] - chain[0]["began_at"] <= day:
            sessions.append(chain)
        else:
            dates = sorted({row["began_at"].date() for row in chain})
            sessions += [[row for row in chain if row["began_at"].date() == date] for date in dates]
    return sessions


def owner_of(file: ListedFile, rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The connection to whose session a file belongs."""
    latest, last_day = file.ended_at + timedelta(hours=1), file.ended_at.date()
    near = [
        row
        for row in in_order(rows)
        if row["conf_num"] == file.conf_num
        and last_day - timedelta(days=3) <= row["began_at"].date()
        and (row["began_at"].date() <= last_day or row["began_at"] <= latest)
    ]
    before = [row for row in near if row["began_at"] <= latest]
    return before[-1] if before else near[0] if near else None


def session_model(rows: list[dict[str, Any]], kinds: Sequence[str]) -> dict[str, Any]:
    """The session of connections, sorted by start, with the kinds of its files."""
    began, ended = rows[0]["began_at"], max(map(ended_at, rows))
    length_ms = max(0, ms(ended) - ms(began))
    participant_min = sum_of(rows, "participant_min")
    return {
        "conf_num": rows[0]["conf_num"],
        **{name: next((row[name] for row in reversed(rows) if row[name] is not None), None) for name in _ROOM},
        "first_connected_at": began,
        "last_disconnected_at": ended,
        "duration_s": float(Fraction(length_ms, 1000)),
        "connections": len(rows),
        "unique_users": len({row["user_ref"] for row in rows} - {None}) + sum(row["user_ref"] is None for row in rows),
        "sip_connections": sum(row["is_sip"] for row in rows),
        "suspense": sum(row["suspense"] is not None for row in rows),
        "participant_s": float(sum_of(rows, "participant_s")),
        "participant_min": participant_min,
        "connect_billed_min": sum_of(believed(rows), "connect_billed_min"),
        **{name: float(sum_of(rows, name)) for name in _MEASURED},
        "price": sum_of(rows, "price"),
        "is_recorded": "recording" in kinds,
        "is_transcoded": "transcoded" in kinds,
        "recording_min": participant_min if "recording" in kinds else 0,
        "transcoding_min": -(-length_ms // 60_000) if "transcoded" in kinds else 0,
        "media_files": len(kinds),
        "day": began.date(),
    }


def sessions_model(rows: list[dict[str, Any]], files: Sequence[ListedFile]) -> list[dict[str, Any]]:
    names = sorted({row["conf_num"] for row in rows})
    owners = [(file.kind, owner_of(file, rows)) for file in files]
    return [
        session_model(session, [kind for kind, owner in owners if owner in session])
        for name in names
        for session in divided([row for row in rows if row["conf_num"] == name])
    ]


def session_of(row: dict[str, Any], sessions: list[dict[str, Any]]) -> dict[str, Any]:
    """The last session of the same number that began at the start of a connection or before."""
    return [
        session
        for session in sessions
        if session["conf_num"] == row["conf_num"] and session["first_connected_at"] <= row["began_at"]
    ][-1]


def usage_model(
    rows: list[dict[str, Any]], files: Sequence[ListedFile], media: list[dict[str, Any]]
) -> dict[tuple[date, Any, Any, Any], dict[str, Any]]:
    """By day, room, owner and billing code: connections by their day, sessions by their start, and stored files.

    `media` has one row per file, same order.
    """
    sessions = sessions_model(rows, files)
    names = ("room_id", "owner_ref", "billing_code")
    used: dict[tuple[date, Any, Any, Any], dict[str, Any]] = {}

    def at(day: date, *key: Any) -> dict[str, Any]:
        blank: dict[str, Any] = {"calls": [], "sessions": [], "media": []}
        return used.setdefault((day, *key), blank)

    for row in rows:
        session = session_of(row, sessions)
        key = [session[name] if row[name] is None else row[name] for name in names]
        at(row["day"], *key)["calls"].append(row)
    for session in sessions:
        at(session["day"], *(session[name] for name in names))["sessions"].append(session)
    for file, stored in zip(files, media, strict=True):
        if stored["state"] in {"stored", "malformed"}:
            owner = owner_of(file, rows)
            session = session_of(owner, sessions) if owner else dict.fromkeys(names)
            key = [stored["room_id"] or session["room_id"], session["owner_ref"], session["billing_code"]]
            at(stored["day"], *key)["media"].append(stored)
    return {key: _usage_of(**parts) for key, parts in used.items()}


def _usage_of(calls: list[Any], sessions: list[Any], media: list[Any]) -> dict[str, Any]:
    return {
        "sessions": len(sessions),
        "connections": len(calls),
        "suspense": sum(row["suspense"] is not None for row in calls),
        "unique_users": len({row["user_ref"] for row in calls} - {None})
        + sum(row["user_ref"] is None for row in calls),
        "participant_s": float(sum_of(calls, "participant_s")),
        "participant_min": sum_of(calls, "participant_min"),
        "connect_billed_min": sum_of(believed(calls), "connect_billed_min"),
        **{name: float(sum_of(calls, name)) for name in _MEASURED},
        "sip_min": sum_of([row for row in calls if row["is_sip"]], "participant_min"),
        "recording_min": sum(session["recording_min"] for session in sessions),
        "transcoding_min": sum(session["transcoding_min"] for session in sessions),
        "media_files": len(media),
        "media_bytes": sum(file["size_bytes"] for file in media),
    }
