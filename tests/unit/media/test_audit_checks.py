"""What an audit finds: nothing that was removed, cut or altered stays unseen, and every file has its turn."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec.structs import replace

from pipeline.core.models import Row, StoredMedia
from pipeline.media import audit_checks
from pipeline.media.audit_checks import ManifestedFile, PriorAudit, check_chain, choose_sample, file_row, reread_row
from pipeline.storage.base import Checksums, ObjectAttributes
from pipeline.storage.keys import media_key
from pipeline.storage.manifests import Entry, Manifest, next_manifest, read_manifest, stored_entry, write_manifest
from pipeline.tables.schemas import AUDITS
from tests.support.records import DAY, listed_file

AT = datetime(2026, 11, 23, 2, 15, tzinfo=UTC)
CONF_NUM = listed_file().conf_num
CHANGES = st.sampled_from([1, 2, 64, 255])


def stored(name: str, content: bytes, *, store_etag: str | None = None) -> Entry:
    """The entry of a file with these bytes, as media copy writes it."""
    file = listed_file(name=name)
    tally = Checksums()
    tally.feed(content)
    key = media_key(file.project, file.day, file.room_id, file.conf_num, file.kind, name)
    media = StoredMedia(key, tally.size_bytes, tally.sha256, None, None, True, tally.crc64nvme, "synced", store_etag)
    return stored_entry(file, media, AT)


def chain(*contents: bytes) -> dict[int, bytes]:
    """Manifests of a session, by revision: each adds one file of these bytes."""
    manifests: dict[int, bytes] = {}
    for number, content in enumerate(contents, start=1):
        entry = stored(f"a{number}.mkv", content)
        manifests[number] = write_manifest(next_manifest(listed_file(), [entry], manifests.get(number - 1)))
    return manifests


def broken(contents: dict[int, bytes], seen: dict[int, PriorAudit] | None = None) -> dict[str, str]:
    """What is wrong, by the name of the manifest."""
    rows = check_chain("acme", DAY, CONF_NUM, contents, seen or {}).rows
    assert {row["verdict"] for row in rows} <= {"ok", "manifest_broken"}
    return {row["name"]: row["detail"] for row in rows if row["verdict"] == "manifest_broken"}


def saw(contents: dict[int, bytes]) -> dict[int, PriorAudit]:
    """What an audit remembers of these manifests: the newest."""
    newest = max(contents)
    return {newest: PriorAudit(hashlib.sha256(contents[newest]).hexdigest(), AT)}


def changed(content: bytes, place: int, change: int) -> bytes:
    return content[:place] + bytes([content[place] ^ change]) + content[place + 1 :]


CHAINS = st.lists(st.binary(max_size=20), min_size=1, max_size=5).map(lambda contents: chain(*contents))
LONG_CHAINS = CHAINS.filter(lambda manifests: len(manifests) > 1)


# --- manifests ---


@given(CHAINS)
def test_a_whole_chain_is_well(manifests: dict[int, bytes]) -> None:
    """Manifests as media copy writes them are in order: one row, of the newest; all files of all of them are named."""
    for seen in ({}, saw(manifests), saw({1: manifests[1]})):
        found = check_chain("acme", DAY, CONF_NUM, manifests, seen)
        assert [(row["verdict"], row["name"]) for row in found.rows] == [("ok", f"{len(manifests):04d}")]
        assert found.rows[0]["sha256"] == hashlib.sha256(manifests[len(manifests)]).hexdigest()
        assert {one.entry.name for one in found.named.values()} == {f"a{number}.mkv" for number in manifests}


@given(LONG_CHAINS, st.data())
def test_a_removed_manifest_is_found(manifests: dict[int, bytes], data: st.DataObject) -> None:
    """A manifest taken out of a chain is named as missing; the last one too, if an audit ever saw it."""
    number = data.draw(st.sampled_from(sorted(manifests)))
    left = {revision: content for revision, content in manifests.items() if revision != number}
    assert f"{number:04d} is missing" in broken(left, saw(manifests))[f"{number:04d}"]
    assert number == max(manifests) or broken(left)


@given(CHAINS)
def test_a_session_that_is_gone_is_found(manifests: dict[int, bytes]) -> None:
    """Of a session whose manifests are all gone, the first is named and what an audit saw is said."""
    assert list(broken({}, saw(manifests))) == ["0001"]
    assert "the audit of 2026-11-23T02:15:00.000Z saw" in broken({}, saw(manifests))["0001"]


@given(LONG_CHAINS, st.data(), CHANGES)
def test_an_altered_manifest_is_found(manifests: dict[int, bytes], data: st.DataObject, change: int) -> None:
    """Any changed byte of any manifest is found by the one that follows it; of the last, by what an audit saw."""
    number = data.draw(st.sampled_from(sorted(manifests)))
    place = data.draw(st.integers(0, len(manifests[number]) - 1))
    altered = manifests | {number: changed(manifests[number], place, change)}
    assert f"{number:04d}" in broken(altered, saw(manifests))
    assert number == max(manifests) or f"{number:04d}" in broken(altered)


@given(LONG_CHAINS, st.data())
def test_reordered_manifests_are_found(manifests: dict[int, bytes], data: st.DataObject) -> None:
    """Two manifests in each other's place both say so."""
    one, other = data.draw(st.permutations(sorted(manifests)))[:2]
    swapped = manifests | {one: manifests[other], other: manifests[one]}
    assert {f"{one:04d}", f"{other:04d}"} <= set(broken(swapped))
    assert f"its content is that of {other:04d} of session {CONF_NUM}" in broken(swapped)[f"{one:04d}"]


