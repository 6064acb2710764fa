"""CSV files that people open: each file below is compared with its golden file in tests/golden/billing/.

After an intended change, `python -m tests.unit.billing.test_csv_files` writes the files again; review the difference.
"""

from __future__ import annotations

import csv
import io
import unicodedata
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.billing import corrections, line_items
from pipeline.billing.csv_files import csv_bytes
from pipeline.billing.focus import as_text, focus_rows
from pipeline.billing.invoice import MEASURED, RULES, compare, read_invoice
from pipeline.billing.line_items import ITEMS, LINES, MEASURES
from pipeline.billing.month import billing_month
from pipeline.billing.pricing import rate
from pipeline.core.settings.prices import Prices
from pipeline.core.settings.sections import BillingCsv
from tests.support.paths import ROOT

EXPECTED = ROOT / "tests/golden" / "billing"
NOVEMBER = billing_month("2026-11", "UTC")
PRICES = Prices.model_validate({"currency": "USD", "participant_min": "0.004", "storage_gb_months": "0.03"})
PLAIN = BillingCsv()

LINK = '=HYPERLINK("http://x","y")'
USED: list[dict[str, Any]] = [
    {"owner_ref": LINK, "billing_code": "+31 20", "room_id": "r1", "connections": 2, "participant_min": Decimal(60)},
    {"owner_ref": "north, south", "billing_code": "\tx", "room_id": "r2", "participant_s": Decimal("0.5")},
    {"owner_ref": "-", "room_id": " @r", "storage_gb_months": Decimal("0.000000001")},
    {"owner_ref": "\uff1d1+1", "billing_code": "", "room_id": "r3", "storage_gb_months": Decimal("1234567.5")},
    {"participant_min": Decimal("0.001")},
]


def lines_of(*rows: dict[str, Any]) -> pa.Table:
    return rate(table_of(LINES, *rows), PRICES, NOVEMBER)


def table_of(schema: pa.Schema, *rows: dict[str, Any]) -> pa.Table:
    none = {name: Decimal(0) if pa.types.is_decimal(kind) else 0 for name, kind in MEASURES.items()}
    made = [{**none, "project": "acme", "day": date(2026, 11, 10), **row} for row in rows]
    return pa.Table.from_pylist(made, schema)


def flagged(rows: pa.Table) -> pa.Table:
    return line_items.with_provisional_flag(rows, is_provisional=False)


def usage() -> pa.Table:
    return flagged(lines_of(*USED))


def summary() -> pa.Table:
    return flagged(line_items.summary(lines_of(*USED)))


def corrected() -> pa.Table:
    before, now = USED[:1], [{**USED[0], "connections": 1, "participant_min": Decimal(25)}]
    as_items = [
        table_of(ITEMS, *({"kind": "connection", "item": "@1", "conf_num": "1", **row} for row in rows))
        for rows in (before, now)
    ]
    changes = corrections.item_corrections(*as_items, {"acme": datetime.fromisoformat("2026-12-05T00:00:00Z")})
    return flagged(corrections.with_amounts(changes, lines_of(*before), lines_of(*now), ()))


def focus() -> pa.Table:
    return as_text(focus_rows([(1, lines_of(*USED))], NOVEMBER, is_provisional=False))


def comparison() -> pa.Table:
    none = dict.fromkeys([name for name in MEASURED.names if pa.types.is_integer(MEASURED.field(name).type)], 0)
    minutes = {"ours": 30_000, **dict.fromkeys(RULES, 30_000), "exact": 29_502}
    ours = [{**none, **minutes, "here": 1, "owner_ref": owner} for owner in (LINK, "north")]
    invoice = read_invoice(b"owner_ref,minutes\nnorth,31\n@made-up,0.001\n", "invoice.csv")
    return compare(pa.Table.from_pylist(ours, MEASURED), invoice)


FILES = {case.__name__: case for case in (usage, summary, corrected, focus, comparison)}


@pytest.mark.parametrize("name", FILES)
def test_what_people_read_is_the_expected_file(name: str) -> None:
    """Decimals have no exponent, and text that a spreadsheet would run begins with an apostrophe, in every file."""
    assert csv_bytes(FILES[name](), PLAIN) == (EXPECTED / f"{name}.csv").read_bytes()


def test_every_golden_file_has_a_file() -> None:
    """Every file in tests/golden/billing belongs to a case."""
    assert {path.name for path in EXPECTED.iterdir()} == {f"{name}.csv" for name in FILES}


