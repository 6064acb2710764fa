"""One CDR document: what is required, what is derived, what never reaches a row."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, date, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import RecordError
from pipeline.tables.normalize import cdr
from pipeline.tables.normalize.cdr_batch import decoded
from pipeline.tables.schemas import CDR_CONTENT, arrow_schema
from tests.support.cdrs import DROP, NEW, OLD, changed, documents, raw

CONTENT = [column.name for column in CDR_CONTENT]


def extra(document: Any) -> dict[str, Any]:
    return json.loads(cdr.cdr_row(document)["extra"] or "{}")


@given(documents())
def test_a_document_is_a_row_or_a_reject(document: Any) -> None:
    """Anything at all either becomes a row that its table can hold or raises RecordError, with a reason."""
    try:
        row = cdr.cdr_row(decoded(raw(document)))
    except RecordError as error:
        assert error.reason  # noqa: PT017 - raising is one of two good ends
        return
    assert sorted(row) == sorted(CONTENT)
    pa.Table.from_pylist([row], schema=arrow_schema(CDR_CONTENT))
    assert isinstance(cdr.row_day(row), date)


@given(documents())
def test_no_value_is_lost(document: Any) -> None:
    """Every value of a document that is not secret and not empty is in a column, in `extra`, or in quality."""
    try:
        row = cdr.cdr_row(decoded(raw(document)))
    except RecordError:
        return
    rest = json.loads(row["extra"] or "{}")
    for name, path, _ in cdr.FIELDS:
        value: Any = document
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        in_extra: Any = rest
        for key in path:
            in_extra = in_extra.get(key) if isinstance(in_extra, dict) else None
        if value not in (None, "") and row[name] is None:
            assert in_extra is not None


@pytest.mark.parametrize("document", [None, "x", 1, 1.5, True, [], [NEW]])
def test_what_is_no_object_is_no_row(document: Any) -> None:
    """Anything that is not a JSON object is refused as such."""
    with pytest.raises(RecordError, match="not an object"):
        cdr.cdr_row(document)


@pytest.mark.parametrize("conf_num", [DROP, None, "", {}, ["1"]])
def test_a_session_is_required(conf_num: Any) -> None:
    """Without a readable `conf_num` there is no row; the reject has reason and value."""
    with pytest.raises(RecordError) as refused:
        cdr.cdr_row(changed(NEW, conf_num=conf_num))
    assert refused.value.path == "conf_num"


def test_one_time_is_required_and_any_is_enough() -> None:
    """A document whose only readable time is any one of five is a row filed on that time's day; with none it is not."""
    places = ("trans_date", "sigserver__disconnect_dt", "room__disconnect_dt", "sigserver__connect_dt",
              "room__connect_dt")  # fmt: skip
    bare = changed(NEW, **dict.fromkeys(places, DROP))
    with pytest.raises(RecordError, match="no readable time"):
        cdr.cdr_row(bare)
    for at, place in enumerate(places):
        known = {later: f"2024-03-{10 + later_at:02}T00:30:00.000Z" for later_at, later in enumerate(places[at:])}
        assert cdr.row_day(cdr.cdr_row(changed(bare, **known))) == date(2024, 3, 10), place


def test_the_day_is_the_utc_date_of_writing() -> None:
    """A record written at half past midnight in Kolkata belongs to the UTC day before."""
    row = cdr.cdr_row(changed(NEW, trans_date="2024-03-10T00:30:00.000+05:30"))
    assert row["trans_at"] == datetime(2024, 3, 9, 19, tzinfo=UTC)
    assert cdr.row_day(row) == date(2024, 3, 9)


MS = st.none() | st.integers(0, 10**8)


