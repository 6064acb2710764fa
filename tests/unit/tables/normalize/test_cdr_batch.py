"""A batch of CDRs gives the same rows and rejects, cell by cell, as the documents one by one."""

from __future__ import annotations

import gc
import random
import weakref
from collections import Counter
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.core.errors import RecordError
from pipeline.tables.normalize import cdr, cdr_batch
from pipeline.tables.normalize.cdr_batch import (
    BATCH_DOCUMENTS,
    OBSERVATION,
    Batch,
    RoomDetailsCache,
    decoded,
    read_batch,
)
from pipeline.tables.normalize.quality import quality_rows
from tests.support.cdrs import DROP, NEW, OLD, changed, documents, drifted_documents, raw, spelled

pytestmark = pytest.mark.usefixtures("either_finder")

_COMPARED = [name for name in OBSERVATION.names if name not in {"stats_quality", "ordinal"}]


def one_by_one(raws: list[msgspec.Raw]) -> tuple[dict[int, dict[str, Any]], dict[int, tuple[Any, ...]], Counter[str]]:
    """Rows and rejects by place, and undocumented fields, as `cdr_row` has them: the definition."""
    rows, rejects, unknown = {}, {}, Counter[str]()
    for at, document in enumerate(raws):
        try:
            read = decoded(document)
            row = cdr.cdr_row(read)
        except RecordError as error:
            rejects[at] = (error.reason, error.path, error.value)
            continue
        rows[at] = {**row, "day": cdr.row_day(row), "quality": list(quality_rows(read.get("stats_quality")))}
        unknown.update(".".join(path) for path in cdr.unknown_fields(read))
    return rows, rejects, unknown


def assert_same(batch: Batch, raws: list[msgspec.Raw], first_ordinal: int = 0) -> None:
    rows, rejects, unknown = one_by_one(raws)
    found = sorted(batch.rows.to_pylist(), key=lambda row: row["ordinal"])
    assert [row["ordinal"] - first_ordinal for row in found] == sorted(rows)
    expected = pa.Table.from_pylist([rows[at] for at in sorted(rows)], schema=OBSERVATION).select(_COMPARED)
    for is_row, should_be in zip(found, expected.to_pylist(), strict=True):
        assert {name: is_row[name] for name in _COMPARED} == should_be
        quality = is_row["stats_quality"]
        said = [] if quality is None else list(quality_rows(msgspec.json.decode(quality)))
        assert said == rows[is_row["ordinal"] - first_ordinal]["quality"]
    assert {at - first_ordinal: (e.reason, e.path, e.value) for at, e in batch.rejects.items()} == rejects
    assert batch.unknown == unknown
    assert batch.rows.schema.equals(OBSERVATION)
    assert len(found) + len(batch.rejects) == len(raws)


@given(st.lists(documents(), max_size=8), st.integers(0, 10**6))
@example([], 0)
@example([changed(NEW, trans_date=DROP, sigserver=None, room=[])], 0)
@example([changed(NEW, usage__connect_minutes_cal=0.0005), changed(NEW, usage__connect_minutes_cal=0.0015)], 7)
def test_a_batch_is_what_its_documents_are(some: list[Any], first_ordinal: int) -> None:
    """For any documents the rows, rejects and undocumented fields are those of `cdr_row`, and nothing is lost."""
    raws = [raw(document) for document in some]
    assert_same(read_batch(raws, first_ordinal), raws, first_ordinal)


@given(st.lists(drifted_documents(), max_size=8))
@example([msgspec.Raw(spelled(NEW, [(("usage",), '"beta"', "{}"), (("usage",), '"alpha"', '{"b":1}')]).encode())])
@example([msgspec.Raw(spelled(NEW, [((), '"auth_token"', '"hush"'), (("user",), '"Beta"', '"x"')]).encode())] * 2)
def test_undocumented_members_are_read_as_alone(raws: list[msgspec.Raw]) -> None:
    """Undocumented, repeated, escaped, secret and empty members at any level leave the `extra` of `cdr_row`."""
    assert_same(read_batch(raws), raws)


