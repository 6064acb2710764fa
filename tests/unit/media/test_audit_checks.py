"""Checks of an audit: removed, truncated and altered objects are found, and every file is sampled in turn."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from msgspec.structs import replace

from pipeline.core.models import Row
from pipeline.media import audit_checks
from pipeline.media.audit_checks import ManifestedFile, PriorAudit, check_chain, choose_sample, file_row, reread_row
from pipeline.storage.base import Checksums, ObjectAttributes
from pipeline.storage.keys import media_key
from pipeline.storage.manifests import Entry, Manifest, next_manifest, read_manifest, write_manifest
from pipeline.tables.schemas import AUDITS
from tests.support.records import DAY, listed_file, stored_entry

AT = datetime(2026, 11, 23, 2, 15, tzinfo=UTC)
CONF_NUM = listed_file().conf_num
CHANGES = st.sampled_from([1, 2, 64, 255])


def stored(name: str, content: bytes, *, store_etag: str | None = None) -> Entry:
    """The entry of a file with these bytes, as media copy writes it."""
    file = listed_file(name=name)
    checksums = Checksums()
    checksums.feed(content)
    key = media_key(file.project, file.day, file.room_id, file.conf_num, file.kind, name)
    digests = {"size_bytes": checksums.size_bytes, "sha256": checksums.sha256, "crc64nvme": checksums.crc64nvme}
    return stored_entry(file, {"key": key, **digests, "proof": "synced", "store_etag": store_etag}, AT)


def chain(*contents: bytes) -> dict[int, bytes]:
    """Manifests of a session, by revision: each adds one file of these bytes."""
    manifests: dict[int, bytes] = {}
    for number, content in enumerate(contents, start=1):
        entry = stored(f"a{number}.mkv", content)
        manifests[number] = write_manifest(next_manifest(listed_file(), [entry], manifests.get(number - 1)))
    return manifests


def broken(contents: dict[int, bytes], prior: dict[int, PriorAudit] | None = None) -> dict[str, str]:
    """Problems by the name of the manifest."""
    rows = check_chain("acme", DAY, CONF_NUM, contents, prior or {}).rows
    assert {row["verdict"] for row in rows} <= {"ok", "manifest_broken"}
    return {row["name"]: row["detail"] for row in rows if row["verdict"] == "manifest_broken"}


def prior_audit(contents: dict[int, bytes]) -> dict[int, PriorAudit]:
    """The prior audit of these manifests: it records the newest."""
    newest = max(contents)
    return {newest: PriorAudit(hashlib.sha256(contents[newest]).hexdigest(), AT)}


def changed(content: bytes, offset: int, change: int) -> bytes:
    return content[:offset] + bytes([content[offset] ^ change]) + content[offset + 1 :]


CHAINS = st.lists(st.binary(max_size=20), min_size=1, max_size=5).map(lambda contents: chain(*contents))
LONG_CHAINS = CHAINS.filter(lambda manifests: len(manifests) > 1)


# --- manifests ---


@given(CHAINS)
def test_a_complete_chain_is_ok(manifests: dict[int, bytes]) -> None:
    """Manifests as media copy writes them are ok: one row, of the newest, and all files of all manifests."""
    for prior in ({}, prior_audit(manifests), prior_audit({1: manifests[1]})):
        checked = check_chain("acme", DAY, CONF_NUM, manifests, prior)
        assert [(row["verdict"], row["name"]) for row in checked.rows] == [("ok", f"{len(manifests):04d}")]
        assert checked.rows[0]["sha256"] == hashlib.sha256(manifests[len(manifests)]).hexdigest()
        assert {file.entry.name for file in checked.files.values()} == {f"a{number}.mkv" for number in manifests}


@given(LONG_CHAINS, st.data())
def test_a_removed_manifest_is_found(manifests: dict[int, bytes], data: st.DataObject) -> None:
    """A manifest removed from a chain is reported as missing; the last one too, if an audit recorded it."""
    number = data.draw(st.sampled_from(sorted(manifests)))
    left = {revision: content for revision, content in manifests.items() if revision != number}
    assert f"{number:04d} is missing" in broken(left, prior_audit(manifests))[f"{number:04d}"]
    assert number == max(manifests) or broken(left)


@given(CHAINS)
def test_a_session_that_is_gone_is_found(manifests: dict[int, bytes]) -> None:
    """If all manifests of a session are missing, the first is reported, with the audit that recorded it."""
    assert list(broken({}, prior_audit(manifests))) == ["0001"]
    assert "the audit of 2026-11-23T02:15:00.000Z recorded" in broken({}, prior_audit(manifests))["0001"]


@given(LONG_CHAINS, st.data(), CHANGES)
def test_an_altered_manifest_is_found(manifests: dict[int, bytes], data: st.DataObject, change: int) -> None:
    """Any changed byte of a manifest is found by the next manifest; in the last one, by the prior audit."""
    number = data.draw(st.sampled_from(sorted(manifests)))
    offset = data.draw(st.integers(0, len(manifests[number]) - 1))
    altered = manifests | {number: changed(manifests[number], offset, change)}
    assert f"{number:04d}" in broken(altered, prior_audit(manifests))
    assert number == max(manifests) or f"{number:04d}" in broken(altered)


@given(LONG_CHAINS, st.data())
def test_reordered_manifests_are_found(manifests: dict[int, bytes], data: st.DataObject) -> None:
    """Two swapped manifests are both reported."""
    first, second = data.draw(st.permutations(sorted(manifests)))[:2]
    swapped = manifests | {first: manifests[second], second: manifests[first]}
    assert {f"{first:04d}", f"{second:04d}"} <= set(broken(swapped))
    assert f"its content is manifest {second:04d} of session {CONF_NUM}" in broken(swapped)[f"{first:04d}"]


@given(LONG_CHAINS, st.data())
def test_a_rewritten_chain_is_found(manifests: dict[int, bytes], data: st.DataObject) -> None:
    """A chain that was completely rewritten, with valid links, is found by the prior audit of one manifest."""
    others = chain(*[b"others" for _ in manifests])
    assume(others != manifests)
    number = data.draw(st.sampled_from(sorted(manifests)))
    assert broken(others) == {}
    assert broken(others, prior_audit({number: manifests[number]})).keys() == {f"{number:04d}"}


def rewritten(change: Callable[[Manifest], None]) -> dict[int, bytes]:
    """A chain of two whose last manifest was changed and is valid in the format."""
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
    ("change", "problem"),
    [
        (_other_digest, "it has another size or SHA-256 for media/"),
        (_no_digest, "without size or SHA-256"),
        (_foreign_key, "'../../etc/passwd', which is not a key of this session"),
        (_other_project, "of umbrella on 2026-11-22"),
    ],
)
def test_a_contradictory_manifest_is_found(change: Callable[[Manifest], None], problem: str) -> None:
    """A last manifest that contradicts an earlier one, its key, or what media copy always writes, is broken."""
    assert problem in broken(rewritten(change))["0002"]


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"[" * 100_000, b"null", b"<html></html>"])
def test_an_invalid_manifest_is_reported(content: bytes) -> None:
    """An invalid manifest is reported as unreadable, and the others are still read."""
    manifests = chain(b"one", b"two", b"three")
    problems = broken(manifests | {2: content})
    assert problems["0002"].startswith("it cannot be read")
    assert set(check_chain("acme", DAY, CONF_NUM, manifests | {2: content}, {}).files) == set(
        check_chain("acme", DAY, CONF_NUM, manifests, {}).files
    )


def test_a_number_far_away_costs_nothing() -> None:
    """A manifest with number 99999999 is one gap, not 99,999,997 missing manifests."""
    manifests = chain(b"one")
    assert broken(manifests | {99_999_999: manifests[1]})["0002"] == "0002 to 99999998 are missing"


# --- files ---


def checked_file(content: bytes, there: bytes | None, etag: str | None = None, crc: bool = False) -> Row:
    """The row of a file that was stored as `content`, for which the store now has `there`."""
    entry = stored("a1.mkv", content, store_etag=etag and hashlib.md5(content).hexdigest())
    attributes = None
    if there is not None:
        checksums = Checksums()
        checksums.feed(there)
        attributes = ObjectAttributes(
            len(there), checksums.crc64nvme if crc else None, hashlib.md5(there).hexdigest() if etag else None
        )
    return file_row(entry.key or "", DAY, ManifestedFile(entry, CONF_NUM, 3), attributes)


def read_row(row: Row, there: bytes) -> Row:
    return reread_row(row, len(there), hashlib.sha256(there).hexdigest())


STATES = st.fixed_dictionaries({"etag": st.sampled_from([None, "yes"]), "crc": st.booleans()})


@given(st.binary(max_size=50), STATES)
def test_a_file_as_it_was_stored_is_ok(content: bytes, states: dict[str, object]) -> None:
    """The same bytes are never a problem, whichever checksums the store has; every row has the table's columns."""
    row = checked_file(content, content, **states)  # type: ignore[arg-type]
    assert row["verdict"] == read_row(row, content)["verdict"] == "ok"
    assert row["compared_by"] == ("crc64nvme" if states["crc"] else "etag" if states["etag"] else "size")
    assert list(row) == AUDITS.schema.names


