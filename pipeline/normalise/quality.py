"""`stats_quality` of connections to rows of `cdr_quality` (pure).

Source: docs/enablex-api.md section 4.4: `send` and `receive`, each with `audio`, `video` and `sharing`, any of which
may be `{}`; the published sample was cut, so more measures are expected and go to `extra`.
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter
from typing import Annotated, Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec.structs import astuple

from pipeline.enablex.envelope import UNREADABLE
from pipeline.model import Row
from pipeline.normalise import values
from pipeline.normalise.document import extra_text, without_nothing
from pipeline.schemas import CDR_QUALITY, REAL, TEXT

_MEASURES = {
    "avg_bitrate": ("avg_bitrate_kbps", REAL),
    "min_bitrate": ("min_bitrate_kbps", REAL),
    "max_bitrate": ("max_bitrate_kbps", REAL),
    "avg_bitrate_quality": ("avg_bitrate_quality", TEXT),
    "bitrate_good_percent": ("bitrate_good_percent", REAL),
}
BATCH_CONNECTIONS = 1000
"""Structs of so many connections and their columns stay in the processor's cache."""

_NAMES = [name for name, _ in _MEASURES.values()]
_KINDS = [column_type for _, column_type in _MEASURES.values()]
_PLACES = tuple((direction, medium) for direction in ("receive", "send") for medium in ("audio", "sharing", "video"))
"""In the order of the table's key."""


_Number = Annotated[float, msgspec.Meta(gt=-values.TOO_MUCH, lt=values.TOO_MUCH)]
"""The limits of `values.real`: beyond them a connection is read one value at a time."""
_Word = Annotated[str, msgspec.Meta(min_length=1)]


class _Measures(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    avg_bitrate: _Number | None = None
    min_bitrate: _Number | None = None
    max_bitrate: _Number | None = None
    avg_bitrate_quality: _Word | None = None
    bitrate_good_percent: _Number | None = None


class _Media(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    audio: _Measures | None = None
    sharing: _Measures | None = None
    video: _Measures | None = None


class _Quality(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    receive: _Media | None = None
    send: _Media | None = None


_NO_MEASURES, _NO_QUALITY = _Measures(), _Quality()
_PLAIN = msgspec.json.Decoder(_Quality)


def quality_table(connections: pa.Table) -> pa.Table:
    """Rows of `cdr_quality` (and `day`) for connections sorted by `cdr_id`; sorted by key.

    What is as documented is read in columns, all else by `quality_rows`, which is the definition.
    """
    known = connections.filter(pc.is_valid(connections["stats_quality"]))
    starts = range(0, max(1, known.num_rows), BATCH_CONNECTIONS)
    return pa.concat_tables([_quality_table(known.slice(start, BATCH_CONNECTIONS)) for start in starts])


def _quality_table(known: pa.Table) -> pa.Table:
    whose = known.select(["cdr_id", "conf_num", "day"])
    plain: list[_Quality] = []
    odd_rows: list[Row] = []
    for at, text in enumerate(known["stats_quality"].to_pylist()):
        try:
            plain.append(_PLAIN.decode(text))
        except UNREADABLE:
            plain.append(_NO_QUALITY)
            (identity,) = whose.slice(at, 1).to_pylist()
            odd_rows += [{**identity, **row} for row in quality_rows(_decoded(text))]
    table = _plain_table(plain, whose)
    if not odd_rows:
        return table
    table = pa.concat_tables([table, pa.Table.from_pylist(odd_rows, schema=table.schema)])
    return table.sort_by([(name, "ascending") for name in CDR_QUALITY.key])


def _decoded(text: bytes) -> Any:
    try:
        return msgspec.json.decode(text)
    except UNREADABLE:
        return None


def quality_rows(quality: Any) -> Iterator[Row]:
    """The rows of one connection; a value that cannot be read stays in `extra`, as do other measures."""
    for direction, media in quality.items() if isinstance(quality, dict) else ():
        for medium, measures in media.items() if isinstance(media, dict) else ():
            if isinstance(measures, dict) and without_nothing(measures):
                yield {"direction": direction, "medium": medium, **_measured(measures)}


def _measured(measures: dict[str, Any]) -> Row:
    row: Row = dict.fromkeys(_NAMES)
    rest = {key: value for key, value in measures.items() if key not in _MEASURES}
    for key, (name, column_type) in _MEASURES.items():
        try:
            row[name] = values.reader(column_type)(measures.get(key))
        except ValueError:
            rest[key] = measures[key]
    return {**row, "extra": extra_text(without_nothing(rest))}


def _plain_table(plain: list[_Quality], whose: pa.Table) -> pa.Table:
    """Each place's measures as columns, one place below the other; then put in order of connection and place."""
    spots, tables = [], []
    for place, (direction, medium) in enumerate(_PLACES):
        at, found = _measures_at(plain, direction, medium)
        columns: list[Any] = list(zip(*map(astuple, found), strict=True)) or [()] * len(_MEASURES)
        table = pa.table([pa.array(cells, kind) for cells, kind in zip(columns, _KINDS, strict=True)], names=_NAMES)
        spots.append(np.array(at, np.int64) * len(_PLACES) + place)
        tables.append(table)
    spot = np.concatenate(spots)
    order = np.argsort(spot)
    row, place_of = np.divmod(spot[order], len(_PLACES))
    measures = pa.concat_tables(tables).take(pa.array(order))
    words = {
        name: pa.DictionaryArray.from_arrays(pa.array(place_of), pa.array([place[at] for place in _PLACES]))
        for at, name in enumerate(("direction", "medium"))
    }
    return pa.table(
        {
            **_columns(whose.take(pa.array(row))),
            **{name: pc.cast(column, TEXT) for name, column in words.items()},
            **_columns(measures),
            "extra": pa.nulls(len(row), TEXT),
        }
    )


def _measures_at(plain: list[_Quality], direction: str, medium: str) -> tuple[list[int], list[_Measures]]:
    """The measures at one place that say something, and whose they are."""
    get = attrgetter(medium)
    media = map(attrgetter(direction), plain)
    found = [(at, get(one)) for at, one in enumerate(media) if one is not None]
    found = [(at, measures) for at, measures in found if measures is not None and measures != _NO_MEASURES]
    return [at for at, _ in found], [measures for _, measures in found]


def _columns(rows: pa.Table) -> dict[str, pa.ChunkedArray]:
    return dict(zip(rows.column_names, rows.columns, strict=True))
