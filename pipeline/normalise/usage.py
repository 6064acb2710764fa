"""Rows of `cdr`, `sessions` and `media` to rows of `usage_daily` (pure)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pipeline.model import Row
from pipeline.normalise.sessions import count_people, total_exact, total_s

Key = tuple[str | None, str | None, str | None]
STORED = frozenset({"stored", "unreadable"})


@dataclass
class _Group:
    connections: list[Row] = field(default_factory=list)
    sessions: list[Row] = field(default_factory=list)
    media: list[Row] = field(default_factory=list)


def usage_rows(
    connections: Iterable[Row], sessions: Iterable[Row], media: Iterable[Row], rooms_of: Mapping[str, Row]
) -> list[Row]:
    """One row per room, owner and billing code of one project and day, sorted by key.

    `connections` are the `cdr` rows of the day, `sessions` those that began that day, `media` the files filed under it.
    `rooms_of` maps a `conf_num` to its session row, so that old-shape connections and files, which lack owner and
    billing code, count where the rest of their session counts.
    """
    groups: dict[Key, _Group] = defaultdict(_Group)
    for row in connections:
        groups[_key(row, rooms_of)].connections.append(row)
    for row in sessions:
        groups[_key(row, rooms_of)].sessions.append(row)
    for row in media:
        if row["state"] in STORED:
            groups[_key(row, rooms_of)].media.append(row)
    return [_usage_row(key, groups[key]) for key in sorted(groups, key=lambda key: [part or "" for part in key])]


def _key(row: Row, rooms_of: Mapping[str, Row]) -> Key:
    session = rooms_of.get(row["conf_num"], {})
    room_id, owner_ref, billing_code = (
        row.get(name) if row.get(name) is not None else session.get(name)
        for name in ("room_id", "owner_ref", "billing_code")
    )
    return room_id, owner_ref, billing_code


def _usage_row(key: Key, group: _Group) -> Row:
    connections = sorted(group.connections, key=lambda row: row["cdr_id"])
    return {
        "room_id": key[0],
        "owner_ref": key[1],
        "billing_code": key[2],
        "sessions": len(group.sessions),
        "connections": len(connections),
        "people": count_people(connections),
        "participant_s": total_s(connections, "participant_s"),
        "participant_min": total_exact(connections, "participant_min"),
        "connect_billed_min": total_exact(connections, "connect_billed_min"),
        "published_min": total_s(connections, "published_min"),
        "subscribed_min": total_s(connections, "subscribed_min"),
        "screen_min": total_s(connections, "screen_min"),
        "sip_min": total_exact([row for row in connections if row["is_sip"]], "participant_min"),
        "recording_min": total_exact(group.sessions, "recording_min"),
        "transcoding_min": total_exact(group.sessions, "transcoding_min"),
        "media_files": len(group.media),
        "media_bytes": sum(row["size_bytes"] for row in group.media),
    }
