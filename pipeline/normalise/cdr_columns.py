"""Thousands of CDR documents at once to columns of `cdr` (pure): what `cdr_row` says, some thirty times as fast.

Documents of a documented shape are decoded straight into structs, and each column is read as a whole. Whatever is not
as documented falls back, value by value and then document by document, to `cdr_row`, which is the definition: a
property test holds the two together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec.structs import astuple

from pipeline.enablex.envelope import UNREADABLE
from pipeline.errors import RecordError
from pipeline.model import Row
from pipeline.normalise import cdr, values
from pipeline.normalise.arrow import decimals, mask
from pipeline.normalise.document import Path, Reader, extra_text, path_tree, put_at, unknown_paths, without_nothing
from pipeline.schemas import BILLED, CDR_CONTENT, FLAG, MONEY, REAL, TEXT, TIME, arrow_schema

BATCH_DOCUMENTS = 4000
"""So many structs and their columns just about stay in the processor's cache."""

OBSERVATION = pa.schema(
    [
        *arrow_schema(CDR_CONTENT),
        pa.field("day", pa.date32()),
        pa.field("stats_quality", pa.binary()),
        pa.field("ordinal", pa.int64()),
    ]
)
"""A row of `cdr` as one document says it, the day it is filed under, its quality as JSON, its place in the page."""

_TOO_DEEP = "nested too deeply"


@dataclass
class Batch:
    """Rows (schema `OBSERVATION`, any order), rejects by ordinal, and how often an undocumented field was seen."""

    rows: pa.Table
    rejects: dict[int, RecordError] = field(default_factory=dict)
    unknown: Counter[str] = field(default_factory=Counter)


def read_batch(documents: Sequence[msgspec.Raw], first_ordinal: int = 0, rooms: Rooms | None = None) -> Batch:
    """Rows of some thousand documents; each becomes a row or a reject. Ordinals count from `first_ordinal`.

    `rooms` is kept from one batch to the next, so that each room definition is read once.
    """
    rooms = rooms or Rooms()
    try:
        return _read_batch(documents, first_ordinal, rooms)
    except RecursionError:
        if len(documents) == 1:
            return Batch(OBSERVATION.empty_table(), {first_ordinal: RecordError(_TOO_DEEP)})
    half = len(documents) // 2
    one = read_batch(documents[:half], first_ordinal, rooms)
    other = read_batch(documents[half:], first_ordinal + half, rooms)
    rows = pa.concat_tables([one.rows, other.rows])
    return Batch(rows, one.rejects | other.rejects, one.unknown + other.unknown)


def _read_batch(documents: Sequence[msgspec.Raw], first_ordinal: int, rooms: Rooms) -> Batch:
    structs, plain, odd = _decoded(documents, _PLAIN)
    batch = Batch(OBSERVATION.empty_table())
    if structs:
        rows, drifted = _plain_rows(structs, rooms, batch)
        rows = rows.append_column("ordinal", pa.array(plain, pa.int64()))
        if drifted.any():
            odd += [at for at, is_odd in zip(plain, drifted, strict=True) if is_odd]
            rows = rows.filter(pa.array(~drifted))
        batch.rows = rows
    _add_odd(batch, documents, odd)
    ordinals = pc.add(batch.rows["ordinal"], first_ordinal)
    batch.rows = batch.rows.set_column(batch.rows.schema.get_field_index("ordinal"), "ordinal", ordinals)
    batch.rejects = {at + first_ordinal: error for at, error in batch.rejects.items()}
    return batch


def decoded(document: msgspec.Raw) -> Any:
    """Any JSON value; RecordError when the bytes are not one (a text with half a surrogate pair, say)."""
    try:
        return msgspec.json.decode(document)
    except RecursionError:
        raise RecordError(_TOO_DEEP) from None
    except UNREADABLE as error:
        raise RecordError(f"not JSON: {error}") from None


