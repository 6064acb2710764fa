"""Turn connections, sessions and files into rows of `usage_daily` (pure).

Each contributes one part to a project, day, room, owner and billing code. Sorted parts are then summed.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.arrow_types import BILLED, COUNT, REAL, TEXT
from pipeline.core.models import STORED, Row
from pipeline.tables.normalize.sessions import Sessions
from pipeline.tables.schemas import USAGE_DAILY

_KEY = ("room_id", "owner_ref", "billing_code")
_MEASURED = ("published_min", "subscribed_min", "screen_min")
_BILLED = ("participant_min", "connect_billed_min", "sip_min", "recording_min", "transcoding_min")
_COUNTED = (
    "sessions",
    "connections",
    "suspense",
    "anonymous",
    "participant_ms",
    *_MEASURED,
    "media_files",
    "media_bytes",
)

PART = pa.schema(
    [
        pa.field("group", TEXT),
        pa.field("day", pa.date32()),
        *(pa.field(name, TEXT) for name in (*_KEY, "user_ref")),
        *(pa.field(name, COUNT) for name in _COUNTED),
        *(pa.field(name, BILLED) for name in _BILLED),
    ]
)
"""Contribution of one connection, session or file. `group` sorts like day and key; measured minutes in millionths."""


def connection_parts(connections: pa.Table, sessions: Sessions) -> pa.Table:
    """Parts of connections, each on its own day; missing room columns are taken from the session."""
    participant_min = connections["participant_min"]
    key = {name: pc.coalesce(connections[name], sessions.rows[name].take(pa.array(sessions.place))) for name in _KEY}
    return _parts(
        connections["day"],
        key,
        user_ref=connections["user_ref"],
        connections=_ones(connections),
        suspense=pc.cast(connections["is_open"], COUNT),
        anonymous=pc.cast(pc.is_null(connections["user_ref"]), COUNT),
        participant_ms=connections["participant_ms"],
        participant_min=participant_min,
        connect_billed_min=connections["connect_billed_min"],
        sip_min=pc.if_else(connections["is_sip"], participant_min, None),
        **{name: connections[name] for name in _MEASURED},
    )


def session_parts(sessions: pa.Table) -> pa.Table:
    """Parts of whole sessions, on the day they started."""
    return _parts(
        sessions["day"],
        {name: sessions[name] for name in _KEY},
        sessions=_ones(sessions),
        recording_min=sessions["recording_min"],
        transcoding_min=sessions["transcoding_min"],
    )


def media_parts(media: list[Row], owners: pa.Table) -> pa.Table:
    """Parts of stored files, on the day of their archive record; owner and billing code are from their sessions.

    `owners` has the columns of the session of each file, by `file`, the index in `media`.
    """
    stored = [index for index, row in enumerate(media) if row["state"] in STORED]
    at = pc.index_in(pa.array(stored, COUNT), owners["file"].combine_chunks())
    key = {name: owners[name].combine_chunks().take(at) for name in _KEY}
    key["room_id"] = pc.coalesce(pa.array([media[index]["room_id"] for index in stored], TEXT), key["room_id"])
    return _parts(
        pa.array([media[index]["day"] for index in stored], pa.date32()),
        key,
        media_files=pa.array([1] * len(stored), COUNT),
        media_bytes=pa.array([media[index]["size_bytes"] for index in stored], COUNT),
    )


def usage_table(parts: pa.Table) -> pa.Table:
    """Rows of `usage_daily` (and `day`) from parts sorted by `group`, each group whole; same order."""
    keys = ["group", "day", *_KEY]
    sums = [(name, "sum") for name in (*_COUNTED, *_BILLED)]
    grouped = parts.group_by(keys).aggregate([("user_ref", "count_distinct"), *sums]).sort_by("group")
    columns = {
        **{name: grouped[name] for name in _KEY},
        **{name: pc.fill_null(grouped[f"{name}_sum"], 0) for name in _COUNTED},
        **{name: pc.fill_null(pc.cast(grouped[f"{name}_sum"], BILLED), 0) for name in _BILLED},
    }
    columns["unique_users"] = pc.add(grouped["user_ref_count_distinct"], columns["anonymous"])
    columns["participant_s"] = pc.divide(pc.cast(columns["participant_ms"], REAL, safe=False), 1000.0)
    for name in _MEASURED:
        columns[name] = pc.divide(pc.cast(columns[name], REAL, safe=False), 1e6)
    rows = pa.table([columns[name] for name in USAGE_DAILY.schema.names], schema=USAGE_DAILY.schema)
    return rows.append_column("day", grouped["day"])


def _parts(day: pa.ChunkedArray, key: dict[str, pa.ChunkedArray], **added: pa.ChunkedArray) -> pa.Table:
    texts = [pc.cast(day, TEXT), *(pc.fill_null(key[name], "") for name in _KEY)]
    columns = {"group": pc.binary_join_element_wise(*texts, "\x1f"), "day": day, **key, **added}
    return pa.table([columns.get(field.name, pa.nulls(len(day), field.type)) for field in PART], schema=PART)


def _ones(rows: pa.Table) -> pa.Array:
    return pa.array(np.ones(rows.num_rows, np.int64))
