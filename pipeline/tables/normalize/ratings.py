"""Rate connections: what of a CDR is believed, for how long, and what is in suspense (pure).

Source: enablex-api.md sections 10 and 11.6: time from `sigserver` when both ends exist, else from `room`; "per-minute
basis". A record that contradicts itself is held: its minutes are null until someone decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.arrow_types import BILLED, COUNT, FLAG, REAL, TEXT, TIME
from pipeline.core.models import DecisionOutcome
from pipeline.tables.normalize.arrow_ops import Column, decimals, mask, unscaled
from pipeline.tables.normalize.cdr import TIMES

NEAR_DAYS = 3
"""A time of a connection further than this from the day of its record is not believed to be its begin or end."""

OPEN, RELEASED, EXCLUDED = 0, 1, 2
"""What was decided about a row."""

UNKNOWN = -1
"""Milliseconds of a stay that is not known."""

REASONS = (
    "not_listed", "same_id_twice", "stay_contradicts", "stay_too_long", "stay_unknown", "times_missing",
    "vendor_minutes",
)  # fmt: skip
"""Why a row of `cdr` is in suspense, sorted. `rejected` is the reason of a document without a row."""

_MINUTE_MS = 60_000
_DAY_MS = 86_400_000
_FALLBACKS = (("signal_duration", "signal_duration_s", 1000), ("room_duration", "room_duration_s", 1000))
_SIDES = ("signal", "room")
_FROM = (*_SIDES, *(name for name, _, _ in _FALLBACKS), "connect_billed_min")
_PUBLISHED = ("published_audio", "published_video", "published_data", "published_screen", "published_url")


@dataclass(frozen=True)
class RatingRules:
    """Settings of `[suspense]`. Durations in milliseconds."""

    max_stay_ms: int = 24 * 3600 * 1000
    tolerance_ms: int = 10 * _MINUTE_MS
    holds_unlisted: bool = False
    skips_system: bool = False


class Decision(NamedTuple):
    """What was decided for one record, when and why."""

    outcome: DecisionOutcome
    decided_at: datetime
    because: str


Decisions = Mapping[tuple[str, str, Decimal | None], Decision]
"""The newest decision by id, reasons and minutes at stake: another version of a record is open again."""


@dataclass(frozen=True)
class Rated:
    """Rows with the columns of `RATED`, and per row what table `suspense` needs.

    `is_held`: its minutes are withheld, before decisions. `stake_ms`: its stay, `UNKNOWN` if there is none.
    `outcome`: `OPEN`, `RELEASED` or `EXCLUDED`.
    """

    rows: pa.Table
    is_held: np.ndarray
    stake_ms: np.ndarray
    outcome: np.ndarray


def rate(
    rows: pa.Table, rules: RatingRules, decisions: Decisions, marks: Mapping[str, np.ndarray] | None = None
) -> Rated:
    """Add the columns of `RATED` to rows with the columns of `CDR_CONTENT` and `day`.

    `marks`: masks of rows by name: `is_unlisted`; `is_repeated` (its `cdr_id` names another record of the same response
    too); `is_repeated_in_session` (and that is in the same session, so only one of them can be right).
    """
    none = np.zeros(rows.num_rows, bool)
    marks = {"is_unlisted": none, "is_repeated": none, "is_repeated_in_session": none, **(marks or {})}
    stay_ms, origin = _stays(rows, rules)
    is_timed = (origin >= 0) & (origin < len(_SIDES))
    billed_ms = _vendor_ms(rows)
    reasons = {
        "not_listed": marks["is_unlisted"],
        "same_id_twice": marks["is_repeated"],
        "stay_too_long": is_timed & (stay_ms > rules.max_stay_ms),
        "stay_contradicts": is_timed & _contradicts(rows, stay_ms, origin, billed_ms, rules),
        "stay_unknown": stay_ms == UNKNOWN,
        "times_missing": (stay_ms != UNKNOWN) & ~is_timed,
        "vendor_minutes": _is_absurd(rows, stay_ms),
    }
    is_held = reasons["stay_too_long"] | reasons["stay_contradicts"] | reasons["stay_unknown"]
    is_held |= marks["is_repeated_in_session"] | (reasons["not_listed"] & rules.holds_unlisted)
    codes = sum(reasons[name].astype(np.int64) << bit for bit, name in enumerate(REASONS))
    texts = _reason_texts(codes)
    outcome = _outcomes(rows, codes, texts, stay_ms, decisions)
    is_system = _is_system(rows)
    is_withheld = (is_held & (outcome != RELEASED)) | (outcome == EXCLUDED) | (is_system & rules.skips_system)
    is_rated = ~is_withheld & (stay_ms != UNKNOWN)
    origins = pa.array([*_FROM, None], TEXT).take(pa.array(np.where(origin >= 0, origin, len(_FROM))))
    added = {
        "connect_min_looks_like_seconds": _looks_like_seconds(rows["connect_min"], stay_ms),
        "began_at": _began_at(rows, origin),
        "participant_s": pa.array(stay_ms / 1000.0, REAL, mask=~is_rated),
        "participant_s_from": origins,
        "participant_min": pc.if_else(pa.array(is_rated), whole_minutes(stay_ms), pa.scalar(None, BILLED)),
        "is_system": pa.array(is_system, FLAG),
        "suspense": texts,
    }
    for name, column in added.items():
        rows = rows.append_column(name, column)
    return Rated(rows, is_held, stay_ms, outcome)


def whole_minutes(stay_ms: np.ndarray) -> pa.Array:
    """Milliseconds as minutes, rounded up."""
    return decimals(-(-np.maximum(stay_ms, 0) // _MINUTE_MS) * 10**BILLED.scale, BILLED)


def believed_vendor_minutes(rows: pa.Table) -> Column:
    """Whether EnableX's minutes of each row of `cdr` count: it has a stay, and they are not absurd for it."""
    is_absurd = pc.match_substring(pc.fill_null(rows["suspense"], ""), "vendor_minutes")
    return pc.and_(pc.is_valid(rows["participant_s"]), pc.invert(is_absurd))