def _add_odd(batch: Batch, documents: Sequence[msgspec.Raw], odd: list[int]) -> None:
    """Read the documents that are not as documented one by one."""
    rows = []
    for at in odd:
        try:
            document = decoded(documents[at])
            row = cdr.cdr_row(document)
        except RecordError as error:
            batch.rejects[at] = error.with_traceback(None)  # which would hold all documents until collected as garbage
            continue
        quality = document.get("stats_quality")
        encoded = msgspec.json.encode(quality) if quality else None
        rows.append({**row, "day": cdr.row_day(row), "stats_quality": encoded, "ordinal": at})
        batch.unknown.update(".".join(path) for path in cdr.unknown_fields(document))
    if rows:
        batch.rows = pa.concat_tables([batch.rows, pa.Table.from_pylist(rows, schema=OBSERVATION)])


# --- documents to structs -----------------------------------------------------------------------------------------

_LEAVES: dict[pa.DataType, Any] = {
    TEXT: str | int | float | bool | None,
    FLAG: str | int | bool | None,
    TIME: str | int | float | None,
    REAL: str | int | float | None,
    BILLED: str | int | float | None,
    MONEY: str | int | float | None,
}
"""What a value of a column may be without making its document odd."""

_ABSENT = msgspec.Raw(b"null")


def _struct(name: str, tree: dict[str, Any]) -> type[msgspec.Struct]:
    """A struct type for a tree of types; a key that the tree does not name is an error."""
    fields: list[tuple[str, Any, Any]] = []
    for key, branch in sorted(tree.items()):
        if isinstance(branch, dict):
            inner = _struct(f"{name}_{key}", branch)
            fields.append((key, inner | None, inner()))
        else:
            fields.append((key, branch, _ABSENT if branch is msgspec.Raw else None))
    return msgspec.defstruct(name, fields, frozen=True, gc=False, forbid_unknown_fields=True)


def _filled(tree: dict[str, Any], leaves: dict[Path, Any], at: Path = ()) -> dict[str, Any]:
    """The same tree with a type at the end of each path."""
    return {
        key: leaves[(*at, key)] if branch is None else _filled(branch, leaves, (*at, key))
        for key, branch in tree.items()
    }


def _decoder(types: dict[Path, Any]) -> tuple[dict[str, Any], msgspec.json.Decoder[msgspec.Struct]]:
    tree = _filled(path_tree(types), types)
    return tree, msgspec.json.Decoder(_struct("Document", tree))


_DETAILS: Path = ("room", "room_details")
"""The room's definition, the same in all connections of a room: each different text of it is read once a batch."""


def _inside(path: Path) -> bool:
    return path[: len(_DETAILS)] == _DETAILS


_FIELDS = [field for field in cdr.FIELDS if not _inside(field[1])]
_REST = [path for path in cdr.WITHOUT_COLUMN if not _inside(path)]
_TYPES = {path: _LEAVES[kind] for _, path, kind in _FIELDS}
_TYPES |= dict.fromkeys([_DETAILS, cdr.QUALITY, *_REST, *(p for p in cdr.SECRETS if not _inside(p))], msgspec.Raw)
_TREE, _PLAIN = _decoder(_TYPES)

_ROOM_FIELDS = [(name, path[len(_DETAILS) :], kind) for name, path, kind in cdr.FIELDS if _inside(path)]
_ROOM_REST = [path[len(_DETAILS) :] for path in cdr.WITHOUT_COLUMN if _inside(path)]
_ROOM_SECRETS = [path[len(_DETAILS) :] for path in cdr.SECRETS if _inside(path)]
_ROOM_TYPES = {path: _LEAVES[kind] for _, path, kind in _ROOM_FIELDS}
_ROOM_TREE, _PLAIN_ROOM = _decoder(_ROOM_TYPES | dict.fromkeys([*_ROOM_REST, *_ROOM_SECRETS], msgspec.Raw))