MADE_UP = pa.table(
    {
        "text": pa.array(["=1", "a;b", None], pa.string()),
        "minutes": pa.array([Decimal("-0.5"), Decimal(0), None], pa.decimal128(18, 9)),
    }
)


@pytest.mark.parametrize(
    ("form", "content"),
    [
        ({}, '"text","minutes"\n"\'=1",-0.500000000\n"a;b",0.000000000\n,\n'),
        ({"neutralise": False}, '"text","minutes"\n"=1",-0.500000000\n"a;b",0.000000000\n,\n'),
        ({"separator": ";", "decimal": "comma"}, '"text";"minutes"\n"\'=1";-0,500000000\n"a;b";0,000000000\n;\n'),
        ({"separator": "tab", "bom": True}, '\ufeff"text"\t"minutes"\n"\'=1"\t-0.500000000\n"a;b"\t0.000000000\n\t\n'),
    ],
)
def test_the_form_of_a_file_is_a_setting(form: dict[str, Any], content: str) -> None:
    """Apostrophes, separator, decimal mark and byte order mark are as `[billing.csv]` states."""
    assert csv_bytes(MADE_UP, BillingCsv.model_validate(form)).decode() == content
    header = csv_bytes(MADE_UP.slice(0, 0), BillingCsv.model_validate(form)).decode()
    assert header == content.splitlines(keepends=True)[0]


RUNNING = ["=1", "+1", "-1", "@x", "\tx", "\rx", "\nx", "  =1", "\u00a0@x", "\u3000-1", "\u200b+1", "\ufeff=1"]
RUNNING += [f"{sign}1" for sign in "\uff1d\uff0b\uff0d\uff20\ufe66\ufe62\ufe63\ufe6b"]


@pytest.mark.parametrize("text", RUNNING)
def test_a_text_that_a_spreadsheet_runs_has_an_apostrophe(text: str) -> None:
    """Also behind white space and invisible characters, and in full-width form."""
    assert cells(pa.table({"x": [text]})) == [[f"'{text}"]]


@pytest.mark.parametrize("text", ["a=1", "1-2", "", "'=1", "(=1)", "x@y", " a", "\u2212 1", "#=1"])
def test_other_text_stays_as_it_is(text: str) -> None:
    """A sign inside a text, and text that begins with an apostrophe already, have no other apostrophe."""
    assert cells(pa.table({"x": [text]})) == [[text]]


def cells(rows: pa.Table) -> list[list[str]]:
    """The cells below the header, as Python's reader finds them."""
    return list(csv.reader(io.StringIO(csv_bytes(rows, PLAIN).decode(), newline="")))[1:]


texts = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from('=+-@\t\r\n",;\uff1d '), max_size=5)
numbers = st.none() | st.decimals(-(10**8), 10**8, places=9)


@given(st.lists(st.tuples(st.none() | texts, numbers, st.none() | st.booleans()), max_size=6), st.integers(0, 6))
def test_every_cell_is_read_back(rows: list[tuple[Any, ...]], cut: int) -> None:
    """Any text and number, in chunks and dictionary-encoded, is read back the same, but for the apostrophe; no cell
    begins with a sign, and no number has an exponent.
    """
    schema = pa.schema([("text", pa.string()), ("number", pa.decimal128(18, 9)), ("flag", pa.bool_())])
    table = pa.Table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in rows], schema)
    table = table.append_column("encoded", table["text"].dictionary_encode())
    found = cells(pa.concat_tables([table.slice(0, cut), table.slice(cut)]))
    assert len(found) == len(rows)
    for (text, number, flag), (cell, decimal, boolean, encoded) in zip(rows, found, strict=True):
        assert cell == encoded
        assert cell in {text or "", f"'{text}"}
        visible = [char for char in cell if unicodedata.category(char) not in {"Zs", "Zl", "Zp", "Cc", "Cf"}]
        assert not set(visible[:1]) & set("=+-@\uff1d\uff0b\uff0d\uff20\ufe66\ufe62\ufe63\ufe6b")
        assert "E" not in decimal
        assert (Decimal(decimal) if decimal else None) == number
        assert boolean == ("" if flag is None else str(flag).lower())


if __name__ == "__main__":
    for file_name, make in FILES.items():
        (EXPECTED / f"{file_name}.csv").write_bytes(csv_bytes(make(), PLAIN))