def is_open(suspense: Column, outcome: np.ndarray) -> np.ndarray:
    """Whether each row is in suspense without a decision."""
    open_rows: np.ndarray = mask(pc.is_valid(suspense)) & (outcome == OPEN)
    return open_rows


def _ms(times: Column) -> np.ndarray:
    """Times as milliseconds since 1970; the least integer for null."""
    ms: np.ndarray = pc.fill_null(pc.cast(times, COUNT), _NO_TIME).to_numpy()
    return ms


_NO_TIME = np.iinfo(np.int64).min // 4


def _stays(rows: pa.Table, rules: RatingRules) -> tuple[np.ndarray, np.ndarray]:
    """The stay of each connection in milliseconds, and its origin as an index of `_FROM` (-1: none)."""
    stay_ms, origin = np.full(rows.num_rows, UNKNOWN), np.full(rows.num_rows, -1)
    for index, side in enumerate(_SIDES):
        start, end = _ms(rows[f"{side}_connected_at"]), _ms(rows[f"{side}_disconnected_at"])
        usable = (origin < 0) & (start != _NO_TIME) & (end >= start)
        stay_ms[usable], origin[usable] = (end - start)[usable], index
    if (origin < 0).any():
        stated = [np.rint(pc.fill_null(rows[name], -1.0).to_numpy() * unit) for _, name, unit in _FALLBACKS]
        for index, duration_ms in enumerate([*stated, _vendor_ms(rows)], len(_SIDES)):
            usable = (origin < 0) & (duration_ms >= 0) & (duration_ms <= rules.max_stay_ms)
            stay_ms[usable], origin[usable] = duration_ms[usable].astype(np.int64), index
    return stay_ms, origin


