"""Turn the newest versions of connections into rows of `sessions` (pure).

Sums are of integers and decimals (milliseconds, millionths of a minute), so they are exact and independent of order.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.arrow_types import BILLED, COUNT, MONEY, REAL, TIME
from pipeline.core.models import ListedFile
from pipeline.tables.normalize.arrow_ops import decimals, last_valid, per_million, repeats_before
from pipeline.tables.schemas import CDR, SESSIONS

_FROM_ROOM = (
    "room_id", "room_name", "owner_ref", "billing_code", "room_mode", "room_is_scheduled", "room_is_adhoc",
)  # fmt: skip
_MOMENTS = (
    "signal_connected_at", "signal_disconnected_at", "room_connected_at", "room_disconnected_at", "trans_at",
)  # fmt: skip
_MEASURED = ("published_min", "subscribed_min", "screen_min")
_BILLED = ("participant_min", "connect_billed_min")

CONNECTION = pa.schema(
    [
        *(CDR.schema.field(name) for name in ("cdr_id", "conf_num", *_FROM_ROOM, "user_ref", "is_sip")),
        pa.field("day", pa.date32()),
        pa.field("connected_at", TIME),
        pa.field("disconnected_at", TIME),
        pa.field("participant_ms", COUNT),
        *(CDR.schema.field(name) for name in (*_BILLED, "price")),
        *(pa.field(name, COUNT) for name in _MEASURED),
    ]
)
"""Columns of a connection that sessions and usage need; measured minutes in millionths of a minute."""


def connection_table(connections: pa.Table) -> pa.Table:
    """Rows of `cdr` (with `day`) as `CONNECTION`."""
    signal_in, signal_out, room_in, room_out, written = (pc.cast(connections[name], COUNT) for name in _MOMENTS)
    disconnected = pc.coalesce(
        pc.max_element_wise(signal_out, room_out), pc.max_element_wise(written, signal_in, room_in)
    )
    columns = {
        "connected_at": pc.cast(pc.coalesce(pc.min_element_wise(signal_in, room_in), disconnected), TIME),
        "disconnected_at": pc.cast(disconnected, TIME),
        "participant_ms": pc.cast(pc.round(pc.multiply(connections["participant_s"], 1000.0)), COUNT),
        **{name: per_million(connections[name]) for name in _MEASURED},
    }
    arrays = [columns[name] if name in columns else connections[name] for name in CONNECTION.names]
    return pa.table(arrays, schema=CONNECTION)


class Sessions(NamedTuple):
    """Rows of `sessions` with `day`, and for each connection the row of its session."""

    rows: pa.Table
    place: np.ndarray


class SessionFiles:
    """Numbers of listed files, recordings and transcoded files of each session."""

    def __init__(self, files: Iterable[ListedFile]) -> None:
        counts: dict[str, list[int]] = {}
        for file in files:
            session = counts.setdefault(file.conf_num, [0, 0, 0])
            session[0] += 1
            session[1] += file.kind == "recording"
            session[2] += file.kind == "transcoded"
        self._conf_nums = pa.array(list(counts), pa.string())
        self._counts = np.array([*counts.values(), [0, 0, 0]], np.int64)

    def of(self, conf_nums: pa.Array) -> np.ndarray:
        """Three columns: files, recordings, transcoded files; same length and order as `conf_nums`."""
        at = pc.fill_null(pc.index_in(conf_nums, self._conf_nums), len(self._conf_nums))
        counts: np.ndarray = self._counts[at.to_numpy()]
        return counts


def session_table(connections: pa.Table, files: SessionFiles) -> Sessions:
    """One row per `conf_num`, same order, from whole sessions of connections sorted by `conf_num`, `day` and `cdr_id`.

    The day of a session is the UTC date of its first connection. Each room column has the last value that is not null,
    because old-shape connections lack columns that new-shape connections of the same session have.
    """
    begins = ~repeats_before(connections["conf_num"])
    starts = np.flatnonzero(begins)
    anonymous = pc.cast(pc.is_null(connections["user_ref"]), COUNT)
    grouped = (
        connections.append_column("anonymous", anonymous)
        .append_column("sip", pc.cast(connections["is_sip"], COUNT))
        .group_by("conf_num")
        .aggregate(
            [
                ("connected_at", "min"),
                ("disconnected_at", "max"),
                ("cdr_id", "count"),
                ("user_ref", "count_distinct"),
                *((name, "sum") for name in ("anonymous", "sip", "participant_ms", *_BILLED, "price", *_MEASURED)),
            ]
        )
        .sort_by("conf_num")  # groups are unordered
    )
    counts = files.of(grouped["conf_num"].combine_chunks())
    duration_ms = np.maximum(0, _ms(grouped["disconnected_at_max"]) - _ms(grouped["connected_at_min"]))
    is_recorded, is_transcoded = counts[:, 1] > 0, counts[:, 2] > 0
    participant_min = pc.fill_null(pc.cast(grouped["participant_min_sum"], BILLED), 0)
    transcoding_min = np.where(is_transcoded, -(-duration_ms // 60_000), 0)
    columns = {
        "conf_num": grouped["conf_num"],
        **{name: last_valid(connections[name], starts) for name in _FROM_ROOM},
        "first_connected_at": grouped["connected_at_min"],
        "last_disconnected_at": grouped["disconnected_at_max"],
        "duration_s": pa.array(duration_ms / 1000.0, REAL),
        "connections": grouped["cdr_id_count"],
        "unique_users": pc.add(grouped["user_ref_count_distinct"], grouped["anonymous_sum"]),
        "sip_connections": grouped["sip_sum"],
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
    rows = rows.append_column("day", pc.cast(rows["first_connected_at"], pa.date32()))
    return Sessions(rows, np.cumsum(begins) - 1)


def _ms(moments: pa.ChunkedArray) -> np.ndarray:
    ms: np.ndarray = pc.cast(moments, COUNT).to_numpy()
    return ms


def _divided(whole: pa.ChunkedArray, by: float) -> pa.ChunkedArray:
    return pc.divide(pc.cast(pc.fill_null(whole, 0), REAL, safe=False), by)
