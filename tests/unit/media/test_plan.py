"""The media plan: files to copy and recheck, sorted by deadline; and the rows of table `media`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.models import ListedFile, Probe
from pipeline.media.plan import plan_media, plan_rechecks
from pipeline.storage.manifests import Entry, checked_entry, deleted_at_source_entry, lost_entry
from pipeline.tables.normalize.media import expires_at, media_rows
from pipeline.tables.schemas import MEDIA
from tests.support.records import ENDED_AT, listed_file, stored_entry

RETENTION = timedelta(hours=72)
HOUR = timedelta(hours=1)
AT = datetime(2026, 11, 23, 2, 15, tzinfo=UTC)
STORED = {"key": "media/a1.mkv", "size_bytes": 5, "sha256": "ab" * 32, "content_type": "video/webm", "etag": '"e"'}

FILES = st.lists(
    st.builds(
        lambda conf, kind, name, hours: listed_file(
            conf_num=conf, kind=kind, name=name, ended_at=ENDED_AT + hours * HOUR
        ),
        st.sampled_from(["1", "2", "3"]),
        st.sampled_from(["recording", "chat"]),
        st.sampled_from(["a", "b"]),
        st.integers(0, 5),
    ),
    unique_by=lambda file: file.identity,
    max_size=10,
)


@pytest.mark.parametrize(
    ("began_at", "expected"),
    [(None, ENDED_AT), (ENDED_AT - 5 * HOUR, ENDED_AT - 5 * HOUR), (ENDED_AT + 5 * HOUR, ENDED_AT)],
)
def test_the_clock_starts_at_the_earliest_known_moment(began_at: datetime | None, expected: datetime) -> None:
    """72 hours count from the start of its session if that exists and is earlier, else from the archive record."""
    assert expires_at(listed_file(), began_at, RETENTION) == expected + RETENTION


@given(FILES, st.dictionaries(st.integers(0, 9), st.integers(-9, 9)), st.randoms(use_true_random=False))
def test_the_plan_is_in_order_of_deadline(files: list[ListedFile], began: dict[int, int], random: Any) -> None:
    """The plan does not depend on the order of the files: sorted by deadline, every file once."""
    began_at = {files[at].identity: ENDED_AT + hours * HOUR for at, hours in began.items() if at < len(files)}
    plan = plan_media(files, {}, began_at, RETENTION)
    deadlines = [item.expires_at for item in plan]
    assert deadlines == sorted(deadlines)
    assert sorted(item.file.identity for item in plan) == sorted(file.identity for file in files)
    shuffled = list(files)
    random.shuffle(shuffled)
    assert plan_media(shuffled, {}, began_at, RETENTION) == plan


def test_files_of_one_number_have_the_deadlines_of_their_sessions() -> None:
    """Two files with one `conf_num` belong to different sessions: each has its own start, in plans and rows."""
    files = [listed_file(name=name) for name in ("a", "b", "c")]
    began_at = {files[0].identity: ENDED_AT - 5 * HOUR, files[1].identity: ENDED_AT - 2 * HOUR}
    deadlines = [start + RETENTION for start in (ENDED_AT - 5 * HOUR, ENDED_AT - 2 * HOUR, ENDED_AT)]
    entries = {file.identity: stored_entry(file, STORED, AT) for file in files}
    assert [item.expires_at for item in plan_media(files, {}, began_at, RETENTION)] == deadlines
    rechecks = plan_rechecks(files, entries, began_at, RETENTION, (HOUR,), AT + 2 * HOUR)
    assert [recheck.item.expires_at for recheck in rechecks] == deadlines
    assert [made["expires_at"] for made in media_rows(files, entries, began_at, RETENTION)] == deadlines


@given(FILES, st.data())
def test_what_a_manifest_names_is_not_copied_again(files: list[ListedFile], data: st.DataObject) -> None:
    """The plan is the listed files minus the manifests' entries; once all are named, it is empty."""
    archived = data.draw(st.sets(st.sampled_from([file.identity for file in files]))) if files else set()
    entries = {file.identity: stored_entry(file, STORED, AT) for file in files}
    plan = plan_media(files, {identity: entries[identity] for identity in archived}, {}, RETENTION)
    assert {item.file.identity for item in plan} == {file.identity for file in files} - archived
    assert plan_media(files, entries, {}, RETENTION) == []


@pytest.mark.parametrize(
    "entry",
    [
        stored_entry(listed_file(), STORED, AT),
        stored_entry(listed_file(), STORED | {"state": "unreadable"}, AT),
        lost_entry(listed_file(), "gone", 410, AT),
    ],
    ids=["stored", "unreadable", "lost"],
)
def test_every_final_state_ends_the_copying(entry: Entry) -> None:
    """Stored, malformed and lost are final: none is copied again."""
    assert plan_media([listed_file()], {listed_file().identity: entry}, {}, RETENTION) == []


def test_a_file_of_one_name_in_another_session_is_another_file() -> None:
    """A manifest entry applies to its own session and kind only."""
    entries = {listed_file().identity: stored_entry(listed_file(), STORED, AT)}
    others = [listed_file(conf_num="9"), listed_file(kind="transcoded"), listed_file(name="a2.mkv")]
    assert len(plan_media(others, entries, {}, RETENTION)) == 3


# --- rechecks ---

AGES = (HOUR, 24 * HOUR)


