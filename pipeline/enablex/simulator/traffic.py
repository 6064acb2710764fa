"""Generates a day of traffic from a seed: projects, rooms, sessions and connections (pure).

`documents` renders it as the API reports it. No clock and no state: results are equal in every process and on every
platform. Ids begin with their time of creation in seconds, like object ids of MongoDB; conf_nums contain their day.
"""

from __future__ import annotations

import random
import re
import zlib
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

from pipeline.enablex.simulator import media

RETENTION = timedelta(hours=72)
"""Time from a file's creation to its deletion by EnableX."""

EARLIEST = date(2024, 2, 1)
"""First day with traffic. All permanent rooms were created before it."""

SECRET_MARK = "s3cr3t-"  # noqa: S105  # resembles a secret: leak tests search for it
"""Part of every non-empty `user.token` in an old-shape CDR."""

_EPOCH_DAY = date(1970, 1, 1).toordinal()
_FAMILY = (
    "Adams",
    "Brandt",
    "Costa",
    "Dubois",
    "Eriksen",
    "Farouk",
    "García",
    "Huang",
    "Ivanova",
    "Jørgensen",
)
_GIVEN = ("Ada", "Ben", "Chloé", "Dai", "Eva", "Femi", "Gül", "Hugo", "Inès", "Jun", "Kofi", "Łucja")
_ROOM_NAMES = ("Reception", "Ward round", "Consulting room", "Team stand-up", "Night desk", "Second opinion")
_AGENTS = (
    "Mozilla/5.0 (Windows NT 10.0) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0 Safari/537.36",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 14_5) AppleWebKit/605.1.15 (KHTML, like Gecko) Safari/605.1",
    "Mozilla/5.0 (X11; Linux x86_64; rv:131.0) Gecko/20100101 Firefox/131.0",
    "okhttp/3.5.0",
)


@dataclass(frozen=True)
class Project:
    """One EnableX project with its two credentials: one for the API, one for the file host."""

    name: str
    app_id: str
    app_key: str = field(repr=False)
    files_user: str
    files_password: str = field(repr=False)


@dataclass(frozen=True)
class Room:
    """A room's definition. `kind` is "permanent", "scheduled" or "adhoc"."""

    room_id: str
    kind: str
    name: str
    owner_ref: str
    billing_code: str | int | None
    mode: str
    created_at: datetime
    scheduled_at: datetime | None
    duration_min: int | None
    participants: int
    auto_recording: bool
    single_file: bool


@dataclass(frozen=True)
class Connection:
    """One stay of one user, and the shape and times of its CDR.

    `old_shape` and `corrected_at` describe the API, not the user. `entropy`: 64 random bits for all other details.
    """

    cdr_id: str
    call_num: str
    call_log_id: str
    user_ref: str
    user_name: str
    role: str
    sip: bool
    agent: str
    connected_at: datetime
    disconnected_at: datetime
    old_shape: bool
    trans_at: datetime
    visible_at: datetime
    corrected_at: datetime | None
    entropy: int

    @property
    def signal_connected_at(self) -> datetime:
        """Signalling begins up to 0.6 s before the room is entered."""
        return self.connected_at - timedelta(milliseconds=200 + self.entropy % 400)

    @property
    def signal_disconnected_at(self) -> datetime:
        return self.disconnected_at + timedelta(milliseconds=100 + self.entropy % 300)

    @property
    def signal_margin_s(self) -> float:
        """Duration of signalling minus duration of the stay, in seconds."""
        return (300 + self.entropy % 400 + self.entropy % 300) / 1000


@dataclass(frozen=True)
class Segment:
    """One interval of recording, from start to stop. Each of its streams becomes one file."""

    started_at: datetime
    ended_at: datetime
    streams: int


@dataclass(frozen=True)
class Session:
    """One `conf_num`: its room, its connections, and what was recorded."""

    project: str
    conf_num: str
    archive_id: str
    number: int
    room: Room
    connections: tuple[Connection, ...]
    segments: tuple[Segment, ...]
    transcoded: bool
    chat: bool
    metadata: bool

    @property
    def began_at(self) -> datetime:
        return min(c.connected_at for c in self.connections)

    @property
    def ended_at(self) -> datetime:
        return max(c.disconnected_at for c in self.connections)


@dataclass(frozen=True)
class SimFile:
    """One file of a session. `text` is the content of a JSON file; the bytes of other files come from `media`."""

    project: str
    conf_num: str
    room_id: str
    kind: str
    path: str
    format: str
    size_bytes: int
    created_at: datetime
    listed_at: datetime
    text: bytes | None = field(default=None, repr=False)

    @property
    def expires_at(self) -> datetime:
        return self.created_at + RETENTION

    @property
    def sha256(self) -> str:
        return media.sha256(self)


def make_project(seed: int, name: str) -> Project:
    """A project's credentials. The portal user is an e-mail address, which contains an @."""
    rng = random.Random(f"{seed}/{name}")
    return Project(
        name=name,
        app_id=_hex(rng, 24),
        app_key=_hex(rng, 32),
        files_user=f"ops@{name}.example",
        files_password=_hex(rng, 10),
    )


