"""Rows of `cdr`, `cdr_history`, `suspense` and `rejects` (rules, sections 3 to 5)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

from tests.support.oracle import stays
from tests.support.oracle.documents import CONNECT_TIMES, day_of, moment, readable
from tests.support.oracle.inputs import Decision, Rules, in_order
from tests.support.oracle.records import Listing, Record, Reject, versions, within_days

Row = dict[str, Any]


@dataclass(frozen=True)
class Connection:
    """A row of `cdr`, and what other tables need of it."""

    row: Row
    stay: stays.Stay
    reasons: dict[str, bool]
    decision: str
    """`open`, `released` or `excluded`; empty without reasons."""
    decided: Decision | None
    start: datetime
    end: datetime
    counted_s: Fraction
    """Exact seconds that are billed."""
    billed_min: Decimal | None
    """EnableX's own minutes if they can be right."""
    record: Record

    @property
    def at_stake_min(self) -> int | None:
        return self.stay.minutes

    @property
    def is_open(self) -> bool:
        return self.decision == "open"

    @property
    def is_rated(self) -> bool:
        """Whether its minutes count."""
        return self.decision != "excluded" and (self.decision == "released" or not any(self.reasons.values()))


def connection(record: Record, listed: Listing, rules: Rules) -> Connection:
    """The newest version of a record, with what is wrong with it and what was decided."""
    all_versions = versions(record)
    newest = all_versions[-1]
    found = stays.stay(newest.row, rules)
    is_listed = any(listed.has(one.place.stored) for one in record.observations)
    reasons = {**record.reasons, **stays.reasons(newest.row, found, rules)}
    if not is_listed:
        reasons[stays.NOT_LISTED] = rules.unlisted == "hold"
    names = ", ".join(sorted(reasons)) or None
    decided = _decision(record.id, names, found.minutes, rules)
    decision = "" if names is None else {None: "open", "release": "released", "exclude": "excluded"}[
        decided.decision if decided else None
    ]  # fmt: skip
    is_system = _is_system(newest.row)
    is_skipped = is_system and rules.system_participants == "skip"
    is_rated = decision == "released" or (decision != "excluded" and not any(reasons.values()))
    counts = is_rated and not is_skipped and found.seconds is not None
    connect_min = newest.row["connect_min"]
    row = newest.row | {
        "day": day_of(newest.row),
        "cdr_id_is_derived": record.is_derived,
        "participant_s": found.seconds if counts else None,
        "participant_min": Decimal(found.minutes) if counts and found.minutes is not None else None,
        "participant_s_from": found.source,
        "connect_min_looks_like_seconds": (
            None if connect_min is None or found.seconds is None else stays.exceeds(connect_min, found)
        ),
        "suspense": names,
        "is_listed": is_listed,
        "is_system": is_system,
        "last_seen_at": None
        if is_listed
        else max(listed.last_seen_at(one.place.stored) for one in record.observations),
        "revision": newest.revision,
        "first_seen_at": all_versions[0].known_from,
        "changed_at": newest.known_from,
    }
    row["began_at"], end = _span(newest.row, is_believed=decision == "released" or "stay_too_long" not in reasons)
    return Connection(
        row,
        found,
        reasons,
        decision,
        decided,
        row["began_at"],
        end,
        counted_s=found.seconds if counts and found.seconds is not None else Fraction(0),
        billed_min=newest.row["connect_billed_min"] if counts and "vendor_minutes" not in reasons else None,
        record=record,
    )


def history(record: Record) -> list[Row]:
    """Ids, days and times of earlier versions."""
    return [
        {
            "cdr_id": record.id,
            "revision": version.revision,
            "day": day_of(version.row),
            "known_from": version.known_from,
            "known_to": version.known_to,
        }
        for version in versions(record)[:-1]
    ]


