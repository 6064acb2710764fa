"""Read an invoice or portal export of EnableX and compare it with measured usage, line by line (pure).

Minutes are integers of thousandths until the end: the causes of a line add up exactly to its difference, and the totals
of all causes to the whole difference.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.arrow_types import BILLED, COUNT, TEXT, TIME
from pipeline.core.errors import ConfigError
from pipeline.core.settings.sections import Rounding
from pipeline.tables.normalize.arrow_ops import Column, decimals, unscaled

_SINGLE_KEYS = ("cdr_id", "conf_num")
_GROUP_KEYS = ("project", "day", "room_id", "owner_ref", "billing_code")
_KEY_TYPES = {name: pa.date32() if name == "day" else TEXT for name in (*_SINGLE_KEYS, *_GROUP_KEYS)}
_QUANTITIES = {"minutes": 1, "connect_minutes_cal": 1, "seconds": 60}
"""Names of quantity columns, and how many of the unit are a minute; the first one in a file is used."""

GRACE = timedelta(days=1)
"""Connections first collected within this time after the end of a month are not late: the last sessions of a month are
collected the night after."""

COLUMNS = (*_SINGLE_KEYS, *_GROUP_KEYS, *_QUANTITIES)
"""Valid names of columns; other columns are ignored."""

RULES: dict[str, Rounding] = {"exact": "exact", "begun": "ceil_per_connection", "billed": "vendor"}
"""How EnableX may count: exact minutes, begun minutes, or the minutes in its own record (without them: begun ones)."""

_MINUTES = ("ours", *RULES)
_LATE = tuple(f"late_{name}" for name in _MINUTES)
_SUMS = ("here", "elsewhere", *_MINUTES, *_LATE)
MEASURED = pa.schema([*_KEY_TYPES.items(), *((name, COUNT) for name in _SUMS)])
"""One connection: `here` is 1 if it counts in the month, `elsewhere` is 1 if it counts in the month before or after.

