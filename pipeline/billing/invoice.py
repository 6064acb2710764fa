"""The vendor's invoice or portal export, read and checked against our connections, line by line (pure).

Minutes are whole thousandths until the end: what explains the difference of a line adds up to it exactly, and so does
what explains all of them.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.arrow_types import BILLED, COUNT, TEXT, TIME
from pipeline.core.errors import ConfigError
from pipeline.tables.normalize.arrow_ops import Column, decimals, unscaled

_SINGLE_KEYS = ("cdr_id", "conf_num")
_GROUP_KEYS = ("project", "day", "room_id", "owner_ref", "billing_code")
_KEY_TYPES = {name: pa.date32() if name == "day" else TEXT for name in (*_SINGLE_KEYS, *_GROUP_KEYS)}
_QUANTITIES = {"minutes": 1, "connect_minutes_cal": 1, "seconds": 60}
"""Names of what is billed, and how many of them are a minute; the first that a file has counts."""

GRACE = timedelta(days=1)
"""What was first seen this long after a month's end counts as in time: its sessions are collected the night after."""

COLUMNS = (*_SINGLE_KEYS, *_GROUP_KEYS, *_QUANTITIES)
"""What a column may be called; what others are called is passed over."""

_SUMS = ("here", "ours", "late", "elsewhere")
MEASURED = pa.schema([*_KEY_TYPES.items(), *((name, COUNT) for name in _SUMS)])
"""One connection: `here` is 1 when it counts in the month, `elsewhere` 1 when it counts in the one before or after.

`ours`: its thousandths of a minute; `late`: how many of them were known only after the month was over.
"""

CAUSES = ("rounding", "late", "different", "missing_here", "missing_there")
VERDICTS = ("equal", *CAUSES)
UNEXPLAINED = ("different", "missing_here", "missing_there")
"""What rounding and lateness do not explain."""

_TOO_MANY = 10**12
"""Minutes: sums of thousandths stay below 2**63."""

_SPREADSHEET_NUMBER = re.compile(r"\d([.,]\d+)?E\+?\d+", re.I | re.A)


@dataclass(frozen=True)
class Invoice:
    """The lines of a file: columns `by`, and `theirs` in thousandths of a minute."""

    by: tuple[str, ...]
    lines: pa.Table


def came_late(first_seen_at: Column, month_ends_at: datetime) -> Column:
    """Which of a day's connections became known more than `GRACE` after the month's end, and as long after the day was
    first looked at: if collection began after the month, lateness is unknown."""
    looked_at = pc.min(first_seen_at).as_py() or month_ends_at
    return pc.fill_null(pc.greater(first_seen_at, pa.scalar(max(looked_at, month_ends_at) + GRACE, TIME)), False)


def read_invoice(content: bytes, name: str, headers: Mapping[str, str] | None = None) -> Invoice:
    """Read a CSV: separated by comma, semicolon, tab or bar; with or without a byte order mark; UTF-8 or UTF-16.

    Columns are known by their names in `COLUMNS`, however they are spelt as to case, spaces and hyphens, or by
    `headers` (one of `COLUMNS` -> what the file calls it). A file with `cdr_id` is compared by connection, else one
    with `conf_num` by session, else by all of project, day, room, owner and billing code that it has.

    Raises:
        ConfigError: a needed column is missing, or the line that cannot be read, and why.
    """
    text = _decoded(content, name)
    separator = max(",;\t|", key=text.partition("\n")[0].count)
    rows = _rows(text, separator, name)
    header = next(rows, (name, []))[1]
    places = _places(header, name, headers or {})
    by = next(((key,) for key in _SINGLE_KEYS if key in places), tuple(key for key in _GROUP_KEYS if key in places))
    quantity = next((one for one in _QUANTITIES if one in places), None)
    if quantity is None or not by:
        lacking, known = (_QUANTITIES, "minutes") if quantity is None else ((*_SINGLE_KEYS, *_GROUP_KEYS), "cdr_id")
        raise ConfigError(
            f"{name}: no column is called {' or '.join(lacking)}; it has {', '.join(header) or 'none'};"
            f" say which is meant with --column {known}=HEADER"
        )
    columns: dict[str, list[Any]] = {key: [] for key in (*by, "theirs")}
    for where, cells in rows:
        if len(cells) < len(header):
            raise ConfigError(f"{where} has {len(cells)} cells, the header {len(header)}")
        for key in by:
            columns[key].append(_key(key, cells[places[key]].strip(), where))
        columns["theirs"].append(_thousandths(cells[places[quantity]], _QUANTITIES[quantity], separator, where))
    types = [(key, _KEY_TYPES.get(key, COUNT)) for key in columns]
    return Invoice(by, pa.table(list(columns.values()), schema=pa.schema(types)))


