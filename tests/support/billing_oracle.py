"""Expected measures of a month, computed from the simulator's world without the program's tables or code."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_CEILING, ROUND_HALF_UP, Decimal
from zoneinfo import ZoneInfo

from pipeline.enablex.simulator.world import Connection, Session, World

ZERO = Decimal(0)
Sums = dict[str, Decimal]
LineKey = tuple[str, date, str | None, str | None, str]


def expected_lines(
    world: World, now: datetime, month: str, *, zone: str = "UTC", rounding: str = "ceil_per_connection"
) -> dict[LineKey, Sums]:
    """Measures by project, day, owner, billing code and room of all records visible at `now`, without storage."""
    lines: dict[LineKey, Sums] = defaultdict(lambda: defaultdict(Decimal))
    for project in world.projects:
        for session in world.sessions_between(project, now.date() - timedelta(days=100), now.date()):
            visible = [connection for connection in session.connections if connection.visible_at <= now]
            if not visible:
                continue
            owner, code = attribution(session, visible)
            listed = {file.kind for file in world.session_files(session) if file.listed_at <= now}
            for connection in visible:
                day = connection.signal_connected_at.astimezone(ZoneInfo(zone)).date()
                if f"{day:%Y-%m}" == month:
                    line = lines[project, day, owner, code, session.room.room_id]
                    is_recorded = "recording" in listed
                    for name, value in connection_sums(connection, now, rounding, is_recorded=is_recorded).items():
                        line[name] += value
            began = min(connection.signal_connected_at for connection in visible)
            day = began.astimezone(ZoneInfo(zone)).date()
            if "transcoded" in listed and f"{day:%Y-%m}" == month:
                length = max(connection.signal_disconnected_at for connection in visible) - began
                lines[project, day, owner, code, session.room.room_id]["transcoding_min"] += minutes(length, rounding)
    return {key: dict(line) for key, line in lines.items()}


def attribution(session: Session, visible: list[Connection]) -> tuple[str | None, str | None]:
    """Owner and billing code of a session; None if all its CDRs have the old shape, which has neither."""
    if all(connection.old_shape for connection in visible):
        return None, None
    code = session.room.billing_code
    return session.room.owner_ref, None if code is None else str(code)


def connection_sums(connection: Connection, now: datetime, rounding: str, *, is_recorded: bool) -> Sums:
    stay = connection.signal_disconnected_at - connection.signal_connected_at
    reported = connection.disconnected_at - connection.connected_at
    if connection.corrected_at is not None and now >= connection.corrected_at:
        reported *= 1.25
    if abs(stay - reported - timedelta(seconds=connection.signal_margin_s)) > max(timedelta(minutes=10), stay / 10):
        at_stake = minutes(stay, "ceil_per_connection")
        return {"connections": Decimal(1), "suspense": Decimal(1), "suspense_min": at_stake}  # held: no minutes
    vendor = ZERO if connection.old_shape else minutes(reported, "ceil_per_connection")
    billed = vendor if rounding == "vendor" and not connection.old_shape else minutes(stay, rounding)
    return {
        "connections": Decimal(1),
        "participant_s": Decimal(stay // timedelta(milliseconds=1)) / 1000,
        "participant_min": billed,
        "sip_min": billed if connection.sip else ZERO,
        "connect_billed_min": vendor,
        "recording_min": billed if is_recorded else ZERO,
    }


def minutes(length: timedelta, rounding: str) -> Decimal:
    exact = Decimal(length // timedelta(milliseconds=1)) / 60_000
    if rounding == "exact":
        return exact.quantize(Decimal("0.001"), ROUND_HALF_UP)
    return exact.quantize(Decimal(1), ROUND_CEILING)


def at(day: date, hour: int = 12) -> datetime:
    return datetime(day.year, day.month, day.day, hour, tzinfo=UTC)
