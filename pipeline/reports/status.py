"""Facts to summaries (pure)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.models import Period


def is_settled(day: date, last_asked: datetime | None, lookback_days: int) -> bool:
    """Whether a day was asked for so long after its end that nothing late is expected any more."""
    return last_asked is not None and last_asked.date() >= day + timedelta(days=max(1, lookback_days))


def day_states(
    last_asked: Mapping[date, datetime], since: date | None, today: date, lookback_days: int
) -> dict[str, Any]:
    """Which days are missing (never collected), provisional (may still change), and how many are settled."""
    first = min((day for day in (since, *last_asked) if day is not None), default=None)
    if first is None:
        return {"first": None, "missing": [], "provisional": [], "settled": 0}
    states: dict[str, list[str]] = {"missing": [], "provisional": [], "settled": []}
    for day in Period(first, max(first, today)):
        if day not in last_asked:
            states["missing"].append(str(day))
        elif is_settled(day, last_asked[day], lookback_days):
            states["settled"].append(str(day))
        else:
            states["provisional"].append(str(day))
    return {"first": str(first), **states, "settled": len(states["settled"])}


LATENESS_SQL = """
WITH lately AS (SELECT * FROM cdr WHERE day >= DATE '{first}'),
     days AS (SELECT project, day, min(first_seen_at) AS began FROM lately GROUP BY ALL),
     seen AS (
        SELECT project, coalesce(trans_at, signal_disconnected_at, room_disconnected_at) AS written_at,
               first_seen_at, changed_at
        FROM lately JOIN days USING (project, day) WHERE began < day + INTERVAL 2 DAY),
     late AS (
        SELECT project, epoch(first_seen_at - written_at) / 3600 AS known_h,
               epoch(greatest(first_seen_at, changed_at) - written_at) / 3600 AS settled_h
        FROM seen WHERE written_at IS NOT NULL)
SELECT project, count(*) AS rows, max(known_h) AS latest_h, max(settled_h) AS settled_h,
       {shares}
FROM late GROUP BY project
"""
"""Days that were first asked for long after their end (a backfill) say nothing about EnableX's lateness."""

LATENESS_DAYS = 31
_LATENESS_STEPS_H = {"1 h": 1, "6 h": 6, "1 day": 24, "2 days": 48, "3 days": 72}


def lateness_sql(today: date) -> str:
    """One row per project: how long after they were written the rows of the last month were first collected."""
    shares = ", ".join(f"avg((known_h <= {hours})::INT) AS within_{hours}_h" for hours in _LATENESS_STEPS_H.values())
    return LATENESS_SQL.format(first=today - timedelta(days=LATENESS_DAYS), shares=shares)


def lateness(row: Mapping[str, Any], lookback_days: int) -> dict[str, Any]:
    """One row of `lateness_sql` as `status` tells it; `hint` when rows still came or changed as lookback ended."""
    is_short = row["settled_h"] > (lookback_days - 1) * 24
    return {
        "rows": row["rows"],
        "known_after": {step: round(row[f"within_{hours}_h"], 4) for step, hours in _LATENESS_STEPS_H.items()},
        "latest_h": round(row["latest_h"], 1),
        "settled_h": round(row["settled_h"], 1),
        "hint": f"rows still came or changed {row['settled_h'] / 24:.1f} days after they were written;"
        f" collect.lookback_days = {lookback_days} may be too short"
        if is_short
        else None,
    }


UNLISTED_SQL = """
WITH recorded AS (
        SELECT project, conf_num, min(day) AS day,
               max(coalesce(signal_disconnected_at, room_disconnected_at, trans_at)) AS ended_at
        FROM cdr WHERE room_auto_recording AND day >= DATE '{first}' GROUP BY project, conf_num),
     listed AS (SELECT DISTINCT project, conf_num FROM media WHERE day >= DATE '{first}')
SELECT project, day, conf_num FROM recorded ANTI JOIN listed USING (project, conf_num)
WHERE ended_at < TIMESTAMPTZ '{ended_before}' ORDER BY project, day, conf_num
"""

_LISTED_WITHIN = timedelta(hours=24)
"""An archive record may appear hours after its session (docs/enablex-api.md section 12)."""


def unlisted_sql(now: datetime) -> str:
    """Sessions of the last month in rooms that record by themselves, a day after which no file is listed yet."""
    first = now.date() - timedelta(days=LATENESS_DAYS)
    return UNLISTED_SQL.format(first=first, ended_before=(now - _LISTED_WITHIN).isoformat())


def store_sizes(listing: Iterable[tuple[str, int]]) -> dict[str, dict[str, int]]:
    """Objects and bytes per kind, which is the first part of their key, from (key, size) in any order."""
    sizes: dict[str, dict[str, int]] = defaultdict(lambda: {"objects": 0, "bytes": 0})
    for key, size_bytes in listing:
        kind = sizes[key.partition("/")[0]]
        kind["objects"] += 1
        kind["bytes"] += size_bytes
    return dict(sorted(sizes.items()))


def media_states(media: pa.Table) -> dict[str, dict[str, int]]:
    """Files and bytes per state, from columns `state` and `size_bytes` of `media`."""
    counted = {}
    for state in sorted(media["state"].unique().to_pylist()):
        sizes = media["size_bytes"].filter(pc.equal(media["state"], state))
        counted[state] = {"files": len(sizes), "bytes": pc.sum(sizes).as_py() or 0}
    return counted