@given(LONG_CHAINS, st.data())
def test_a_chain_that_was_written_anew_is_found(manifests: dict[int, bytes], data: st.DataObject) -> None:
    """Whoever writes all manifests anew, each following the other, is found by what an audit saw of one of them."""
    others = chain(*[b"others" for _ in manifests])
    assume(others != manifests)
    number = data.draw(st.sampled_from(sorted(manifests)))
    assert broken(others) == {}
    assert broken(others, saw({number: manifests[number]})).keys() == {f"{number:04d}"}


def rewritten(change: Callable[[Manifest], None]) -> dict[int, bytes]:
    """A chain of two whose last manifest was changed by somebody who knows the format."""
    manifests = chain(b"one", b"two")
    manifest = read_manifest(manifests[2], "0002")
    change(manifest)
    return manifests | {2: write_manifest(manifest)}


def _other_digest(manifest: Manifest) -> None:
    manifest.files[0] = replace(manifest.files[0], sha256="00" * 32)


def _no_digest(manifest: Manifest) -> None:
    manifest.files[1] = replace(manifest.files[1], sha256=None)


def _foreign_key(manifest: Manifest) -> None:
    manifest.files[1] = replace(manifest.files[1], key="../../etc/passwd")


def _other_project(manifest: Manifest) -> None:
    manifest.project = "umbrella"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_other_digest, "it names other bytes for media/"),
        (_no_digest, "without size or SHA-256"),
        (_foreign_key, "'../../etc/passwd', which is no place for a file of this session"),
        (_other_project, "of umbrella on 2026-11-22"),
    ],
)
def test_a_manifest_that_cannot_be_true_is_found(change: Callable[[Manifest], None], said: str) -> None:
    """A last manifest that contradicts an earlier one, its key, or what media copy always writes, is broken."""
    assert said in broken(rewritten(change))["0002"]


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"[" * 100_000, b"null", b"<html></html>"])
def test_what_is_no_manifest_is_said(content: bytes) -> None:
    """Whatever stands in a manifest's place, it is said that it cannot be read, and the others are still read."""
    manifests = chain(b"one", b"two", b"three")
    found = broken(manifests | {2: content})
    assert found["0002"].startswith("it cannot be read")
    assert set(check_chain("acme", DAY, CONF_NUM, manifests | {2: content}, {}).named) == set(
        check_chain("acme", DAY, CONF_NUM, manifests, {}).named
    )


def test_a_number_far_away_costs_nothing() -> None:
    """A manifest called 99999999 is one gap, not a hundred million missing ones."""
    manifests = chain(b"one")
    assert broken(manifests | {99_999_999: manifests[1]})["0002"] == "0002 to 99999998 are missing"


# --- files ---


def seen_file(content: bytes, there: bytes | None, etag: str | None = None, crc: bool = False) -> Row:
    """The row of a file that was stored as `content`, of which the store states what is `there` now."""
    entry = stored("a1.mkv", content, store_etag=etag and hashlib.md5(content).hexdigest())
    stated = None
    if there is not None:
        tally = Checksums()
        tally.feed(there)
        stated = ObjectAttributes(
            len(there), tally.crc64nvme if crc else None, hashlib.md5(there).hexdigest() if etag else None
        )
    return file_row(entry.key or "", DAY, ManifestedFile(entry, CONF_NUM, 3), stated)


def read_row(row: Row, there: bytes) -> Row:
    return reread_row(row, len(there), hashlib.sha256(there).hexdigest())


STATES = st.fixed_dictionaries({"etag": st.sampled_from([None, "yes"]), "crc": st.booleans()})