def compare(ours: pa.Table, invoice: Invoice) -> pa.Table:
    """Their lines and ours (rows of `OURS`), sorted by key: minutes of both, the difference (theirs - ours), what of
    it each of `CAUSES` explains, and the `verdict`, the first of these that is so:

    `missing_here`, `missing_there`: only one side has it. `different`: both have it, more than rounding apart. `late`:
    of what is only here, or is more here, so much was known only after the month was over; or what is only there
    counts in the month before or after here. `rounding`: at most a minute for each connection. `equal`.
    """
    lines = _sides(ours, invoice)
    here, there, mine, theirs, late, elsewhere = (
        lines[f"{name}_sum"].to_numpy() for name in ("here", "there", "ours", "theirs", "late", "elsewhere")
    )
    difference, only_here, only_there = theirs - mine, there == 0, here == 0
    brings_nearer = np.abs(difference + late) < np.abs(difference)
    parts = {"late": np.where(only_here | brings_nearer, -late, 0)}
    parts["late"] = np.where(only_there, np.where(elsewhere > 0, difference, 0), parts["late"])
    rest = difference - parts["late"]
    is_rounding = ~only_here & ~only_there & (np.abs(rest) <= 1000 * here)
    kinds = {
        "rounding": is_rounding,
        "different": ~only_here & ~only_there & ~is_rounding,
        "missing_here": only_there,
        "missing_there": only_here,
    }
    parts |= {cause: np.where(is_kind, rest, 0) for cause, is_kind in kinds.items()}
    verdict = np.select(
        [
            only_there & (elsewhere == 0),
            only_here & ((rest != 0) | (late == 0)),
            *(parts[cause] != 0 for cause in ("different", "late", "rounding")),
        ],
        ["missing_here", "missing_there", "different", "late", "rounding"],
        "equal",
    )
    minutes = {"ours": mine, "theirs": theirs, "difference": difference, **{cause: parts[cause] for cause in CAUSES}}
    columns = {
        **{key: lines[key] for key in invoice.by},
        "connections_here": lines["here_sum"],
        "lines_there": lines["there_sum"],
        **{f"{name}_min": decimals(units, BILLED) for name, units in minutes.items()},
        "verdict": pa.array(verdict.astype(object), TEXT),
    }
    return pa.table(columns).sort_by([(key, "ascending") for key in invoice.by])


def summarize_differences(lines: pa.Table) -> list[dict[str, Any]]:
    """For each of `VERDICTS`: how many lines, their minutes on both sides, and how much of all differences it explains.

    The last row, `total`, is the sum of the others: what it explains is the whole difference.
    """
    verdicts = np.array(lines["verdict"].to_pylist(), object)
    minutes = {name: unscaled(lines[f"{name}_min"]) for name in ("ours", "theirs", *CAUSES)}
    totals = []
    for verdict in (*VERDICTS, "total"):
        of_it = np.full(len(verdicts), True) if verdict == "total" else verdicts == verdict
        causes = CAUSES if verdict == "total" else [cause for cause in CAUSES if cause == verdict]
        sums = {
            "ours": minutes["ours"][of_it].sum(),
            "theirs": minutes["theirs"][of_it].sum(),
            "explains": sum(minutes[cause].sum() for cause in causes),
        }
        decimal_sums = {name: Decimal(int(units)).scaleb(-3) for name, units in sums.items()}
        totals.append({"verdict": verdict, "lines": int(of_it.sum()), **decimal_sums})
    return totals


def _sides(ours: pa.Table, invoice: Invoice) -> pa.Table:
    """Both sides by key; a key that only another month has is left out."""
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
        raise ConfigError(f"{name}: not a text in UTF-8; save it as CSV (UTF-8)") from None


def _places(header: list[str], name: str, headers: Mapping[str, str]) -> dict[str, int]:
    """Where each of `COLUMNS` that there is stands."""
    spelt = [_spelling(cell) for cell in header]
    for column, header_name in headers.items():
        if column not in COLUMNS:
            raise ConfigError(f"--column {column}={header_name}: unknown; there are {', '.join(COLUMNS)}")
        if _spelling(header_name) not in spelt:
            raise ConfigError(f"--column {column}={header_name}: {name} has no such column; it has {', '.join(header)}")
    wanted = {column: _spelling(headers.get(column, column)) for column in COLUMNS}
    return {column: spelt.index(spelling) for column, spelling in wanted.items() if spelling in spelt}


def _spelling(header: str) -> str:
    return re.sub(r"[\s_-]+", "_", header.strip().lower())


def _rows(text: str, separator: str, name: str) -> Iterator[tuple[str, list[str]]]:
    """The rows that are not blank, each with its place for messages."""
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
        raise ConfigError(f"{where}: no {key}; take out lines of totals")
    if key in _SINGLE_KEYS and _SPREADSHEET_NUMBER.fullmatch(text):
        raise ConfigError(f"{where}: {key} {text} was rounded by a spreadsheet; take the file as it was downloaded")
    return text or None


def _thousandths(text: str, per_minute: int, separator: str, where: str) -> int:
    """A number as thousandths of a minute, to the nearest; with a decimal comma where the separator leaves it free."""
    plain = text.strip().replace(",", ".") if separator != "," and "." not in text else text.strip()
    try:
        number = Decimal(plain)
    except InvalidOperation:
        number = Decimal("NaN")
    if not number.is_finite() or abs(number) >= _TOO_MANY:
        raise ConfigError(f"{where}: {text!r} is not a number of minutes; write it as 1234.5")
    return int((number * 1000 / per_minute).quantize(Decimal(1), ROUND_HALF_UP))
