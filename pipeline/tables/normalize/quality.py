"""Turn `stats_quality` of connections into rows of `cdr_quality` (pure).

Source: enablex-api.md section 4.4: `send` and `receive`, each with `audio`, `video` and `sharing`, any of which may be
`{}`. The published sample is truncated, so more measures are expected; they go to `extra`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.arrow_types import REAL, TEXT
from pipeline.core.models import Row
from pipeline.enablex.lenient import UNREADABLE
from pipeline.storage.documents import Documents
from pipeline.tables.normalize import values
from pipeline.tables.normalize.arrow_ops import mask
from pipeline.tables.normalize.extra_column import extra_column, rest_pieces
from pipeline.tables.normalize.field_scanner import FieldScanner, ScanResult
from pipeline.tables.normalize.json_cells import OBJECT, Members
from pipeline.tables.normalize.row_reader import Path, drop_empty, extra_json
from pipeline.tables.schemas import CDR_QUALITY

_MEASURES = {
    "avg_bitrate": ("avg_bitrate_kbps", REAL),
    "min_bitrate": ("min_bitrate_kbps", REAL),
    "max_bitrate": ("max_bitrate_kbps", REAL),
    "avg_bitrate_quality": ("avg_bitrate_quality", TEXT),
    "bitrate_good_percent": ("bitrate_good_percent", REAL),
}
BATCH_CONNECTIONS = 4000
"""The stats of this number of connections fit into the CPU cache."""

_PLACES: list[Path] = [
    (direction, medium) for direction in ("receive", "send") for medium in ("audio", "sharing", "video")
]
"""In the order of the key of the table."""

_SCANNER = FieldScanner((*place, measure) for measure in _MEASURES for place in _PLACES)


def quality_table(connections: pa.Table) -> pa.Table:
    """Rows of `cdr_quality` (and `day`) for connections sorted by `cdr_id`; sorted by key.

    Documented forms are read as columns, others by `quality_rows`, which is the definition.
    """
    rows = connections.select(["cdr_id", "conf_num", "day", "stats_quality"])
    rows = rows.filter(pc.is_valid(rows["stats_quality"]))
    starts = range(0, max(1, rows.num_rows), BATCH_CONNECTIONS)
    return pa.concat_tables([_quality_table(rows.slice(start, BATCH_CONNECTIONS)) for start in starts])


def _quality_table(rows: pa.Table) -> pa.Table:
    identities = rows.drop_columns(["stats_quality"])
    stats = Documents.of_column(rows["stats_quality"].combine_chunks())
    table, irregular = _plain_table(stats, identities)
    if not irregular.any():
        return table
    places = np.flatnonzero(irregular)
    odd_rows = [
        {**identity, **row}
        for at, identity in zip(places.tolist(), identities.take(pa.array(places)).to_pylist(), strict=True)
        for row in quality_rows(_decoded(stats[at]))
    ]
    table = pa.concat_tables([table, pa.Table.from_pylist(odd_rows, schema=table.schema)])
    return table.sort_by([(name, "ascending") for name in CDR_QUALITY.key])


def _decoded(text: msgspec.Raw) -> Any:
    try:
        return msgspec.json.decode(text)
    except UNREADABLE:
        return None


def quality_rows(quality: Any) -> Iterator[Row]:
    """The rows of one connection; unreadable values and other measures go to `extra`."""
    for direction, media in quality.items() if isinstance(quality, dict) else ():
        for medium, measures in media.items() if isinstance(media, dict) else ():
            if isinstance(measures, dict) and drop_empty(measures):
                yield {"direction": direction, "medium": medium, **_measured(measures)}


def _measured(measures: dict[str, Any]) -> Row:
    row: Row = dict.fromkeys(name for name, _ in _MEASURES.values())
    rest = {key: value for key, value in measures.items() if key not in _MEASURES}
    for key, (name, column_type) in _MEASURES.items():
        try:
            row[name] = values.reader(column_type)(measures.get(key))
        except ValueError:
            rest[key] = measures[key]
    return {**row, "extra": extra_json(drop_empty(rest))}


def _plain_table(stats: Documents, identities: pa.Table) -> tuple[pa.Table, np.ndarray]:
    """Rows of all connections with stats of documented directions and media, and a mask of the others.

    Each measure is one long column over all directions, media and connections; combinations without a value are left
    out. So is `extra`.
    """
    scanned = _SCANNER.scan(stats)
    shape = len(_PLACES), len(stats)
    others, irregular = _other_measures(scanned)
    pieces = [others]
    columns = {}
    for measure, (name, kind) in _MEASURES.items():
        cells = scanned.cells([(*place, measure) for place in _PLACES])
        columns[name], uncastable = cells.column(kind)
        pieces.append(Members.of_cells([(measure,)], cells, uncastable))
    found = list(map(rest_pieces, pieces))
    for _, unreadable in found:
        irregular[unreadable % max(1, len(stats))] = True
    columns["extra"] = extra_column(len(_PLACES) * len(stats), [piece for piece, _ in found])
    has_value = np.any([mask(pc.is_valid(column)) for column in columns.values()], axis=0).reshape(shape)
    row, place = np.nonzero((has_value & ~irregular).T)
    spots = pa.array(place * len(stats) + row)
    directions, mediums = (pa.array(words, TEXT) for words in zip(*_PLACES, strict=True))
    identity = identities.take(pa.array(row))
    table = pa.table(
        {
            **dict(zip(identity.column_names, identity.columns, strict=True)),
            "direction": directions.take(pa.array(place)),
            "medium": mediums.take(pa.array(place)),
            **{name: column.take(spots) for name, column in columns.items()},
        }
    )
    return table, irregular


def _other_measures(scanned: ScanResult) -> tuple[Members, np.ndarray]:
    """Other measures in documented places, numbered by place and connection; and a mask of irregular connections.

    A connection with stats in another place is irregular.
    """
    unknown = scanned.unknown
    place = np.array([_PLACES.index(path[:2]) if len(path) > 2 else -1 for path in unknown.paths], np.int64)
    is_elsewhere = (place < 0)[unknown.path_at]
    irregular = scanned.irregular.copy()
    irregular[unknown.documents[is_elsewhere & (unknown.cells.kinds == OBJECT)]] = True
    spots = place[unknown.path_at] * len(irregular) + unknown.documents
    names = [path[-1:] for path in unknown.paths]
    return Members(spots, unknown.path_at, names, unknown.cells).where(~is_elsewhere), irregular
