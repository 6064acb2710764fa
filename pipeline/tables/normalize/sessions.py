"""Turn the newest versions of connections into rows of `sessions` (pure).

One `conf_num` can be used for weeks (a room that is never empty). Its connections are divided by a rule that needs no
more than `CONTEXT_DAYS` around a session, so the result does not depend on what else is built. Sums are of integers and
decimals (milliseconds, millionths of a minute), so they are exact and independent of order.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.arrow_types import BILLED, COUNT, MONEY, REAL, TEXT, TIME
from pipeline.core.models import ListedFile
from pipeline.tables.normalize.arrow_ops import (
    decimals,
    last_valid,
    mask,
    number_and_time,
    numbered,
    per_million,
    repeats_before,
)
from pipeline.tables.normalize.ratings import Rated, believed_vendor_minutes, ended_ms, is_open
from pipeline.tables.schemas import CDR, SESSIONS

LONGEST_MS = 24 * 3600 * 1000
"""Starts of one `conf_num` at most this far apart form a chain. A chain whose first and last start are further apart is
divided by UTC day."""

FILE_DAYS = 3
"""A file belongs to a session of which a connection started at most this many days before the archive record."""

CONTEXT_DAYS = (FILE_DAYS, FILE_DAYS + 1)
"""Days before and after the day of a session on which connections can start that decide about it: 2 for its chain, and
those that can own a file of its day, or one that was listed up to `FILE_DAYS` after its last connection."""

FILE_TOLERANCE = timedelta(hours=1)
"""An archive record can be dated this long before the connection whose file it lists: clocks of two services."""

_DAY_MS = 86_400_000
_FROM_ROOM = (
    "room_id", "room_name", "owner_ref", "billing_code", "room_mode", "room_is_scheduled", "room_is_adhoc",
)  # fmt: skip
_MEASURED = ("published_min", "subscribed_min", "screen_min")
_BILLED = ("participant_min", "connect_billed_min")

CONNECTION = pa.schema(
    [
        *(CDR.schema.field(name) for name in ("cdr_id", "conf_num", *_FROM_ROOM, "user_ref", "is_sip", "began_at")),
        pa.field("day", pa.date32()),
        pa.field("ended_at", TIME),
        pa.field("is_open", pa.bool_()),
        pa.field("participant_ms", COUNT),
        *(CDR.schema.field(name) for name in (*_BILLED, "price")),
        *(pa.field(name, COUNT) for name in _MEASURED),
    ]
)
"""Columns of a connection that sessions and usage need; measured minutes in millionths of a minute."""


def connection_table(rated: Rated) -> pa.Table:
    """Rows of `cdr` (with `day`) as `CONNECTION`. EnableX's minutes count only where they can be believed."""
    rows = rated.rows
    columns = {
        "ended_at": pa.array(ended_ms(rows), COUNT).cast(TIME),
        "is_open": pa.array(is_open(rows["suspense"], rated.outcome)),
        "participant_ms": pc.cast(pc.round(pc.multiply(rows["participant_s"], 1000.0)), COUNT),
        "connect_billed_min": pc.if_else(
            believed_vendor_minutes(rows), rows["connect_billed_min"], pa.scalar(None, BILLED)
        ),
        **{name: per_million(rows[name]) for name in _MEASURED},
    }
    arrays = [columns[name] if name in columns else rows[name] for name in CONNECTION.names]
    return pa.table(arrays, schema=CONNECTION)


class Sessions(NamedTuple):
    """Rows of `sessions` with `day`, and for each connection the row of its session."""

    rows: pa.Table
    place: np.ndarray


