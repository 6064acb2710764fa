"""What a month comes to, computed straight from the simulator's world: none of the program's tables or code."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_CEILING, ROUND_HALF_UP, Decimal
from zoneinfo import ZoneInfo

from pipeline.enablex.simulator.world import Connection, Session, World

ZERO = Decimal(0)
Sums = dict[str, Decimal]
LineKey = tuple[str, date, str | None, str | None, str]


def true_lines(
    world: World, now: datetime, month: str, *, zone: str = "UTC", rounding: str = "ceil_per_connection"
) -> dict[LineKey, Sums]:
    """Measures by project, day, owner, billing code and room of everything collected at `now`; storage left out."""
    lines: dict[LineKey, Sums] = defaultdict(lambda: defaultdict(Decimal))
    for project in world.projects:
        for session in world.sessions_between(project, now.date() - timedelta(days=100), now.date()):
            seen = [one for one in session.connections if one.visible_at <= now]
            if not seen:
                continue
            owner, code = attribution(session, seen)
            listed = {file.kind for file in world.session_files(session) if file.listed_at <= now}
            for one in seen:
                day = one.signal_connected_at.astimezone(ZoneInfo(zone)).date()
                if f"{day:%Y-%m}" == month:
                    line = lines[project, day, owner, code, session.room.room_id]
                    for name, value in connection_sums(one, now, rounding, is_recorded="recording" in listed).items():
                        line[name] += value
            began = min(one.signal_connected_at for one in seen)
            day = began.astimezone(ZoneInfo(zone)).date()
            if "transcoded" in listed and f"{day:%Y-%m}" == month:
                length = max(one.signal_disconnected_at for one in seen) - began
                lines[project, day, owner, code, session.room.room_id]["transcoding_min"] += minutes(length, rounding)
    return {key: dict(line) for key, line in lines.items()}


def attribution(session: Session, seen: list[Connection]) -> tuple[str | None, str | None]:
    """Old-shape CDRs do not tell the room's owner; another connection of the session may."""
    if all(one.old_shape for one in seen):
        return None, None
    code = session.room.billing_code
    return session.room.owner_ref, None if code is None else str(code)


def connection_sums(one: Connection, now: datetime, rounding: str, *, is_recorded: bool) -> Sums:
    stay = one.signal_disconnected_at - one.signal_connected_at
    told = one.disconnected_at - one.connected_at
    if one.corrected_at is not None and now >= one.corrected_at:
        told *= 1.25
    vendor = ZERO if one.old_shape else minutes(told, "ceil_per_connection")
    billed = vendor if rounding == "vendor" and not one.old_shape else minutes(stay, rounding)
    return {
        "connections": Decimal(1),
        "participant_s": Decimal(stay // timedelta(milliseconds=1)) / 1000,
        "participant_min": billed,
        "sip_min": billed if one.sip else ZERO,
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
