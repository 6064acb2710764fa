"""Manifests: each contains the digest of its predecessor, and URLs without secrets."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from pipeline.core.errors import FixityError
from pipeline.core.urls import public_url
from pipeline.storage import LocalStore, Retention, read_bytes
from pipeline.storage.keys import manifest_key, manifest_prefix
from pipeline.storage.manifests import (
    Entry,
    Manifest,
    append_entry,
    checked_entry,
    lost_entry,
    next_manifest,
    read_manifest,
    write_manifest,
)
from tests.support.records import DAY, listed_file, stored_entry

AT = datetime(2026, 11, 23, 2, 15, 0, 5_000, UTC)
HOUR = timedelta(hours=1)
STORED = {"key": "media/a1.mkv", "size_bytes": 5, "sha256": "ab" * 32, "etag": '"e1"'}
TEXTS = st.text(max_size=12)
ENTRIES = st.builds(
    Entry,
    kind=st.sampled_from(["recording", "transcoded", "chat"]),
    name=TEXTS,
    state=st.sampled_from(["stored", "unreadable", "lost"]),
    at=TEXTS,
    url=TEXTS,
    key=st.none() | TEXTS,
    size_bytes=st.none() | st.integers(0, 2**53),
    sha256=st.none() | TEXTS,
    content_type=st.none() | TEXTS,
    etag=st.none() | TEXTS,
    lost_reason=st.none() | TEXTS,
    http_status=st.none() | st.integers(100, 599),
)


@given(st.lists(st.lists(ENTRIES, min_size=1, max_size=3), min_size=1, max_size=6))
def test_a_manifest_chain_is_read_as_written(steps: list[list[Entry]]) -> None:
    """Revisions are consecutive, each has the digest of its predecessor, the last has the newest entry per file."""
    file = listed_file()
    newest: dict[tuple[str, str], Entry] = {}
    stored: dict[tuple[str, str], set[str]] = {}
    previous: bytes | None = None
    for number, entries in enumerate(steps, start=1):
        made = next_manifest(file, entries, previous)
        content = write_manifest(made)
        for entry in entries:
            keys = stored.setdefault(entry.identity, set())
            if entry.key or not keys:
                newest[entry.identity] = entry
            keys |= {entry.key} if entry.key else set()
        assert read_manifest(content, "key") == made
        assert made.revision == number
        assert made.previous_sha256 == (hashlib.sha256(previous).hexdigest() if previous is not None else None)
        assert [entry.identity for entry in made.files] == sorted(newest)
        for entry in made.files:
            expected = newest[entry.identity]
            assert replace(entry, earlier=(), gone_at=expected.gone_at) == expected
            assert {version.key for version in entry.versions} == stored[entry.identity]
        previous = content


def test_a_stored_file_is_never_lost() -> None:
    """A stored file that is deleted at the source stays stored, with the time of the deletion."""
    file = listed_file()
    first = write_manifest(next_manifest(file, [stored_entry(file, STORED, AT)], None))
    (entry,) = next_manifest(file, [lost_entry(file, "HTTP 404", 404, AT + HOUR)], first).files
    assert entry == replace(stored_entry(file, STORED, AT), gone_at="2026-11-23T03:15:00.005Z")


def test_other_bytes_of_a_file_are_another_version() -> None:
    """If EnableX returns other bytes, the entry describes them and lists the previous version."""
    file = listed_file()
    content = None
    for number in (1, 2, 3):
        stored = STORED | {"key": f"media/a1-{number}.mkv", "sha256": str(number) * 64}
        made = next_manifest(file, [stored_entry(file, stored, AT + number * HOUR)], content)
        content = write_manifest(made)
    (entry,) = made.files
    assert [version.sha256[0] for version in entry.versions if version.sha256] == ["1", "2", "3"]
    assert entry.key == "media/a1-3.mkv"
    (seen,) = next_manifest(file, [checked_entry(entry, AT + 9 * HOUR)], content).files
    assert (seen.checked_at, seen.versions[:2]) == ("2026-11-23T11:15:00.005Z", entry.earlier)


def test_the_same_manifest_is_the_same_bytes() -> None:
    """Two writers with the same entries write the same bytes, independent of the order of the entries."""
    first, second = stored_entry(listed_file(), STORED, AT), stored_entry(listed_file(name="b.mkv"), STORED, AT)
    contents = {
        write_manifest(next_manifest(listed_file(), entries, None)) for entries in ([first, second], [second, first])
    }
    assert len(contents) == 1


def test_a_manifest_belongs_to_its_session() -> None:
    """Project, day, session and room are fields of the manifest, not only parts of its key."""
    made = next_manifest(listed_file(), [], None)
    assert (made.format, made.project, made.day) == (1, "acme", DAY)
    assert (made.conf_num, made.room_id) == ("284170002063", "65ec60000c3a9e0012ab0001")


def test_a_lost_file_has_reason_and_status() -> None:
    """The entry of a lost file contains HTTP status, reason and time, and no key."""
    lost = lost_entry(listed_file(), "HTTP 410 from portal.enablex.io", 410, AT)
    assert (lost.state, lost.http_status, lost.lost_reason) == ("lost", 410, "HTTP 410 from portal.enablex.io")
    assert (lost.key, lost.size_bytes, lost.sha256) == (None, None, None)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b"<html>",
        b'{"project":"\xff"}',
        write_manifest(next_manifest(listed_file(), [], None))[:-20],
        write_manifest(next_manifest(listed_file(), [], None)).replace(b'"revision": 1', b'"revision": "1"'),
        write_manifest(next_manifest(listed_file(), [lost_entry(listed_file(), "x", 404, AT)], None)).replace(
            b'"lost"', b'"mislaid"'
        ),
    ],
)
def test_a_malformed_manifest_is_an_error(content: bytes) -> None:
    """A malformed manifest is an error with its key; it is not read as an empty one and gets no successor."""
    with pytest.raises(FixityError, match=r"manifests/0001\.json"):
        read_manifest(content, "manifests/0001.json")
    with pytest.raises(FixityError):
        next_manifest(listed_file(), [], content)


def test_a_later_format_with_more_fields_can_be_read() -> None:
    """A manifest with unknown fields of a later version can be read."""
    content = write_manifest(next_manifest(listed_file(), [], None)).replace(b"{", b'{"later": 1,', 1)
    assert isinstance(read_manifest(content, "key"), Manifest)


# --- URLs ---


@pytest.mark.parametrize(
    ("url", "public"),
    [
        ("https://portal.enablex.io/path/a1.mkv", "https://portal.enablex.io/path/a1.mkv"),
        ("https://portal.enablex.io:8443/a?sig=s3cret", "https://portal.enablex.io:8443/a"),
        ("https://portal.enablex.io/a#s3cret", "https://portal.enablex.io/a"),
        ("https://portal.enablex.io?s3cret/x", "https://portal.enablex.io"),
        ("https://ops:s3cret@portal.enablex.io/a@b.mkv", "https://portal.enablex.io/a@b.mkv"),
        ("https://ops@example.com:s3cret@portal.enablex.io/a", "https://portal.enablex.io/a"),
        ("//ops:s3cret@portal.enablex.io/a?s3cret", "//portal.enablex.io/a"),
        ("portal.enablex.io/a1.mkv?sig=s3cret", "portal.enablex.io/a1.mkv"),
        ("ops:s3cret@portal.enablex.io/a1.mkv", "portal.enablex.io/a1.mkv"),
        ("https://h/a//b@c", "https://h/a//b@c"),
        ("", ""),
    ],
)
def test_a_public_url_carries_no_secret(url: str, public: str) -> None:
    """User, query and fragment are removed; host and path stay, also without a scheme."""
    assert public_url(url) == public


PLAIN = st.text(st.characters(codec="utf-8", exclude_characters="/?#@"), max_size=10)


@given(PLAIN, PLAIN, st.text(max_size=20), st.sampled_from(["https://", "HTTP://", "//", ""]))
def test_secrets_of_a_url_never_show(user: str, password: str, query: str, scheme: str) -> None:
    """For any user, password, query and fragment, the public URL equals the one without them."""
    plain = f"{scheme}host/path/a.mkv"
    assert public_url(f"{scheme}{user}:{password}@host/path/a.mkv?{query}") == plain
    assert public_url(f"{scheme}host/path/a.mkv#{query}") == plain
    assert public_url(plain) == plain


def test_entries_carry_public_urls_only() -> None:
    """The entry of a lost file contains no signed URL."""
    file = listed_file(url="https://ops:s3cret@portal.enablex.io/a1.mkv?sig=s3cret#s3cret")
    lost = lost_entry(file, "gone", 404, AT)
    assert b"s3cret" not in write_manifest(next_manifest(file, [lost], None))


class _CountedStore(LocalStore):
    puts = 0

    def put_if_absent(self, key: str, content: bytes | Iterable[bytes], *, retention: Retention | None = None) -> int:
        self.puts += 1
        return super().put_if_absent(key, content, retention=retention)


def test_threads_share_a_session(tmp_path: Path) -> None:
    """Files of one session that complete concurrently are all in the last manifest, without write conflicts."""
    vault, count = _CountedStore(tmp_path), 24
    barrier = threading.Barrier(8)

    def settle(number: int) -> None:
        if number < barrier.parties:
            barrier.wait(10)
        file = listed_file(name=f"{number}.mkv")
        append_entry(vault, file, stored_entry(file, STORED | {"key": f"media/{number}.mkv"}, AT))

    with ThreadPoolExecutor(barrier.parties) as threads:
        list(threads.map(settle, range(count)))
    file = listed_file()
    last = read_manifest(read_bytes(vault, manifest_key(file.project, file.day, file.conf_num, count)), "the last")
    assert {entry.name for entry in last.files} == {f"{number}.mkv" for number in range(count)}
    assert vault.puts == count == len(list(vault.list(manifest_prefix(file.project))))
