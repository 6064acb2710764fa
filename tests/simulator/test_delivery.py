"""Recording Delivery: the key of each file of a session."""

from __future__ import annotations

import re
from datetime import date, timedelta

import pytest

from pipeline.enablex.simulator import World
from pipeline.enablex.simulator.delivery import delivered_files

MONTH = (date(2026, 11, 1), date(2026, 11, 30))
NAMES = r"individual_recording_[1-9][0-9]*\.(mov|mkv|webm)|transcoded(_[2-9])?\.mp4|chat\.json|metadata\.json"


def test_every_file_has_a_unique_key(world: World) -> None:
    """Every file of every session is delivered once, as `<room_id>/<conf_num>/<name>`."""
    keys: list[str] = []
    for session in world.sessions_between("acme", *MONTH):
        pairs = list(delivered_files(world, "acme", session))
        assert [file for _, file in pairs] == list(world.session_files(session))
        folder = f"{session.room.room_id}/{session.conf_num}/"
        assert all(re.fullmatch(re.escape(folder) + f"({NAMES})", key) for key, _ in pairs)
        keys += [key for key, _ in pairs]
    assert len(keys) == len(set(keys))
    names = {re.sub(r"_[0-9]+\.", "_N.", key.rpartition("/")[2]) for key in keys}
    assert names == {
        "individual_recording_N.mov",
        "individual_recording_N.mkv",
        "individual_recording_N.webm",
        "transcoded.mp4",
        "transcoded_N.mp4",
        "chat.json",
        "metadata.json",
    }


def test_recordings_are_numbered_from_one(world: World) -> None:
    """Recordings have numbers without gaps, in the order of the archive record; the first transcoded file has none."""
    sessions = world.sessions_between("acme", *MONTH)
    session = next(s for s in sessions if s.transcoded and len(s.segments) > 1)
    names = [key.rpartition("/")[2] for key, _ in delivered_files(world, "acme", session)]
    numbers = [int(match[1]) for name in names if (match := re.match(r"individual_recording_([0-9]+)\.", name))]
    assert numbers == list(range(1, sum(segment.streams for segment in session.segments) + 1))
    transcoded = [name for name in names if name.startswith("transcoded")]
    assert transcoded == ["transcoded.mp4", *(f"transcoded_{n}.mp4" for n in range(2, len(session.segments) + 1))]


def test_a_project_delivers_its_own_sessions_only(world: World) -> None:
    """A session of another project raises KeyError."""
    session = next(world.sessions_between("globex", MONTH[0], MONTH[0] + timedelta(days=1)))
    with pytest.raises(KeyError, match=session.conf_num):
        list(delivered_files(world, "acme", session))