@given(MS, MS, MS, MS)
def test_the_stay_is_exact_and_never_negative(sig_in: Any, sig_out: Any, room_in: Any, room_out: Any) -> None:
    """Seconds are of `sigserver.*` when both ends exist in order, else of `room.*`, else unknown; minutes round up."""
    begin = 1_710_000_000_000
    times = {
        "sigserver__connect_dt": sig_in,
        "sigserver__disconnect_dt": sig_out,
        "room__connect_dt": room_in,
        "room__disconnect_dt": room_out,
    }
    row = cdr.cdr_row(changed(NEW, **{path: None if ms is None else begin + ms for path, ms in times.items()}))
    stays = [
        end - start
        for start, end in ((sig_in, sig_out), (room_in, room_out))
        if start is not None and end is not None and end >= start
    ]
    if not stays:
        assert row["participant_s"] is row["participant_min"] is None
        return
    assert row["participant_s"] == float(Fraction(stays[0], 1000))
    assert row["participant_min"] == -(-stays[0] // 60_000)


@pytest.mark.parametrize(
    ("ms", "minutes"), [(0, 0), (1, 1), (59_999, 1), (60_000, 1), (60_001, 2), (119_999, 2), (120_000, 2)]
)
def test_a_begun_minute_is_a_minute(ms: int, minutes: int) -> None:
    """Billing is per minute: a millisecond over is a whole one more, a full minute is not."""
    assert cdr.whole_minutes(ms / 1000) == minutes


# --- derived keys (11.9) ---


@pytest.mark.parametrize("missing", [DROP, None, ""])
def test_a_missing_id_is_derived(missing: Any) -> None:
    """Without `cdr_id` the key is derived from six fields, flagged, and the same in every run."""
    row = cdr.cdr_row(changed(NEW, cdr_id=missing))
    assert row["cdr_id_is_derived"] is True
    identity = ("61aa00bb22cc33dd44ee55ff", "284170002063", "65ec6b1f0c3a9e0012ab34ce", "3", "patient-9001",
                "2024-03-09 14:02:30.900000+00:00")  # fmt: skip
    assert row["cdr_id"] == "derived-" + hashlib.sha256("\x1f".join(identity).encode()).hexdigest()[:24]
    assert cdr.cdr_row(NEW)["cdr_id_is_derived"] is False


@pytest.mark.parametrize(
    "path", ["app_id", "conf_num", "call_log_id", "call_num", "user__ref", "sigserver__connect_dt"]
)
def test_each_identifying_field_counts(path: str) -> None:
    """Two connections that differ in one of the six identifying fields have two derived keys."""
    other = "2024-03-09T14:02:30.901Z" if path.endswith("_dt") else "other"
    one, two = changed(NEW, cdr_id=DROP), changed(NEW, cdr_id=DROP, **{path: other})
    assert cdr.cdr_row(one)["cdr_id"] != cdr.cdr_row(two)["cdr_id"]


def test_a_correction_keeps_a_derived_key() -> None:
    """What may be corrected later (minutes, ends, names, prices) is no part of a derived key."""
    later = changed(NEW, cdr_id=DROP, trans_date="2024-03-10T01:00:00.000Z", user__name="B", usage=None, price=None,
                    sigserver__disconnect_dt="2024-03-09T14:40:00.000Z")  # fmt: skip
    assert cdr.cdr_row(changed(NEW, cdr_id=DROP))["cdr_id"] == cdr.cdr_row(later)["cdr_id"]


def test_neighbouring_fields_do_not_run_into_one_another() -> None:
    """("12", "3") and ("1", "23") are two derived keys."""
    one, two = (changed(NEW, cdr_id=DROP, call_log_id=a, call_num=b) for a, b in (("12", "3"), ("1", "23")))
    assert cdr.cdr_row(one)["cdr_id"] != cdr.cdr_row(two)["cdr_id"]


# --- both shapes, drift, secrets ---


def test_the_old_shape_lacks_and_does_not_invent() -> None:
    """An old-shape row has nulls for fields that its shape lacks, real flags for its text flags, and its fractions."""
    row = cdr.cdr_row(OLD)
    assert (row["published_audio"], row["published_screen"]) == (True, False)
    assert (row["room_duration_s"], row["published_min"]) == (600.512, 10.008)
    for name in ("room_name", "owner_ref", "partner_id", "connect_min", "connect_billed_min", "price", "user_name"):
        assert row[name] is None
    assert row["is_sip"] is False
    assert row["extra"] is None


@pytest.mark.parametrize(("given", "kept"), [(7781, "7781"), ("7781", "7781"), ("CC-7781", "CC-7781"), (0, "0")])
def test_a_billing_code_is_text(given: Any, kept: str) -> None:
    """A billing code that comes as a number and one that comes as text are one code."""
    assert cdr.cdr_row(changed(NEW, room__room_details__settings__billing_code=given))["billing_code"] == kept


def test_what_fits_no_column_stays_under_its_path() -> None:
    """A value that cannot be read leaves a null and is kept, as it was, in `extra` at the place it had."""
    row = cdr.cdr_row(changed(OLD, sip="perhaps", usage__published_minutes="many", sigserver__connect_dt="soon"))
    assert row["is_sip"] is False
    assert row["published_min"] is row["signal_connected_at"] is None
    assert json.loads(row["extra"]) == {
        "sip": "perhaps",
        "usage": {"published_minutes": "many"},
        "sigserver": {"connect_dt": "soon"},
    }


@pytest.mark.parametrize("value", [None, "", {}, "gone", 7, []])
@pytest.mark.parametrize("container", ["room", "user", "sigserver", "published_track", "usage", "price"])
def test_a_container_may_be_anything(container: str, value: Any) -> None:
    """null, absence, text or a list in place of an object leaves nulls; `extra` has the value, the rest stays."""
    row, whole = cdr.cdr_row(changed(NEW, **{container: value})), cdr.cdr_row(NEW)
    inside = {name for name, path, _ in cdr.FIELDS if path[0] == container}
    assert all(row[name] is None for name in inside)
    derived = {"participant_s", "participant_min", "connect_min_looks_like_seconds", "extra"}
    assert {name: row[name] for name in row if name not in inside | derived} == {
        name: whole[name] for name in whole if name not in inside | derived
    }
    if value:
        kept = extra(changed(NEW, **{container: value})).get(container)
        assert kept == (None if container in {"room", "user"} else value)  # those may hold names and secrets


def test_minutes_that_are_seconds_stay_as_they_are() -> None:
    """`connect_minutes` that are really seconds are not converted (11.7)."""
    assert cdr.cdr_row(changed(NEW, usage__connect_minutes=1828))["connect_min"] == 1828.0


@given(st.integers(0, 10**7), st.integers(0, 200_000) | st.floats(0, 1e6))
def test_minutes_that_look_like_seconds_are_flagged(stay_ms: int, minutes: float) -> None:
    """`connect_min_looks_like_seconds` is true exactly when the value is above 1.5 times the stay plus two (11.7)."""
    begin = 1_710_000_000_000
    document = changed(NEW, sigserver__connect_dt=begin, sigserver__disconnect_dt=begin + stay_ms,
                       usage__connect_minutes=minutes)  # fmt: skip
    row = cdr.cdr_row(document)
    assert row["connect_min_looks_like_seconds"] is (minutes > 1.5 * row["participant_s"] / 60 + 2)


@pytest.mark.parametrize("unknown", [{"usage__connect_minutes": None}, {"sigserver": None, "room": None}])
def test_nothing_to_compare_is_no_suspicion(unknown: dict[str, Any]) -> None:
    """Without connected minutes, or without a stay, nothing looks like seconds."""
    assert not cdr.cdr_row(changed(NEW, **unknown))["connect_min_looks_like_seconds"]


SECRET = "hush-0815"


@pytest.mark.parametrize(
    "path",
    ["user__token", "user__auth_token", "user__password", "room__room_details__sip__pin",
     "room__room_details__sip__password", "room__room_details__settings__live_recording__url", "app_key", "secret",
     "room__token", "room__room_details__data__api_secret"],
)  # fmt: skip
@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"value": s}, lambda s: [s], lambda s: [{"value": s}]])
def test_a_secret_is_in_no_row(path: str, wrap: Any) -> None:
    """Tokens, pins, passwords, keys and stream addresses reach no column and not `extra`, however they are wrapped."""
    assert SECRET not in json.dumps(cdr.cdr_row(changed(NEW, **{path: wrap(SECRET)})), default=str)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("room__room_details__settings__live_recording", f"https://live.example/?token={SECRET}"),  # 11.28
        ("room__room_details__settings__live_recording", [{"url": f"https://live.example/{SECRET}"}]),
        ("room__room_details__settings", [{"live_recording": {"url": f"https://live.example/{SECRET}"}}]),
        ("room__room_details__sip__meeting_id", SECRET),
        ("user", [[{"token": SECRET}]]),
        ("room__room_details__settings__hls_view_url", f"https://live.example/?token={SECRET}"),
        ("room__sip", {"meeting_id": SECRET}),
        ("user__name", {"token": SECRET}),
        ("usage__connect_minutes", {"token": SECRET}),
    ],
)
def test_a_secret_in_an_odd_shape_is_in_no_row(path: str, value: Any) -> None:
    """Nor do secrets that stand in another shape than documented: a stream address as text, lists, misfits."""
    assert SECRET not in json.dumps(cdr.cdr_row(changed(NEW, **{path: value})), default=str)


