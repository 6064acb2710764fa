"""The world: reproducible, bounded, with every documented or observed variation of the API."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import pytest

from pipeline.enablex.simulator import Session, World
from pipeline.enablex.simulator.documents import Document
from pipeline.enablex.simulator.traffic import SECRET_MARK

FIRST, LAST = date(2026, 11, 9), date(2026, 11, 15)
LATER = datetime(2026, 11, 20, tzinfo=UTC)
WORLDS = [World(seed=seed) for seed in (1, 7, 23)]

PRINT_DIGEST = """
import hashlib, json
from datetime import UTC, date, datetime
from pipeline.enablex.simulator import World
from pipeline.enablex.simulator.media import open_media
world, now, day = World(), datetime(2026, 11, 20, tzinfo=UTC), date(2026, 11, 15)
content = [world.cdr_documents("acme", now, day, day), world.archive_documents("acme", now, "", day, day)]
content += [world.room_documents("acme", now), [world.file(f.path).sha256 for f in world.files("acme", now)[:5]]]
print(hashlib.sha256(json.dumps(content).encode()).hexdigest())
"""


def week_of_cdrs(world: World) -> list[Document]:
    return [d for name in world.projects for d in world.cdr_documents(name, LATER, FIRST, LAST)]


def week_of_sessions(world: World) -> list[Session]:
    return [s for name in world.projects for s in world.sessions_between(name, FIRST, LAST)]


def test_two_processes_generate_the_same_world() -> None:
    """The same seed gives the same documents and bytes in every process, independent of its hash seed."""
    digests = {
        subprocess.run(
            [sys.executable, "-c", PRINT_DIGEST],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1
    assert len(digests.pop().strip()) == 64


def test_another_seed_generates_another_world() -> None:
    """Seeds and projects do not share sessions, ids or credentials."""
    day = [World(seed=1), World(seed=2)]
    assert day[0].sessions("acme", FIRST) != day[1].sessions("acme", FIRST)
    assert day[0].project("acme") != day[0].project("globex")
    ids = [d["cdr_id"] for d in week_of_cdrs(World())]
    assert len(ids) == len(set(ids))
    conf_nums = [s.conf_num for s in week_of_sessions(World())]
    assert len(conf_nums) == len(set(conf_nums))


def test_begin_is_the_first_day_with_traffic() -> None:
    """Before `begin` there is no traffic; from then on it equals that of a world without `begin`."""
    world = World(begin=LAST)
    assert world.sessions("acme", LAST - timedelta(days=1)) == ()
    assert world.sessions("acme", LAST) == World().sessions("acme", LAST)


@pytest.mark.parametrize("world", WORLDS, ids=lambda w: f"seed{w.seed}")
def test_every_variation_of_cdrs_occurs_within_a_week(world: World) -> None:
    """Each week has both shapes, text flags, empty texts, tokens, phones, audience and odd billing codes."""
    cdrs = week_of_cdrs(world)
    old = [d for d in cdrs if "usage" in d and "connect_minutes" not in d["usage"]]
    new = [d for d in cdrs if d not in old]
    assert 0.2 < len(old) / len(cdrs) < 0.5
    assert {flag for d in old for flag in d["published_track"].values()} == {"true", "false"}
    assert {flag for d in new for flag in d["published_track"].values()} == {True, False}
    assert any(d["room"]["duration"] % 1 for d in old)
    assert all(isinstance(d["room"]["duration"], int) for d in new)
    assert any(SECRET_MARK in d["user"]["token"] for d in old)
    assert any(d["user"]["token"] == "" for d in old)
    assert not any(key in d for d in old for key in ("sip", "price", "stats_quality"))
    assert any(d["user"]["name"] == "" for d in cdrs)
    assert any(d["user"]["ref"] == "" for d in cdrs)
    assert any(d["sip"] for d in new)
    assert {d["user"]["role"] for d in cdrs} == {"moderator", "participant", "viewer", "audience"}
    codes = {type(d["room"]["room_details"]["settings"].get("billing_code")) for d in new}
    assert codes == {str, int, type(None)}


@pytest.mark.parametrize("world", WORLDS, ids=lambda w: f"seed{w.seed}")
def test_every_kind_of_session_occurs_within_a_week(world: World) -> None:
    """Each week has every kind of room, re-joins, sessions over midnight, leading zeros, and 2 to 6 people."""
    sessions = week_of_sessions(world)
    assert {s.room.kind for s in sessions} == {"permanent", "scheduled", "adhoc"}
    assert any(s.conf_num.startswith("0") for s in sessions)
    assert {len({c.call_num for c in s.connections}) for s in sessions} >= {2, 3, 4, 5, 6}
    refs = [[c.user_ref for c in s.connections if c.user_ref] for s in sessions]
    assert any(len(r) > len(set(r)) for r in refs)
    assert {len(s.segments) for s in sessions} == {0, 1, 2, 3}
    nights = [s.began_at.date() for s in sessions if s.ended_at.date() > s.began_at.date()]
    assert {FIRST + timedelta(days=n) for n in range(7) if (FIRST.toordinal() + n) % 2 == 0} <= set(nights)


def test_a_room_has_one_session_at_a_time() -> None:
    """Sessions in the same permanent room do not overlap."""
    by_room: dict[str, list[Session]] = {}
    for session in World(sessions_per_day=60).sessions_between("acme", FIRST, LAST):
        by_room.setdefault(session.room.room_id, []).append(session)
    for sessions in by_room.values():
        assert all(a.ended_at <= b.began_at for a, b in pairwise(sessions))


@pytest.mark.parametrize("world", WORLDS, ids=lambda w: f"seed{w.seed}")
def test_rows_are_late_and_corrected(world: World) -> None:
    """Each week 0.5 to 5 % of rows are hours late under their earlier trans_date, and 0.2 to 3 % are corrected."""
    connections = [c for s in week_of_sessions(world) for c in s.connections]
    late = [c for c in connections if c.visible_at - c.trans_at >= timedelta(hours=1)]
    corrected = [c for c in connections if c.corrected_at]
    assert 0.005 < len(late) / len(connections) < 0.05
    assert 0.002 < len(corrected) / len(connections) < 0.03
    assert all(timedelta(minutes=1) <= c.visible_at - c.trans_at <= timedelta(hours=40) for c in connections)
    connection = next(c for c in connections if c.corrected_at)
    assert connection.corrected_at
    day = connection.trans_at.date()

    def document_at(now: datetime) -> Document:
        rows = [d for n in world.projects for d in world.cdr_documents(n, now, day, day)]
        return next(d for d in rows if d["cdr_id"] == connection.cdr_id)

    before = document_at(connection.corrected_at - timedelta(seconds=1))
    after = document_at(connection.corrected_at)
    assert before["room"]["duration"] < after["room"]["duration"]
    assert before["usage"] != after["usage"]
    assert before["trans_date"] == after["trans_date"]


@pytest.mark.parametrize("world", WORLDS, ids=lambda w: f"seed{w.seed}")
def test_archive_records_grow_and_have_every_form_of_an_empty_key(world: World) -> None:
    """Recordings are listed before transcoded files; each week, keys without files are missing, null and empty."""
    records = [d for n in world.projects for d in world.archive_documents(n, LATER, "http://h", FIRST, LAST)]
    for key, empty in (("recording", "[]"), ("transcoded", "[]"), ("chatdata", '""'), ("metadata", '""')):
        seen = {json.dumps(d.get(key, "missing")) for d in records}
        assert {'"missing"', "null", empty} <= seen
        assert any("http://h/path/" in text for text in seen)
    formats = {f.format for day in range(7) for f in world.files_of_day("acme", FIRST + timedelta(days=day))}
    assert formats == {"mkv", "mov", "mp4", "webm", "json"}
    session = next(s for s in week_of_sessions(world) if s.transcoded)
    name, day = session.project, session.ended_at.date()

    def recorded(after: timedelta) -> tuple[bool, bool]:
        records = world.archive_documents(name, session.ended_at + after, "", day, day)
        record = next((d for d in records if d["conf_num"] == session.conf_num), {})
        return bool(record.get("recording")), bool(record.get("transcoded"))

    assert recorded(timedelta(minutes=1)) == (False, False)
    assert recorded(timedelta(minutes=15)) == (True, False)
    assert recorded(timedelta(hours=9)) == (True, True)


def test_json_files_have_varied_shapes() -> None:
    """Chat and metadata files are lists, objects, empty files and truncated texts."""
    shapes = set()
    for day in range(30):
        for file in World().files_of_day("acme", FIRST - timedelta(days=day)):
            if file.text is None:
                continue
            try:
                shapes.add((file.kind, type(json.loads(file.text)).__name__))
            except ValueError:
                shapes.add((file.kind, "broken" if file.text else "empty"))
    assert shapes == {(kind, what) for kind in ("chat", "metadata") for what in ("list", "dict", "broken", "empty")}


def test_visible_records_only_disappear_when_they_expire(world: World, now: datetime) -> None:
    """A CDR or file never disappears, except a file 72 h after it was created."""
    rows: set[str] = set()
    files: dict[str, datetime] = {}
    for hour in range(0, 96, 6):
        moment = now + timedelta(hours=hour)
        seen = {d["cdr_id"] for d in world.cdr_documents("acme", moment, now.date(), moment.date())}
        assert rows <= seen
        rows = seen
        listed = {f.path: f.expires_at for f in world.files("acme", moment)}
        assert all(expires <= moment for path, expires in files.items() if path not in listed)
        assert all(expires > moment for expires in listed.values())
        files = listed


def test_sessions_rooms_and_files_are_found_by_id(world: World) -> None:
    """A session, room or file is found by its id; an unknown id gives None."""
    for session in week_of_sessions(world)[:40]:
        assert world.session(session.project, session.conf_num) == session
        assert world.room(session.project, session.room.room_id) == session.room
        assert session in world.sessions_of_room(session.project, session.room.room_id, LATER)
    for file in world.files_of_day("globex", FIRST):
        assert world.file(file.path) == file
    assert world.session("acme", "000000000000") is None
    assert world.session("acme", "nonsense") is None
    assert world.room("acme", "f" * 24) is None
    assert world.file("/path/nowhere.mkv") is None


def test_a_day_is_generated_quickly() -> None:
    """A day of the default size takes less than 50 ms."""
    started = time.perf_counter()
    days = [World(seed=991).sessions("acme", FIRST + timedelta(days=n)) for n in range(20)]
    assert (time.perf_counter() - started) / len(days) < 0.05