class SessionFiles:
    """Listed files, and the session that each belongs to.

    `owners` has one row per file of a session: `file` (index in `files`) and columns of its session.
    """

    def __init__(self, files: Sequence[ListedFile]) -> None:
        self._conf_nums = pa.array([file.conf_num for file in files], TEXT)
        ended_at = pa.array([file.ended_at for file in files], TIME)
        self._ended_ms = ended_at.cast(COUNT).to_numpy()
        self._kinds = np.array([file.kind for file in files], object)

    def sessions_of(self, conf_nums: pa.ChunkedArray, began_ms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Files of connections sorted by `conf_num` and start: indexes of files, and of the connection of each."""
        codes, names = numbered(conf_nums)
        code_of_file = pc.index_in(self._conf_nums, names)
        files = np.flatnonzero(mask(pc.is_valid(code_of_file)))
        if not len(files):
            return files, files
        of_file = code_of_file.drop_null().to_numpy().astype(np.int64)
        ended_ms = self._ended_ms[files]
        limit = number_and_time(of_file, ended_ms + FILE_TOLERANCE // timedelta(milliseconds=1))
        following = np.searchsorted(number_and_time(codes, began_ms), limit, side="right")
        day, began_day = ended_ms // _DAY_MS, began_ms // _DAY_MS
        latest, after = np.maximum(following - 1, 0), np.minimum(following, len(codes) - 1)
        is_latest = (following > 0) & (codes[latest] == of_file) & (began_day[latest] >= day - FILE_DAYS)
        is_after = (following < len(codes)) & (codes[after] == of_file) & (began_day[after] <= day)
        at = np.where(is_latest, latest, np.where(is_after, after, -1))
        return files[at >= 0], at[at >= 0]

    def counts(self, files: np.ndarray, at: np.ndarray, sessions: int) -> np.ndarray:
        """Three columns by session: files, recordings, transcoded files; `at`: the session of each of `files`."""
        kinds = self._kinds[files]
        masks = [np.ones(len(files), bool), kinds == "recording", kinds == "transcoded"]
        columns = [np.bincount(at[is_kind], minlength=sessions) for is_kind in masks]
        counts: np.ndarray = np.column_stack(columns)
        return counts


def session_table(connections: pa.Table, files: SessionFiles) -> tuple[Sessions, pa.Table]:
    """Sessions, sorted by `conf_num` and start, of connections sorted by `conf_num`, `day` and `cdr_id`; their files.

    The second table has `file` (index) and the columns `FILE_SESSION` of its session. The day of a session is the UTC
    date of its first connection. Each room column has the last value that is not null, because old-shape connections
    lack columns that new-shape connections of the same session have.
    """
    began_ms = _ms(connections["began_at"])
    conf_codes = np.cumsum(~repeats_before(connections["conf_num"]))
    order = np.lexsort((began_ms, conf_codes))
    connections, began_ms = connections.take(pa.array(order)), began_ms[order]
    numbers = session_numbers(conf_codes[order], began_ms)
    starts = np.flatnonzero(np.diff(numbers, prepend=-1))
    count = len(starts)
    file_at, connection_at = files.sessions_of(connections["conf_num"], began_ms)
    counts = files.counts(file_at, numbers[connection_at], count)
    rows = _session_rows(connections, numbers, starts, counts)
    place = np.empty(len(order), np.int64)
    place[order] = numbers
    owners = rows.take(pa.array(numbers[connection_at])).select(FILE_SESSION.names)
    return Sessions(rows, place), owners.append_column("file", pa.array(file_at, COUNT))


def session_numbers(conf_codes: np.ndarray, began_ms: np.ndarray) -> np.ndarray:
    """The number of the session of each connection, from 0; connections are sorted by `conf_num` and start."""
    if not len(began_ms):
        return np.zeros(0, np.int64)
    gap = np.diff(began_ms, prepend=began_ms[0]) > LONGEST_MS
    is_new = np.diff(conf_codes, prepend=conf_codes[0] - 1) != 0
    chain = np.cumsum(is_new | gap) - 1
    firsts = np.flatnonzero(np.diff(chain, prepend=-1))
    lasts = np.append(firsts[1:], len(chain)) - 1
    is_long = (began_ms[lasts] - began_ms[firsts] > LONGEST_MS)[chain]
    next_day = np.diff(began_ms // _DAY_MS, prepend=began_ms[0] // _DAY_MS) != 0
    numbers: np.ndarray = np.cumsum(np.diff(chain, prepend=-1).astype(bool) | (is_long & next_day)) - 1
    return numbers


def _session_rows(connections: pa.Table, numbers: np.ndarray, starts: np.ndarray, counts: np.ndarray) -> pa.Table:
    anonymous = pc.cast(pc.is_null(connections["user_ref"]), COUNT)
    grouped = (
        connections.append_column("session", pa.array(numbers))
        .append_column("anonymous", anonymous)
        .append_column("sip", pc.cast(connections["is_sip"], COUNT))
        .append_column("open", pc.cast(connections["is_open"], COUNT))
        .group_by("session")
        .aggregate(
            [
                ("began_at", "min"),
                ("ended_at", "max"),
                ("cdr_id", "count"),
                ("user_ref", "count_distinct"),
                *(
                    (name, "sum")
                    for name in ("anonymous", "sip", "open", "participant_ms", *_BILLED, "price", *_MEASURED)
                ),
            ]
        )
        .sort_by("session")  # groups are unordered
    )
    duration_ms = np.maximum(0, _ms(grouped["ended_at_max"]) - _ms(grouped["began_at_min"]))
    is_recorded, is_transcoded = counts[:, 1] > 0, counts[:, 2] > 0
    participant_min = pc.fill_null(pc.cast(grouped["participant_min_sum"], BILLED), 0)
    transcoding_min = np.where(is_transcoded, -(-duration_ms // 60_000), 0)
    columns = {
        "conf_num": connections["conf_num"].take(pa.array(starts)),
        **{name: last_valid(connections[name], starts) for name in _FROM_ROOM},
        "first_connected_at": grouped["began_at_min"],
        "last_disconnected_at": grouped["ended_at_max"],
        "duration_s": pa.array(duration_ms / 1000.0, REAL),
        "connections": grouped["cdr_id_count"],
        "unique_users": pc.add(grouped["user_ref_count_distinct"], grouped["anonymous_sum"]),
        "sip_connections": grouped["sip_sum"],
        "suspense": grouped["open_sum"],
        "participant_s": _divided(grouped["participant_ms_sum"], 1000.0),
        "participant_min": participant_min,
        "connect_billed_min": pc.fill_null(pc.cast(grouped["connect_billed_min_sum"], BILLED), 0),
        **{name: _divided(grouped[f"{name}_sum"], 1e6) for name in _MEASURED},
        "price": pc.fill_null(pc.cast(grouped["price_sum"], MONEY), 0),
        "is_recorded": pa.array(is_recorded),
        "is_transcoded": pa.array(is_transcoded),
        "recording_min": pc.if_else(pa.array(is_recorded), participant_min, pa.scalar(0, BILLED)),
        "transcoding_min": decimals(transcoding_min * 10**BILLED.scale, BILLED),
        "media_files": pa.array(counts[:, 0], COUNT),
    }
    rows = pa.table([columns[name] for name in SESSIONS.schema.names], schema=SESSIONS.schema)
    return rows.append_column("day", pc.cast(rows["first_connected_at"], pa.date32()))


FILE_SESSION = pa.schema(
    [SESSIONS.schema.field(name) for name in ("conf_num", "room_id", "owner_ref", "billing_code", "first_connected_at")]
)
"""Columns that files need of their sessions: owner and start time."""


def _ms(moments: pa.ChunkedArray) -> np.ndarray:
    ms: np.ndarray = pc.cast(moments, COUNT).to_numpy()
    return ms


def _divided(whole: pa.ChunkedArray, by: float) -> pa.ChunkedArray:
    return pc.divide(pc.cast(pc.fill_null(whole, 0), REAL, safe=False), by)