@pytest.mark.parametrize(
    "changes",
    [
        {"region": "eu"}, {"usage__region": {"zone": ["a", 1]}}, {"room__room_details__region": "eu"}, {"beta": None},
        {"usage__connect_minutes": "many"}, {"user__name": ["A"]}, {"price__connect_duration": {"amount": 1}},
        {"trans_date": "2024-02-30T00:00:00.000Z"}, {"room__room_details__settings__auto_recording": [1]},
    ],
)  # fmt: skip
def test_schema_drift_reads_no_document_alone(changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A new field, or a value that fits no column, in each document makes none of them read one by one."""
    raws = [raw(changed(NEW, cdr_id=f"c{at}", **changes)) for at in range(9)]
    alone: list[Any] = []
    monkeypatch.setattr(cdr_batch.cdr, "cdr_row", alone.append)
    monkeypatch.setattr(cdr_batch, "_room_row", alone.append)
    batch = read_batch(raws)
    monkeypatch.undo()
    assert alone == []
    assert_same(batch, raws)


@given(st.lists(documents(), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_neighbours_do_not_matter(some: list[Any], dice: random.Random) -> None:
    """A document becomes the same row independent of its neighbours: irregular ones change no cell."""
    raws = [raw(document) for document in some]
    order = dice.sample(range(len(raws)), len(raws))
    alone = [read_batch([raws[at]]).rows.drop_columns(["ordinal"]).to_pylist() for at in order]
    together = sorted(read_batch([raws[at] for at in order]).rows.to_pylist(), key=lambda row: row["ordinal"])
    expected = [row for rows in alone for row in rows]
    assert [{k: v for k, v in row.items() if k not in {"ordinal", "stats_quality"}} for row in together] == [
        {k: v for k, v in row.items() if k != "stats_quality"} for row in expected
    ]


@given(st.lists(st.floats(-1e13, 1e13) | st.integers(-(10**13), 10**13), min_size=1, max_size=30))
def test_billed_numbers_are_rounded_alike(numbers: list[float]) -> None:
    """Minutes and prices read as a column are the decimals that they are one by one, also halfway between two."""
    raws = [raw(changed(NEW, usage__connect_minutes_cal=n, price__connect_duration=n)) for n in numbers]
    assert_same(read_batch(raws), raws)


@given(st.lists(st.integers(0, 10**10).map(lambda n: n / 2000), min_size=1, max_size=30))
def test_halves_of_a_thousandth_are_rounded_alike(numbers: list[float]) -> None:
    """A number exactly between two thousandths goes the same way in a column as alone."""
    raws = [raw(changed(NEW, usage__connect_minutes_cal=n, price__connect_duration=n / 1000)) for n in numbers]
    assert_same(read_batch(raws), raws)


def test_a_large_batch_of_both_shapes() -> None:
    """More documents than one batch has, both shapes mixed, with a broken one here and there, lose nothing."""
    some = [changed((NEW, OLD)[at % 2], cdr_id=f"c{at:05}") for at in range(BATCH_DOCUMENTS + 7)]
    for at in range(0, len(some), 97):
        some[at] = (None, {"user": {"name": "nobody"}}, changed(NEW, room="gone"), changed(OLD, sip="perhaps"))[at % 4]
    raws = [raw(document) for document in some]
    assert_same(read_batch(raws), raws)


def test_repeated_keys_count_once() -> None:
    """Of a key that stands twice in one document the last one counts, in a column as alone."""
    twice = msgspec.Raw(b'{"conf_num":"1","conf_num":"2","trans_date":"2024-03-09T14:33:05.120Z","user":{"name":"A"},'
                        b'"user":{"ref":"r"}}')  # fmt: skip
    assert_same(read_batch([twice]), [twice])
    assert read_batch([twice]).rows["conf_num"].to_pylist() == ["2"]


@pytest.mark.parametrize("depth", [50, 400, 5000])
@pytest.mark.parametrize("place", ["beta", "stats_quality", "user__confName"])
def test_however_deep_it_goes(depth: int, place: str) -> None:
    """A document nested absurdly deeply becomes a row or a reject; it never stops the batch."""
    nested = b'{"a":' * depth + b"1" + b"}" * depth
    text = raw(changed(NEW, **{place: "HERE"}))
    deep = msgspec.Raw(bytes(text).replace(b'"HERE"', nested))
    batch = read_batch([raw(NEW), deep])
    assert batch.rows.num_rows + len(batch.rejects) == 2
    assert batch.rows.num_rows >= 1


@pytest.mark.parametrize("number", [0.0, 1.0])
def test_a_flag_that_is_a_float(number: float) -> None:
    """1.0 where a flag belongs is the same, flag or misfit, in a column as alone."""
    raws = [raw(changed(NEW, published_track__audio=number)), raw(NEW)]
    assert_same(read_batch(raws), raws)


@pytest.mark.parametrize("value", [{}, {"token": "x"}, {"a": None}])
def test_a_container_where_a_value_of_the_room_belongs(value: Any) -> None:
    """An object or list where the room definition has a plain value leaves the same `extra` in a column as alone."""
    raws = [raw(changed(NEW, room__room_details__settings__auto_recording=value)), raw(NEW)]
    assert_same(read_batch(raws), raws)


def test_an_undocumented_field_is_counted_once() -> None:
    """A document with an undocumented field in its room definition and a misfit elsewhere counts it once."""
    document = changed(NEW, room__room_details__settings__beta=1, usage__connect_minutes="many")
    assert read_batch([raw(document)]).unknown == Counter({"room.room_details.settings.beta": 1})


@pytest.mark.parametrize(
    "place",
    ["user__name", "room__room_details__name", "user__confName", "user__token", "sigserver__ip", "stats_quality"],
)
def test_bytes_that_are_no_text(place: str) -> None:
    """A document with bytes that are no UTF-8, wherever they stand, is a row like the others."""
    broken = msgspec.Raw(bytes(raw(changed(NEW, **{place: "HERE"}))).replace(b"HERE", b"\xff"))
    raws = [raw(NEW), broken, raw(OLD)]
    batch = read_batch(raws)
    assert batch.rejects == {}
    assert sorted(batch.rows["ordinal"].to_pylist()) == [0, 1, 2]
    assert_same(batch, raws)


FAULTY = {
    "pair": ("user__name", b'"\\ud83d lone"'), "word": ("usage__connect_minutes", b"NaN"),
    "time": ("room__connect_dt", b"Infinity"), "zeros": ("usage__connect_minutes", b"0031"),
    "flag": ("sip", b"True"), "text": ("call_num", b"undefined"), "personal": ("user__ip", b"None"),
    "room": ("room__room_details__settings__scheduled", b"-Infinity"), "rest": ("sigserver__ip", b"1e400"),
    "definition": ("room__room_details__data", b'{"a": 1e400, "b": [NaN]}'),
    "huge": ("price__connect_duration", b"1e999"),
    "list": ("usage__connect_minutes", b"[NaN]"), "comma": ("user__name", b'"A",'),
    "control": ("user__ref", b'"a\x01b"'),
    "value twice": ("user__name", b'"A" "B"'), "single": ("user__name", b"'A'"), "escape": ("conf_num", b'"\\x41"'),
    "key": ("beta", b'{"\\ud800": "\\ud800"}'), "unknown": ("beta", b"NaN"), "comment": ("beta", b"/* 1 */ 1"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FAULTY)
def test_a_faulty_document_is_the_same_in_a_batch(kind: str) -> None:
    """A document that is no JSON becomes the row or reject that it is alone, and costs no other one."""
    place, value = FAULTY[kind]
    faulty = msgspec.Raw(bytes(raw(changed(NEW, **{place: "HERE"}))).replace(b'"HERE"', value))
    raws = [raw(NEW), faulty, raw(OLD), faulty]
    batch = read_batch(raws, 5)
    assert_same(batch, raws, 5)
    assert {5, 7} <= set(batch.rows["ordinal"].to_pylist())


def test_rejects_hold_no_documents() -> None:
    """What is kept of a reject does not keep its batch alive, for nothing collects cycles while days are built."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        batch = read_batch([raw(NEW), raw("no document")])
        kept, alive = batch.rejects, weakref.ref(batch)
        del batch
        assert list(kept) == [1]
        assert alive() is None
    finally:
        if was_enabled:
            gc.enable()


def test_a_definition_that_cannot_be_read_spoils_no_other() -> None:
    """A room definition nested just too deeply is one reject, and later batches know every other room as it is."""
    deep = msgspec.json.encode(changed(NEW, cdr_id="deep", room__room_details__data="HERE"))
    fine = [raw(changed(NEW, cdr_id=f"c{at}", room__room_details__owner_ref=f"tenant-{at}")) for at in range(6)]
    expected = {f"c{at}": f"tenant-{at}" for at in range(6)}
    for depth in range(800, 1000):  # how deep is too deep for one reader and not for the next depends on the caller
        irregular = msgspec.Raw(deep.replace(b'"HERE"', b'{"a":' * depth + b"1" + b"}" * depth))
        rooms = RoomDetailsCache()
        first, later = read_batch([irregular, *fine[:3]], 0, rooms), read_batch(fine, 0, rooms)
        told = {row["cdr_id"]: row["owner_ref"] for row in (*first.rows.to_pylist(), *later.rows.to_pylist())}
        assert first.rows.num_rows + len(first.rejects) == 4
        assert {key: owner for key, owner in told.items() if key != "deep"} == expected
