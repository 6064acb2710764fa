"""Room documents: rows of `rooms`, whatever type a setting comes back as."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import RecordError
from pipeline.tables.normalize.rooms import room_row
from pipeline.tables.schemas import ROOMS
from tests.support.cdrs import DROP, changed, paths, set_at

SEEN = datetime(2024, 3, 9, 2, 15, tzinfo=UTC)
ROOM: dict[str, Any] = {
    "name": "Consultation 118",
    "service_id": "61aa00bb22cc33dd44ee55ff",
    "owner_ref": "tenant-42",
    "settings": {
        "description": "Follow-up", "mode": "group", "scheduled": True, "adhoc": False,
        "scheduled_time": "2024-03-09 14:00:00", "duration": "30", "moderators": "1", "participants": "2", "viewers": 0,
        "auto_recording": True, "quality": "SD", "max_active_talkers": 6, "media_zone": "XX", "knock": False,
        "wait_for_moderator": False, "role_based_recording": {"moderator": "audiovideo"}, "billing_code": 7781,
        "live_recording": {"auto_recording": True, "url": "https://live.example/?token=hush"},
    },
    "sip": {"enabled": True, "pin": 99999, "meeting_id": 88888},
    "data": {"custom_key": ""},
    "created": "2024-03-08T09:10:11.012Z",
    "room_id": "65ec60000c3a9e0012ab0001",
}  # fmt: skip
"""Section 9.4."""


def test_the_documented_room() -> None:
    """The documented room is a row with its numbers as numbers, its times in UTC, and its billing code as text."""
    row = room_row(ROOM, SEEN)
    assert (row["duration_min"], row["participants"], row["moderators"]) == (30.0, 2.0, 1.0)
    assert row["scheduled_at"] == datetime(2024, 3, 9, 14, tzinfo=UTC)
    assert (row["room_is_scheduled"], row["room_is_adhoc"], row["billing_code"]) == (True, False, "7781")
    assert (row["seen_at"], row["created_at"]) == (SEEN, datetime(2024, 3, 8, 9, 10, 11, 12_000, UTC))
    assert list(row) == sorted(row, key=[*ROOMS.schema.names[:-2], "extra", "seen_at"].index)
    kept = json.loads(row["extra"])
    assert kept["settings"]["max_active_talkers"] == 6
    assert kept["settings"]["role_based_recording"] == {"moderator": "audiovideo"}


def test_dial_in_secrets_and_stream_addresses_stay_out() -> None:
    """Pin, meeting id and the address of a live recording are in no cell."""
    text = json.dumps(room_row(ROOM, SEEN), default=str)
    assert not [secret for secret in ("99999", "88888", "hush", "live.example") if secret in text]


def test_a_stream_address_as_text_stays_out() -> None:
    """A live recording that is a bare address instead of an object is in no cell either."""
    odd = changed(ROOM, settings__live_recording="https://live.example/?token=hush")
    assert "hush" not in json.dumps(room_row(odd, SEEN), default=str)


@pytest.mark.parametrize("talkers", [6, "6", True])
def test_talkers_come_in_three_types(talkers: Any) -> None:
    """`max_active_talkers` is kept in the type it came in (11.27), and so is either spelling of waiting (11.19)."""
    for waiting in ("wait_for_moderator", "wait_moderator"):
        odd = changed(ROOM, settings__max_active_talkers=talkers, **{f"settings__{waiting}": "true"})
        kept = json.loads(room_row(odd, SEEN)["extra"])["settings"]
        assert (kept["max_active_talkers"], kept[waiting]) == (talkers, "true")


@pytest.mark.parametrize("room_id", [DROP, None, "", {}, []])
def test_a_room_needs_an_id(room_id: Any) -> None:
    """Without a readable `room_id` there is no row."""
    with pytest.raises(RecordError) as refused:
        room_row(changed(ROOM, room_id=room_id), SEEN)
    assert refused.value.path == "room_id"


@pytest.mark.parametrize("document", [None, "x", 1, [ROOM]])
def test_what_is_no_object_is_no_room(document: Any) -> None:
    """Anything that is not an object is refused."""
    with pytest.raises(RecordError, match="not an object"):
        room_row(document, SEEN)


def test_a_sparse_room_is_a_row() -> None:
    """A room with only an id is a row of nulls."""
    row = room_row({"room_id": "r1"}, SEEN)
    assert {name for name, value in row.items() if value is not None} == {"room_id", "seen_at"}


@given(
    st.lists(
        st.tuples(
            st.sampled_from(paths(ROOM)),
            st.sampled_from([None, "", "x", 0, 1, 1.5, True, "true", "7", [], {}, [1], {"a": 1}, 10**30])
            | st.just(DROP),
        ),
        max_size=4,
    )
)
def test_any_drift_is_a_row_or_a_reject(drift: list[tuple[tuple[str, ...], Any]]) -> None:
    """Whatever drifts, a room is a row that its table can hold, or a reject; secrets stay out."""
    document = changed(ROOM)
    for path, value in drift:
        set_at(document, path, value)
    try:
        row = room_row(document, SEEN)
    except RecordError:
        return
    pa.Table.from_pylist([row], schema=ROOMS.schema)
    assert not [secret for secret in ("99999", "88888", "hush") if secret in json.dumps(row, default=str)]
