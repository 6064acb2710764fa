"""Archive documents: every shape of a file list is read, and a file keeps its name, day and key for ever."""

from __future__ import annotations

import itertools
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import RecordError
from pipeline.core.models import ListedFile, RawResponse
from pipeline.tables.normalize.archives import ArchiveRecord, archive_record, listed_files

DAY = date(2024, 3, 9)
URL = "https://portal.enablex.io/path/a1.mkv"
DOCUMENT = {
    "_id": "65ec6c000c3a9e0012ab9999",
    "trans_date": "2024-03-09T14:33:05.120Z",
    "conf_num": "284170002063",
    "app_id": "61aa00bb22cc33dd44ee55ff",
    "room_id": "65ec60000c3a9e0012ab0001",
    "recording": [{"url": URL}, {"url": "https://portal.enablex.io/path/a2.mkv"}],
    "transcoded": [{"url": "https://portal.enablex.io/path/t1.mp4"}],
    "chatdata": "https://portal.enablex.io/path/chatdata.json",
    "metadata": "https://portal.enablex.io/path/metadata.json",
}


def page(hours: int = 0, day: date = DAY) -> RawResponse:
    """A page landed some hours after the session's day."""
    asked_at = datetime(2024, 3, 10, tzinfo=UTC) + timedelta(hours=hours)
    return RawResponse(
        response_id=f"{asked_at:%Y%m%dT%H%M%S}.000Z-00000000",
        source="archive",
        project="acme",
        day=day,
        request="GET /archive/period/2024-03-09/2024-03-10",
        asked_at=asked_at,
        status=200,
        size_bytes=1,
        sha256="00",
        documents=1,
        days=(day,),
        body_key="raw/x",
    )


def listed(*documents: dict[str, Any]) -> list[ListedFile]:
    """The files of documents that were read one hour after the other."""
    return listed_files(
        (page(hours), archive_record(document, page(hours))) for hours, document in enumerate(documents)
    )


def test_the_published_sample_is_read() -> None:
    """The sample record of section 5 gives each of its files once, under the session's identity."""
    record = archive_record(DOCUMENT, page())
    assert (record.conf_num, record.room_id) == ("284170002063", "65ec60000c3a9e0012ab0001")
    assert record.ended_at == datetime(2024, 3, 9, 14, 33, 5, 120_000, UTC)
    assert [(kind, url.rsplit("/", 1)[1]) for kind, url in record.urls] == [
        ("recording", "a1.mkv"),
        ("recording", "a2.mkv"),
        ("transcoded", "t1.mp4"),
        ("chat", "chatdata.json"),
        ("metadata", "metadata.json"),
    ]


@pytest.mark.parametrize(
    "value",
    [URL, f" {URL} ", {"url": URL}, [URL], [{"url": URL}], [[URL], None, ""], {"url": [{"url": URL}], "size": 3}],
)
@pytest.mark.parametrize(("key", "kind"), [("recording", "recording"), ("chatdata", "chat"), ("live", "other-live")])
def test_a_url_is_found_in_every_shape(key: str, value: Any, kind: str) -> None:
    """Text, object with `url`, list of either, nested: it is the same one file, under known and unknown keys."""
    assert archive_record({"conf_num": "1", key: value}, page()).urls == ((kind, URL),)


@pytest.mark.parametrize("nothing", [None, "", " ", [], {}, [None], [{}], {"url": None}, {"url": ""}, 0, True, 17])
@pytest.mark.parametrize("key", ["recording", "transcoded", "chatdata", "metadata", "live"])
def test_no_file_in_every_shape(key: str, nothing: Any) -> None:
    """Missing, null and empty lists of files are no file, and no error."""
    assert archive_record({"conf_num": "1", key: nothing}, page()).urls == ()


def test_an_unknown_key_without_a_url_is_no_file() -> None:
    """A new field with a word in it is not taken for a file; one with a URL is kept as `other-<key>`, cleaned."""
    document = {"conf_num": "1", "state": "done", "files/../x": [URL], "note": "see https://x.example"}
    assert archive_record(document, page()).urls == (("other-files_._x", URL),)


def test_the_records_own_fields_are_no_files() -> None:
    """Ids and times are never taken for files, even when they look like URLs."""
    document = {"conf_num": "1", **dict.fromkeys(("_id", "app_id", "room_id", "trans_date"), URL)}
    assert archive_record(document, page()).urls == ()


@pytest.mark.parametrize("document", [None, [], "text", 3])
def test_what_is_no_object_is_rejected(document: Any) -> None:
    """A document that is not an object becomes a reject with its value."""
    with pytest.raises(RecordError, match="not an object") as caught:
        archive_record(document, page())
    assert caught.value.value == document


@pytest.mark.parametrize("conf_num", [None, "", [], {}])
def test_a_record_without_a_session_is_rejected(conf_num: Any) -> None:
    """Without `conf_num` the session of the files is unknown; the reject names the path."""
    with pytest.raises(RecordError) as caught:
        archive_record({**DOCUMENT, "conf_num": conf_num}, page())
    assert (caught.value.path, caught.value.value) == ("conf_num", conf_num)


@pytest.mark.parametrize("trans_date", [None, "", "soon", [], 10**400])
def test_a_record_without_a_time_counts_on_the_day_asked_for(trans_date: Any) -> None:
    """An unreadable `trans_date` neither loses the record nor moves it to another day."""
    record = archive_record({**DOCUMENT, "trans_date": trans_date}, page(day=date(2024, 3, 9)))
    assert record.ended_at == datetime(2024, 3, 9, 12, tzinfo=UTC)


def test_a_number_for_a_session_is_its_text() -> None:
    """A `conf_num` sent as a number is the same session as the one sent as text."""
    assert archive_record({"conf_num": 284170002063}, page()).conf_num == "284170002063"