def test_unknown_fields_are_kept_and_named() -> None:
    """A field nobody documented is in `extra` under its path and is named once; documented ones are no news."""
    document = changed(NEW, beta={"score": 0.5}, user__mood="fine", room__room_details__settings__theme="dark")
    assert extra(document)["beta"] == {"score": 0.5}
    assert extra(document)["user"] == {"mood": "fine"}
    assert sorted(cdr.unknown_fields(document)) == [
        ("beta",), ("room", "room_details", "settings", "theme"), ("user", "mood"),
    ]  # fmt: skip
    assert list(cdr.unknown_fields(NEW)) == list(cdr.unknown_fields(OLD)) == []


def test_every_documented_field_is_known() -> None:
    """All fields of section 9.4's room and of both CDR shapes are known: none is reported as news."""
    assert list(cdr.unknown_fields(changed(NEW, room__room_details__sip__meeting_id=1))) == []
    assert list(cdr.unknown_fields("no document")) == []


def test_a_price_is_exact() -> None:
    """0.1 + 0.2 of a currency is 0.3: prices are decimals as written."""
    prices = [cdr.cdr_row(changed(NEW, price__connect_duration=n))["price"] for n in (0.1, "0.2")]
    assert sum(prices) == Decimal("0.3")


def test_a_row_is_read_from_the_bytes_of_a_reply() -> None:
    """The sample document as bytes is the sample document as a row."""
    assert cdr.cdr_row(json.loads(bytes(raw(NEW)))) == cdr.cdr_row(NEW)
