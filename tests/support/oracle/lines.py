"""Billing lines of a month, without storage (docs/guide/billing.md; rules, section 7)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, date, datetime, time
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

from tests.support.oracle.inputs import Rules
from tests.support.oracle.rows import Connection, Row
from tests.support.oracle.sessions import ATTRIBUTION, Session, attributed
from tests.support.oracle.stays import REJECTED

MEASURES = (
    "connections", "participant_s", "participant_min", "sip_min", "connect_billed_min", "recording_min",
    "transcoding_min", "suspense", "suspense_min",
)  # fmt: skip


def lines(all_sessions: Iterable[Session], suspense: Iterable[Row], rules: Rules) -> list[Row]:
    """Lines of all months: one per billing day, owner, billing code and room.

    A record in suspense counts on the line of its connection; a reject on its requested day.
    """
    zone = ZoneInfo(rules.zone)
    sums: dict[tuple[Any, ...], dict[str, Any]] = defaultdict(lambda: dict.fromkeys(MEASURES, 0))
    for session in all_sessions:
        for one in session.connections:
            line = sums[one.start.astimezone(zone).date(), *attributed(one, session)]
            minutes = counted_minutes(one, rules)
            line["connections"] += 1
            line["participant_s"] += one.counted_s
            line["participant_min"] += minutes
            line["sip_min"] += minutes if one.row["is_sip"] else 0
            line["connect_billed_min"] += one.billed_min or 0
            line["recording_min"] += minutes if session.has("recording") else 0
            line["suspense"] += one.is_open
            line["suspense_min"] += (one.at_stake_min or 0) if one.is_open else 0
        if session.has("transcoded"):
            key = (session.start.astimezone(zone).date(), *(session.attribution(name) for name in ATTRIBUTION))
            sums[key]["transcoding_min"] += rounded(session.seconds, rules)
    for row in suspense:
        if row["decision"] == "open" and row["reasons"] == REJECTED:
            requested = datetime.combine(row["day"], time(0), UTC)
            line = sums[requested.astimezone(zone).date(), *(row[name] for name in ATTRIBUTION)]
            line["suspense"] += 1
            line["suspense_min"] += row["at_stake_min"] or 0
    return [dict(zip(("day", *ATTRIBUTION), key, strict=True)) | line for key, line in sums.items()]


def in_month(all_lines: Iterable[Row], month: date) -> list[Row]:
    return [line for line in all_lines if (line["day"].year, line["day"].month) == (month.year, month.month)]


def counted_minutes(one: Connection, rules: Rules) -> Decimal:
    if rules.rounding == "vendor" and one.billed_min is not None:
        return one.billed_min
    return rounded(one.counted_s, rules)


def rounded(seconds: Fraction, rules: Rules) -> Decimal:
    if rules.rounding == "exact":
        thousandths = Decimal(seconds.numerator) / Decimal(seconds.denominator) / 60
        return thousandths.quantize(Decimal("0.001"), ROUND_HALF_UP)
    return Decimal(-(-seconds // 60))
