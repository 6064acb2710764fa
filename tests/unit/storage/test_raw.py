"""Replies on their way into the vault and out again: byte for byte, once each, or with an error that says which."""

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
from pipeline.tables.normalize.cdr_batch import cut_documents

DAY = date(2024, 3, 9)
ASKED = datetime(2024, 3, 10, 2, 15, 0, 123_000, UTC)
REQUEST = period_request("cdr", DAY)
DOCUMENTS = [{"cdr_id": "c1", "n": 1.5}, {"cdr_id": "c2", "text": "},{"}, None, "odd"]


def head(request: Request = REQUEST, status: int = 200, **headers: str) -> ReplyHead:
    return ReplyHead(request, status, {"content-type": "application/json", **headers})


def place(minutes: int = 0, day: date = DAY) -> RawLocation:
    return RawLocation("cdr", "acme", day, ASKED + timedelta(minutes=minutes))


def spooled(body: bytes, chunk: int = 7) -> SpooledBody:
    """A reply as it arrives, its documents noted; each is said to be of DAY."""
    spool, reader = SpooledBody(lambda documents: {DAY} if documents else set()), ReplyReader(head())
    for start in range(0, len(body), chunk):
        spool.write(body[start : start + chunk])
        spool.note(reader.feed(body[start : start + chunk]))
    spool.note(reader.finish(ASKED))
    return spool


def reply(documents: list[Any] = DOCUMENTS, note: str = "") -> bytes:
    return json.dumps({"result": "0", "cdr": documents, "desc": note}).encode()


class Landed(NamedTuple):
    """The stem of a reply's receipt, and whether it said something new."""

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
    at = at or place(minutes)
    is_new = land(vault, at, to or head(), spooled(body), **options)
    names = [keys.parse_raw_key(stored.key) for stored in vault.list(keys.raw_prefix("cdr", "acme", at.day))]
    stems = {name.response_id for name in names if name and name.suffix != keys.BODY_SUFFIX}
    (response_id,) = [response_id for response_id in stems if keys.asked_at_of_response(response_id) == at.asked_at]
    return Landed(response_id, is_new)


def page(vault: LocalStore, response_id: str) -> RawResponse:
    return read_receipt(vault, "cdr", "acme", DAY, response_id)


def documents(vault: LocalStore, response_id: str) -> list[Any]:
    return [msgspec.json.decode(one) for some in read_documents(vault, page(vault, response_id)) for one in some]


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
def test_what_was_said_comes_back(tmp_path_factory: Any, some: list[Any], chunk: int, block: int) -> None:
    """Whatever chunks a reply came in, its bytes are kept, its documents come back in order, its facts are right."""
    body = reply(some)
    with shared_vault(tmp_path_factory) as vault, pytest.MonkeyPatch.context() as patch:
        patch.setattr(envelope, "BLOCK_BYTES", block, raising=False)
        land(vault, place(), head(), spooled(body, chunk))
        ((response_id,),) = list_responses(vault, "cdr", "acme").values()
        found = Landed(response_id, is_new=True)
        kept = page(vault, found.response_id)
        assert documents(vault, found.response_id) == some
        assert zstandard.ZstdDecompressor().decompressobj().decompress(read_bytes(vault, kept.body_key)) == body
    assert (kept.size_bytes, kept.sha256, kept.documents) == (len(body), hashlib.sha256(body).hexdigest(), len(some))
    assert (kept.asked_at, kept.request, kept.status) == (ASKED, str(REQUEST), 200)
    assert kept.days == ((DAY,) if some else ())


def test_a_receipt_tells_what_matters_and_no_cookies(vault: LocalStore) -> None:
    """A receipt keeps the headers that matter and no others."""
    found = landed(vault, reply(), to=head(**{"x-request-id": "r1", "set-cookie": "hush"}))
    text = read_bytes(vault, place().key(found.response_id, keys.RECEIPT_SUFFIX)).decode()
    assert "r1" in text
    assert "hush" not in text


def test_an_identical_reply_is_a_receipt_only(vault: LocalStore) -> None:
    """The same reply to the same request stores no second body, however often; the receipts name the first."""
    first = landed(vault, reply())
    again = [landed(vault, reply(), minutes) for minutes in (5, 10)]
    assert (first.is_new, [one.is_new for one in again]) == (True, [False, False])
    assert sorted(names(vault)) == ["json.zst", *["receipt.json"] * 3]
    assert list_responses(vault, "cdr", "acme") == {DAY: [first.response_id]}
    for one in again:
        receipt = json.loads(read_bytes(vault, place().key(one.response_id, keys.RECEIPT_SUFFIX)))
        assert receipt["page"] == first.response_id
    assert last_collected(vault, "cdr", "acme") == {DAY: ASKED + timedelta(minutes=10)}


def test_there_and_back_again_are_three_pages(vault: LocalStore) -> None:
    """A, then B, then A again: the third says something new, compared with what was said before it."""
    stems = [landed(vault, reply(note=note), at) for at, note in enumerate("ABA")]
    assert [one.is_new for one in stems] == [True, True, True]
    assert list_responses(vault, "cdr", "acme")[DAY] == [one.response_id for one in stems]


def test_another_request_or_status_is_another_page(vault: LocalStore) -> None:
    """Equal bytes are no repetition when something else was asked, or the status differs."""
    landed(vault, reply())
    assert landed(vault, reply(), 1, to=head(Request("GET", "/cdr/room/r1", "cdr"))).is_new
    assert landed(vault, reply(), 2, to=head(status=201)).is_new