@given(st.binary(max_size=50), STATES)
def test_a_file_as_it_was_stored_is_ok(content: bytes, states: dict[str, object]) -> None:
    """The same bytes are never a problem, whatever the store states of them; every row is the table's."""
    row = seen_file(content, content, **states)  # type: ignore[arg-type]
    assert row["verdict"] == read_row(row, content)["verdict"] == "ok"
    assert row["compared_by"] == ("crc64nvme" if states["crc"] else "etag" if states["etag"] else "size")
    assert list(row) == AUDITS.schema.names


@given(st.binary(min_size=1, max_size=50), st.data(), CHANGES, STATES)
def test_a_flipped_byte_is_found(content: bytes, data: st.DataObject, change: int, states: dict[str, object]) -> None:
    """Any changed byte is found by reading again; without reading too, where the store states a checksum."""
    there = changed(content, data.draw(st.integers(0, len(content) - 1)), change)
    row = seen_file(content, there, **states)  # type: ignore[arg-type]
    assert row["verdict"] == ("checksum_differs" if states["crc"] or states["etag"] else "ok")
    assert read_row(row, there)["verdict"] == "digest_differs"


@given(st.binary(min_size=1, max_size=50), st.data(), STATES)
def test_a_missing_or_cut_file_is_found(content: bytes, data: st.DataObject, states: dict[str, object]) -> None:
    """A file that is gone or shorter is found without reading anything."""
    there = content[: data.draw(st.integers(0, len(content) - 1))]
    assert seen_file(content, None, **states)["verdict"] == "missing"  # type: ignore[arg-type]
    assert seen_file(content, there, **states)["verdict"] == "size_differs"  # type: ignore[arg-type]
    assert read_row(seen_file(content, content), there)["verdict"] == "size_differs"


def test_another_etag_is_a_doubt_that_reading_settles() -> None:
    """An object restored in parts of another size has another ETag: read again, it is ok, and it is said why."""
    row = seen_file(b"same", b"same", etag="yes") | {"verdict": "checksum_differs"}
    assert audit_checks.can_reread(row)
    assert audit_checks.is_doubtful(row)
    assert read_row(row, b"same")["verdict"] == "ok"
    assert read_row(row, b"same")["detail"] == "the store's etag is another one, and the bytes are the same"
    assert not audit_checks.can_reread(row | {"compared_by": "crc64nvme"})


def test_a_problem_says_what_where_and_the_next_step() -> None:
    """One line names the verdict, the manifest that says otherwise, and what to do."""
    assert audit_checks.problem_text(seen_file(b"x", None)) == (
        f"missing: manifest 0003 of session {CONF_NUM} names it (recording a1.mkv); restore it from a copy"
    )
    unreadable = audit_checks.unreadable_row(seen_file(b"x", b"x"), "Input/output error")
    assert audit_checks.problem_text(unreadable).endswith(
        "(Input/output error); check the disk, then restore it from a copy"
    )


# --- the sample ---

KEYS = st.sets(st.text("abc", min_size=1, max_size=6), max_size=40)
PERCENT = st.one_of(st.integers(1, 100), st.floats(0.1, 100))


@given(KEYS, PERCENT)
def test_every_file_has_its_turn(keys: set[str], percent: float) -> None:
    """With the same percentage, every file is re-read within 100/percent audits, and none twice before all were."""
    last_read: dict[str, datetime] = {}
    for number in range(math.ceil(100 / percent)):
        at = AT + timedelta(days=7 * number)
        chosen = choose_sample(keys, [], last_read, percent)
        assert len(chosen) == len(set(chosen)) == math.ceil(round(len(keys) * percent / 100, 9))
        unread = keys - last_read.keys()
        assert set(chosen) <= unread or unread <= set(chosen)
        last_read |= dict.fromkeys(chosen, at)
    assert last_read.keys() == keys


@given(KEYS, st.dictionaries(st.text("abc", min_size=1, max_size=6), st.integers(0, 5)), PERCENT)
def test_the_longest_unread_come_first(keys: set[str], ages: dict[str, int], percent: float) -> None:
    """Nothing left out was read longer ago than what was chosen; ties go by key."""
    last_read = {key: AT - timedelta(days=age) for key, age in ages.items()}
    chosen = choose_sample(keys, [], last_read, percent)
    order = sorted(keys, key=lambda key: (key in last_read, last_read.get(key, AT), key))
    assert chosen == order[: len(chosen)]


def test_nothing_is_read_when_nothing_is_to_be_read() -> None:
    """At 0 percent no file is read, doubtful or not; at any other, files in doubt come on top of the sample."""
    assert choose_sample(["a", "b"], ["b"], {}, 0) == []
    assert choose_sample(["a", "b", "c"], ["b"], {}, 1) == ["a", "b"]
    assert choose_sample(["a", "b", "c"], ["b"], {}, 100) == ["a", "b", "c"]
