"""Rows of `cdr` and listed files to rows of `sessions` (pure)."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from pipeline.model import ListedFile, Row
from pipeline.normalise.cdr import row_day, whole_minutes

_FROM_ROOM = (
    "room_id", "room_name", "owner_ref", "billing_code", "room_mode", "room_is_scheduled", "room_is_adhoc",
)  # fmt: skip


def session_rows(connections: Iterable[Row], files: Iterable[ListedFile]) -> list[Row]:
    """One row per `conf_num`, sorted; `connections` are newest versions, in any order."""
    by_session: dict[str, list[Row]] = defaultdict(list)
    for row in connections:
        by_session[row["conf_num"]].append(row)
    kinds: dict[str, list[str]] = defaultdict(list)
    for file in files:
        kinds[file.conf_num].append(file.kind)
    return [
        _session_row(conf_num, sorted(by_session[conf_num], key=lambda row: row["cdr_id"]), kinds[conf_num])
        for conf_num in sorted(by_session)
    ]


def session_day(session: Row) -> date:
    """The UTC date of the first connection: the session counts there, whole and once."""
    return session["first_connected_at"].date()  # type: ignore[no-any-return]


def first_connections(connections: Iterable[Row]) -> dict[str, datetime]:
    """For each `conf_num`, its earliest known connection: the earliest moment one of its files can have begun."""
    first: dict[str, datetime] = {}
    for row in connections:
        moment = _connected_at(row)
        first[row["conf_num"]] = min(moment, first.get(row["conf_num"], moment))
    return first


def count_people(connections: Iterable[Row]) -> int:
    """Distinct `user_ref`, and every connection without one."""
    refs = [row["user_ref"] for row in connections]
    return len({ref for ref in refs if ref is not None}) + refs.count(None)


def total_s(rows: Iterable[Row], column: str) -> float:
    """Sum of measured values, nulls as nothing; the same for any order of rows."""
    return math.fsum(row[column] for row in rows if row[column] is not None)


def total_exact(rows: Iterable[Row], column: str) -> Decimal:
    """Sum of billed values, nulls as nothing."""
    return sum((row[column] for row in rows if row[column] is not None), Decimal(0))


def _session_row(conf_num: str, connections: list[Row], kinds: list[str]) -> Row:
    first = min(_connected_at(row) for row in connections)
    last = max(_disconnected_at(row) for row in connections)
    duration_s = max(0.0, (last - first).total_seconds())
    participant_min = total_exact(connections, "participant_min")
    is_recorded, is_transcoded = "recording" in kinds, "transcoded" in kinds
    return {
        "conf_num": conf_num,
        **{name: _newest_known(connections, name) for name in _FROM_ROOM},
        "first_connected_at": first,
        "last_disconnected_at": last,
        "duration_s": duration_s,
        "connections": len(connections),
        "people": count_people(connections),
        "sip_connections": sum(row["is_sip"] for row in connections),
        "participant_s": total_s(connections, "participant_s"),
        "participant_min": participant_min,
        "connect_billed_min": total_exact(connections, "connect_billed_min"),
        "published_min": total_s(connections, "published_min"),
        "subscribed_min": total_s(connections, "subscribed_min"),
        "screen_min": total_s(connections, "screen_min"),
        "price": total_exact(connections, "price"),
        "is_recorded": is_recorded,
        "is_transcoded": is_transcoded,
        "recording_min": participant_min if is_recorded else Decimal(0),
        "transcoding_min": whole_minutes(duration_s) if is_transcoded else Decimal(0),
        "media_files": len(kinds),
    }


def _newest_known(connections: Iterable[Row], column: str) -> Any:
    """The newest non-null value: old-shape rows lack what new-shape rows of the same session know."""
    known = [(row_day(row), row["cdr_id"], row[column]) for row in connections if row[column] is not None]
    return max(known, key=lambda item: item[:2])[2] if known else None


def _connected_at(row: Mapping[str, Any]) -> datetime:
    moments: list[datetime] = [row[name] for name in ("signal_connected_at", "room_connected_at") if row[name]]
    return min(moments) if moments else _disconnected_at(row)


def _disconnected_at(row: Mapping[str, Any]) -> datetime:
    moments: list[datetime] = [row[name] for name in ("signal_disconnected_at", "room_disconnected_at") if row[name]]
    known = moments or [row[name] for name in ("trans_at", "signal_connected_at", "room_connected_at") if row[name]]
    return max(known)