`ours`: its thousandths of a minute, and the same by each of `RULES`. `late_*`: how many of them were collected only
after the month and `GRACE`.
"""

DecimalMark = Literal["comma", "point"]

CAUSES = ("rounding", "late", "different", "missing_here", "missing_there")
VERDICTS = ("equal", *CAUSES)
UNEXPLAINED = ("different", "missing_here", "missing_there")
"""Causes other than rounding and lateness."""

_TOO_MANY = 10**12
"""Upper limit for minutes: sums of thousandths stay below 2**63."""

_AMBIGUOUS = re.compile(r"[+-]?\d+,\d{3}", re.A)
_MARKED_NUMBERS = {
    "comma": re.compile(r"[+-]?(\d{1,3}(\.\d{3})+|\d+)(,\d*)?", re.A),
    "point": re.compile(r"[+-]?(\d{1,3}(,\d{3})+|\d+)(\.\d*)?", re.A),
}
_SPREADSHEET_NUMBER = re.compile(r"\d([.,]\d+)?E\+?\d+", re.I | re.A)


@dataclass(frozen=True)
class Invoice:
    """The lines of a file: key columns `by`, and `theirs` in thousandths of a minute."""

    by: tuple[str, ...]
    lines: pa.Table


def came_late(first_seen_at: Column, month_ends_at: datetime) -> Column:
    """Whether each connection of a day was first collected more than `GRACE` after both the end of the month and the
    first collection of the day. (If collection started after the month, lateness is unknown before that.)
    """
    first_collected_at = pc.min(first_seen_at).as_py() or month_ends_at
    limit = max(first_collected_at, month_ends_at) + GRACE
    return pc.fill_null(pc.greater(first_seen_at, pa.scalar(limit, TIME)), False)


def read_invoice(
    content: bytes, name: str, headers: Mapping[str, str] | None = None, decimal: DecimalMark | None = None
) -> Invoice:
    """Read a CSV file: separator comma, semicolon, tab or bar; UTF-8 with or without byte order mark, or UTF-16.

    Columns are matched by their names in `COLUMNS`, ignoring case, spaces and hyphens, or by `headers` (name in
    `COLUMNS` -> header in the file). A file with `cdr_id` is compared by connection, else one with `conf_num` by
    session, else by those of project, day, room, owner and billing code that it has. `decimal`: the decimal mark of the
    file; the other mark separates thousands. Without it, a comma is a decimal mark if it is not the separator.

    Raises:
        ConfigError: a required column is missing, or a line cannot be read or has two readings, with the reason.
    """
    text = _decoded(content, name)
    separator = max(",;\t|", key=text.partition("\n")[0].count)
    rows = _rows(text, separator, name)
    header = next(rows, (name, []))[1]
    indexes = _column_indexes(header, name, headers or {})
    by = next(((key,) for key in _SINGLE_KEYS if key in indexes), tuple(key for key in _GROUP_KEYS if key in indexes))
    quantity = next((column for column in _QUANTITIES if column in indexes), None)
    if quantity is None or not by:
        missing, column = (_QUANTITIES, "minutes") if quantity is None else ((*_SINGLE_KEYS, *_GROUP_KEYS), "cdr_id")
        raise ConfigError(
            f"{name}: no column {' or '.join(missing)}; columns of the file: {', '.join(header) or 'none'};"
            f" name one with --column {column}=HEADER"
        )
    columns: dict[str, list[Any]] = {key: [] for key in (*by, "theirs")}
    marks: set[str] = set()
    for where, cells in rows:
        if len(cells) < len(header):
            raise ConfigError(f"{where} has {len(cells)} cells, the header {len(header)}")
        for key in by:
            columns[key].append(_key(key, cells[indexes[key]].strip(), where))
        number = cells[indexes[quantity]].strip()
        marks.update({",", "."} & set(number))
        if decimal is None and (len(marks) > 1 or (separator != "," and _AMBIGUOUS.fullmatch(number))):
            raise ConfigError(
                f"{where}: {number!r} has two readings; name the decimal mark of the file: --decimal comma or"
                " --decimal point"
            )
        columns["theirs"].append(_thousandths(number, _QUANTITIES[quantity], separator, decimal, where))
    types = [(key, _KEY_TYPES.get(key, COUNT)) for key in columns]
    return Invoice(by, pa.table(list(columns.values()), schema=pa.schema(types)))


def compare(ours: pa.Table, invoice: Invoice) -> pa.Table:
    """Compare the lines of an invoice with measured usage (rows of `MEASURED`); sorted by key.

    Columns: minutes of both sides, the difference (theirs - ours), the expected range and how far theirs is outside of
    it (negative: below), the part of the difference that each of `CAUSES` explains, and the `verdict`, the first that
    applies: `missing_here`, `missing_there` (only the other side has the line), `different` (both have it, and theirs
    is outside of the expected range), `late` (the excess of ours was collected only after the month and `GRACE`, or the
    line of theirs counts in the month before or after in ours), `rounding` (theirs is in the expected range), `equal`.

    The expected range is from the least to the greatest of the line's sums by `RULES`, with 0.001 minutes per
    connection for rounded thousandths. Late minutes are not in it if they explain a part of the difference.
    """
    lines = _sides(ours, invoice)
    here, there, mine, theirs, late, elsewhere = (
        lines[f"{name}_sum"].to_numpy() for name in ("here", "there", "ours", "theirs", "late_ours", "elsewhere")
    )
    difference, only_here, only_there = theirs - mine, there == 0, here == 0
    whole, early = _range(lines, with_late=True), _range(lines, with_late=False)
    is_closer = np.abs(difference + late) < np.abs(difference)
    outside_whole, outside_early = (_outside(theirs, here, *limits) for limits in (whole, early))
    nearer = np.abs(outside_whole) - np.abs(outside_early)
    is_late = only_here | np.where(nearer == 0, is_closer, nearer > 0)
    parts = {"late": np.where(is_late, -late, 0)}
    parts["late"] = np.where(only_there, np.where(elsewhere > 0, difference, 0), parts["late"])
    remainder = difference - parts["late"]
    low, high = (np.where(is_late, *limits) for limits in zip(early, whole, strict=True))
    outside = np.where(remainder == 0, 0, np.where(is_late, outside_early, outside_whole))
    is_rounding = ~only_here & ~only_there & (outside == 0)
    kinds = {
        "rounding": is_rounding,
        "different": ~only_here & ~only_there & ~is_rounding,
        "missing_here": only_there,
        "missing_there": only_here,
    }
    parts |= {cause: np.where(is_kind, remainder, 0) for cause, is_kind in kinds.items()}
    verdict = np.select(
        [
            only_there & (elsewhere == 0),
            only_here & ((remainder != 0) | (late == 0)),
            *(parts[cause] != 0 for cause in ("different", "late", "rounding")),
        ],
        ["missing_here", "missing_there", "different", "late", "rounding"],
        "equal",
    )
    minutes = {
        "ours": mine,
        "theirs": theirs,
        "difference": difference,
        "expected_low": low,
        "expected_high": high,
        "outside": outside,
        **{cause: parts[cause] for cause in CAUSES},
    }
    columns = {
        **{key: lines[key] for key in invoice.by},
        "connections_here": lines["here_sum"],
        "lines_there": lines["there_sum"],
        **{f"{name}_min": decimals(units, BILLED) for name, units in minutes.items()},
        "verdict": pa.array(verdict.astype(object), TEXT),
    }
    return pa.table(columns).sort_by([(key, "ascending") for key in invoice.by])


def _range(lines: pa.Table, *, with_late: bool) -> tuple[np.ndarray, np.ndarray]:
    """The least and the greatest sum of each line by `RULES`, in thousandths."""
    sums = [lines[f"{rule}_sum"].to_numpy() for rule in RULES]
    if not with_late:
        late = [lines[f"late_{rule}_sum"].to_numpy() for rule in RULES]
        sums = [minutes - part for minutes, part in zip(sums, late, strict=True)]
    return np.minimum.reduce(sums), np.maximum.reduce(sums)


def _outside(theirs: np.ndarray, here: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """How far minutes are below (negative) or above a range; 0 if by at most 0.001 per connection."""
    outside: np.ndarray = np.minimum(theirs - low, 0) + np.maximum(theirs - high, 0)
    return np.where(np.abs(outside) <= here, 0, outside)


def summarize_differences(lines: pa.Table) -> list[dict[str, Any]]:
    """For each of `VERDICTS`: number of lines, minutes of both sides, minutes of difference that it explains, and
    minutes outside of the expected range.

    The last row, `total`, is the sum of the others; its `explains` is the whole difference.
    """
    verdicts = np.array(lines["verdict"].to_pylist(), object)
    minutes = {name: unscaled(lines[f"{name}_min"]) for name in ("ours", "theirs", "outside", *CAUSES)}
    rows = []
    for verdict in (*VERDICTS, "total"):
        selected = np.full(len(verdicts), True) if verdict == "total" else verdicts == verdict
        causes = CAUSES if verdict == "total" else [cause for cause in CAUSES if cause == verdict]
        sums = {
            "ours": minutes["ours"][selected].sum(),
            "theirs": minutes["theirs"][selected].sum(),
            "explains": sum(minutes[cause].sum() for cause in causes),
            "outside": minutes["outside"][selected].sum(),
        }
        decimal_sums = {name: Decimal(int(units)).scaleb(-3) for name, units in sums.items()}
        rows.append({"verdict": verdict, "lines": int(selected.sum()), **decimal_sums})
    return rows


def _sides(ours: pa.Table, invoice: Invoice) -> pa.Table:
    """Sums of both sides by key; keys that occur only in another month are omitted."""
    mine = ours.select([*invoice.by, *_SUMS])
    none = pa.array(np.zeros(mine.num_rows, np.int64))
    mine = mine.append_column("there", none).append_column("theirs", none)
    count = invoice.lines.num_rows
    other = {**{name: np.zeros(count, np.int64) for name in _SUMS}, "there": np.ones(count, np.int64)}
    columns = [other[name] if name in other else invoice.lines[name] for name in mine.schema.names]
    sides = pa.concat_tables([mine, pa.table(columns, schema=mine.schema)])
    lines = sides.group_by(list(invoice.by)).aggregate([(name, "sum") for name in (*_SUMS, "there", "theirs")])
    return lines.filter(pa.array((lines["here_sum"].to_numpy() > 0) | (lines["there_sum"].to_numpy() > 0)))


def _decoded(content: bytes, name: str) -> str:
    try:
        return content.decode("utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(f"{name}: not UTF-8 text; save it as CSV (UTF-8)") from None


def _column_indexes(header: list[str], name: str, headers: Mapping[str, str]) -> dict[str, int]:
    """Index of each of `COLUMNS` that the file has."""
    available = [_spelling(cell) for cell in header]
    for column, given in headers.items():
        if column not in COLUMNS:
            raise ConfigError(f"--column {column}={given}: unknown; valid names: {', '.join(COLUMNS)}")
        if _spelling(given) not in available:
            raise ConfigError(
                f"--column {column}={given}: {name} has no such column; columns of the file: {', '.join(header)}"
            )
    spellings = {column: _spelling(headers.get(column, column)) for column in COLUMNS}
    return {column: available.index(spelling) for column, spelling in spellings.items() if spelling in available}


def _spelling(header: str) -> str:
    return re.sub(r"[\s_-]+", "_", header.strip().lower())


def _rows(text: str, separator: str, name: str) -> Iterator[tuple[str, list[str]]]:
    """The rows that are not blank, each with its line number for messages."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield f"{name}: line {reader.line_num}", cells
    except csv.Error as error:
        raise ConfigError(f"{name}: line {reader.line_num} cannot be read as CSV: {error}") from None