@pytest.mark.parametrize(
    ("hours_since_stored", "checked_after", "is_due"),
    [
        (0, None, False),
        (0.9, None, False),
        (1, None, True),
        (5, None, True),
        (5, 1, False),
        (5, 0.5, True),
        (24, 1, True),
        (30, 23.9, True),
        (30, 24, False),
        (60, 25, False),
    ],
)
def test_an_archived_file_is_rechecked_at_each_age(
    hours_since_stored: float, checked_after: float | None, is_due: bool
) -> None:
    """Rechecked after 1 hour and after 24 hours (the ages of the settings), each time until it is done."""
    file = listed_file(ended_at=AT)
    entry = stored_entry(file, STORED, AT)
    if checked_after is not None:
        entry = checked_entry(entry, AT + checked_after * HOUR)
    now = AT + hours_since_stored * HOUR
    assert len(plan_rechecks([file], {file.identity: entry}, {}, 99 * HOUR, AGES, now)) == is_due


@pytest.mark.parametrize(
    "entry",
    [
        None,
        lost_entry(listed_file(), "gone", 410, AT),
        deleted_at_source_entry(stored_entry(listed_file(), STORED, AT), AT),
    ],
    ids=["pending", "lost", "gone"],
)
def test_a_file_without_copy_or_source_is_not_rechecked(entry: Entry | None) -> None:
    """Neither a file without a copy, nor one that was deleted at its source."""
    entries = {listed_file().identity: entry} if entry else {}
    assert plan_rechecks([listed_file()], entries, {}, RETENTION, AGES, AT + 5 * HOUR) == []


def test_after_its_deadline_a_file_is_not_rechecked() -> None:
    """After the deadline EnableX may have deleted the file, so it is not compared."""
    file = listed_file()
    entries = {file.identity: stored_entry(file, STORED, AT)}
    deadline = expires_at(file, None, RETENTION)
    assert len(plan_rechecks([file], entries, {}, RETENTION, AGES, deadline - HOUR)) == 1
    assert plan_rechecks([file], entries, {}, RETENTION, AGES, deadline) == []


def test_rechecks_are_sorted_by_deadline() -> None:
    """The file whose deadline is nearest is rechecked first, each with its own manifest entry."""
    files = [listed_file(name=f"{hours}.mkv", ended_at=ENDED_AT + hours * HOUR) for hours in (2, 0, 1)]
    entries = {file.identity: stored_entry(file, STORED, AT) for file in files}
    rechecks = plan_rechecks(files, entries, {}, 99 * HOUR, AGES, AT + 5 * HOUR)
    assert [recheck.item.file.name for recheck in rechecks] == ["0.mkv", "1.mkv", "2.mkv"]
    assert [recheck.entry for recheck in rechecks] == [entries[recheck.item.file.identity] for recheck in rechecks]


# --- rows ---


def row(entry: Entry | None, **changes: object) -> dict[str, Any]:
    file = listed_file(**changes)
    (made,) = media_rows([file], {file.identity: entry} if entry else {}, {}, RETENTION)
    assert list(made) == [column.name for column in MEDIA.columns]
    return {name: value for name, value in made.items() if value is not None}


BASE = {
    "conf_num": "284170002063",
    "room_id": "65ec60000c3a9e0012ab0001",
    "kind": "recording",
    "name": "a1.mkv",
    "url": "https://portal.enablex.io/path/a1.mkv",
    "first_listed_at": datetime(2026, 11, 22, 15, 0, tzinfo=UTC),
    "expires_at": ENDED_AT + RETENTION,
}


def test_a_file_without_a_copy_is_pending() -> None:
    """A listed file is a row from its first listing on, with its deadline and no invented values."""
    assert row(None) == {**BASE, "state": "pending"}


def test_a_stored_file_has_the_facts_of_its_manifest() -> None:
    """Key, size, digest and the headers of the file host come from the manifest."""
    assert row(stored_entry(listed_file(), STORED, AT)) == {
        **BASE,
        "state": "stored",
        "key": "media/a1.mkv",
        "size_bytes": 5,
        "sha256": "ab" * 32,
        "etag": '"e"',
        "content_type": "video/webm",
        "stored_at": AT,
        "version_count": 1,
    }


def test_a_probe_is_part_of_the_row() -> None:
    """The probe of a file is in its row, under the names of the columns."""
    seen = Probe("matroska,webm", 61.5, "vp8", "opus", 640, 480)
    made = row(stored_entry(listed_file(), STORED | {"probe": seen}, AT))
    assert (
        made.items()
        >= {
            "container": "matroska,webm",
            "duration_s": 61.5,
            "video_codec": "vp8",
            "audio_codec": "opus",
            "width_px": 640,
            "height_px": 480,
        }.items()
    )


def test_a_lost_file_was_never_stored() -> None:
    """A lost file has a reason and no `stored_at`."""
    expected = {**BASE, "state": "lost", "lost_reason": "HTTP 410", "version_count": 0}
    assert row(lost_entry(listed_file(), "HTTP 410", 410, AT)) == expected


def test_a_row_carries_no_secret_and_no_empty_room() -> None:
    """The URL of a row is public; an unknown room is null, not empty text."""
    made = row(None, url="https://u:s3cret@portal.enablex.io/path/a1.mkv?sig=s3cret", room_id="")
    assert made["url"] == BASE["url"]
    assert "room_id" not in made


@given(FILES)
def test_rows_are_one_per_file_in_their_order(files: list[ListedFile]) -> None:
    """Same length, same order: a file is never dropped from `media`, nor doubled."""
    rows = media_rows(files, {}, {}, RETENTION)
    assert [(each["conf_num"], each["kind"], each["name"]) for each in rows] == [file.identity for file in files]