def test_landing_twice_at_one_moment_changes_nothing(vault: LocalStore) -> None:
    """The same reply landed again at the same moment is already there."""
    first = landed(vault, reply())
    before = list(vault.list(""))
    assert landed(vault, reply()) == Landed(first.response_id, is_new=False)
    assert list(vault.list("")) == before


def test_a_body_without_receipt_does_not_exist(vault: LocalStore, tmp_path: Path) -> None:
    """Killed between body and receipt, a page does not exist; landing the reply later makes it one."""
    found = landed(vault, reply())
    (tmp_path / "vault" / place().key(found.response_id, keys.RECEIPT_SUFFIX)).unlink()
    assert list_responses(vault, "cdr", "acme") == {}
    assert last_collected(vault, "cdr", "acme") == {}
    later = landed(vault, reply(), 5)
    assert later.is_new
    assert list_responses(vault, "cdr", "acme") == {DAY: [later.response_id]}
    assert (
        landed(vault, reply()).response_id == found.response_id
    )  # the very moment again: body is there, receipt is made
    assert list_responses(vault, "cdr", "acme") == {DAY: [found.response_id, later.response_id]}


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
    """A body that is not the one its receipt speaks of raises FixityError with its key, at the latest at the end."""
    found = landed(vault, reply())
    key = page(vault, found.response_id).body_key
    path = tmp_path / "vault" / key
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(FixityError) as broken:
        documents(vault, found.response_id)
    assert broken.value.key == key


def test_a_body_that_is_cut_otherwise_than_it_was_proven_is_not_used(vault: LocalStore) -> None:
    """When cutting a landed body gives more or fewer documents than its receipt says, the page is refused: none is
    dropped or made up in silence."""
    said = page(vault, landed(vault, reply()).response_id)
    assert len([one for some in read_documents(vault, said, cut_documents) for one in some]) == len(DOCUMENTS)
    with pytest.raises(FixityError, match="expected 5 documents, found 4"):
        list(read_documents(vault, replace(said, documents=5), cut_documents))


def test_an_altered_receipt_is_named(vault: LocalStore, tmp_path: Path) -> None:
    """A receipt that cannot be read raises FixityError with its key."""
    found = landed(vault, reply())
    key = place().key(found.response_id, keys.RECEIPT_SUFFIX)
    (tmp_path / "vault" / key).write_text("{")
    with pytest.raises(FixityError) as broken:
        page(vault, found.response_id)
    assert broken.value.key == key


def test_parts_are_pages_and_no_answer(vault: LocalStore) -> None:
    """Parts of a day are pages at once; the day counts as answered only when it was answered as a whole."""
    requests = [Request("GET", f"/cdr/room-period/r{n}/2024-03-09/2024-03-10", "cdr") for n in (1, 2)]
    parts = [landed(vault, reply(note=str(n)), n, to=head(one), is_part=True) for n, one in enumerate(requests)]
    assert list_responses(vault, "cdr", "acme") == {DAY: [part.response_id for part in parts]}
    assert last_collected(vault, "cdr", "acme") == {}
    assert [documents(vault, part.response_id) for part in parts] == [DOCUMENTS] * 2
    landed(vault, reply(), 3)
    assert last_collected(vault, "cdr", "acme") == {DAY: ASKED + timedelta(minutes=3)}
    assert len(list_responses(vault, "cdr", "acme")[DAY]) == 3


def test_a_repeated_part_is_a_receipt_only(vault: LocalStore) -> None:
    """A part that says the same again stores no second body; and a whole answer is not compared with a part."""
    assert landed(vault, reply(), is_part=True).is_new
    assert not landed(vault, reply(), 1, is_part=True).is_new
    assert landed(vault, reply(), 2).is_new
    assert not landed(vault, reply(), 3).is_new


def test_an_unreadable_reply_is_evidence(vault: LocalStore) -> None:
    """What cannot be read is kept with its headers under names of its own; it is no page and no answer."""
    spool = SpooledBody(lambda _: set())
    spool.write(b"<html>maintenance</html>")
    key = raw.land_unreadable(vault, place(), head(status=502), spool)
    assert (
        zstandard.ZstdDecompressor().decompressobj().decompress(read_bytes(vault, key)) == b"<html>maintenance</html>"
    )
    assert json.loads(read_bytes(vault, f"{key}.json"))["status"] == 502
    assert list_responses(vault, "cdr", "acme") == last_collected(vault, "cdr", "acme") == {}


def test_pages_of_a_period(vault: LocalStore) -> None:
    """Pages are listed by the day asked for, oldest first; other days, sources, projects and files are left out."""
    other_day = DAY + timedelta(days=1)
    stems = [landed(vault, reply(note=str(at)), minutes).response_id for at, minutes in enumerate((10, 0, 5))]
    landed(vault, reply(), at=place(day=other_day))
    vault.put_if_absent(place().key("notes", ".txt"), b"somebody's notes")
    assert list_responses(vault, "cdr", "acme", Period(DAY, DAY)) == {DAY: [stems[1], stems[2], stems[0]]}
    assert set(list_responses(vault, "cdr", "acme")) == {DAY, other_day}
    assert list_responses(vault, "archive", "acme") == list_responses(vault, "cdr", "acm") == {}


def test_a_reply_without_documents_is_not_opened(vault: LocalStore, tmp_path: Path) -> None:
    """An empty answer counts as an answer; reading its documents needs no body."""
    found = landed(vault, reply([]))
    (tmp_path / "vault" / page(vault, found.response_id).body_key).write_bytes(b"")
    assert documents(vault, found.response_id) == []
    assert DAY in last_collected(vault, "cdr", "acme")
