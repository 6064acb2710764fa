"""Invoices: readable files, and causes that add up to the difference."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.billing.invoice import (
    CAUSES,
    MEASURED,
    RULES,
    UNEXPLAINED,
    VERDICTS,
    Invoice,
    came_late,
    compare,
    read_invoice,
    summarize_differences,
)
from pipeline.core.arrow_types import TIME
from pipeline.core.errors import ConfigError

DAY = date(2026, 11, 3)


def ours_of(*rows: dict[str, Any]) -> pa.Table:
    known = {
        name: 0 if pa.types.is_integer(kind) else None
        for name, kind in zip(MEASURED.names, MEASURED.types, strict=True)
    }
    made = [{**known, "project": "acme", "day": DAY, "here": 1, **with_rules(row)} for row in rows]
    return pa.Table.from_pylist(made, MEASURED)


def with_rules(row: dict[str, Any]) -> dict[str, Any]:
    """The row with the minutes of every rule; by default each rule counts as ours does."""
    row = {"ours": 0, "late_ours": 0, **row}
    late = {f"late_{rule}": min(row["late_ours"], row.get(rule, row["ours"])) for rule in RULES}
    return {**dict.fromkeys(RULES, row["ours"]), **late, **row}


def theirs_of(by: str, *lines: tuple[str | None, int]) -> Invoice:
    names, minutes = zip(*lines, strict=True) if lines else ((), ())
    schema = pa.schema([(by, pa.string()), ("theirs", pa.int64())])
    return Invoice((by,), pa.table([list(names), list(minutes)], schema=schema))


OWN = {"cdr_id": "1", "owner_ref": "north", "ours": 30_000}


@pytest.mark.parametrize(
    ("by", "ours", "theirs", "verdict", "parts"),
    [
        ("cdr_id", [OWN], [("1", 30_000)], "equal", {}),
        ("cdr_id", [OWN], [("1", 30_001)], "rounding", {"rounding": Decimal("0.001")}),
        ("cdr_id", [OWN], [("1", 31_000)], "different", {"different": 1}),
        ("cdr_id", [{**OWN, "exact": 29_008}], [("1", 29_500)], "rounding", {"rounding": Decimal("-0.5")}),
        ("cdr_id", [{**OWN, "exact": 29_008}], [("1", 29_000)], "different", {"different": -1}),
        ("cdr_id", [{**OWN, "billed": 31_000}], [("1", 31_000)], "rounding", {"rounding": 1}),
        ("cdr_id", [{**OWN, "billed": 31_000}], [("1", 31_002)], "different", {"different": Decimal("1.002")}),
        ("owner_ref", [{**OWN, "ours": 10_000}] * 1000, [("north", 10_900_000)], "different", {"different": 900}),
        ("owner_ref", [{**OWN, "ours": 10_000}] * 1000, [("north", 9_001_000)], "different", {"different": -999}),
        ("owner_ref", [{**OWN, "exact": 29_100}] * 10, [("north", 291_000)], "rounding", {"rounding": -9}),
        ("owner_ref", [{**OWN, "exact": 29_100}, OWN], [("north", 59_000)], "different", {"different": -1}),
        ("cdr_id", [OWN], [("1", 32_000)], "different", {"different": 2}),
        ("cdr_id", [OWN], [("1", 30_000), ("1", 30_000)], "different", {"different": 30}),
        ("cdr_id", [OWN], [], "missing_there", {"missing_there": -30}),
        ("cdr_id", [], [("1", 30_000)], "missing_here", {"missing_here": 30}),
        ("cdr_id", [], [("1", 0)], "missing_here", {}),
        ("cdr_id", [{**OWN, "late_ours": 30_000}], [], "late", {"late": -30}),
        ("cdr_id", [{**OWN, "late_ours": 7_000}], [("1", 23_000)], "late", {"late": -7}),
        ("cdr_id", [{**OWN, "late_ours": 7_000}], [("1", 30_000)], "equal", {}),
        ("cdr_id", [{**OWN, "late_ours": -7_000}], [("1", 37_000)], "late", {"late": 7}),
        ("cdr_id", [{**OWN, "here": 0, "ours": 0, "elsewhere": 1}], [("1", 30_000)], "late", {"late": 30}),
        (
            "owner_ref",
            [{**OWN, "billed": 33_000}, {**OWN, "late_ours": 30_000, "billed": 99_000, "late_billed": 99_000}, OWN],
            [("north", 63_000)],
            "late",
            {"late": -30, "rounding": 3},
        ),
        (
            "owner_ref",
            [{**OWN, "exact": 14_000}, {**OWN, "late_ours": 30_000, "exact": 29_500, "late_exact": 29_500}],
            [("north", 43_600)],
            "rounding",
            {"rounding": Decimal("-16.4")},
        ),
        ("owner_ref", [OWN, {**OWN, "late_ours": 30_000}], [], "missing_there", {"late": -30, "missing_there": -30}),
        ("owner_ref", [{**OWN, "owner_ref": None}], [(None, 30_000)], "equal", {}),
    ],
)
def test_each_line_has_its_verdict(
    by: str, ours: list[dict[str, Any]], theirs: list[tuple[str, int]], verdict: str, parts: dict[str, int]
) -> None:
    """The verdict of a line, and the part of its difference that each cause explains."""
    (line,) = compare(ours_of(*ours), theirs_of(by, *theirs)).to_pylist()
    assert line["verdict"] == verdict
    assert {cause: line[f"{cause}_min"] for cause in CAUSES if line[f"{cause}_min"]} == parts


@pytest.mark.parametrize(
    ("theirs", "late", "low", "high", "outside"),
    [
        (57_000, 0, 56_500, 60_000, "0"),
        (56_498, 0, 56_500, 60_000, "0"),
        (56_490, 0, 56_500, 60_000, "-0.01"),
        (60_002, 0, 56_500, 60_000, "0"),
        (65_400, 0, 56_500, 60_000, "5.4"),
        (30_000, 30_000, 30_000, 30_000, "0"),
        (31_000, 30_000, 30_000, 30_000, "1"),
    ],
)
def test_the_expected_range_is_named(theirs: int, late: int, low: int, high: int, outside: str) -> None:
    """A line names its expected range, without late minutes that explain a part, and how far the invoice is outside."""
    short = {**OWN, "exact": 26_500, "late_ours": late}
    (line,) = compare(ours_of(OWN, short), theirs_of("owner_ref", ("north", theirs))).to_pylist()
    assert (line["expected_low_min"], line["expected_high_min"]) == (Decimal(low) / 1000, Decimal(high) / 1000)
    assert line["outside_min"] == Decimal(outside)


def test_minutes_that_count_elsewhere_are_outside_of_nothing() -> None:
    """A line that counts in another month is explained; one that only the invoice has is outside by all of it."""
    rows = [{**OWN, "cdr_id": "1", "here": 0, "ours": 0, "elsewhere": 1}]
    lines = compare(ours_of(*rows), theirs_of("cdr_id", ("1", 30_000), ("2", 5_000))).to_pylist()
    assert [(line["verdict"], line["outside_min"]) for line in lines] == [("late", 0), ("missing_here", 5)]
    assert summarize_differences(compare(ours_of(*rows), theirs_of("cdr_id", ("2", 5_000))))[-1]["outside"] == 5


@pytest.mark.parametrize(
    ("seen", "late"),
    [
        ([3, None, 30, 33], [False, False, False, True]),
        ([100, 101, 123, 125], [False, False, False, True]),
        ([], []),
    ],
)
def test_without_earlier_collection_lateness_is_unknown(seen: list[int | None], late: list[bool]) -> None:
    """Late is more than a day after the month, and more than a day after that day was first collected; `seen` is in
    hours from 6 hours before the end of the month.
    """
    over = datetime(2026, 12, 1, tzinfo=UTC)
    moments = [None if hours is None else over - timedelta(hours=6) + timedelta(hours=hours) for hours in seen]
    assert came_late(pa.chunked_array([moments], TIME), over).to_pylist() == late


amounts = st.integers(0, 90_000)
names = st.sampled_from(["a", "b", "c", None])
our_rows = st.builds(
    lambda name, here, minutes, late: {
        "owner_ref": name,
        "here": here,
        "elsewhere": 1 - here,
        "ours": minutes * here,
        "late_ours": min(late, minutes) * here,
    },
    names,
    st.sampled_from([1, 1, 1, 0]),
    amounts,
    st.one_of(st.just(0), amounts),
)


@settings(max_examples=50)
@given(st.lists(our_rows, max_size=8), st.lists(st.tuples(names, amounts), max_size=6))
def test_the_difference_is_explained_to_the_last_line(
    ours: list[dict[str, Any]], theirs: list[tuple[str | None, int]]
) -> None:
    """In each line and in total the causes add up exactly to theirs minus ours; no line of either side is lost; only
    unexplained lines have an unexplained verdict.
    """
    lines = compare(ours_of(*ours), theirs_of("owner_ref", *theirs))
    table = lines.to_pylist()
    for line in table:
        assert sum(line[f"{cause}_min"] for cause in CAUSES) == line["difference_min"]
        assert line["difference_min"] == line["theirs_min"] - line["ours_min"]
        assert (line["verdict"] in UNEXPLAINED) >= any(line[f"{cause}_min"] for cause in UNEXPLAINED)
    whole = Decimal(sum(minutes for _, minutes in theirs) - sum(row["ours"] for row in ours)).scaleb(-3)
    *rows, total = summarize_differences(lines)
    assert [row["verdict"] for row in rows] == list(VERDICTS)
    assert sum(row["explains"] for row in rows) == total["explains"] == total["theirs"] - total["ours"] == whole
    assert sum(row["lines"] for row in rows) == total["lines"] == len(table)
    assert sum(line["lines_there"] for line in table) == len(theirs)
    assert sum(line["connections_here"] for line in table) == sum(row["here"] for row in ours)


@pytest.mark.parametrize(
    "content",
    [
        b"cdr_id,minutes\n7,12.5\n\n8,3\n",
        b"\xef\xbb\xbfCDR ID;Minutes\r\n7;12,5\r\n8;3\r\n",
        "cdr-id\tconnect_minutes_cal\tname\n7\t12.500\tx\n8\t3\ty\n".encode("utf-16"),
        b"seconds|cdr_id\n750|7\n180|8\n",
    ],
)
def test_a_file_is_read_as_spreadsheets_and_portals_write_it(content: bytes) -> None:
    """Byte order mark, separator, decimal comma, seconds, blank lines and spelling of names: the lines are the same."""
    invoice = read_invoice(content, "invoice.csv")
    assert invoice.by == ("cdr_id",)
    assert invoice.lines.to_pydict() == {"cdr_id": ["7", "8"], "theirs": [12_500, 3_000]}


@pytest.mark.parametrize(
    ("separator", "text", "decimal", "thousandths"),
    [
        (";", "10,5", None, 10_500),
        (";", "10,000", "comma", 10_000),
        (";", "10,000", "point", 10_000_000),
        (";", "1.234,5", "comma", 1_234_500),
        ("\t", "1,234,567.25", "point", 1_234_567_250),
        (";", "10.000", "comma", 10_000_000),
        (";", "10.000", "point", 10_000),
        (",", '"12,5"', "comma", 12_500),
        (",", '"-1,234"', "point", -1_234_000),
    ],
)
def test_the_decimal_mark_may_be_named(separator: str, text: str, decimal: Any, thousandths: int) -> None:
    """With a decimal mark, the other mark separates thousands."""
    content = f"cdr_id{separator}minutes\n1{separator}{text}\n".encode()
    assert read_invoice(content, "i.csv", decimal=decimal).lines["theirs"].to_pylist() == [thousandths]


@pytest.mark.parametrize("text", ["10,000", "-1,234", "0,500", "12,5;x\n2;10.000", "12.5;x\n2;10,00"])
@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_a_number_with_two_readings_is_refused(separator: str, text: str) -> None:
    """A comma before exactly three digits, and commas and points in one file, are refused with the option to give."""
    content = f"cdr_id;minutes;name\n1;{text};x\n".replace(";", separator).encode()
    with pytest.raises(
        ConfigError, match=r"^i.csv: line [23]: '\S+' has two readings; name the decimal mark .*"
    ) as caught:
        read_invoice(content, "i.csv")
    assert str(caught.value).endswith("--decimal comma or --decimal point")


def test_lines_may_be_sums() -> None:
    """By session, or by the columns of project, day, room, owner and billing code in the file; empty text is null."""
    by_session = read_invoice(b"conf_num,owner_ref,minutes\n017,north,5\n", "i.csv")
    assert (by_session.by, by_session.lines["conf_num"].to_pylist()) == (("conf_num",), ["017"])
    content = b"Date,Tenant,Billed\n2026-11-03T10:00:00Z,north,5\n2026-11-04,,-1.5\n"
    invoice = read_invoice(content, "i.csv", {"day": "Date", "owner_ref": "tenant", "minutes": "BILLED"})
    assert invoice.by == ("day", "owner_ref")
    assert invoice.lines.to_pydict() == {
        "day": [DAY, date(2026, 11, 4)],
        "owner_ref": ["north", None],
        "theirs": [5000, -1500],
    }


@pytest.mark.parametrize(
    ("content", "headers", "message"),
    [
        (b"", {}, "i.csv: no column minutes or connect_minutes_cal or seconds; columns of the file: none"),
        (b"cdr_id,amount\n", {}, "columns of the file: cdr_id, amount; name one with --column minutes=HEADER"),
        (b"who,minutes\n", {}, "i.csv: no column cdr_id or conf_num or project"),
        (b"cdr_id,minutes\n1,2\nx\n", {}, "i.csv: line 3 has 1 cells, the header 2"),
        (b"cdr_id,minutes\n1,two\n", {}, "i.csv: line 2: 'two' is not a number of minutes"),
        (b'cdr_id,minutes\n1,"1,234"\n', {}, "i.csv: line 2: '1,234' is not a number of minutes; write it as 1234.5"),
        (b"cdr_id,minutes\n1,NaN\n", {}, "i.csv: line 2: 'NaN' is not a number of minutes"),
        (b"cdr_id,minutes\n1,1e15\n", {}, "i.csv: line 2: '1e15' is not a number of minutes"),
        (b"cdr_id,minutes\n,1\n", {}, "i.csv: line 2: no cdr_id; remove lines with totals"),
        (b"conf_num,minutes\n2.8417E+11,1\n", {}, "conf_num 2.8417E+11 was rounded by a spreadsheet"),
        (b"day,minutes\n03/11/2026,1\n", {}, "i.csv: line 2: day '03/11/2026': write it as 2026-11-22"),
        (b"PK\x03\x04\xff", {}, "i.csv: not UTF-8 text; save it as CSV (UTF-8)"),
        (b"cdr_id,minutes\n", {"minute": "x"}, "--column minute=x: unknown; valid names: cdr_id, conf_num"),
        (
            b"cdr_id,minutes\n",
            {"day": "Date"},
            "--column day=Date: i.csv has no such column; columns of the file: cdr_id",
        ),
    ],
)
def test_what_cannot_be_read_is_one_line(content: bytes, headers: dict[str, str], message: str) -> None:
    """The error has file, line, the text and the valid form."""
    with pytest.raises(ConfigError) as caught:
        read_invoice(content, "i.csv", headers)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["1,23", "1.234.5", "1e3", "12..5", "1,2345"])
def test_a_number_of_another_form_is_refused(text: str) -> None:
    """With a decimal mark, thousands are separated into groups of three digits, and nothing else is a number."""
    with pytest.raises(ConfigError, match="is not a number of minutes"):
        read_invoice(f"cdr_id;minutes\n1;{text}\n".encode(), "i.csv", decimal="point")