def permanent_rooms(seed: int, project: str) -> tuple[Room, ...]:
    """The rooms that always exist, created before `EARLIEST`."""
    rng = random.Random(f"{seed}/{project}/rooms")
    first_created = datetime(2024, 1, 15, 9, 30, tzinfo=UTC)
    rooms = []
    for number, name in enumerate(_ROOM_NAMES):
        created = first_created + timedelta(hours=31 * number, milliseconds=rng.randrange(3_600_000))
        room = Room(
            room_id=_object_id(created, rng),
            kind="permanent",
            name=f"{name} {number + 1}",
            owner_ref=f"tenant-{40 + number}",
            billing_code=(f"CC-77{number}", 4100 + number, None)[number % 3],
            mode="lecture" if number == 3 else "group",
            created_at=created,
            scheduled_at=None,
            duration_min=None,
            participants=12,
            auto_recording=number % 2 == 0,
            single_file=False,
        )
        rooms.append(room)
    return tuple(rooms)


def make_day(seed: int, project: str, day: date, sessions_per_day: int) -> tuple[Session, ...]:
    rng = random.Random(f"{seed}/{project}/{day}")
    midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
    quarter = sessions_per_day // 4
    count = sessions_per_day + rng.randint(-quarter, quarter)
    starts = sorted(rng.randrange(86_400_000) for _ in range(count))
    over_midnight = bool(starts) and day.toordinal() % 2 == 0
    if over_midnight:
        starts[-1] = rng.randrange(80_100_000, 85_200_000)  # 22:15 to 23:40
        starts.sort()
    free = dict.fromkeys(permanent_rooms(seed, project), midnight)
    sessions = []
    for number, start in enumerate(starts):
        minutes = rng.randint(5, 70) if rng.random() > 0.08 else rng.randint(120, 300)
        if over_midnight and number == count - 1:
            minutes = rng.randint(120, 240)
        began = midnight + timedelta(milliseconds=start)
        ended = began + timedelta(minutes=minutes, milliseconds=rng.randrange(60_000))
        room = _choose_room(rng, free, began, ended, number)
        sessions.append(_make_session(project, rng, room, began, ended, day.toordinal() * count * 4, number))
    return tuple(sessions)


def _choose_room(rng: random.Random, free: dict[Room, datetime], began: datetime, ended: datetime, number: int) -> Room:
    """A free permanent room, or a new room for this session.

    `free` maps each permanent room to the time from which it is free on this day. A session that runs past midnight
    never takes a permanent room, so two days cannot use one room at the same time.
    """
    choice = rng.random()
    idle = [room for room, since in free.items() if since < began and ended.date() == began.date()]
    if choice < 0.5 and idle:
        room = idle[rng.randrange(len(idle))]
        free[room] = ended
        return room
    kind = "scheduled" if choice < 0.75 else "adhoc"
    planned = began.replace(minute=began.minute - began.minute % 5, second=0, microsecond=0)
    ahead = timedelta(hours=rng.randint(2, 23)) if kind == "scheduled" else timedelta(minutes=rng.randint(1, 9))
    created = planned - ahead + timedelta(milliseconds=rng.randrange(59_000))
    tenant = rng.randint(40, 48)
    single_file = rng.random() < 0.2
    return Room(
        room_id=_object_id(created, rng),
        kind=kind,
        name=f"Consultation {rng.randint(100, 999)}",
        owner_ref=f"tenant-{tenant}",
        billing_code=(f"CC-{tenant}{number % 7}", 7000 + tenant, None)[number % 3],
        mode="group",
        created_at=created,
        scheduled_at=planned if kind == "scheduled" else None,
        duration_min=rng.choice((15, 30, 45, 60)) if kind == "scheduled" else None,
        participants=2 if single_file else rng.randint(4, 8),
        auto_recording=rng.random() < 0.7,
        single_file=single_file,
    )


def _make_session(
    project: str,
    rng: random.Random,
    room: Room,
    began: datetime,
    ended: datetime,
    rows_before: int,
    number: int,
) -> Session:
    stays = _stays(rng, room, began, ended)
    first_row = rows_before + number * 5
    connections = tuple(
        _make_connection(rng, room, position, stay, first_row + position) for position, stay in enumerate(stays)
    )
    recorded = room.auto_recording or rng.random() < 0.3
    return Session(
        project=project,
        conf_num=_conf_num(project, began.date(), number),
        archive_id=_object_id(ended, rng),
        number=number,
        room=room,
        connections=connections,
        segments=_segments(rng, room, began, ended, len(stays)) if recorded else (),
        transcoded=recorded and rng.random() < 0.7 and not room.single_file,
        chat=rng.random() < 0.45,
        metadata=rng.random() < 0.7,
    )


@dataclass(frozen=True)
class _Stay:
    """One user's stay in a session, from which a connection is made."""

    person: int
    role: str
    sip: bool
    begin: datetime
    end: datetime


