"""Raw responses: stored byte for byte and once, and read back or reported with their key."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.errors import FixityError
from pipeline.core.models import Period, RawResponse
from pipeline.enablex import envelope
from pipeline.enablex.protocol import ReplyHead, ReplyReader, Request, period_request
from pipeline.storage import LocalStore, keys, raw
from pipeline.storage.base import read_bytes
from pipeline.storage.raw import (
    RawLocation,
    SpooledBody,
    land,
    last_collected,
    list_responses,
    read_documents,
    read_receipt,
)
from pipeline.tables.normalize.cdr_batch import split_documents

DAY = date(2024, 3, 9)
ASKED = datetime(2024, 3, 10, 2, 15, 0, 123_000, UTC)
REQUEST = period_request("cdr", DAY)
DOCUMENTS = [{"cdr_id": "c1", "n": 1.5}, {"cdr_id": "c2", "text": "},{"}, None, "odd"]


def head(request: Request = REQUEST, status: int = 200, **headers: str) -> ReplyHead:
    return ReplyHead(request, status, {"content-type": "application/json", **headers})


def location(minutes: int = 0, day: date = DAY) -> RawLocation:
    return RawLocation("cdr", "acme", day, ASKED + timedelta(minutes=minutes))


def spooled(body: bytes, chunk: int = 7) -> SpooledBody:
    """Spool a body in chunks and count its documents, all of DAY."""
    spool, reader = SpooledBody(lambda documents: {DAY} if documents else set()), ReplyReader(head())
    for start in range(0, len(body), chunk):
        spool.write(body[start : start + chunk])
        spool.note(reader.feed(body[start : start + chunk]))
    spool.note(reader.finish(ASKED))
    return spool


def reply(documents: list[Any] = DOCUMENTS, note: str = "") -> bytes:
    return json.dumps({"result": "0", "cdr": documents, "desc": note}).encode()


class Landed(NamedTuple):
    """Id of a landed response, and whether it differs from the previous one."""

    response_id: str
    is_new: bool


def landed(
    vault: LocalStore,
    body: bytes,
    minutes: int = 0,
    *,
    at: RawLocation | None = None,
    to: ReplyHead | None = None,
    **options: Any,
) -> Landed:
    at = at or location(minutes)
    is_new = land(vault, at, to or head(), spooled(body), **options)
    names = [keys.parse_raw_key(stored.key) for stored in vault.list(keys.raw_prefix("cdr", "acme", at.day))]
    response_ids = {name.response_id for name in names if name and name.suffix != keys.BODY_SUFFIX}
    (response_id,) = [
        response_id for response_id in response_ids if keys.asked_at_of_response(response_id) == at.asked_at
    ]
    return Landed(response_id, is_new)


def response(vault: LocalStore, response_id: str) -> RawResponse:
    return read_receipt(vault, "cdr", "acme", DAY, response_id)


def documents(vault: LocalStore, response_id: str) -> list[Any]:
    return [
        msgspec.json.decode(document)
        for batch in read_documents(vault, response(vault, response_id))
        for document in batch
    ]


@pytest.fixture
def vault(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "vault")


def names(vault: LocalStore) -> list[str]:
    return [stored.key.rsplit("/", 1)[1].split("-", 1)[1].split(".", 1)[1] for stored in vault.list("raw/")]


@contextmanager
def shared_vault(factory: Any) -> Iterator[LocalStore]:
    yield LocalStore(factory.mktemp("landing") / "vault")


@settings(max_examples=15)
@given(
    some=st.lists(st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=9), max_size=3), max_size=9),
    chunk=st.integers(1, 300),
    block=st.integers(1, 300),
)
def test_a_response_is_read_as_received(tmp_path_factory: Any, some: list[Any], chunk: int, block: int) -> None:
    """For any chunk size, the body is stored unchanged, documents are read in order, and the receipt is correct."""
    body = reply(some)
    with shared_vault(tmp_path_factory) as vault, pytest.MonkeyPatch.context() as patch:
        patch.setattr(envelope, "BLOCK_BYTES", block, raising=False)
        land(vault, location(), head(), spooled(body, chunk))
        ((response_id,),) = list_responses(vault, "cdr", "acme").values()
        landing = Landed(response_id, is_new=True)
        kept = response(vault, landing.response_id)
        assert documents(vault, landing.response_id) == some
        assert zstandard.ZstdDecompressor().decompressobj().decompress(read_bytes(vault, kept.body_key)) == body
    assert (kept.size_bytes, kept.sha256, kept.documents) == (len(body), hashlib.sha256(body).hexdigest(), len(some))
    assert (kept.asked_at, kept.request, kept.status) == (ASKED, str(REQUEST), 200)
    assert kept.days == ((DAY,) if some else ())


def test_a_receipt_has_selected_headers_and_no_cookies(vault: LocalStore) -> None:
    """A receipt contains the selected headers and no others."""
    landing = landed(vault, reply(), to=head(**{"x-request-id": "r1", "set-cookie": "hush"}))
    text = read_bytes(vault, location().key(landing.response_id, keys.RECEIPT_SUFFIX)).decode()
    assert "r1" in text
    assert "hush" not in text


def test_an_identical_response_is_a_receipt_only(vault: LocalStore) -> None:
    """Repeated responses to the same request store no second body; their receipts name the first."""
    first = landed(vault, reply())
    again = [landed(vault, reply(), minutes) for minutes in (5, 10)]
    assert (first.is_new, [landing.is_new for landing in again]) == (True, [False, False])
    assert sorted(names(vault)) == ["json.zst", *["receipt.json"] * 3]
    assert list_responses(vault, "cdr", "acme") == {DAY: [first.response_id]}
    for landing in again:
        receipt = json.loads(read_bytes(vault, location().key(landing.response_id, keys.RECEIPT_SUFFIX)))
        assert receipt["page"] == first.response_id
    assert last_collected(vault, "cdr", "acme") == {DAY: ASKED + timedelta(minutes=10)}


def test_a_response_is_compared_with_the_previous_one_only(vault: LocalStore) -> None:
    """A, then B, then A again are 3 raw responses: each differs from its predecessor."""
    responses = [landed(vault, reply(note=note), at) for at, note in enumerate("ABA")]
    assert [landing.is_new for landing in responses] == [True, True, True]
    assert list_responses(vault, "cdr", "acme")[DAY] == [landing.response_id for landing in responses]


def test_another_request_or_status_is_another_response(vault: LocalStore) -> None:
    """Equal bodies are stored again if the request or the status differs."""
    landed(vault, reply())
    assert landed(vault, reply(), 1, to=head(Request("GET", "/cdr/room/r1", "cdr"))).is_new
    assert landed(vault, reply(), 2, to=head(status=201)).is_new


def test_landing_twice_changes_nothing(vault: LocalStore) -> None:
    """Landing the same response with the same time again changes nothing."""
    first = landed(vault, reply())
    before = list(vault.list(""))
    assert landed(vault, reply()) == Landed(first.response_id, is_new=False)
    assert list(vault.list("")) == before


def test_a_body_without_receipt_is_ignored(vault: LocalStore, tmp_path: Path) -> None:
    """A body without a receipt, after a kill, is ignored; landing the response again completes it."""
    landing = landed(vault, reply())
    (tmp_path / "vault" / location().key(landing.response_id, keys.RECEIPT_SUFFIX)).unlink()
    assert list_responses(vault, "cdr", "acme") == {}
    assert last_collected(vault, "cdr", "acme") == {}
    later = landed(vault, reply(), 5)
    assert later.is_new
    assert list_responses(vault, "cdr", "acme") == {DAY: [later.response_id]}
    assert (
        landed(vault, reply()).response_id == landing.response_id
    )  # same time: the body exists, the receipt is written
    assert list_responses(vault, "cdr", "acme") == {DAY: [landing.response_id, later.response_id]}


@pytest.mark.parametrize(
    "damage",
    [
        lambda body: body[:-9],
        lambda body: body[:20] + bytes([body[20] ^ 1]) + body[21:],
        lambda _: b"",
        lambda _: b"no zstd at all",
        lambda _: zstandard.compress(reply(DOCUMENTS[:1])),
        lambda _: zstandard.compress(reply()[:-5]),
        lambda _: zstandard.compress(reply(note="other")),
    ],
    ids=["short", "flipped", "empty", "foreign", "other documents", "cut JSON", "other envelope"],
)
def test_an_altered_body_is_named(vault: LocalStore, tmp_path: Path, damage: Any) -> None:
    """A body that differs from its receipt raises FixityError with its key, at the latest at its end."""
    landing = landed(vault, reply())
    key = response(vault, landing.response_id).body_key
    path = tmp_path / "vault" / key
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(FixityError) as broken:
        documents(vault, landing.response_id)
    assert broken.value.key == key


def test_a_body_with_another_number_of_documents_is_refused(vault: LocalStore) -> None:
    """If splitting a body yields more or fewer documents than its receipt states, FixityError is raised."""
    stored = response(vault, landed(vault, reply()).response_id)
    assert sum(len(batch) for batch in read_documents(vault, stored, split_documents)) == len(DOCUMENTS)
    with pytest.raises(FixityError, match="expected 5 documents, found 4"):
        list(read_documents(vault, replace(stored, documents=5), split_documents))


def test_an_altered_receipt_is_named(vault: LocalStore, tmp_path: Path) -> None:
    """A malformed receipt raises FixityError with its key."""
    landing = landed(vault, reply())
    key = location().key(landing.response_id, keys.RECEIPT_SUFFIX)
    (tmp_path / "vault" / key).write_text("{")
    with pytest.raises(FixityError) as broken:
        response(vault, landing.response_id)
    assert broken.value.key == key


def test_parts_do_not_make_a_day_collected(vault: LocalStore) -> None:
    """Parts of a day are raw responses; the day is collected only by a response to the full request."""
    requests = [Request("GET", f"/cdr/room-period/r{n}/2024-03-09/2024-03-10", "cdr") for n in (1, 2)]
    parts = [landed(vault, reply(note=str(n)), n, to=head(request), is_part=True) for n, request in enumerate(requests)]
    assert list_responses(vault, "cdr", "acme") == {DAY: [part.response_id for part in parts]}
    assert last_collected(vault, "cdr", "acme") == {}
    assert [documents(vault, part.response_id) for part in parts] == [DOCUMENTS] * 2
    landed(vault, reply(), 3)
    assert last_collected(vault, "cdr", "acme") == {DAY: ASKED + timedelta(minutes=3)}
    assert len(list_responses(vault, "cdr", "acme")[DAY]) == 3


def test_a_repeated_part_is_a_receipt_only(vault: LocalStore) -> None:
    """A repeated part stores no second body; a response to a full request is not compared with parts."""
    assert landed(vault, reply(), is_part=True).is_new
    assert not landed(vault, reply(), 1, is_part=True).is_new
    assert landed(vault, reply(), 2).is_new
    assert not landed(vault, reply(), 3).is_new


def test_an_unparsable_response_is_stored_as_evidence(vault: LocalStore) -> None:
    """An unparsable response is stored with its headers under a separate suffix; it is no raw response."""
    spool = SpooledBody(lambda _: set())
    spool.write(b"<html>maintenance</html>")
    key = raw.land_unreadable(vault, location(), head(status=502), spool)
    assert (
        zstandard.ZstdDecompressor().decompressobj().decompress(read_bytes(vault, key)) == b"<html>maintenance</html>"
    )
    assert json.loads(read_bytes(vault, f"{key}.json"))["status"] == 502
    assert list_responses(vault, "cdr", "acme") == last_collected(vault, "cdr", "acme") == {}


def test_responses_of_a_period(vault: LocalStore) -> None:
    """Raw responses are listed by day, oldest first, without other days, sources, projects and files."""
    other_day = DAY + timedelta(days=1)
    response_ids = [landed(vault, reply(note=str(at)), minutes).response_id for at, minutes in enumerate((10, 0, 5))]
    landed(vault, reply(), at=location(day=other_day))
    vault.put_if_absent(location().key("notes", ".txt"), b"foreign")
    assert list_responses(vault, "cdr", "acme", Period(DAY, DAY)) == {
        DAY: [response_ids[1], response_ids[2], response_ids[0]]
    }
    assert set(list_responses(vault, "cdr", "acme")) == {DAY, other_day}
    assert list_responses(vault, "archive", "acme") == list_responses(vault, "cdr", "acm") == {}


# --- listings ---


def listing(vault: LocalStore) -> dict[str, tuple[bool, int]]:
    """Whether each response is the newest of its day, and until when it was collected, in minutes."""
    found = raw.listings(vault, "cdr", "acme", Period(DAY, DAY))
    assert {day for day, _ in found} <= {DAY}
    return {name: (each.is_current, (each.until - ASKED) // timedelta(minutes=1)) for (_, name), each in found.items()}


def test_the_newest_whole_response_of_a_day_is_current(vault: LocalStore) -> None:
    """Of the responses of a day the newest one is current; an earlier one was collected until its last repetition."""
    first = landed(vault, reply(note="A"))
    assert listing(vault) == {first.response_id: (True, 0)}
    landed(vault, reply(note="A"), 10)
    landed(vault, reply(note="A"), 20)
    assert listing(vault) == {first.response_id: (True, 0)}
    second = landed(vault, reply(note="B"), 30)
    assert listing(vault) == {first.response_id: (False, 20), second.response_id: (True, 30)}
    landed(vault, reply(note="B"), 40)
    third = landed(vault, reply(note="A"), 50)
    assert listing(vault) == {
        first.response_id: (False, 20), second.response_id: (False, 40), third.response_id: (True, 50),
    }  # fmt: skip


def test_a_repeated_response_changes_no_current_listing(vault: LocalStore) -> None:
    """A repetition of the newest response changes nothing: tables follow from the stored bodies."""
    landed(vault, reply(note="A"))
    landed(vault, reply(note="B"), 10)
    before = raw.listings(vault, "cdr", "acme", Period(DAY, DAY))
    landed(vault, reply(note="B"), 20)
    assert raw.listings(vault, "cdr", "acme", Period(DAY, DAY)) == before


def test_a_part_is_current_until_a_whole_response_is_newer(vault: LocalStore) -> None:
    """Parts do not replace each other nor an earlier whole response; a later whole response replaces all parts."""
    requests = [Request("GET", f"/cdr/room-period/r{n}/2024-03-09/2024-03-10", "cdr") for n in (1, 2)]
    whole = landed(vault, reply(note="whole"))
    parts = [
        landed(vault, reply(note=str(n)), 10 + n, to=head(request), is_part=True) for n, request in enumerate(requests)
    ]
    current = dict.fromkeys([part.response_id for part in parts], True) | {whole.response_id: True}
    assert {name: is_current for name, (is_current, _) in listing(vault).items()} == current
    newer = landed(vault, reply(note="newer"), 20)
    assert {name: is_current for name, (is_current, _) in listing(vault).items() if is_current} == {
        newer.response_id: True
    }


def test_without_a_whole_response_all_parts_are_current(vault: LocalStore) -> None:
    """Of a day collected in parts only, every part is current."""
    parts = [landed(vault, reply(note=str(n)), n, is_part=True) for n in range(3)]
    assert listing(vault) == {part.response_id: (True, n) for n, part in enumerate(parts)}


def test_listings_are_those_of_the_readable_responses(vault: LocalStore, tmp_path: Path) -> None:
    """A body without a receipt has no listing and replaces none; other days have their own."""
    first = landed(vault, reply(note="A"))
    broken = landed(vault, reply(note="B"), 10)
    (tmp_path / "vault" / location().key(broken.response_id, keys.RECEIPT_SUFFIX)).unlink()
    landed(vault, reply(note="C"), at=location(60, DAY + timedelta(days=1)))
    assert listing(vault) == {first.response_id: (True, 0)}
    both = raw.listings(vault, "cdr", "acme", Period(DAY, DAY + timedelta(days=1)))
    names = [(day, name) for day, listed in list_responses(vault, "cdr", "acme").items() for name in listed]
    assert sorted(both) == names
    assert all(each.is_current for each in both.values())


def test_named_responses_are_read_in_the_order_given(vault: LocalStore) -> None:
    """Receipts are read by day and id, in the order of the names."""
    response_ids = [landed(vault, reply(note=str(n)), n).response_id for n in range(3)]
    named = [(DAY, name) for name in reversed(response_ids)]
    assert [found.response_id for found in raw.read_named_receipts(vault, "cdr", "acme", named)] == response_ids[::-1]


def test_a_response_without_documents_is_not_opened(vault: LocalStore, tmp_path: Path) -> None:
    """An empty response makes its day collected; its body is not needed to read its documents."""
    landing = landed(vault, reply([]))
    (tmp_path / "vault" / response(vault, landing.response_id).body_key).write_bytes(b"")
    assert documents(vault, landing.response_id) == []
    assert DAY in last_collected(vault, "cdr", "acme")
