"""One CDR document: what is required, what is derived, what never reaches a row."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given

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


@pytest.mark.parametrize("missing", [DROP, None, ""])
def test_a_missing_id_is_null(missing: Any) -> None:
    """Without `cdr_id` the id is null and flagged; it is derived from all columns (test_identity.py)."""
    row = cdr.cdr_row(changed(NEW, cdr_id=missing))
    assert (row["cdr_id"], row["cdr_id_is_derived"]) == (None, True)
    assert cdr.cdr_row(NEW)["cdr_id_is_derived"] is False


@given(documents())
def test_a_document_without_a_row_is_still_read(document: Any) -> None:
    """Of any document the values that have a column can be read, also where `cdr_row` refuses it."""
    values = cdr.readable_values(decoded(raw(document)))
    assert set(values) <= set(CONTENT)
    try:
        row = cdr.cdr_row(decoded(raw(document)))
    except RecordError:
        return
    assert {name: row[name] for name in values if name not in {"is_sip", "cdr_id_is_derived"}} == {
        name: value for name, value in values.items() if name not in {"is_sip", "cdr_id_is_derived"}
    }


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
    assert {name: row[name] for name in row if name not in inside | {"extra"}} == {
        name: whole[name] for name in whole if name not in inside | {"extra"}
    }
    if value:
        kept = extra(changed(NEW, **{container: value})).get(container)
        assert kept == (None if container in {"room", "user"} else value)  # those may hold names and secrets


def test_minutes_that_are_seconds_stay_as_they_are() -> None:
    """`connect_minutes` that are really seconds are not converted (11.7)."""
    assert cdr.cdr_row(changed(NEW, usage__connect_minutes=1828))["connect_min"] == 1828.0


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
