"""The worked examples of docs/guide/billing.md, and what must hold for any lengths and sizes."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.billing.line_items import (
    CDR_COLUMNS,
    MEDIA_COLUMNS,
    SESSION_COLUMNS,
    _start_ms,
    byte_months,
    connection_items,
    file_items,
    plain,
    session_items,
    summed,
)
from pipeline.billing.month import RECORD_REACH_DAYS, BillingMonth, billing_month
from pipeline.core.arrow_types import BILLED, COUNT, TEXT, TIME
from pipeline.tables.schemas import TABLES
from tests.support.paths import ROOT

DOCUMENT = (ROOT / "docs/guide/billing.md").read_text()
NOVEMBER = billing_month("2026-11", "UTC")


def documented(header: str) -> list[list[str]]:
    """The rows of the table below a header, cell by cell."""
    rows = re.split(rf"^\| {re.escape(header)} .*$", DOCUMENT, flags=re.MULTILINE)[1].strip().split("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in rows.splitlines()[1:]]


def moment(clock: str) -> datetime:
    return datetime.fromisoformat(f"2026-11-10 {clock}").replace(tzinfo=UTC)


def rows_of(table: str, columns: tuple[str, ...], rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, pa.schema([TABLES[table].schema.field(name) for name in columns]))


@pytest.mark.parametrize("rounding", ["ceil_per_connection", "exact", "vendor"])
def test_the_worked_example_of_minutes(rounding: Any) -> None:
    """The minutes that docs/guide/billing.md shows are the minutes that are billed."""
    *rows_in, participant, recording, transcoding = documented("in")
    column = ("ceil_per_connection", "exact", "vendor").index(rounding) + 3
    stays = [(moment(row[0]), moment(row[1])) for row in rows_in]
    session = {
        "conf_num": "1",
        "first_connected_at": min(began for began, _ in stays),
        "duration_s": (max(ended for _, ended in stays) - min(began for began, _ in stays)).total_seconds(),
        "is_recorded": True,
        "is_transcoded": True,
    }
    sessions = rows_of("sessions", SESSION_COLUMNS, [session])
    connections = [
        {
            "cdr_id": str(number),
            "conf_num": "1",
            "signal_connected_at": began,
            "signal_disconnected_at": ended,
            "participant_s": (ended - began).total_seconds(),
            "connect_billed_min": Decimal(row[2]) if row[2] else None,
        }
        for number, (row, (began, ended)) in enumerate(zip(rows_in, stays, strict=True))
    ]
    rows = rows_of("cdr", CDR_COLUMNS, connections)
    days = pa.array([date(2026, 11, 10)] * len(rows_in))
    items = connection_items(rows, days, sessions, "acme", NOVEMBER, rounding)
    transcoded = session_items(sessions, "acme", NOVEMBER, rounding)
    assert items["participant_min"].to_pylist() == [Decimal(row[column]) for row in rows_in]
    assert pc.sum(items["participant_min"]).as_py() == Decimal(participant[column])
    assert pc.sum(items["recording_min"]).as_py() == Decimal(recording[column])
    assert transcoded["transcoding_min"].to_pylist() == [Decimal(transcoding[column])]


def test_the_worked_example_of_storage() -> None:
    """A file stored before the month counts for the whole month, one stored within it from then on."""
    rows_in = documented("stored")
    media = [
        {
            "conf_num": "1",
            "kind": "recording",
            "name": str(number),
            "state": "stored",
            "size_bytes": int(row[1]),
            "stored_at": datetime.fromisoformat(row[0]).replace(tzinfo=UTC),
        }
        for number, row in enumerate(rows_in)
    ]
    lost = {"conf_num": "1", "kind": "recording", "name": "lost", "state": "lost", "size_bytes": 5}
    rows = rows_of("media", MEDIA_COLUMNS, [*media, lost])
    items = file_items(rows, rows_of("sessions", SESSION_COLUMNS, []), "acme", NOVEMBER)
    assert items["storage_gb_months"].to_pylist() == [Decimal(row[2]) for row in rows_in]
    assert items["day"].to_pylist() == [date(2026, 11, 1), date(2026, 11, 16)]


@given(st.integers(0, 2**50), st.integers(0, 2_592_000_000))
def test_storage_is_exact_to_the_byte_month(size_bytes: int, kept_ms: int) -> None:
    """Bytes times seconds divided by the seconds of the month, to the nearest, for any size."""
    found = byte_months(np.array([size_bytes]), np.array([kept_ms]), 2_592_000_000)
    month_s = 2_592_000
    assert int(found[0]) == (size_bytes * (kept_ms // 1000) * 2 + month_s) // (2 * month_s)


@given(st.integers(1_767_225_600, 1_798_761_600), st.sampled_from(["America/New_York", "Asia/Kolkata", "UTC"]))
def test_every_moment_is_in_one_month(moment_s: int, zone: str) -> None:
    """Exactly one of the months of 2026 and the adjacent ones contains a time, on the local day of the zone."""
    months = [BillingMonth(date(2025 + number // 12, number % 12 + 1, 1), zone) for number in range(11, 25)]
    ms = np.array([moment_s * 1000])
    found = [month.dates(month.day_numbers(ms)).to_pylist()[0] for month in months if month.day_numbers(ms)[0] >= 0]
    assert found == [datetime.fromtimestamp(moment_s, ZoneInfo(zone)).date()]


@pytest.mark.parametrize("text", ["2026-13", "2026-1", "0000-01", "november", "2026-11-01", ""])
def test_what_is_no_month_is_refused(text: str) -> None:
    """A month is written as 2026-11."""
    with pytest.raises(ValueError, match="write it as 2026-11"):
        billing_month(text, "UTC")


@pytest.mark.parametrize(
    ("stay_s", "stated", "billed"),
    [
        (1800, "47", "47"),
        (1800, "47.001", "30"),
        (1800, "1800", "30"),
        (1800, "-30", "30"),
        (1800, "0", "0"),
        (1800, None, "30"),
        (0, "2", "2"),
        (None, "12", "12"),
        (None, "-12", "0"),
    ],
)
def test_the_vendors_minutes_must_be_possible(stay_s: float | None, stated: str | None, billed: str) -> None:
    """Seconds in the field of minutes and negative minutes are billed by our own stay, and are in no sum of theirs."""
    row = {"cdr_id": "1", "conf_num": "1", "trans_at": moment("10:00"), "participant_s": stay_s}
    rows = rows_of("cdr", CDR_COLUMNS, [row | {"connect_billed_min": Decimal(stated) if stated else None}])
    sessions = rows_of("sessions", SESSION_COLUMNS, [])
    items = connection_items(rows, pa.array([date(2026, 11, 10)]), sessions, "acme", NOVEMBER, "vendor")
    assert items["participant_min"].to_pylist() == [Decimal(billed)]
    assert items["connect_billed_min"].to_pylist() == [Decimal(billed) if stated == billed else 0]


_KEYS = {f"key_{number}": TEXT for number in range(6)}
_ADDED = {"minutes": BILLED, "connections": COUNT}


def assert_summed(rows: pa.Table, keys: list[str]) -> None:
    """As pyarrow does it, by text and decimals."""
    grouped = rows.group_by(keys).aggregate([(name, "sum") for name in _ADDED])
    grouped = grouped.sort_by([(name, "ascending") for name in keys])
    assert summed(rows, keys, _ADDED).to_pylist() == [
        {**{name: row[name] for name in keys}, **{name: row[f"{name}_sum"] for name in _ADDED}}
        for row in grouped.to_pylist()
    ]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["b", "a", "", "\u00fc", None]),
            st.sampled_from(["x", None]),
            st.none() | st.decimals(-(10**14), 10**14, places=3),
            st.none() | st.integers(-3, 3),
        ),
        max_size=12,
    ),
    st.integers(0, 12),
)
def test_sums_are_those_of_text_and_decimals(cells: list[tuple[Any, ...]], cut: int) -> None:
    """Keys that are null or negative sums, columns in pieces: per key the exact sum, null only of nulls, in order."""
    names = ["key_0", "key_1", *_ADDED]
    schema = pa.schema({**_KEYS, **_ADDED}.items())
    rows = pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in cells], schema)
    assert_summed(pa.concat_tables([rows.slice(cut), rows.slice(0, cut)]), ["key_0", "key_1"])


@given(st.lists(st.sampled_from([0, 1, 2, 3, None]), max_size=9), st.permutations(["a", "b", "b", ""]))
def test_sums_by_encoded_texts_are_those_by_texts(indices: list[int | None], texts: list[str]) -> None:
    """Dictionary-encoded keys, even with duplicate texts, result in the same lines as plain texts."""
    key = pa.DictionaryArray.from_arrays(pa.array(indices, pa.int32()), texts)
    ones = pa.array([1] * len(indices), COUNT)
    rows = pa.table({"key_0": key, "connections": ones})
    added = {"connections": COUNT}
    assert summed(rows, ["key_0"], added).equals(summed(plain(rows), ["key_0"], added))


def test_encoded_texts_change_no_item() -> None:
    """With encoded or plain texts, a connection without room or owner gets those of its session."""
    sessions = rows_of("sessions", SESSION_COLUMNS, [{"conf_num": "1", "room_id": "r", "owner_ref": "north"}])
    inputs = [("1", "south", None), ("1", None, "q"), ("2", None, None)]
    began = {"trans_at": datetime(2026, 11, 10, tzinfo=UTC)}
    cells = [{"cdr_id": c, "conf_num": c, "owner_ref": o, "room_id": r, **began} for c, o, r in inputs]
    rows = rows_of("cdr", CDR_COLUMNS, cells)
    encoded = rows
    for name in ("owner_ref", "room_id"):
        encoded = encoded.set_column(rows.schema.get_field_index(name), name, rows[name].dictionary_encode())
    days = pa.array([date(2026, 11, 10)] * len(inputs))
    items = [plain(connection_items(table, days, sessions, "acme", NOVEMBER, "exact")) for table in (rows, encoded)]
    assert items[0].equals(items[1])
    assert items[0]["owner_ref"].to_pylist() == ["south", "north", None]
    assert items[0]["room_id"].to_pylist() == ["r", "q", None]


def test_sums_of_more_keys_than_a_number_counts() -> None:
    """Six columns of 2,000 values combine to more than 64 bits; their sums are still exact and sorted."""
    dice = np.random.default_rng(7)
    keys = {name: pa.array(dice.permutation(2000)).cast(TEXT) for name in _KEYS}
    added = {"minutes": pa.array([Decimal("0.001")] * 2000, BILLED), "connections": pa.array([1] * 2000, COUNT)}
    rows = pa.table({**keys, **added})
    assert_summed(pa.concat_tables([rows, rows]), list(_KEYS))


REACH = timedelta(days=RECORD_REACH_DAYS)
RECORDED = datetime(2026, 11, 10, 12, tzinfo=UTC)
SIGNAL = {"signal_connected_at": RECORDED - timedelta(hours=2), "signal_disconnected_at": RECORDED}
ROOM = {"room_connected_at": RECORDED - timedelta(hours=1)}


@pytest.mark.parametrize(
    ("times", "start"),
    [
        ({**SIGNAL, **ROOM}, RECORDED - timedelta(hours=2)),
        ({**SIGNAL, **ROOM, "signal_disconnected_at": None}, RECORDED - timedelta(hours=1)),
        ({**SIGNAL, **ROOM, "signal_disconnected_at": RECORDED - timedelta(hours=3)}, RECORDED - timedelta(hours=1)),
        ({**SIGNAL, **ROOM, "signal_disconnected_at": RECORDED - timedelta(hours=2)}, RECORDED - timedelta(hours=2)),
        ({**SIGNAL, "signal_disconnected_at": RECORDED - timedelta(hours=3)}, RECORDED - timedelta(hours=2)),
        ({"signal_connected_at": RECORDED - timedelta(hours=2)}, RECORDED - timedelta(hours=2)),
        ({}, RECORDED),
        ({"room_connected_at": RECORDED - REACH - timedelta(days=1)}, RECORDED),
        ({"room_connected_at": RECORDED - REACH}, RECORDED - REACH),
        ({"trans_at": None}, datetime(2026, 11, 10, tzinfo=UTC)),
        ({"trans_at": RECORDED + REACH + timedelta(days=1)}, datetime(2026, 11, 10, tzinfo=UTC)),
    ],
    ids=[
        *("signal", "room", "reversed signal", "signal of 0 s", "reversed signal alone", "half a signal"),
        *("record", "too early", "just near", "no time", "record too late"),
    ],
)
def test_a_connection_counts_from_its_beginning(times: dict[str, datetime | None], start: datetime) -> None:
    """From the signalling times if both are there and not reversed, else from the room's, else from the record; never
    from a time more than RECORD_REACH_DAYS from the record's day."""
    row = dict.fromkeys(("signal_connected_at", "signal_disconnected_at", "room_connected_at")) | {"trans_at": RECORDED}
    rows = pa.Table.from_pylist([row | times], pa.schema([(name, TIME) for name in row]))
    [found_ms] = _start_ms(rows, pa.chunked_array([pa.array([RECORDED.date()])]))
    assert found_ms == start.timestamp() * 1000


def test_a_clock_that_steps_back_moves_no_minute_to_another_month() -> None:
    """A connection with reversed signalling times counts in the month in which its room times began, where its stay is
    counted, and in no other month."""
    times = {
        "room_connected_at": "2026-11-30 23:50:00",
        "signal_connected_at": "2026-12-01 00:00:10",
        "signal_disconnected_at": "2026-12-01 00:00:05",
        "trans_at": "2026-12-01 00:00:05",
    }
    record = {name: datetime.fromisoformat(text).replace(tzinfo=UTC) for name, text in times.items()}
    rows = rows_of("cdr", CDR_COLUMNS, [{**record, "cdr_id": "1", "conf_num": "1", "participant_s": 605.0}])
    days, sessions = pa.array([date(2026, 12, 1)]), rows_of("sessions", SESSION_COLUMNS, [])
    november, december = (
        connection_items(rows, days, sessions, "acme", billing_month(month, "UTC"), "ceil_per_connection")
        for month in ("2026-11", "2026-12")
    )
    assert november["day"].to_pylist() == [date(2026, 11, 30)]
    assert november["participant_min"].to_pylist() == [Decimal(11)]
    assert december.num_rows == 0
