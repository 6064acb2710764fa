"""`stats_quality` of connections to rows of `cdr_quality` (pure).

Source: docs/enablex-api.md section 4.4: `send` and `receive`, each with `audio`, `video` and `sharing`, any of which
may be `{}`; the published sample was cut, so more measures are expected and go to `extra`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Annotated, Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec.structs import astuple

from pipeline.enablex.envelope import UNREADABLE
from pipeline.model import Row
from pipeline.normalise import values
from pipeline.normalise.arrow import mask
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
_PLACES = [(direction, medium) for direction in ("receive", "send") for medium in ("audio", "sharing", "video")]
"""In the order of the table's key, and of the fields of `_Quality` and `_Media`."""


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


_NO_MEASURES, _NO_MEDIA, _NO_QUALITY = _Measures(), _Media(), _Quality()
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
    """Every place of every connection in one long column for each measure; places that say nothing are left out."""
    media = [one or _NO_MEDIA for one in _values(plain)]
    cells = list(_values([one or _NO_MEASURES for one in _values(media)]))
    columns = [pa.array(cells[at :: len(_NAMES)], kind) for at, kind in enumerate(_KINDS)]
    says_something = np.logical_or.reduce([mask(pc.is_valid(column)) for column in columns])
    spots = np.flatnonzero(says_something)
    row, place = map(pa.array, np.divmod(spots, len(_PLACES)))
    directions, mediums = (pa.array(words, TEXT) for words in zip(*_PLACES, strict=True))
    return pa.table(
        {
            **_columns(whose.take(row)),
            "direction": directions.take(place),
            "medium": mediums.take(place),
            **{name: column.take(pa.array(spots)) for name, column in zip(_NAMES, columns, strict=True)},
            "extra": pa.nulls(len(row), TEXT),
        }
    )


def _values(structs: Iterable[msgspec.Struct]) -> Iterator[Any]:
    """The fields of all structs, one struct after the other."""
    return chain.from_iterable(map(astuple, structs))


def _columns(rows: pa.Table) -> dict[str, pa.ChunkedArray]:
    return dict(zip(rows.column_names, rows.columns, strict=True))
