"""CDR documents to rows of `cdr` (pure).

Source: docs/enablex-api.md section 4 (both documented shapes), 11 and 12 (observed habits).
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import msgspec

from pipeline.errors import RecordError
from pipeline.model import Row
from pipeline.normalise import values
from pipeline.schemas import CDR

_FIELDS = tuple(
    (column.name, tuple(column.path.split(".")), values.reader(column.type)) for column in CDR.columns if column.path
)
_NAMES = tuple(column.name for column in CDR.columns)
_IDENTITY = ("app_id", "conf_num", "call_log_id", "call_num", "user_ref", "signal_connected_at")
_TIMES = (
    "trans_at",
    "signal_disconnected_at",
    "room_disconnected_at",
    "signal_connected_at",
    "room_connected_at",
)

_SECRETS = (
    ("user", "token"),
    ("room", "room_details", "sip", "pin"),
    ("room", "room_details", "sip", "password"),
)
"""Never in a table (design.md section 4)."""

_ELSEWHERE = (("stats_quality",),)
"""Has a table of its own to come; until then it is in the vault's raw pages only."""


@dataclass(frozen=True)
class Observation:
    """One document of one page, as a row, and when the page was asked for."""

    seen_at: datetime
    row: Row


def cdr_row(document: Any) -> Row:
    """Turn one CDR document into one row of `cdr`, but for what only its history tells.

    Row: one participant's connection. Key: `cdr_id`. Times: UTC, milliseconds. `revision`, `first_seen_at` and
    `changed_at` are filled by `newest_versions`. A value that fits no column leaves a null and stays, under its path,
    in `extra`, as do unknown fields.

    Raises:
        RecordError: not an object, no `conf_num`, or no time at all (section 11.8: never require more).
    """
    if not isinstance(document, dict):
        raise RecordError("not an object", value=document)
    row: Row = dict.fromkeys(_NAMES)
    misfits: list[tuple[str, ...]] = []
    for name, path, read in _FIELDS:
        value = _at(document, path)
        try:
            row[name] = read(value)
        except ValueError:
            misfits.append(path)
    if row["conf_num"] is None:
        raise RecordError("missing or unreadable", path="conf_num", value=document.get("conf_num"))
    if not any(row[name] for name in _TIMES):
        raise RecordError("no readable time in the whole document", path="trans_date", value=document.get("trans_date"))
    row["is_sip"] = bool(row["is_sip"])
    row["cdr_id_is_derived"] = row["cdr_id"] is None
    row["cdr_id"] = row["cdr_id"] or _derived_id(row)
    row["participant_s"] = participant_s(row)
    row["participant_min"] = whole_minutes(row["participant_s"])
    row["extra"] = _extra(document, misfits)
    return row


def row_day(row: Row) -> date:
    """The UTC date a row is filed under: of `trans_at`, else of its latest time."""
    moment: datetime = next(row[name] for name in _TIMES if row[name])
    return moment.astimezone(UTC).date()


def participant_s(row: Mapping[str, Any]) -> float | None:
    """Exact seconds of a connection: `signal_*` when both ends exist, else `room_*` (section 11.6); never negative."""
    for connected, disconnected in (
        ("signal_connected_at", "signal_disconnected_at"),
        ("room_connected_at", "room_disconnected_at"),
    ):
        start, end = row[connected], row[disconnected]
        if start and end and end >= start:
            return float((end - start).total_seconds())
    return None


def whole_minutes(seconds: float | None) -> Decimal | None:
    """Minutes rounded up (section 10: "per-minute basis"), as billed."""
    return None if seconds is None else Decimal(-(-round(seconds * 1000) // 60_000))


def newest_versions(observations: Iterable[Observation]) -> list[Row]:
    """One row per `cdr_id`: its newest version, with `revision`, `first_seen_at`, `changed_at`; sorted by key.

    Blind to the order of observations and to how rows were spread over pages: of several contents seen at the same
    moment the greatest in byte order stands for that moment.
    """
    histories: dict[str, dict[datetime, Row]] = defaultdict(dict)
    for seen in observations:
        history = histories[seen.row["cdr_id"]]
        rival = history.get(seen.seen_at)
        if rival is None or (rival != seen.row and _content(seen.row) > _content(rival)):
            history[seen.seen_at] = seen.row
    return [_newest(histories[key]) for key in sorted(histories)]


def _newest(history: Mapping[datetime, Row]) -> Row:
    moments = sorted(history)
    current, revision, changed_at = history[moments[0]], 1, moments[0]
    for moment in moments[1:]:
        if history[moment] != current:
            current, revision, changed_at = history[moment], revision + 1, moment
    return {**current, "revision": revision, "first_seen_at": moments[0], "changed_at": changed_at}


def _content(row: Row) -> bytes:
    return msgspec.json.encode(list(row.values()))


def _derived_id(row: Row) -> str:
    """A key for a document without `cdr_id` (section 11.9)."""
    parts = [values.text(row[name]) if isinstance(row[name], str) else str(row[name] or "") for name in _IDENTITY]
    return "derived-" + hashlib.sha256("\x1f".join(part or "" for part in parts).encode()).hexdigest()[:24]


def _at(document: Any, path: Iterable[str]) -> Any:
    for key in path:
        if not isinstance(document, dict):
            return None
        document = document.get(key)
    return document


def _tree(paths: Iterable[tuple[str, ...]]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path in paths:
        branch = tree
        for key in path[:-1]:
            branch = branch.setdefault(key, {})
        branch[path[-1]] = None
    return tree


_TAKEN = _tree([*(path for _, path, _ in _FIELDS), *_SECRETS, *_ELSEWHERE])


def _extra(document: Mapping[str, Any], misfits: Iterable[tuple[str, ...]]) -> str | None:
    rest = _leftover(document, _TAKEN)
    for path in misfits:
        branch = rest
        for key in path[:-1]:
            branch = branch.setdefault(key, {})
        branch[path[-1]] = _at(document, path)
    return msgspec.json.encode(rest, order="deterministic").decode() if rest else None


def _leftover(document: Mapping[str, Any], taken: Mapping[str, Any]) -> dict[str, Any]:
    """What no column takes; a branch that is taken in part keeps the rest; null and empty text say nothing."""
    rest: dict[str, Any] = {}
    for key, value in document.items():
        if value is None or value == "" or (key in taken and taken[key] is None):
            continue
        kept = _leftover(value, taken.get(key, {})) if isinstance(value, dict) else value
        if kept != {}:
            rest[key] = kept
    return rest
