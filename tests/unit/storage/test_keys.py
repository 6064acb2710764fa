"""Object keys: building and parsing are inverses, and untrusted names cannot change the path."""

from __future__ import annotations

import unicodedata
from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from pipeline.storage import keys
from tests.support.records import LOCAL_TIMES

DAYS = st.dates(date(2000, 1, 1), date(2099, 12, 31))
PROJECTS = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,20}", fullmatch=True)
MOMENTS = LOCAL_TIMES.map(lambda moment: moment.replace(tzinfo=UTC))
DIGESTS = st.text("0123456789abcdef", min_size=64, max_size=64)
UNTRUSTED = st.one_of(
    st.text(max_size=300),
    st.text("./\\ \x00\n:*a€\u202e", max_size=300),
    st.builds(
        lambda response_id, times, end: response_id * times + end, st.text(max_size=9), st.integers(1, 99), st.text()
    ),
)
SEGMENT_LIMIT_BYTES = 255


# --- keys ---


@given(st.sampled_from(["cdr", "archive", "rooms"]), PROJECTS, DAYS, MOMENTS, DIGESTS)
def test_raw_key_and_parse_raw_key_are_inverses(
    source: str, project: str, day: date, asked_at: datetime, digest: str
) -> None:
    """Parsing a raw key returns source, project, day, response id and suffix, and the time in the id."""
    response_id = keys.make_response_id(asked_at, digest)
    for suffix in (keys.BODY_SUFFIX, keys.RECEIPT_SUFFIX):
        key = keys.raw_key(source, project, day, response_id, suffix)
        assert keys.parse_raw_key(key) == (source, project, day, response_id, suffix)
        assert key.startswith(keys.raw_prefix(source, project, day))
        assert key.startswith(keys.raw_prefix(source, project))
    assert keys.asked_at_of_response(response_id) == asked_at.replace(microsecond=asked_at.microsecond // 1000 * 1000)
    assert response_id.endswith(f"-{digest[:8]}")


@given(PROJECTS, DAYS, st.text(min_size=1, max_size=40), st.integers(1, 120_000))
def test_manifest_key_and_parse_manifest_key_are_inverses(
    project: str, day: date, conf_num: str, revision: int
) -> None:
    """Parsing a manifest key returns project, day, session and revision."""
    key = keys.manifest_key(project, day, conf_num, revision)
    assert keys.parse_manifest_key(key) == (project, day, keys.clean_name(conf_num), revision)
    assert key.startswith(keys.manifest_prefix(project, day, conf_num))
    assert key.startswith(keys.manifest_prefix(project, day))


@given(PROJECTS, DAYS, MOMENTS, DIGESTS)
def test_audit_key_and_parse_audit_key_are_inverses(project: str, day: date, audited_at: datetime, digest: str) -> None:
    """Parsing the key of an audit record returns project, day and audit id."""
    response_id = keys.make_response_id(audited_at, digest)
    key = keys.audit_key(project, day, response_id)
    assert keys.parse_audit_key(key) == (project, day, response_id)
    assert key.startswith(keys.audit_prefix(project, day))
    assert key.startswith(keys.audit_prefix(project))


@given(st.sampled_from(["cdr", "usage_daily"]), PROJECTS, DAYS)
def test_table_key_and_parse_table_key_are_inverses(table: str, project: str, day: date) -> None:
    """Parsing the key of a partition returns table, project and day."""
    key = keys.table_key(table, project, day)
    assert keys.parse_table_key(key) == (table, project, day)
    assert key.startswith(keys.table_prefix(table, project))
    assert key.startswith(keys.table_prefix(table))


@given(PROJECTS, DAYS, UNTRUSTED, UNTRUSTED, UNTRUSTED, UNTRUSTED)
def test_a_media_key_has_one_segment_per_part(
    project: str, day: date, room_id: str, conf_num: str, kind: str, name: str
) -> None:
    """For any names of room, session, kind and file, each is exactly one segment of the key, in this order."""
    key = keys.media_key(project, day, room_id, conf_num, kind, name)
    assert key.split("/") == [
        "media",
        f"project={project}",
        f"day={day}",
        keys.clean_name(room_id) if room_id else "no-room",
        keys.clean_name(conf_num),
        keys.clean_name(kind),
        keys.clean_name(name),
    ]
    assert key.startswith(keys.media_prefix(project, day))
    assert keys.parse_media_key(key) == (project, day, *key.split("/")[3:])
    assert keys.media_day(key) == day


@given(PROJECTS, DAYS, UNTRUSTED)
def test_a_key_with_a_name_that_is_not_clean_is_no_media_key(project: str, day: date, name: str) -> None:
    """A key below media/ with an unclean name is foreign, but its day can be read."""
    assume(name != keys.clean_name(name))
    key = f"{keys.media_prefix(project, day)}room/session/recording/{name}"
    assert keys.parse_media_key(key) is None
    assert keys.media_day(key) == day


def test_keys_are_as_documented() -> None:
    """Keys match docs/guide/stores.md, section 3: stores outlive the program."""
    day, asked_at = date(2026, 11, 22), datetime(2026, 11, 23, 2, 15, 0, 123_999, UTC)
    response_id = keys.make_response_id(asked_at, "1f0c9a2e" + "0" * 56)
    assert keys.raw_key("cdr", "acme", day, response_id, keys.BODY_SUFFIX) == (
        "raw/source=cdr/project=acme/day=2026-11-22/20261123T021500.123Z-1f0c9a2e.json.zst"
    )
    assert keys.raw_key("cdr", "acme", day, response_id, keys.RECEIPT_SUFFIX) == (
        "raw/source=cdr/project=acme/day=2026-11-22/20261123T021500.123Z-1f0c9a2e.receipt.json"
    )
    assert keys.media_key("acme", day, "r1", "28417", "chat", "chat.json") == (
        "media/project=acme/day=2026-11-22/r1/28417/chat/chat.json"
    )
    assert keys.manifest_key("acme", day, "28417", 1) == "manifests/project=acme/day=2026-11-22/28417/0001.json"
    assert keys.day_index_key("acme", date(2026, 11, 1)) == "index/cdr/project=acme/month=2026-11.bin"
    assert keys.moved_days_key("acme") == "index/cdr/project=acme/moved.json"
    assert keys.decision_key("acme", response_id) == f"decisions/suspense/project=acme/{response_id}.json"
    assert keys.audit_key("acme", day, response_id) == (
        "audits/project=acme/day=2026-11-22/20261123T021500.123Z-1f0c9a2e.parquet"
    )
    assert keys.table_key("cdr", "acme", day) == "tables/cdr/project=acme/day=2026-11-22/part-0.parquet"


def test_a_response_id_is_in_utc() -> None:
    """A request time in another time zone is converted to UTC."""
    kolkata = timezone(timedelta(hours=5, minutes=30))
    assert keys.make_response_id(datetime(2026, 11, 23, 2, 0, tzinfo=kolkata), "ab" * 32).startswith(
        "20261122T203000.000Z-"
    )


@given(st.lists(MOMENTS, min_size=2, max_size=5), DIGESTS)
def test_response_ids_sort_by_time(moments: list[datetime], digest: str) -> None:
    """A listing sorted by key is sorted by time."""
    response_ids = [keys.make_response_id(moment, digest) for moment in sorted(moments)]
    assert response_ids == sorted(response_ids)


FOREIGN = [
    "",
    "README.txt",
    "raw/source=cdr/project=acme/day=2026-11-22/notes.json.zst",
    "raw/source=cdr/project=acme/day=2026-11-22/20261123T021500.123Z-1f0c9a2e.unreadable.zst",
    "raw/source=cdr/project=acme/day=2026-11-22/20261123T021500.123Z-1f0c9a2e.unreadable.zst.json",
    "raw/source=cdr/project=acme/day=2026-11-22/sub/20261123T021500.123Z-1f0c9a2e.json.zst",
    "raw/source=cdr/project=acme/day=2026-11-22/20261123T021500.123Z-1f0c9a2e.json.zst\n",
    "raw/source=cdr/project=acme/day=2026-11-22/20261123T021500.123Z-1f0c9a2.json.zst",
    "raw/source=cdr/project=acme/day=2026-11-31/20261123T021500.123Z-1f0c9a2e.json.zst",
    "raw/source=cdr/project=acme/day=2026-11-22/20261323T021500.123Z-1f0c9a2e.json.zst",
    "x/raw/source=cdr/project=acme/day=2026-11-22/20261123T021500.123Z-1f0c9a2e.json.zst",
    "manifests/project=acme/day=2026-11-22/284/1.json",
    "manifests/project=acme/day=2026-11-22/284/00001.json",
    "manifests/project=acme/day=2026-11-22/284/0001.json.bak",
    "manifests/project=acme/day=2026-11-22/284/0001.json\n",
    "manifests/project=acme/day=2026-02-30/284/0001.json",
    "manifests/project=acme/day=2026-11-22/284/latest.json",
    "media/project=acme/day=2026-11-22/r1/284/recording",
    "media/project=acme/day=2026-11-22/r1/284/recording/a1.mkv/more",
    "media/project=acme/day=2026-11-22/r1/../recording/a1.mkv",
    "media/project=acme/day=2026-02-30/r1/284/recording/a1.mkv",
    "audits/project=acme/day=2026-11-22/latest.parquet",
    "audits/project=acme/day=2026-11-22/20261123T021500.123Z-1f0c9a2e.parquet.crc",
    "audits/project=acme/day=2026-11-22/20261323T021500.123Z-1f0c9a2e.parquet",
    "tables/cdr/project=acme/day=2026-11-22/part-1.parquet",
    "tables/cdr/project=acme/day=2026-11-22/part-0.parquet.crc",
    "tables/cdr/project=acme/day=2026-11-22/part-0.parquet\n",
    "tables/cdr/project=acme/day=2026-00-22/part-0.parquet",
    "tables/cdr/project=acme/day=\u0662\u0660\u0662\u0666-11-22/part-0.parquet",
]


@pytest.mark.parametrize("key", FOREIGN)
def test_a_foreign_key_is_ignored(key: str) -> None:
    """A foreign object in the store is ignored and is not an error."""
    assert keys.parse_raw_key(key) is None
    assert keys.parse_manifest_key(key) is None
    assert keys.parse_media_key(key) is None
    assert keys.parse_audit_key(key) is None
    assert keys.parse_table_key(key) is None


@pytest.mark.parametrize(
    "response_id", ["", "20261123T021500.123Z", "20261123T021500.123Z-XYZ", "20261399T021500.123Z-1f0c9a2e"]
)
def test_only_a_response_id_has_a_time(response_id: str) -> None:
    """A name that is no response id raises ValueError."""
    with pytest.raises(ValueError, match=r"not a response id|month must be"):
        keys.asked_at_of_response(response_id)


# --- names ---


@given(UNTRUSTED)
@example("a" * 189 + " ." + "b" * 100)
@example("é" * 101 + ".mkv")
@example("../../etc/passwd")
@example("a/..")
@example("\u202egpj.exe")
def test_a_cleaned_name_is_one_safe_segment(text: str) -> None:
    """Any text becomes one printable path segment, without separators, leading dots or globs, within the limit."""
    name = keys.clean_name(text)
    assert 1 <= len(name.encode()) <= keys.MAX_NAME_BYTES
    assert not set(name) & set('/\\:*?"<>|=%#')
    assert not {unicodedata.category(character) for character in name} & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    assert name == name.strip(". ")
    assert keys.clean_name(name) == name


@given(st.from_regex(r"[A-Za-z0-9_-]{1,80}(\.[a-z0-9]{1,5})?", fullmatch=True))
def test_a_plain_name_is_unchanged(name: str) -> None:
    """An ordinary file name is unchanged."""
    assert keys.clean_name(name) == name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("", "_"),
        (".", "_"),
        ("..", "_"),
        (". . .", "_"),
        ("/", "_"),
        (".htaccess", "htaccess"),
        ("../../etc/passwd", "_._etc_passwd"),
        ("a\\b", "a_b"),
        ("a=b%2F.mkv", "a_b_2F.mkv"),
        ("two\nlines.mkv", "two_lines.mkv"),
        ("Besprechung é.mkv", "Besprechung é.mkv"),
        ("x" * 300 + ".mkv", "x" * 196 + ".mkv"),
        ("€" * 100, "€" * 66),
        ("a. .mkv", "a.mkv"),
    ],
)
def test_names_are_cleaned_like_this(text: str, name: str) -> None:
    """Unsafe characters become `_`, edges are stripped, truncation keeps the extension and complete characters."""
    assert keys.clean_name(text) == name