def suspense_rows(
    connections: Iterable[Connection], rejects: Iterable[Reject], listed: Listing, rules: Rules
) -> list[Row]:
    rows = [
        {
            "suspense_id": one.row["cdr_id"],
            "day": one.row["day"],
            **{name: one.row[name] for name in ("conf_num", "room_id", "owner_ref", "billing_code")},
            "reasons": one.row["suspense"],
            "is_held": any(one.reasons.values()),
            "at_stake_min": one.at_stake_min,
            "began_at": one.start,
            **_decided(one.decision, one.decided),
        }
        for one in connections
        if one.reasons
    ]
    return rows + [_rejected(reject, rules) for reject in _listed_rejects(rejects, listed)]


def _listed_rejects(rejects: Iterable[Reject], listed: Listing) -> list[Reject]:
    """Rejects that EnableX lists now, of consecutive days on the first; not those that belong to another day."""
    found = {
        (reject.document.sha256, reject.place.stored.reply.day): reject
        for reject in rejects
        if listed.has(reject.place.stored) and not _is_foreign(reject)
    }
    return [reject for (sha256, day), reject in found.items() if (sha256, day - timedelta(days=1)) not in found]


def _is_foreign(reject: Reject) -> bool:
    if not reject.reason.startswith("more than 3 days"):
        return False
    row = readable(reject.document.value)
    starts = [row[name].date() for name in CONNECT_TIMES if row[name]]
    return not any(within_days(start, reject.place.stored.reply.day) for start in starts)


def _rejected(reject: Reject, rules: Rules) -> Row:
    row = readable(reject.document.value if reject.document.is_json else None)
    minutes = stays.stay(row, rules).minutes
    suspense_id = f"reject-{reject.document.sha256[:24]}"
    decided = _decision(suspense_id, stays.REJECTED, minutes, rules)
    is_excluded = decided is not None and decided.decision == "exclude"
    return {
        "suspense_id": suspense_id,
        "day": reject.place.stored.reply.day,
        **{name: row[name] for name in ("conf_num", "room_id", "owner_ref", "billing_code")},
        "reasons": stays.REJECTED,
        "is_held": True,
        "at_stake_min": minutes,
        "began_at": None,
        **_decided("excluded" if is_excluded else "open", decided if is_excluded else None),
    }


def reject_rows(rejects: Iterable[Reject]) -> list[Row]:
    """`asked_at` instead of `source_key`: every reply has a time of its own."""
    return [
        {
            "asked_at": reject.place.stored.first_at,
            "ordinal": reject.place.ordinal,
            "source": reject.place.stored.reply.source,
            "day": reject.place.stored.reply.day,
            "reason": reject.reason,
        }
        for reject in rejects
    ]


def _decided(decision: str, decided: Decision | None) -> Row:
    return {
        "decision": decision,
        "decided_at": decided.decided_at if decided else None,
        "decided_because": decided.because if decided else None,
    }


def _decision(suspense_id: str, reasons: str | None, at_stake_min: int | None, rules: Rules) -> Decision | None:
    """The newest decision that was made for these reasons and minutes."""
    for one in in_order(rules.decisions, suspense_id):
        if (one.reasons, one.at_stake_min) == (reasons, at_stake_min):
            return one
    return None


def _span(row: Mapping[str, Any], *, is_believed: bool) -> tuple[datetime, datetime]:
    """Start and end of a connection in its session (rules, section 6)."""
    day, moment_of_row = day_of(row), moment(row)
    assert moment_of_row is not None
    start = stays.began_at(row, day, moment_of_row)
    ends = [row[name] for name in ("signal_disconnected_at", "room_disconnected_at") if row[name]]
    ends = [end for end in ends if within_days(end.date(), day) and end >= start]
    end = max(ends, default=max(moment_of_row, start))
    return start, end if is_believed else start


def _is_system(row: Mapping[str, Any]) -> bool:
    published = any(row[f"published_{kind}"] for kind in ("audio", "video", "data", "screen", "url"))
    return not published and "headless" in (row["user_agent"] or "").lower()