def _vendor_ms(rows: pa.Table) -> np.ndarray:
    """`connect_billed_min` in milliseconds; `UNKNOWN` if null, below 0 as stated."""
    minutes = rows["connect_billed_min"]
    return np.where(mask(pc.is_valid(minutes)), unscaled(minutes) * (_MINUTE_MS // 1000), UNKNOWN)


def _contradicts(
    rows: pa.Table, stay_ms: np.ndarray, origin: np.ndarray, billed_ms: np.ndarray, rules: RatingRules
) -> np.ndarray:
    """Whether a stay differs from the duration that EnableX states for the same times, else from its billed minutes."""
    durations = [np.rint(pc.fill_null(rows[name], -1.0).to_numpy() * unit) for _, name, unit in _FALLBACKS]
    stated = np.choose(np.clip(origin, 0, 1), durations)
    stated = np.where(stated >= 0, stated, billed_ms)
    tolerance = np.maximum(rules.tolerance_ms, stay_ms // 10)
    contradicts: np.ndarray = (stated >= 0) & (np.abs(stay_ms - stated) > tolerance)
    return contradicts


def _is_absurd(rows: pa.Table, stay_ms: np.ndarray) -> np.ndarray:
    """Whether EnableX's own minutes are negative or far above the stay."""
    billed, stated = rows["connect_billed_min"], pc.fill_null(rows["connect_min"], 0.0).to_numpy()
    thousandths = np.where(mask(pc.is_valid(billed)), unscaled(billed), 0)
    limit = np.where(stay_ms == UNKNOWN, np.inf, 1.5 * stay_ms / 60.0 + 2000.0)
    absurd: np.ndarray = (thousandths < 0) | (stated < 0) | (thousandths > limit)
    return absurd


def _looks_like_seconds(connect_min: Column, stay_ms: np.ndarray) -> pa.Array:
    """Whether minutes far exceed the stay (section 11.7); null if either is unknown."""
    limit = pa.array(stay_ms / 1000.0 * 1.5 / 60.0 + 2.0, REAL, mask=stay_ms == UNKNOWN)
    return pc.greater(connect_min, limit)


def _began_at(rows: pa.Table, origin: np.ndarray) -> Column:
    """Connect time on the side that `participant_s` counts, else any, else the moment of the record.

    A connect time more than `NEAR_DAYS` from the day of the record is not believed.
    """
    moment, day = _ms(pc.coalesce(*(rows[name] for name in TIMES))), pc.cast(rows["day"], pa.int32()).to_numpy()
    signal, room = (_near(_ms(rows[f"{side}_connected_at"]), day) for side in _SIDES)
    first, second = np.where(origin == 0, signal, room), np.where(origin == 0, room, signal)
    began = np.where(first != _NO_TIME, first, np.where(second != _NO_TIME, second, moment))
    return pa.array(began, COUNT).cast(TIME)


def _near(times_ms: np.ndarray, day: np.ndarray) -> np.ndarray:
    """The times, with `_NO_TIME` for those that are too far from the day."""
    near: np.ndarray = np.where(np.abs(times_ms // _DAY_MS - day) <= NEAR_DAYS, times_ms, _NO_TIME)
    return near


def ended_ms(rows: pa.Table) -> np.ndarray:
    """When each rated connection ended, for its session: the latest end that is believed, not before `began_at`.

    If there is none, the moment of the record; for a stay that is too long to be believed, `began_at`.
    """
    day, began = pc.cast(rows["day"], pa.int32()).to_numpy(), _ms(rows["began_at"])
    ends = [_near(_ms(rows[f"{side}_disconnected_at"]), day) for side in _SIDES]
    latest = np.maximum(*ends)
    moment = _ms(pc.coalesce(*(rows[name] for name in TIMES)))
    ended = np.where(latest >= began, latest, np.maximum(moment, began))
    is_unbelieved = pc.and_(pc.match_substring(pc.fill_null(rows["suspense"], ""), "stay_too_long"),
                            pc.is_null(rows["participant_s"]))  # fmt: skip
    return np.where(mask(is_unbelieved), began, ended)


def _is_system(rows: pa.Table) -> np.ndarray:
    """Connections that EnableX adds (section 12): nothing published, and a headless browser."""
    headless = pc.fill_null(pc.match_substring(rows["user_agent"], "headless", ignore_case=True), False)
    if not pc.any(headless).as_py():
        return np.zeros(rows.num_rows, bool)
    published = np.zeros(rows.num_rows, bool)
    for name in _PUBLISHED:
        published |= mask(pc.fill_null(rows[name], False))
    return mask(headless) & ~published


def _reason_texts(codes: np.ndarray) -> pa.Array:
    distinct, at = np.unique(codes, return_inverse=True)
    texts = [", ".join(name for bit, name in enumerate(REASONS) if code >> bit & 1) or None for code in distinct]
    return pa.array(texts, TEXT).take(pa.array(at))


def _outcomes(
    rows: pa.Table, codes: np.ndarray, texts: pa.Array, stay_ms: np.ndarray, decisions: Decisions
) -> np.ndarray:
    outcome = np.zeros(rows.num_rows, np.int8)
    if decisions and codes.any():
        decided = pa.array(sorted({suspense_id for suspense_id, _, _ in decisions}), TEXT)
        at = np.flatnonzero((codes != 0) & mask(pc.is_in(rows["cdr_id"], decided)))
        picked = pa.array(at)
        for index, cdr_id, reasons in zip(
            at.tolist(), rows["cdr_id"].take(picked).to_pylist(), texts.take(picked).to_pylist(), strict=True
        ):
            if decision := decisions.get((cdr_id, reasons, stake_min(int(stay_ms[index])))):
                outcome[index] = RELEASED if decision.outcome == "released" else EXCLUDED
    return outcome


def stake_min(stay_ms: int) -> Decimal | None:
    """Whole minutes of a stay; None if it is unknown."""
    return None if stay_ms == UNKNOWN else Decimal(-(-stay_ms // _MINUTE_MS))