@given(st.binary(min_size=1, max_size=50), st.data(), CHANGES, STATES)
def test_a_flipped_byte_is_found(content: bytes, data: st.DataObject, change: int, states: dict[str, object]) -> None:
    """Any changed byte is found by reading; without reading, if the store has a checksum."""
    there = changed(content, data.draw(st.integers(0, len(content) - 1)), change)
    row = checked_file(content, there, **states)  # type: ignore[arg-type]
    assert row["verdict"] == ("checksum_differs" if states["crc"] or states["etag"] else "ok")
    assert read_row(row, there)["verdict"] == "digest_differs"


@given(st.binary(min_size=1, max_size=50), st.data(), STATES)
def test_a_missing_or_cut_file_is_found(content: bytes, data: st.DataObject, states: dict[str, object]) -> None:
    """A missing or shorter file is found without reading."""
    there = content[: data.draw(st.integers(0, len(content) - 1))]
    assert checked_file(content, None, **states)["verdict"] == "missing"  # type: ignore[arg-type]
    assert checked_file(content, there, **states)["verdict"] == "size_differs"  # type: ignore[arg-type]
    assert read_row(checked_file(content, content), there)["verdict"] == "size_differs"


def test_another_etag_is_resolved_by_reading() -> None:
    """An object restored in parts of another size has another ETag: after reading it is ok, with a detail."""
    row = checked_file(b"same", b"same", etag="yes") | {"verdict": "checksum_differs"}
    assert audit_checks.can_reread(row)
    assert audit_checks.is_doubtful(row)
    assert read_row(row, b"same")["verdict"] == "ok"
    assert read_row(row, b"same")["detail"] == "the store's etag differs, but the bytes are the same"
    assert not audit_checks.can_reread(row | {"compared_by": "crc64nvme"})