def _stays(rng: random.Random, room: Room, began: datetime, ended: datetime) -> list[_Stay]:
    """Stays of 2 to 6 people, sorted by start. At least one stays all the time; some reconnect or dial in."""
    people = 2 if room.single_file else rng.randint(2, 6)
    length_ms = (ended - began) // timedelta(milliseconds=1)
    dials_in = people - 1 if people > 2 and rng.random() < 0.12 else None
    stays = []
    for person in range(people):
        late = int(length_ms * 0.25 * rng.random()) if person else 0
        early = int(length_ms * 0.35 * rng.random()) if person else 0
        begin, end = began + timedelta(milliseconds=late), ended - timedelta(milliseconds=early)
        role = "moderator" if person == 0 else _role(rng, room, person)
        stay = _Stay(person, role, person == dials_in, begin, end)
        if person and rng.random() < 0.1:
            middle = begin + (end - begin) / 2
            back = middle + timedelta(seconds=rng.randint(5, 60))
            first, second = (
                _Stay(person, role, stay.sip, begin, middle),
                _Stay(person, role, stay.sip, back, end),
            )
            stays += [first, second]
        else:
            stays.append(stay)
    return sorted(stays, key=lambda s: s.begin)


def _role(rng: random.Random, room: Room, person: int) -> str:
    if room.mode == "lecture" and person > 1:
        return "audience"
    return "viewer" if rng.random() < 0.08 else "participant"


def _make_connection(rng: random.Random, room: Room, position: int, stay: _Stay, row: int) -> Connection:
    """Turn a stay into a connection. `row` spreads rare variations evenly, so that every week contains each of them.

    Late rows (1 in 50) become visible hours after the others. Corrected rows (1 in 100) change hours after they became
    visible.
    """
    details = rng.getrandbits(64)
    end = _whole_ms(stay.end)
    trans_at = end + timedelta(milliseconds=1500 + details % 6000)
    visible_at = trans_at + timedelta(seconds=60 + details % 1140)
    if row % 50 == 7:
        visible_at = trans_at + timedelta(minutes=60 + details % 2340)
    corrected_at = trans_at + timedelta(minutes=360 + details % 2520) if row % 100 == 32 else None
    phone = f"+4930{details % 10_000_000:07d}"
    anonymous = details % 11 == 3
    person = int(room.owner_ref.removeprefix("tenant-")) * 7 + stay.person
    name = f"{_GIVEN[person % len(_GIVEN)]} {_FAMILY[person * 3 % len(_FAMILY)]}"
    return Connection(
        cdr_id=_object_id(end, rng),
        call_num=str(position + 1),
        call_log_id=_object_id(end, rng),
        user_ref="" if anonymous else f"sip:{phone}" if stay.sip else f"user-{room.room_id[-4:]}-{stay.person}",
        user_name=phone if stay.sip else "" if anonymous else name,
        role=stay.role,
        sip=stay.sip,
        agent="EnableX SIP Gateway/2.1" if stay.sip else _AGENTS[details % len(_AGENTS)],
        connected_at=_whole_ms(stay.begin),
        disconnected_at=end,
        old_shape=rng.random() < 0.34 and not stay.sip and stay.role != "audience",
        trans_at=trans_at,
        visible_at=visible_at,
        corrected_at=corrected_at,
        entropy=details,
    )


def _segments(rng: random.Random, room: Room, began: datetime, ended: datetime, people: int) -> tuple[Segment, ...]:
    """One recording of the whole session, or two or three with pauses between them."""
    parts = 1 if room.single_file else rng.choice((1, 1, 1, 2, 2, 3))
    share = (ended - began) / parts
    lag = timedelta(seconds=rng.randint(2, 20))
    streams = 1 if room.single_file else min(people, 3)
    return tuple(
        Segment(_whole_ms(began + share * n + lag), _whole_ms(began + share * (n + 1) - lag), streams)
        for n in range(parts)
    )


def timestamp(moment: datetime) -> str:
    """`2024-03-09T14:02:31.337Z`; `moment` in UTC."""
    return f"{moment.isoformat(timespec='milliseconds')[:23]}Z"


def _whole_ms(moment: datetime) -> datetime:
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def _hex(rng: random.Random, digits: int) -> str:
    return f"{rng.getrandbits(digits * 4):0{digits}x}"


def _object_id(moment: datetime, rng: random.Random) -> str:
    """24 hex digits that begin with the time of creation in seconds, like object ids of MongoDB."""
    return f"{int(moment.timestamp()):08x}{rng.getrandbits(64):016x}"


def _conf_num(project: str, day: date, number: int) -> str:
    """12 digits: one arbitrary (a leading zero must be preserved), five for the day, six that appear random."""
    tail = (number * 617_283 + zlib.crc32(project.encode())) % 1_000_000
    return f"{(number * 7 + day.day) % 10}{day.toordinal() - _EPOCH_DAY:05d}{tail:06d}"


def day_of_conf_num(conf_num: str) -> date | None:
    if re.fullmatch(r"\d{12}", conf_num) is None:
        return None
    return date.fromordinal(_EPOCH_DAY + int(conf_num[1:6]))
