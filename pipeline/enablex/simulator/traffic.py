"""How a day of traffic is made: projects, rooms, sessions and connections, from a seed (pure).

This is the truth; `documents` shows how the API reports it. No clock, no state, the same in every process
and on every platform. Ids begin with the second of their making, as object ids do, and conf_nums carry
their day.
"""

from __future__ import annotations

import random
import re
import zlib
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

from pipeline.enablex.simulator import media

RETENTION = timedelta(hours=72)
"""EnableX deletes a file this long after its creation."""

EARLIEST = date(2024, 2, 1)
"""Nothing happened before: by then all permanent rooms had been made."""

SECRET_MARK = "s3cr3t-"  # noqa: S105  # looks like a secret on purpose: leak tests search for it
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
    """One EnableX project and what opens it: a pair for the API, another for the files."""

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
    """One stay of one user, and how and when its CDR shows up.

    `old_shape` and `corrected_at` are habits of the API, not of the user; `dice` feeds details nobody
    plans for.
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
    dice: int

    @property
    def signal_connected_at(self) -> datetime:
        """Signalling begins up to 0.6 s before the room is entered."""
        return self.connected_at - timedelta(milliseconds=200 + self.dice % 400)

    @property
    def signal_disconnected_at(self) -> datetime:
        return self.disconnected_at + timedelta(milliseconds=100 + self.dice % 300)

    @property
    def signal_margin_s(self) -> float:
        """By how much signalling outlasts the stay in the room."""
        return (300 + self.dice % 400 + self.dice % 300) / 1000


@dataclass(frozen=True)
class Segment:
    """One stretch of recording, from start to stop, with as many streams as files come of it."""

    started_at: datetime
    ended_at: datetime
    streams: int


@dataclass(frozen=True)
class Session:
    """One `conf_num`: who was in which room from when to when, and what was recorded."""

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
    """One file of a session. `text` holds the content of a JSON file; of media `media` makes the bytes."""

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
    """A project's credentials. The portal user is an e-mail address, so it contains an @."""
    dice = random.Random(f"{seed}/{name}")
    return Project(
        name=name,
        app_id=_hex(dice, 24),
        app_key=_hex(dice, 32),
        files_user=f"ops@{name}.example",
        files_password=_hex(dice, 10),
    )


