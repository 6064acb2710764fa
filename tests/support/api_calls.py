"""Newest connections as rows and tables, and a model of their sums in exact arithmetic."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pyarrow as pa
from hypothesis import strategies as st

from pipeline.tables.normalize import cdr
from pipeline.tables.normalize.sessions import SessionFiles, connection_table
from pipeline.tables.schemas import CDR
from tests.support.cdrs import NEW, OLD, changed
from tests.support.records import listed_file

BEGIN_MS = int(datetime(2024, 3, 9, 21, tzinfo=UTC).timestamp() * 1000)
WITH_DAY = pa.schema([*CDR.schema, ("day", pa.date32())])

_ROOM = ("room_id", "room_name", "owner_ref", "billing_code", "room_mode", "room_is_scheduled", "room_is_adhoc")
_MS = st.none() | st.integers(0, 6 * 3_600_000)  # from 21:00 to 03:00: over midnight
_MINUTES = st.none() | st.integers(0, 500) | st.decimals(0, 500, places=3).map(float)


@st.composite
def calls(draw: Any) -> dict[str, Any]:
    """One newest row of `cdr` with its `day`, in either shape, with any optional value absent."""
    old = draw(st.booleans())
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
        path: None if (ms := draw(_MS)) is None else BEGIN_MS + ms
        for path in ("room__connect_dt", "room__disconnect_dt", "sigserver__connect_dt", "sigserver__disconnect_dt")
    }
    document = changed(
        OLD if old else NEW,
        trans_date=BEGIN_MS + draw(st.integers(0, 6 * 3_600_000)),
        conf_num=draw(st.sampled_from(["s1", "s2", "s3"])),
        cdr_id=draw(st.sampled_from([f"c{n:02}" for n in range(40)])),
        room__room_id=draw(st.sampled_from(["", "r1", "r2"])),
        user__ref=draw(st.sampled_from(["", "u1", "u2"])),
        usage__published_minutes=draw(_MINUTES),
        usage__subscribed_minutes=draw(_MINUTES),
        **room,
        **times,
    )
    row = cdr.cdr_row(document)
    return {**row, "day": cdr.row_day(row)}


KINDS = st.dictionaries(
    st.sampled_from(["s1", "s2", "unknown"]),
    st.lists(st.sampled_from(["recording", "transcoded", "chat"]), max_size=4),
)


def session_files(kinds: dict[str, list[str]]) -> SessionFiles:
    return SessionFiles(
        listed_file(conf_num=conf_num, kind=kind, name=f"{at}.mkv")
        for conf_num, names in kinds.items()
        for at, kind in enumerate(names)
    )


CALLS = st.lists(calls(), min_size=1, max_size=12, unique_by=lambda row: row["cdr_id"])


def connections(rows: list[dict[str, Any]]) -> pa.Table:
    """The input of `session_table`: sorted by session, day and key."""
    table = connection_table(pa.Table.from_pylist(rows, schema=WITH_DAY))
    return table.sort_by([(name, "ascending") for name in ("conf_num", "day", "cdr_id")])


def in_order(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: (row["conf_num"], row["day"], row["cdr_id"]))


def ms(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def sum_of(rows: list[dict[str, Any]], name: str) -> Fraction:
    """The exact sum of a column, whose values are read as decimals."""
    return sum((Fraction(Decimal(str(row[name]))) for row in rows if row[name] is not None), Fraction(0))


def first_in(row: dict[str, Any]) -> datetime:
    times = [row[name] for name in ("signal_connected_at", "room_connected_at") if row[name]]
    return min(times) if times else last_out(row)


def last_out(row: dict[str, Any]) -> datetime:
    times = [row[name] for name in ("signal_disconnected_at", "room_disconnected_at") if row[name]]
    others = [row[name] for name in ("trans_at", "signal_connected_at", "room_connected_at") if row[name]]
    return max(times or others)


def session_model(rows: list[dict[str, Any]], kinds: list[str]) -> dict[str, Any]:
    """The session of connections, sorted by day and key, with the kinds of its listed files."""
    began, ended = min(map(first_in, rows)), max(map(last_out, rows))
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
        "participant_s": float(sum_of(rows, "participant_s")),
        "participant_min": participant_min,
        "connect_billed_min": sum_of(rows, "connect_billed_min"),
        **{name: float(sum_of(rows, name)) for name in ("published_min", "subscribed_min", "screen_min")},
        "price": sum_of(rows, "price"),
        "is_recorded": "recording" in kinds,
        "is_transcoded": "transcoded" in kinds,
        "recording_min": participant_min if "recording" in kinds else 0,
        "transcoding_min": -(-length_ms // 60_000) if "transcoded" in kinds else 0,
        "media_files": len(kinds),
        "day": began.date(),
    }


def sessions_model(rows: list[dict[str, Any]], files: dict[str, list[str]]) -> list[dict[str, Any]]:
    names = sorted({row["conf_num"] for row in rows})
    return [
        session_model([row for row in in_order(rows) if row["conf_num"] == name], files.get(name, [])) for name in names
    ]


def usage_model(
    rows: list[dict[str, Any]], files: dict[str, list[str]], media: list[dict[str, Any]]
) -> dict[tuple[date, Any, Any, Any], dict[str, Any]]:
    """By day, room, owner and billing code: connections by their day, sessions by their start, and stored files."""
    sessions = {session["conf_num"]: session for session in sessions_model(rows, files)}
    names = ("room_id", "owner_ref", "billing_code")
    used: dict[tuple[date, Any, Any, Any], dict[str, Any]] = {}

    def at(day: date, *key: Any) -> dict[str, Any]:
        blank: dict[str, Any] = {"calls": [], "sessions": [], "media": []}
        return used.setdefault((day, *key), blank)

    for row in rows:
        session = sessions[row["conf_num"]]
        key = [session[name] if row[name] is None else row[name] for name in names]
        at(row["day"], *key)["calls"].append(row)
    for session in sessions.values():
        at(session["day"], *(session[name] for name in names))["sessions"].append(session)
    for file in media:
        if file["state"] in {"stored", "malformed"}:
            session = sessions.get(file["conf_num"], dict.fromkeys(names))
            key = [file["room_id"] or session["room_id"], session["owner_ref"], session["billing_code"]]
            at(file["day"], *key)["media"].append(file)
    return {key: _usage_of(**parts) for key, parts in used.items()}


def _usage_of(calls: list[Any], sessions: list[Any], media: list[Any]) -> dict[str, Any]:
    return {
        "sessions": len(sessions),
        "connections": len(calls),
        "unique_users": len({row["user_ref"] for row in calls} - {None})
        + sum(row["user_ref"] is None for row in calls),
        "participant_s": float(sum_of(calls, "participant_s")),
        "participant_min": sum_of(calls, "participant_min"),
        "connect_billed_min": sum_of(calls, "connect_billed_min"),
        **{name: float(sum_of(calls, name)) for name in ("published_min", "subscribed_min", "screen_min")},
        "sip_min": sum_of([row for row in calls if row["is_sip"]], "participant_min"),
        "recording_min": sum(session["recording_min"] for session in sessions),
        "transcoding_min": sum(session["transcoding_min"] for session in sessions),
        "media_files": len(media),
        "media_bytes": sum(file["size_bytes"] for file in media),
    }