@given(UNTRUSTED, st.integers(1, 999), st.integers(1, 999))
@example("a.mkv", 1, 2)
def test_numbered_names_are_distinct(text: str, one: int, other: int) -> None:
    """Two numbers never result in the same name, and a numbered name is a valid file name."""
    assume(one != other)
    name = keys.clean_name(text)
    numbered = {keys.numbered_name(name, one), keys.numbered_name(name, other)}
    assert len(numbered) == 2
    assert all("/" not in each and len(each.encode()) <= SEGMENT_LIMIT_BYTES for each in numbered)


@pytest.mark.parametrize(
    ("name", "number", "expected"),
    [("a.mkv", 1, "a.mkv"), ("a.mkv", 2, "a-2.mkv"), ("a.b.mkv", 3, "a.b-3.mkv"), ("plain", 2, "plain-2")],
)
def test_the_number_precedes_the_extension(name: str, number: int, expected: str) -> None:
    """`-2` precedes the extension, so the file type stays; number 1 keeps the name."""
    assert keys.numbered_name(name, number) == expected


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://portal.enablex.io/path/a1.mkv", "a1.mkv"),
        ("https://portal.enablex.io/path/a1.mkv?sig=x/y.exe#z", "a1.mkv"),
        ("https://portal.enablex.io/path/a%20b.mkv", "a b.mkv"),
        ("https://portal.enablex.io/path/..%2F..%2Fpasswd", "_._passwd"),
        ("https://portal.enablex.io/path/", "path"),
        ("https://portal.enablex.io", "file"),
        ("https://portal.enablex.io/%2E%2E", "_"),
        ("https://[oops/dir/a1.mkv?x=/b", "a1.mkv"),
        ("", "file"),
    ],
)
def test_the_name_of_a_url_is_its_last_path_part(url: str, name: str) -> None:
    """A file is named after the decoded and cleaned path of its URL; an invalid URL raises no error."""
    assert keys.name_from_url(url) == name


@given(UNTRUSTED)
def test_any_url_has_a_clean_name(text: str) -> None:
    """Any text in place of a URL results in a clean name."""
    for url in (text, f"https://{text}", f"https://host/{text}"):
        name = keys.name_from_url(url)
        assert name == keys.clean_name(name)


@given(
    st.dates(), st.integers(1, 99999), st.sampled_from(["controls.json", "usage.csv"]), st.sampled_from(["", "acme"])
)
def test_billing_key_and_parse_billing_key_are_inverses(month: date, revision: int, name: str, project: str) -> None:
    """Parsing a billing key returns month, revision, name and project, for all projects and for one."""
    month = month.replace(day=1, year=max(month.year, 1000))
    key = keys.billing_key(month, revision, name, project)
    assert keys.parse_billing_key(key) == (project, month, revision, name)
    assert keys.parse_billing_key(f"{key}/x") is None
    assert keys.parse_billing_key(key.replace("month=", "month=9")) is None
