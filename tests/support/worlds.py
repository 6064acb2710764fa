"""Random worlds: what really happened, and the replies of some nights in which EnableX shows it with faults.

A world is a function of seed, size and the names of its faults: a failure is repeated by its seed, and made smaller by
a smaller size or fewer faults. Every document has the number of its true connection in `user.confName`.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from tests.support.oracle import Decision, Document, Reply, Rules, document, recompute
from tests.support.world_faults import CONNECTION_FAULTS, REPLY_FAULTS, WORLD_FAULTS, Shown, Vendor, iso

FAULTS = (*WORLD_FAULTS, *CONNECTION_FAULTS, *REPLY_FAULTS)
"""Names of all faults."""

ZONES = ("UTC", "Asia/Kolkata", "America/New_York", "Pacific/Kiritimati")
ROUNDINGS = ("ceil_per_connection", "exact", "vendor")
BOUNDARY = date(2026, 11, 1)
"""A midnight between two months; clocks in New York go back on this day."""

_SESSION_DAYS = (-11, -2, -1, -1, -1, 0, 0, 1, 9)
"""Days of sessions, from the boundary: around it, and so far away that other weeks are built."""

NIGHTS = tuple(datetime.combine(BOUNDARY, time(2), UTC) + timedelta(days=days) for days in (3, 4, 12, 14))


@dataclass(frozen=True)
class Truth:
    """One connection as it was. Times are those of signalling."""

    number: int
    conf_num: str
    start: datetime
    end: datetime
    is_identified: bool
    """Whether its documents have what it takes to be recognised as one connection."""
    is_shown: bool
    """Whether a document of it was in a reply."""

    @property
    def mark(self) -> str:
        return f"truth-{self.number}"


@dataclass(frozen=True)
class World:
    """What happened, what was replied, and the settings under which it is billed."""

    seed: int
    size: int
    faults: frozenset[str]
    rules: Rules
    truths: tuple[Truth, ...]
    replies: tuple[Reply, ...] = field(repr=False)

    @property
    def documents(self) -> int:
        return sum(len(reply.documents) for reply in self.replies)


def make_world(seed: int, *, size: int = 8, faults: Iterable[str] = FAULTS) -> World:
    """A world of about `size` connections; each of the faults is switched on with a chance of one in three."""
    rng = random.Random(seed)
    allowed = set(faults)
    if unknown := allowed - set(FAULTS):
        raise ValueError(f"no such faults: {', '.join(sorted(unknown))}; choose from {', '.join(FAULTS)}")
    drawn = {name: rng.random() < 1 / 3 for name in FAULTS}
    active = frozenset(name for name in FAULTS if drawn[name] and name in allowed)
    shown = _sessions(rng, seed, size, active)
    for name, fault in CONNECTION_FAULTS.items():
        if name in active:
            for one in list(shown):
                chance = _random(seed, name, one.number)
                if chance.random() < 0.35:
                    fault(chance, one, shown)
    vendor = Vendor("filter_by_connect" in active, "to_date_exclusive" in active)
    replies = _replies(seed, shown, vendor, active)
    rules = _rules(seed, active)
    if "decisions" in active:
        rules = replace(rules, decisions=_decisions(seed, replies, rules))
    seen = {(one["user"] or {}).get("confName") for one in _objects(replies) if isinstance(one.get("user"), dict)}
    truths = tuple(
        Truth(
            one.number,
            one.conf_num,
            one.start,
            one.end,
            one.is_identified and _is_always_with_rivals(one, vendor, active),
            f"truth-{one.number}" in seen,
        )
        for one in shown
    )
    return World(seed, size, active, rules, truths, tuple(replies))


def _random(seed: int, *place: object) -> random.Random:
    """Random numbers of one place of a world: a world with fewer connections or faults is the same elsewhere."""
    return random.Random(f"{seed} {place}")


def _rules(seed: int, active: frozenset[str]) -> Rules:
    rng = _random(seed, "rules")
    rules = Rules(zone=rng.choice(ZONES), rounding=rng.choice(ROUNDINGS))
    if "hold_unlisted" in active:
        rules = replace(rules, unlisted=rng.choice(["bill", "hold"]))
    if "system_participants" in active:
        rules = replace(rules, system_participants=rng.choice(["bill", "skip"]))
    return rules


def _decisions(seed: int, replies: Iterable[Reply], rules: Rules) -> tuple[Decision, ...]:
    """Decisions about half of what is in suspense; some were made for other minutes or reasons, and hold no longer."""
    decisions = []
    for number, row in enumerate(recompute(replies, rules).rows["suspense"]):
        rng = _random(seed, "decisions", row["suspense_id"])
        if rng.random() < 0.5 or row["suspense_id"].startswith("derived-"):
            continue  # the oracle does not know the product's derived ids
        minutes = row.get("at_stake_min")
        decisions.append(
            Decision(
                row["suspense_id"],
                "exclude" if row["reasons"] == "rejected" else rng.choice(["release", "exclude"]),
                rng.choice([row["reasons"], row["reasons"], row["reasons"], "stay_unknown"]),
                rng.choice([minutes, minutes, minutes, (minutes or 0) + 1]),
                NIGHTS[-1] + timedelta(hours=1, minutes=number),
                f"because {number}",
            )
        )
    return tuple(decisions)


def merged(worlds: Sequence[World]) -> World:
    """One world with the connections of all: what they reply to one request of a night is one reply.

    Their connections share rooms, but no ids and no sessions. Settings are those of the first.
    """
    together: dict[tuple[date, date, str, str], list[Document]] = defaultdict(list)
    for world in worlds:
        for reply in world.replies:
            together[reply.asked_at.date(), reply.day, reply.source, reply.room_id].extend(reply.documents)
    clocks = {night.date(): _clock(night) for night in NIGHTS}
    replies = [
        Reply(day, clocks[night](), tuple(documents), source, room_id)
        for (night, day, source, room_id), documents in sorted(together.items())
    ]
    faults = frozenset().union(*(world.faults for world in worlds))
    first = worlds[0]
    rules = replace(first.rules, decisions=tuple(one for world in worlds for one in world.rules.decisions))
    return World(first.seed, sum(world.size for world in worlds), faults, rules, (), tuple(replies))


def _is_always_with_rivals(one: Shown, vendor: Vendor, active: frozenset[str]) -> bool:
    """Whether each reply contains either all documents that share an id, or none: only then they differ."""
    together = [one, *one.rivals]
    if any(other.rivals[1:] or (one.rivals and len(other.showings) > 1) for other in together):
        return False
    for night in range(len(NIGHTS)):
        values = [value for other in together for value in other.at(night)]
        has_all = not one.rivals or len(values) in {0, len(together)}
        if len(values) > 1 and (
            len({frozenset(vendor.days(value)) for value in values}) > 1 or "broken_json" in active
        ):
            return False
        if not has_all:
            return False
    return True


def _objects(replies: Iterable[Reply]) -> Iterable[dict[str, Any]]:
    for reply in replies:
        for one in reply.documents:
            if one.is_json and isinstance(one.value, dict) and reply.source == "cdr":
                yield one.value


# --- what happened ------------------------------------------------------------------------------------------------


def _sessions(rng: random.Random, seed: int, size: int, active: frozenset[str]) -> list[Shown]:
    """Connections of some sessions, each with one sound document that is shown from the first night on."""
    shown: list[Shown] = []
    number = 0
    while number < size:
        day = BOUNDARY + timedelta(days=rng.choice(_SESSION_DAYS))
        conf_num = f"{seed:06d}{len({one.conf_num for one in shown}):06d}"
        room = _room(rng)
        begin = datetime.combine(day, time(), UTC) + rng.choice(
            [timedelta(hours=rng.randrange(23), minutes=rng.randrange(60)), timedelta(hours=23, minutes=50)]
        )
        days = [timedelta()]
        if "sessions_for_weeks" in active and rng.random() < 0.5:
            days += [timedelta(days=rng.choice([1, 2, 5, 9]), hours=rng.randrange(-3, 3)) for _ in range(2)]
        for connected in range(rng.randint(1, 4)):
            start = begin + rng.choice(days) + timedelta(seconds=rng.randrange(900), milliseconds=7 * number + 1)
            length = rng.choice([rng.randrange(1, 120_000), rng.randrange(1, 5_400_000), 1_800_000])
            end = start + timedelta(milliseconds=length)
            shown.append(_shown(rng, number, conf_num, room, start, end, connected))
            number += 1
    return shown


@dataclass(frozen=True)
class _Room:
    room_id: str
    owner: str | None
    code: str | None


def _room(rng: random.Random) -> _Room:
    number = rng.randrange(3)
    return _Room(f"65ec60000c3a9e0012ab000{number}", ("north", "south", None)[number], ("CC-1", None, None)[number])


def _shown(
    rng: random.Random, number: int, conf_num: str, room: _Room, start: datetime, end: datetime, connected: int
) -> Shown:
    jitter = [timedelta(milliseconds=rng.randrange(300)) for _ in range(2)]
    seconds = (end - start).total_seconds()
    minutes = -(-int(seconds * 1000) // 60_000)
    value = {
        "cdr_id": f"65ec6b1f{conf_num}{number:04d}",
        "app_id": "61aa00bb22cc33dd44ee55ff",
        "trans_date": iso(end + timedelta(milliseconds=rng.randrange(6000))),
        "conf_num": conf_num,
        "sip": rng.random() < 0.2,
        "call_num": str(connected + 1),
        "call_log_id": f"5ed4b6a4{conf_num}{number:04d}",
        "room": {
            "room_id": room.room_id,
            "connect_dt": iso(start + jitter[0]),
            "disconnect_dt": iso(max(start + jitter[0], end - jitter[1])),
            "duration": round(seconds),
            "room_details": {
                "name": f"Room {room.room_id[-1]}",
                "owner_ref": room.owner,
                "settings": {"mode": "group", "billing_code": room.code},
            },
        },
        "user": {
            "role": "participant",
            "ip": f"203.0.113.{number}",
            "name": f"Person {number}",
            "ref": rng.choice([f"ref-{number}", f"ref-{conf_num}", ""]),
            "agent": "Mozilla/5.0",
            "confName": f"truth-{number}",
        },
        "sigserver": {"connect_dt": iso(start), "disconnect_dt": iso(end), "duration": round(seconds, 2)},
        "published_track": {"audio": True, "video": rng.random() < 0.5, "data": False, "screen": False, "url": False},
        "usage": {
            "subscribed_minutes": rng.randrange(60),
            "published_minutes": round(seconds / 60, 3),
            "screen_minutes": 0,
            "connect_minutes": minutes,
            "connect_minutes_cal": minutes,
        },
        "price": {"connect_duration": round(0.004 * minutes, 3)},
    }
    return Shown(number, conf_num, start, end, room.room_id, [(0, len(NIGHTS), value)])


# --- what is replied ----------------------------------------------------------------------------------------------


def _replies(seed: int, shown: list[Shown], vendor: Vendor, active: frozenset[str]) -> list[Reply]:
    """Each night asks for every day on which EnableX ever has something, and for one on which it has nothing."""
    days = {day for one in shown for _, _, value in one.showings for day in vendor.days(value)}
    archives = _archives(seed, shown, active)
    archive_days = {day for listings in archives for day, _ in listings}
    replies: list[Reply] = []
    for night, asked_at in enumerate(NIGHTS):
        clock = _clock(asked_at)
        for day in sorted(days | archive_days | {BOUNDARY}):
            for source in ("cdr", "archive"):
                if source == "cdr":
                    values = [value for one in shown for value in one.at(night) if day in vendor.days(value)]
                else:
                    values = [value for at, value in archives[night] if at == day]
                    if not any(at == day for listings in archives for at, _ in listings):
                        continue
                replies += _of_day(_random(seed, night, day), source, day, clock, values, active)
    return replies


def _clock(moment: datetime) -> Callable[[], datetime]:
    """Times of requests: each 10 seconds after the last one."""
    times = [moment]

    def tick() -> datetime:
        times.append(times[-1] + timedelta(seconds=10))
        return times[-1]

    return tick


def _of_day(
    rng: random.Random, source: str, day: date, clock: Callable[[], datetime], values: list[Any], active: frozenset[str]
) -> list[Reply]:
    documents = [document(value) for value in values]
    if source == "cdr":
        for name in ("unreadable", "broken_json", "duplicates", "reordered"):
            if name in active and documents and rng.random() < 0.5:
                documents = REPLY_FAULTS[name](rng, documents, day)
        if "parts" in active and documents and rng.random() < 0.3:
            return _parts(day, clock, documents)
    return [Reply(day, clock(), tuple(documents), source)]


def _parts(day: date, clock: Callable[[], datetime], documents: list[Document]) -> list[Reply]:
    """The day room by room, because EnableX did not answer for the whole day."""
    by_room: dict[str, list[Document]] = defaultdict(list)
    for one in documents:
        room = one.value.get("room") if isinstance(one.value, dict) else None
        by_room[room.get("room_id") or "none" if isinstance(room, dict) else "none"].append(one)
    return [Reply(day, clock(), tuple(inside), "cdr", room_id) for room_id, inside in by_room.items()]


def _archives(seed: int, shown: list[Shown], active: frozenset[str]) -> list[list[tuple[date, dict[str, Any]]]]:
    """For each night, the archive records with the day on which they are listed."""
    listings: list[list[tuple[date, dict[str, Any]]]] = [[] for _ in NIGHTS]
    by_day: dict[tuple[str, date], list[Shown]] = defaultdict(list)
    for one in shown:
        by_day[one.conf_num, one.start.date()].append(one)
    for (conf_num, day), together in by_day.items():
        rng = _random(seed, "archives", conf_num, day)
        if rng.random() < 0.5:
            continue
        written = max(one.end for one in together) + timedelta(minutes=1)
        first = rng.randrange(len(NIGHTS)) if "late_archives" in active else 0
        grown = rng.randrange(len(NIGHTS)) if "growing_archives" in active else 0
        name = f"{conf_num}-{day:%m%d}"
        is_transcoded = rng.random() < 0.6
        for night in range(first, len(NIGHTS)):
            record = {
                "_id": f"65ec6c00{name}",
                "trans_date": iso(written),
                "conf_num": conf_num,
                "room_id": together[0].room_id,
                "recording": [{"url": f"https://portal.enablex.io/path/r-{name}.mkv"}],
                "transcoded": [{"url": f"https://portal.enablex.io/path/t-{name}.mp4"}]
                if is_transcoded and night >= grown
                else None,
            }
            listings[night].append((written.date(), record))
    return listings