def permanent_rooms(seed: int, project: str) -> tuple[Room, ...]:
    """The rooms that exist all the time, made long before any traffic."""
    dice = random.Random(f"{seed}/{project}/rooms")
    made = datetime(2024, 1, 15, 9, 30, tzinfo=UTC)
    rooms = []
    for number, name in enumerate(_ROOM_NAMES):
        created = made + timedelta(hours=31 * number, milliseconds=dice.randrange(3_600_000))
        room = Room(
            room_id=_object_id(created, dice),
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
    dice = random.Random(f"{seed}/{project}/{day}")
    midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
    quarter = sessions_per_day // 4
    count = sessions_per_day + dice.randint(-quarter, quarter)
    starts = sorted(dice.randrange(86_400_000) for _ in range(count))
    over_midnight = bool(starts) and day.toordinal() % 2 == 0
    if over_midnight:
        starts[-1] = dice.randrange(80_100_000, 85_200_000)  # 22:15 to 23:40
        starts.sort()
    free = dict.fromkeys(permanent_rooms(seed, project), midnight)
    sessions = []
    for number, start in enumerate(starts):
        minutes = dice.randint(5, 70) if dice.random() > 0.08 else dice.randint(120, 300)
        if over_midnight and number == count - 1:
            minutes = dice.randint(120, 240)
        began = midnight + timedelta(milliseconds=start)
        ended = began + timedelta(minutes=minutes, milliseconds=dice.randrange(60_000))
        room = _choose_room(dice, free, began, ended, number)
        sessions.append(_make_session(project, dice, room, began, ended, day.toordinal() * count * 4, number))
    return tuple(sessions)


def _choose_room(
    dice: random.Random, free: dict[Room, datetime], began: datetime, ended: datetime, number: int
) -> Room:
    """A permanent room that is free, or a room made for this session.

    `free` is from when each permanent room is free today; a session that runs past midnight never takes
    one, so two days never quarrel over a room.
    """
    wish = dice.random()
    idle = [room for room, since in free.items() if since < began and ended.date() == began.date()]
    if wish < 0.5 and idle:
        room = idle[dice.randrange(len(idle))]
        free[room] = ended
        return room
    kind = "scheduled" if wish < 0.75 else "adhoc"
    planned = began.replace(minute=began.minute - began.minute % 5, second=0, microsecond=0)
    ahead = timedelta(hours=dice.randint(2, 23)) if kind == "scheduled" else timedelta(minutes=dice.randint(1, 9))
    created = planned - ahead + timedelta(milliseconds=dice.randrange(59_000))
    tenant = dice.randint(40, 48)
    single_file = dice.random() < 0.2
    return Room(
        room_id=_object_id(created, dice),
        kind=kind,
        name=f"Consultation {dice.randint(100, 999)}",
        owner_ref=f"tenant-{tenant}",
        billing_code=(f"CC-{tenant}{number % 7}", 7000 + tenant, None)[number % 3],
        mode="group",
        created_at=created,
        scheduled_at=planned if kind == "scheduled" else None,
        duration_min=dice.choice((15, 30, 45, 60)) if kind == "scheduled" else None,
        participants=2 if single_file else dice.randint(4, 8),
        auto_recording=dice.random() < 0.7,
        single_file=single_file,
    )


def _make_session(
    project: str,
    dice: random.Random,
    room: Room,
    began: datetime,
    ended: datetime,
    rows_before: int,
    number: int,
) -> Session:
    stays = _stays(dice, room, began, ended)
    first_row = rows_before + number * 5
    connections = tuple(
        _make_connection(dice, room, position, stay, first_row + position) for position, stay in enumerate(stays)
    )
    recorded = room.auto_recording or dice.random() < 0.3
    return Session(
        project=project,
        conf_num=_conf_num(project, began.date(), number),
        archive_id=_object_id(ended, dice),
        number=number,
        room=room,
        connections=connections,
        segments=_segments(dice, room, began, ended, len(stays)) if recorded else (),
        transcoded=recorded and dice.random() < 0.7 and not room.single_file,
        chat=dice.random() < 0.45,
        metadata=dice.random() < 0.7,
    )


@dataclass(frozen=True)
class _Stay:
    """One user's presence before it is dressed as a connection."""

    person: int
    role: str
    sip: bool
    begin: datetime
    end: datetime


def _stays(dice: random.Random, room: Room, began: datetime, ended: datetime) -> list[_Stay]:
    """Two to six people; at least one is there all the time; sometimes one drops and comes back, or dials in."""
    people = 2 if room.single_file else dice.randint(2, 6)
    length_ms = (ended - began) // timedelta(milliseconds=1)
    dials_in = people - 1 if people > 2 and dice.random() < 0.12 else None
    stays = []
    for person in range(people):
        late = int(length_ms * 0.25 * dice.random()) if person else 0
        early = int(length_ms * 0.35 * dice.random()) if person else 0
        begin, end = began + timedelta(milliseconds=late), ended - timedelta(milliseconds=early)
        role = "moderator" if person == 0 else _role(dice, room, person)
        stay = _Stay(person, role, person == dials_in, begin, end)
        if person and dice.random() < 0.1:
            middle = begin + (end - begin) / 2
            back = middle + timedelta(seconds=dice.randint(5, 60))
            first, second = (
                _Stay(person, role, stay.sip, begin, middle),
                _Stay(person, role, stay.sip, back, end),
            )
            stays += [first, second]
        else:
            stays.append(stay)
    return sorted(stays, key=lambda s: s.begin)


def _role(dice: random.Random, room: Room, person: int) -> str:
    if room.mode == "lecture" and person > 1:
        return "audience"
    return "viewer" if dice.random() < 0.08 else "participant"


def _make_connection(dice: random.Random, room: Room, position: int, stay: _Stay, row: int) -> Connection:
    """Dress a stay. `row` counts rows: it spreads rare habits evenly, so that every week has some of each.

    Late rows (1 in 50) come hours after the others, corrected ones (1 in 100) change hours after they came.
    """
    details = dice.getrandbits(64)
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
        cdr_id=_object_id(end, dice),
        call_num=str(position + 1),
        call_log_id=_object_id(end, dice),
        user_ref="" if anonymous else f"sip:{phone}" if stay.sip else f"user-{room.room_id[-4:]}-{stay.person}",
        user_name=phone if stay.sip else "" if anonymous else name,
        role=stay.role,
        sip=stay.sip,
        agent="EnableX SIP Gateway/2.1" if stay.sip else _AGENTS[details % len(_AGENTS)],
        connected_at=_whole_ms(stay.begin),
        disconnected_at=end,
        old_shape=dice.random() < 0.34 and not stay.sip and stay.role != "audience",
        trans_at=trans_at,
        visible_at=visible_at,
        corrected_at=corrected_at,
        dice=details,
    )


def _segments(dice: random.Random, room: Room, began: datetime, ended: datetime, people: int) -> tuple[Segment, ...]:
    """One recording from start to end, or two or three with pauses between."""
    parts = 1 if room.single_file else dice.choice((1, 1, 1, 2, 2, 3))
    share = (ended - began) / parts
    lag = timedelta(seconds=dice.randint(2, 20))
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


def _hex(dice: random.Random, digits: int) -> str:
    return f"{dice.getrandbits(digits * 4):0{digits}x}"


def _object_id(moment: datetime, dice: random.Random) -> str:
    """24 hex digits that begin with the second of their making, as document databases do it."""
    return f"{int(moment.timestamp()):08x}{dice.getrandbits(64):016x}"


def _conf_num(project: str, day: date, number: int) -> str:
    """12 digits: one at will (a leading zero must survive), five of the day, six that look random."""
    tail = (number * 617_283 + zlib.crc32(project.encode())) % 1_000_000
    return f"{(number * 7 + day.day) % 10}{day.toordinal() - _EPOCH_DAY:05d}{tail:06d}"


def day_of_conf_num(conf_num: str) -> date | None:
    if re.fullmatch(r"\d{12}", conf_num) is None:
        return None
    return date.fromordinal(_EPOCH_DAY + int(conf_num[1:6]))