def _key(key: str, text: str, where: str) -> str | date | None:
    if key == "day":
        try:
            return datetime.fromisoformat(text).date()
        except ValueError:
            raise ConfigError(f"{where}: day {text!r}: write it as 2026-11-22") from None
    if key in _SINGLE_KEYS and not text:
        raise ConfigError(f"{where}: no {key}; remove lines with totals")
    if key in _SINGLE_KEYS and _SPREADSHEET_NUMBER.fullmatch(text):
        raise ConfigError(f"{where}: {key} {text} was rounded by a spreadsheet; use the file as downloaded")
    return text or None


def _thousandths(text: str, per_minute: int, separator: str, decimal: DecimalMark | None, where: str) -> int:
    """Parse a number to the nearest thousandth of a minute."""
    if decimal and not _MARKED_NUMBERS[decimal].fullmatch(text):
        plain = "NaN"
    elif decimal == "point":
        plain = text.replace(",", "")
    elif decimal == "comma":
        plain = text.replace(".", "").replace(",", ".")
    else:
        plain = text if separator == "," else text.replace(",", ".")
    try:
        number = Decimal(plain)
    except InvalidOperation:
        number = Decimal("NaN")
    if not number.is_finite() or abs(number) >= _TOO_MANY:
        raise ConfigError(f"{where}: {text!r} is not a number of minutes; write it as 1234.5")
    return int((number * 1000 / per_minute).quantize(Decimal(1), ROUND_HALF_UP))
