"""Connections whose values agree with each other, landed and built; what must hold of any lake."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Any

from tests.support.cdrs import NEW, changed, utc
from tests.support.lakes import Lake

DAY = date(2026, 11, 20)
NIGHT = DAY + timedelta(days=1)


def hours_at(day: date) -> float:
    """Hours of a request at 02:00 UTC of a day, for `Lake.land_documents`."""
    return (day - date(2024, 3, 12)) / timedelta(hours=1)


def call(
    cdr_id: Any = "a", *, day: date = DAY, clock: str = "10:00", minutes: float = 30, **changes: Any
) -> dict[str, Any]:
    """A connection that began on a day at a time, and whose times, durations and minutes agree."""
    began = datetime.fromisoformat(f"{day}T{clock}+00:00")
    ended = began + timedelta(minutes=minutes)
    own: dict[str, Any] = {"cdr_id": cdr_id, "conf_num": "c1", "call_log_id": cdr_id, "trans_date": utc(ended)}
    for side in ("room", "sigserver"):
        own |= {f"{side}__connect_dt": utc(began), f"{side}__disconnect_dt": utc(ended)}
        own |= {f"{side}__duration": round(minutes * 60)}
    own |= {"usage__connect_minutes": minutes, "usage__connect_minutes_cal": minutes}
    return changed(NEW, **{**own, **changes})


def land(lake: Lake, *documents: Any, day: date = DAY, asked_on: date = NIGHT, source: Any = "cdr") -> None:
    lake.land_documents(documents, day=day, hour=hours_at(asked_on), source=source)


def cells(lake: Lake, table: str, *names: str) -> list[tuple[Any, ...]]:
    return [tuple(row[name] for name in names) for row in lake.rows(table)]


def assert_counted_once(lake: Lake) -> None:
    """Connections, sessions and usage agree, and each session is on one day."""
    rows, sessions, usage = lake.rows("cdr"), lake.rows("sessions"), lake.rows("usage_daily")
    assert len({row["cdr_id"] for row in rows}) == len(rows)
    assert len({(row["conf_num"], row["day"]) for row in sessions}) == len(sessions)
    assert sum(row["connections"] for row in sessions) == sum(row["connections"] for row in usage) == len(rows)
    assert sum(row["sessions"] for row in usage) == len(sessions)
    assert sum(row["suspense"] for row in sessions) == sum(row["suspense"] for row in usage)
    for name in ("participant_min", "recording_min", "transcoding_min", "connect_billed_min"):
        assert sum(row[name] for row in sessions) == sum(row[name] for row in usage), name
    assert sum(row["participant_min"] for row in sessions) == sum(row["participant_min"] or 0 for row in rows)