def _decoded(
    documents: Sequence[msgspec.Raw | bytes], decoder: msgspec.json.Decoder[msgspec.Struct]
) -> tuple[list[msgspec.Struct], list[int], list[int]]:
    """Structs of the documents that are as documented, their places, and the places of the others."""
    is_text = _is_text(b"".join(documents))  # the decoder does not look into what it keeps as raw bytes
    try:
        if is_text:
            return list(map(decoder.decode, documents)), list(range(len(documents))), []
    except UNREADABLE:
        pass
    structs, plain, odd = [], [], []
    for at, document in enumerate(documents):
        try:
            if not is_text and not _is_text(bytes(document)) and not _is_json(bytes(document)):
                raise msgspec.DecodeError("not JSON where the decoder does not look")
            structs.append(decoder.decode(document))
            plain.append(at)
        except UNREADABLE:
            odd.append(at)
    return structs, plain, odd


def _is_text(content: bytes) -> bool:
    """Whether it is UTF-8 and has no escaped surrogates, which may be half of a pair."""
    try:
        if not content.isascii():
            content.decode()
    except UnicodeDecodeError:
        return False
    return b"\\" not in content or (b"\\ud" not in content and b"\\uD" not in content)


def _is_json(document: bytes) -> bool:
    try:
        msgspec.json.decode(document)
    except UNREADABLE:
        return False
    return True


# --- structs to columns -------------------------------------------------------------------------------------------


def _plain_rows(structs: list[msgspec.Struct], rooms: Rooms, batch: Batch) -> tuple[pa.Table, np.ndarray]:
    """Columns of all structs, and a mask of those that `cdr_row` has to read after all."""
    raw = dict(_values(structs, _TREE, ()))
    odd = np.zeros(len(structs), bool)
    columns = _columns(raw, _FIELDS, odd)
    places = rooms.places(list(map(bytes, raw[_DETAILS])))
    of_room = rooms.table.take(pa.array(places))
    columns |= {name: of_room[name].combine_chunks() for name in _ROOM_NAMES}
    columns["extra"] = rooms.extras(places, raw)
    moments = pc.coalesce(*(columns[name] for name in cdr.TIMES))
    odd |= mask(pc.or_(pc.is_null(columns["conf_num"]), pc.is_null(moments)))
    odd |= rooms.is_odd[places]
    columns["cdr_id_is_derived"] = pc.is_null(columns["cdr_id"])
    columns["cdr_id"] = _with_derived_ids(columns)
    columns["is_sip"] = pc.fill_null(columns["is_sip"], False)
    stay_ms = _stay_ms(columns)
    columns["participant_s"] = pc.divide(pc.cast(stay_ms, REAL), 1000.0)
    columns["participant_min"] = _whole_minutes(stay_ms)
    most_min = pc.add(pc.divide(pc.multiply(columns["participant_s"], 1.5), 60.0), 2.0)
    columns["connect_min_looks_like_seconds"] = pc.greater(columns["connect_min"], most_min)
    columns["day"] = pc.cast(moments, pa.date32())
    quality = map(bytes, raw[cdr.QUALITY])
    columns["stats_quality"] = pa.array([None if stats in _EMPTY else stats for stats in quality], pa.binary())
    rooms.count_unknown(places[~odd], batch.unknown)
    names = OBSERVATION.names[:-1]
    return pa.table([columns[name] for name in names], names=names), odd


def _columns(
    raw: dict[Path, tuple[Any, ...]], fields: Sequence[tuple[str, Path, pa.DataType]], odd: np.ndarray
) -> dict[str, pa.Array]:
    """The columns that are taken from one place each; all of one type are read at once, as one long column."""
    columns: dict[str, pa.Array] = {}
    for kind in dict.fromkeys(kind for _, _, kind in fields):
        alike = [(name, path) for name, path, its in fields if its == kind]
        together = _FAST[kind](list(chain.from_iterable(raw[path] for _, path in alike)))
        for number, (name, path) in enumerate(alike):
            if together is not None:
                columns[name] = together.slice(number * len(odd), len(odd))
            else:
                columns[name] = _column(raw[path], kind, odd)
    return columns


# --- room definitions ---------------------------------------------------------------------------------------------


