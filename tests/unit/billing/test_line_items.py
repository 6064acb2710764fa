"""The worked examples of docs/guide/billing.md, and what must hold for any lengths and sizes."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
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
    SUSPENSE_COLUMNS,
    byte_months,
    connection_items,
    file_items,
    plain,
    session_items,
    summed,
    suspense_items,
    with_all_measures,
)
from pipeline.billing.month import BillingMonth, billing_month
from pipeline.core.arrow_types import BILLED, COUNT, TEXT
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
            "began_at": began,
            "participant_s": (ended - began).total_seconds(),
            "connect_billed_min": Decimal(row[2]) if row[2] else None,
        }
        for number, (row, (began, ended)) in enumerate(zip(rows_in, stays, strict=True))
    ]
    rows = rows_of("cdr", CDR_COLUMNS, connections)
    items = connection_items(rows, sessions, "acme", NOVEMBER, rounding)
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
        (None, "12", "0"),
        (None, "-12", "0"),
    ],
)
def test_the_vendors_minutes_must_be_possible(stay_s: float | None, stated: str | None, billed: str) -> None:
    """Minutes of EnableX that are in suspense, or of a record without a stay, are in no sum; our own stay is billed."""
    row = {"cdr_id": "1", "conf_num": "1", "began_at": moment("10:00"), "participant_s": stay_s}
    suspense = None if billed == stated or stated is None else "vendor_minutes"
    vendor = {"connect_billed_min": Decimal(stated) if stated else None, "suspense": suspense}
    rows = rows_of("cdr", CDR_COLUMNS, [row | vendor])
    sessions = rows_of("sessions", SESSION_COLUMNS, [])
    items = connection_items(rows, sessions, "acme", NOVEMBER, "vendor")
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
    began = {"began_at": datetime(2026, 11, 10, tzinfo=UTC)}
    session = {"conf_num": "1", "room_id": "r", "owner_ref": "north", "first_connected_at": began["began_at"]}
    sessions = rows_of("sessions", SESSION_COLUMNS, [session])
    inputs = [("1", "south", None), ("1", None, "q"), ("2", None, None)]
    cells = [{"cdr_id": c, "conf_num": c, "owner_ref": o, "room_id": r, **began} for c, o, r in inputs]
    rows = rows_of("cdr", CDR_COLUMNS, cells)
    encoded = rows
    for name in ("owner_ref", "room_id"):
        encoded = encoded.set_column(rows.schema.get_field_index(name), name, rows[name].dictionary_encode())
    items = [plain(connection_items(table, sessions, "acme", NOVEMBER, "exact")) for table in (rows, encoded)]
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


# --- when things began ---


NO_SESSIONS = rows_of("sessions", SESSION_COLUMNS, [])


def november(day: int, hour: int = 12) -> datetime:
    return datetime(2026, 11, day, hour, tzinfo=UTC)


def test_a_connection_counts_on_the_day_it_began() -> None:
    """`began_at` decides about day and month, in the time zone of the month."""
    moments = [datetime(2026, 10, 31, 23, 59, 59, 999_000, UTC), november(1, 0), november(30, 23),
               datetime(2026, 12, 1, tzinfo=UTC)]  # fmt: skip
    cells = [{"cdr_id": str(at), "conf_num": "1", "began_at": moment} for at, moment in enumerate(moments)]
    rows, sessions = rows_of("cdr", CDR_COLUMNS, cells), rows_of("sessions", SESSION_COLUMNS, [])
    items = connection_items(rows, sessions, "acme", NOVEMBER, "exact")
    assert items["item"].to_pylist() == ["1", "2"]
    assert items["day"].to_pylist() == [date(2026, 11, 1), date(2026, 11, 30)]
    india = connection_items(rows, sessions, "acme", billing_month("2026-11", "Asia/Kolkata"), "exact")
    assert india["item"].to_pylist() == ["0", "1"]


SESSIONS = [
    {"conf_num": conf_num, "first_connected_at": moment, "owner_ref": owner, "room_id": f"room {owner}",
     "is_recorded": owner == "b"}
    for conf_num, moment, owner in (
        ("1", november(2), "a"), ("1", november(12), "b"), ("1", november(13, 13), "c"), ("2", november(12), "d"),
    )
]  # fmt: skip


@pytest.mark.parametrize(
    ("conf_num", "moment", "owner"),
    [
        ("1", november(2), "a"),
        ("1", november(11), "a"),
        ("1", november(12), "b"),
        ("1", november(13), "b"),
        ("1", november(30), "c"),
        ("1", november(1), None),
        ("2", november(30), "d"),
        ("0", november(12), None),
        ("3", november(12), None),
    ],
)
def test_a_connection_belongs_to_the_last_session_that_began(conf_num: str, moment: datetime, owner: Any) -> None:
    """Of several sessions with one number, the last that began at the begin of a connection or before is its own."""
    cell = {"cdr_id": "x", "conf_num": conf_num, "began_at": moment, "participant_s": 60.0}
    sessions = rows_of("sessions", SESSION_COLUMNS, SESSIONS)
    for table in (sessions, pa.concat_tables([sessions.slice(0, 1), sessions.slice(1)])):
        items = connection_items(rows_of("cdr", CDR_COLUMNS, [cell]), table, "acme", NOVEMBER, "exact")
        assert items["owner_ref"].to_pylist() == [owner]
        assert items["recording_min"].to_pylist() == [1 if owner == "b" else 0]


def test_a_file_has_the_owner_of_its_session() -> None:
    """`session_began_at` names the session of a file; a file without one has no owner."""
    media = [
        {"conf_num": conf_num, "kind": "recording", "name": str(at), "state": "stored", "size_bytes": 10**9,
         "stored_at": november(20), "session_began_at": moment}
        for at, (conf_num, moment) in enumerate(
            [("1", november(12)), ("1", november(2)), ("1", None), ("2", november(12)), ("9", november(12))]
        )
    ]  # fmt: skip
    items = file_items(
        rows_of("media", MEDIA_COLUMNS, media), rows_of("sessions", SESSION_COLUMNS, SESSIONS), "acme", NOVEMBER
    )
    assert items["owner_ref"].to_pylist() == ["b", "a", None, "d", None]


# --- what is believed ---


@pytest.mark.parametrize(
    ("stay_s", "billed", "suspense", "vendor_min", "billed_min"),
    [
        (1800.0, "31", None, 31, 31),
        (1800.0, None, None, 30, 0),
        (1800.0, "1800", "vendor_minutes", 30, 0),
        (1800.0, "-30", "times_missing, vendor_minutes", 30, 0),
        (1800.0, "31", "not_listed", 31, 31),
        (None, "31", "stay_too_long", 0, 0),
        (None, "31", None, 0, 0),
    ],
)
def test_only_believed_minutes_of_enablex_are_billed(
    stay_s: float | None, billed: str | None, suspense: str | None, vendor_min: int, billed_min: int
) -> None:
    """With rounding "vendor" EnableX's minutes are billed where they can be believed, else measured ones; a held record
    has none of either.
    """
    cell = {
        "cdr_id": "x",
        "conf_num": "1",
        "began_at": november(10),
        "participant_s": stay_s,
        "connect_billed_min": billed and Decimal(billed),
        "suspense": suspense,
    }
    rows, sessions = rows_of("cdr", CDR_COLUMNS, [cell]), rows_of("sessions", SESSION_COLUMNS, [])
    vendor, own = (connection_items(rows, sessions, "acme", NOVEMBER, kind) for kind in ("vendor", "exact"))
    assert vendor["participant_min"].to_pylist() == [vendor_min]
    assert own["participant_min"].to_pylist() == [0 if stay_s is None else 30]
    assert vendor["connect_billed_min"].to_pylist() == own["connect_billed_min"].to_pylist() == [billed_min]
    assert vendor["connections"].to_pylist() == [1]


def test_open_records_in_suspense_are_items() -> None:
    """Open records count on the day they began, without a begin on their partition, with whole minutes or 0; decided
    ones, and those of other months, do not count.
    """
    base = {"conf_num": "1", "owner_ref": "t1", "reasons": "stay_too_long", "at_stake_min": Decimal(1500)}
    cells = [
        {**base, "suspense_id": "a", "began_at": november(9), "decision": "open"},
        {**base, "suspense_id": "b", "began_at": None, "decision": "open", "at_stake_min": None},
        {**base, "suspense_id": "c", "began_at": november(9), "decision": "released"},
        {**base, "suspense_id": "d", "began_at": november(9), "decision": "excluded"},
        {**base, "suspense_id": "e", "began_at": datetime(2026, 10, 31, tzinfo=UTC), "decision": "open"},
    ]
    rows = rows_of("suspense", SUSPENSE_COLUMNS, cells)
    items = plain(suspense_items(rows, date(2026, 11, 10), NO_SESSIONS, "acme", NOVEMBER))
    found = items.select(["kind", "item", "day", "owner_ref", "suspense", "suspense_min", "connections"]).to_pylist()
    assert found == [
        {"kind": "suspense", "item": "a", "day": date(2026, 11, 9), "owner_ref": "t1", "suspense": 1,
         "suspense_min": 1500, "connections": 0},
        {"kind": "suspense", "item": "b", "day": date(2026, 11, 10), "owner_ref": "t1", "suspense": 1,
         "suspense_min": 0, "connections": 0},
    ]  # fmt: skip
    assert suspense_items(rows.slice(0, 0), date(2026, 11, 10), NO_SESSIONS, "acme", NOVEMBER).num_rows == 0


def test_a_record_in_suspense_is_in_the_line_of_its_connection() -> None:
    """A record without owner or room has those of its session, as its connection has; a reject keeps what it has."""
    base = {"reasons": "stay_too_long", "decision": "open"}
    cells = [
        {**base, "suspense_id": "a", "conf_num": "1", "began_at": november(12)},
        {**base, "suspense_id": "b", "conf_num": "1", "began_at": november(12), "owner_ref": "own"},
        {**base, "suspense_id": "reject-1", "conf_num": "1", "began_at": None},
        {**base, "suspense_id": "reject-2", "conf_num": None, "began_at": None, "owner_ref": "own"},
    ]
    sessions = rows_of("sessions", SESSION_COLUMNS, SESSIONS)
    items = plain(
        suspense_items(rows_of("suspense", SUSPENSE_COLUMNS, cells), date(2026, 11, 10), sessions, "acme", NOVEMBER)
    )
    assert items["owner_ref"].to_pylist() == ["b", "own", None, "own"]
    assert items["room_id"].to_pylist() == ["room b", "room b", None, None]


def test_an_earlier_revision_has_all_measures() -> None:
    """Measures that an earlier version of the program did not export are 0 in its lines; others stay."""
    lines = pa.table({"project": ["acme"], "connections": pa.array([3], COUNT)})
    (row,) = with_all_measures(lines).to_pylist()
    assert (row["connections"], row["suspense"], row["suspense_min"]) == (3, 0, 0)