def test_a_problem_names_the_object_and_the_next_step() -> None:
    """One line contains the verdict, the manifest it differs from, and the next step."""
    assert audit_checks.problem_text(checked_file(b"x", None)) == (
        f"missing: manifest 0003 of session {CONF_NUM} names it (recording a1.mkv); restore it from a copy"
    )
    unreadable = audit_checks.unreadable_row(checked_file(b"x", b"x"), "Input/output error")
    assert audit_checks.problem_text(unreadable).endswith(
        "(Input/output error); check the disk, then restore it from a copy"
    )


# --- the sample ---

KEYS = st.sets(st.text("abc", min_size=1, max_size=6), max_size=40)
PERCENT = st.one_of(st.integers(1, 100), st.floats(0.1, 100))


@given(KEYS, PERCENT)
def test_every_file_is_sampled_in_turn(keys: set[str], percent: float) -> None:
    """With the same percentage, every file is read within 100/percent audits, and none twice before all were read."""
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
    """No omitted file was read earlier than a chosen one; ties are sorted by key."""
    last_read = {key: AT - timedelta(days=age) for key, age in ages.items()}
    chosen = choose_sample(keys, [], last_read, percent)
    order = sorted(keys, key=lambda key: (key in last_read, last_read.get(key, AT), key))
    assert chosen == order[: len(chosen)]


def test_a_sample_of_zero_percent_is_empty() -> None:
    """At 0 percent no file is read, doubtful or not; otherwise doubtful files are added to the sample."""
    assert choose_sample(["a", "b"], ["b"], {}, 0) == []
    assert choose_sample(["a", "b", "c"], ["b"], {}, 1) == ["a", "b"]
    assert choose_sample(["a", "b", "c"], ["b"], {}, 100) == ["a", "b", "c"]