class Rooms:
    """The room definitions met so far: each different text of `room_details` is read once, for all its connections.

    `table` has a row of columns for each. Keep one for all batches of a build; it forgets when it has too many.
    """

    def __init__(self) -> None:
        self._forget()

    def places(self, texts: list[bytes]) -> np.ndarray:
        """Where each text's row stands in `table`; valid until the next call."""
        new = [text for text in dict.fromkeys(texts) if text not in self._place]
        if len(self._place) + len(new) > _MOST_ROOMS:
            self._forget()
            new = list(dict.fromkeys(texts))
        if new:
            self._read(new)
        return np.fromiter(map(self._place.__getitem__, texts), np.int64, len(texts))

    def extras(self, places: np.ndarray, raw: dict[Path, tuple[Any, ...]]) -> pa.Array:
        """`extra` of connections: what is left of the room's definition and of all else."""
        told = list(zip(*(map(bytes, raw[path]) for path in _REST), strict=True))
        codes = {texts: code for code, texts in enumerate(dict.fromkeys(told))}
        spots = places * len(codes) + np.fromiter(map(codes.__getitem__, told), np.int64, len(told))
        different, place = np.unique(spots, return_inverse=True)
        rests = list(map(_rest, codes))
        of_room, of_rest = (part.tolist() for part in np.divmod(different, len(codes)))
        extras = [_extra(self._left[room], rests[code]) for room, code in zip(of_room, of_rest, strict=True)]
        return pa.array(extras, TEXT).take(pa.array(place))

    def count_unknown(self, places: np.ndarray, into: Counter[str]) -> None:
        """Count undocumented fields, once for each connection."""
        for place in self._unknown.keys() & set(places.tolist()):
            into.update(dict.fromkeys(self._unknown[place], int((places == place).sum())))

    def _forget(self) -> None:
        self._place: dict[bytes, int] = {}
        self._left: list[str | None] = []
        self._unknown: dict[int, tuple[str, ...]] = {}
        self.table = pa.schema([(name, kind) for name, _, kind in _ROOM_FIELDS]).empty_table()
        self.is_odd = np.zeros(0, bool)

    def _read(self, texts: list[bytes]) -> None:
        structs, plain, odd = _decoded(texts, _PLAIN_ROOM)
        drifted = np.zeros(len(structs), bool)
        columns = _columns(dict(_values(structs, _ROOM_TREE, ())), _ROOM_FIELDS, drifted) if structs else {}
        fast = pa.table([columns.get(name, pa.array([], kind)) for name, _, kind in _ROOM_FIELDS], names=_ROOM_NAMES)
        odd += [at for at, is_drifted in zip(plain, drifted, strict=True) if is_drifted]
        read = {at: _room_row(texts[at]) for at in odd}
        slow = pa.Table.from_pylist([row or {} for row, _ in read.values()], schema=self.table.schema)
        place = np.zeros(len(texts), np.int64)
        place[plain] = np.arange(len(plain))
        place[odd] = len(plain) + np.arange(len(odd))
        rows = pa.concat_tables([fast, slow]).take(pa.array(place))
        left = [_left_of(read[at][0]) if at in read else _room_rest(text) for at, text in enumerate(texts)]
        # Nothing can fail from here on: a definition that cannot be read must not leave the others half known.
        known = len(self._place)
        self.table = pa.concat_tables([self.table, rows]).combine_chunks()
        self.is_odd = np.append(self.is_odd, [at in read and read[at][0] is None for at in range(len(texts))])
        self._unknown |= {known + at: unknown for at, (_, unknown) in read.items() if unknown}
        self._left += left
        self._place |= {text: known + at for at, text in enumerate(texts)}


def _left_of(row: Row | None) -> str | None:
    return row.get("extra") if row else None


_MOST_ROOMS = 96 * 1024
"""About 110 MB."""