# --- over all readings ---


def test_a_file_is_listed_once_over_all_readings() -> None:
    """A record that grows adds files; what was listed before stays, first seen when it was first seen."""
    files = listed({**DOCUMENT, "transcoded": None}, DOCUMENT, DOCUMENT)
    assert [(file.kind, file.name, file.first_listed_at.hour) for file in files] == [
        ("chat", "chatdata.json", 0),
        ("metadata", "metadata.json", 0),
        ("recording", "a1.mkv", 0),
        ("recording", "a2.mkv", 0),
        ("transcoded", "t1.mp4", 1),
    ]


def test_a_file_that_is_no_longer_listed_stays() -> None:
    """A file that EnableX stops listing is still one that was listed."""
    assert {file.name for file in listed(DOCUMENT, {**DOCUMENT, "recording": []})} >= {"a1.mkv", "a2.mkv"}


def test_the_newest_url_is_the_one_to_ask() -> None:
    """URLs change between readings: the file is the same, its URL is the last one seen."""
    moved = {"conf_num": "1", "recording": "https://other.enablex.io/new/a1.mkv"}
    (file,) = listed({"conf_num": "1", "recording": URL}, moved)
    assert file.url == "https://other.enablex.io/new/a1.mkv"


FIRST_LISTING = (DAY, "65ec60000c3a9e0012ab0001", datetime(2024, 3, 9, 14, 33, 5, 120_000, UTC))


def test_a_corrected_time_does_not_move_a_file() -> None:
    """Day, room and end of a file are those of the first record that lists it, so that no key ever moves."""
    first = {**DOCUMENT, "transcoded": None}
    later = {**DOCUMENT, "trans_date": "2024-03-10T00:10:00.000Z", "room_id": "other"}
    files = {(file.kind, file.name): (file.day, file.room_id, file.ended_at) for file in listed(first, later)}
    corrected = (date(2024, 3, 10), "other", datetime(2024, 3, 10, 0, 10, tzinfo=UTC))
    assert files.pop(("transcoded", "t1.mp4")) == corrected  # listed by the corrected record only
    assert files == dict.fromkeys(files, FIRST_LISTING)
    assert len(files) == 4


def test_each_record_of_a_session_dates_its_own_files() -> None:
    """A session number that lives for weeks has several archive records: a file of the last is not of the first day."""
    last = {"conf_num": DOCUMENT["conf_num"], "trans_date": "2024-03-29T14:00:00.000Z", "recording": "https://h/z.mkv"}
    files = {file.name: file.day for file in listed(DOCUMENT, last, DOCUMENT)}
    assert files.pop("z.mkv") == date(2024, 3, 29)
    assert set(files.values()) == {DAY}


def test_two_files_of_one_name_are_two_files() -> None:
    """Equal base names under different paths get numbered names, by their place; the same URL twice is one file."""
    urls = [f"https://portal.enablex.io/{part}/a.mkv" for part in ("one", "two", "one", "three")]
    assert [(file.name, file.url) for file in listed({"conf_num": "1", "recording": urls})] == [
        ("a-2.mkv", urls[1]),
        ("a-3.mkv", urls[3]),
        ("a.mkv", urls[0]),
    ]


def test_a_numbered_name_does_not_run_into_a_real_one() -> None:
    """A file really called `a-2.mkv` is not confused with the second `a.mkv`."""
    urls = [f"https://portal.enablex.io/{part}" for part in ("x/a-2.mkv", "x/a.mkv", "y/a.mkv")]
    assert [file.name for file in listed({"conf_num": "1", "recording": urls})] == ["a-2.mkv", "a-3.mkv", "a.mkv"]


def test_one_name_in_two_kinds_is_no_collision() -> None:
    """A recording and its transcoded form may share a name: the kind distinguishes them."""
    files = listed({"conf_num": "1", "recording": "https://h/v.mp4", "transcoded": "https://h/t/v.mp4"})
    assert [(file.kind, file.name) for file in files] == [("recording", "v.mp4"), ("transcoded", "v.mp4")]


def test_a_url_that_is_none_does_not_stop_the_others() -> None:
    """A broken URL is a file that cannot be fetched; the record's other files are still read."""
    files = listed({"conf_num": "1", "recording": ["https://[oops/b.mkv", URL]})
    assert [file.name for file in files] == ["a1.mkv", "b.mkv"]


RECORDS = st.lists(
    st.tuples(
        st.sampled_from(["1", "2"]),
        st.lists(st.sampled_from(["x/a.mkv", "y/a.mkv", "x/b.mkv", "x/a-2.mkv"]), max_size=4),
    ),
    min_size=1,
    max_size=4,
)


@given(RECORDS, st.randoms(use_true_random=False))
def test_files_do_not_depend_on_the_order_of_pages(records: list[tuple[str, list[str]]], random: Any) -> None:
    """Pages may be read in any order: what is listed, and how it is named, follows from when they were asked for."""
    readings = [
        (
            page(hours),
            archive_record({"conf_num": conf, "recording": [f"https://h/{url}" for url in urls]}, page(hours)),
        )
        for hours, (conf, urls) in enumerate(records)
    ]
    expected = listed_files(readings)
    random.shuffle(readings)
    assert listed_files(readings) == expected
    identities = [file.identity for file in expected]
    assert identities == sorted(set(identities))


def test_readings_are_not_changed() -> None:
    """Records are values: listing them twice gives the same answer twice."""
    readings: list[tuple[RawResponse, ArchiveRecord]] = [(page(), archive_record(DOCUMENT, page()))]
    assert all(one == other for one, other in itertools.pairwise([listed_files(readings) for _ in range(2)]))