_ROOM_NAMES = [name for name, _, _ in _ROOM_FIELDS]
_ROOM_READER = Reader(
    [replace(column, path=".".join(column.path.split(".")[len(_DETAILS) :])) for column in CDR_CONTENT
     if _inside(tuple(column.path.split(".")))],
    elsewhere=_ROOM_SECRETS,
)  # fmt: skip
_ROOM_KNOWN = path_tree([*_ROOM_TYPES, *_ROOM_REST, *_ROOM_SECRETS])


def _room_row(text: bytes) -> tuple[Row | None, tuple[str, ...]]:
    """A definition that is not as documented, and its undocumented fields; no row for what is not an object."""
    try:
        document = msgspec.json.decode(text)
    except UNREADABLE:
        return None, ()
    if document is None:
        return dict.fromkeys(_ROOM_NAMES), ()
    if not isinstance(document, dict):
        return None, ()
    unknown = unknown_paths(document, _ROOM_KNOWN)
    return _ROOM_READER.row(document), tuple(".".join((*_DETAILS, *path)) for path in unknown)


def _rest_struct(name: str, tree: dict[str, Any]) -> Any:
    """A struct type of the paths of `tree` that leaves out what is absent; every other key is skipped."""
    fields = [
        (key, Any if branch is None else _rest_struct(f"{name}_{key}", branch) | None, None)
        for key, branch in sorted(tree.items())
    ]
    return msgspec.defstruct(name, fields, omit_defaults=True, gc=False)


_ROOM_REST_DECODER = msgspec.json.Decoder(_rest_struct("Rest", path_tree(_ROOM_REST)) | None)


def _room_rest(text: bytes) -> str | None:
    """Fields of a documented definition without a column, without those that say nothing."""
    return extra_text(without_nothing(msgspec.to_builtins(_ROOM_REST_DECODER.decode(text)) or {}))


def _rest(texts: tuple[bytes, ...]) -> dict[str, Any]:
    """Fields without a column from outside the room's definition, without those that say nothing."""
    rest: dict[str, Any] = {}
    for path, text in zip(_REST, texts, strict=True):
        put_at(rest, path, msgspec.json.decode(text))
    return without_nothing(rest)


def _extra(of_room: str | None, rest: dict[str, Any]) -> str | None:
    if of_room is not None:
        details = msgspec.Raw(of_room.encode())
        rest = {**rest, _DETAILS[0]: {**rest.get(_DETAILS[0], {}), _DETAILS[1]: details}}
    return extra_text(rest)


# --- cells to columns ---------------------------------------------------------------------------------------------


_EMPTY = {b"null", b"{}", b'""'}


def _values(
    structs: Sequence[msgspec.Struct], tree: dict[str, Any], at: Path
) -> Iterator[tuple[Path, tuple[Any, ...]]]:
    """The values at the end of every path, over all structs; there is at least one."""
    nothing = type(structs[0])()
    for (key, branch), column in zip(sorted(tree.items()), zip(*map(astuple, structs), strict=True), strict=True):
        path = (*at, key)
        if isinstance(branch, dict):
            blank = getattr(nothing, key)
            yield from _values([blank if inner is None else inner for inner in column], branch, path)
        else:
            yield path, column


def _column(cells: Sequence[Any], column_type: pa.DataType, odd: np.ndarray) -> pa.Array:
    """All cells as one array: at once where they are as documented, else one by one; misfits are marked in `odd`."""
    column = _FAST[column_type](cells)
    if column is not None:
        return column
    read = values.reader(column_type)
    found: list[Any] = [None] * len(cells)
    for at, cell in enumerate(cells):
        try:
            found[at] = read(cell)
        except ValueError:
            odd[at] = True
    return pa.array(found, column_type)


def _fast_text(cells: Sequence[Any]) -> pa.Array | None:
    column = _array(cells, TEXT)
    return None if column is None else _null_if_empty(column)


def _fast_flag(cells: Sequence[Any]) -> pa.Array | None:
    try:
        return pa.array([_FLAGS[cell] for cell in cells], FLAG)
    except KeyError:
        return None


_FLAGS = {True: True, False: False, "true": True, "false": False, None: None, "": None}


def _fast_time(cells: Sequence[Any]) -> pa.Array | None:
    """Only the documented form, `2024-03-09T14:33:05.120Z`, for which Arrow and `values.timestamp` agree."""
    texts = _fast_text(cells)
    if texts is None:
        return None
    is_usual = pc.and_(pc.equal(pc.binary_length(texts), 24), pc.ends_with(texts, "Z"))
    if pc.all(is_usual).as_py() is False:
        return None
    try:
        moments = pc.cast(texts, TIME)
    except pa.ArrowInvalid:
        return None
    edges = pc.min_max(moments)
    earliest, latest = edges["min"].value, edges["max"].value
    is_plausible = earliest is None or (earliest >= _PLAUSIBLE_MS[0] and latest < _PLAUSIBLE_MS[1])
    return moments if is_plausible else None


_PLAUSIBLE_MS = [int(moment.timestamp() * 1000) for moment in values.PLAUSIBLE]


def _fast_real(cells: Sequence[Any]) -> pa.Array | None:
    column = _array(cells, REAL)
    return column if column is not None and _are_sensible(column) else None


def _fast_decimal(cells: Sequence[Any], column_type: pa.Decimal128Type) -> pa.Array | None:
    """By way of whole thousandths or millionths, where no value lies near the middle between two."""
    column = _array(cells, REAL)
    if column is None or not _are_sensible(column):
        return None
    scaled = pc.fill_null(column, 0.0).to_numpy() * 10**column_type.scale
    whole = np.rint(scaled)
    if (np.abs(scaled) >= 2**52).any() or (np.abs(scaled - whole) > 0.25).any():
        return None
    return pc.if_else(pc.is_null(column), None, decimals(whole.astype(np.int64), column_type))


_FAST: dict[pa.DataType, Callable[[Sequence[Any]], pa.Array | None]] = {
    TEXT: _fast_text,
    FLAG: _fast_flag,
    TIME: _fast_time,
    REAL: _fast_real,
    BILLED: lambda cells: _fast_decimal(cells, BILLED),
    MONEY: lambda cells: _fast_decimal(cells, MONEY),
}


def _array(cells: Sequence[Any], column_type: pa.DataType) -> pa.Array | None:
    try:
        return pa.array(cells, column_type)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return None


def _null_if_empty(texts: pa.Array) -> pa.Array:
    is_empty = pc.equal(texts, "")
    return pc.if_else(is_empty, None, texts) if pc.any(is_empty).as_py() else texts


def _are_sensible(numbers: pa.Array) -> bool:
    """The limit of `values.decimal`."""
    most = pc.max(pc.abs(numbers)).as_py()
    return most is None or most < values.TOO_MUCH


def _with_derived_ids(columns: dict[str, pa.Array]) -> pa.Array:
    missing = mask(columns["cdr_id_is_derived"])
    if not missing.any():
        return columns["cdr_id"]
    identity = pa.table({name: columns[name] for name in cdr.IDENTITY}).filter(pa.array(missing))
    derived = pa.array([cdr.derived_id(row) for row in identity.to_pylist()], TEXT)
    return pc.replace_with_mask(columns["cdr_id"], pa.array(missing), derived)


def _stay_ms(columns: dict[str, pa.Array]) -> pa.Array:
    """`participant_s` in milliseconds: `signal_*` when both ends exist, else `room_*`; never negative."""
    stays = []
    for side in ("signal", "room"):
        start, end = (pc.cast(columns[f"{side}_{edge}_at"], pa.int64()) for edge in ("connected", "disconnected"))
        stay = pc.subtract(end, start)
        stays.append(pc.if_else(pc.greater_equal(stay, 0), stay, None))
    return pc.coalesce(*stays)


def _whole_minutes(stay_ms: pa.Array) -> pa.Array:
    ms = pc.fill_null(stay_ms, 0).to_numpy()
    minutes = decimals(-(-ms // 60_000) * 10**BILLED.scale, BILLED)
    return pc.if_else(pc.is_null(stay_ms), None, minutes)
