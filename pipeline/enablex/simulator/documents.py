"""The API's view of the world: CDRs, archive records and rooms as JSON documents (pure).

Keys are in the order of the samples. Variations of the API: two shapes of CDR, corrections, numbers as text, and
archive keys that are missing, null or empty.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from pipeline.enablex.simulator.traffic import SECRET_MARK, Connection, Project, Room, Session, SimFile, timestamp

Document = dict[str, Any]

_SIGNAL_SERVER = "198.51.100.20"
_CORRECTION = 1.25
"""Factor of a corrected row's durations: 25 % more, beyond any tolerance."""


def cdr_document(project: Project, session: Session, connection: Connection, now: datetime) -> Document:
    """One connection's CDR as of `now`, before or after its correction, in the old or new shape."""
    corrected = connection.corrected_at is not None and now >= connection.corrected_at
    stay_s = (connection.disconnected_at - connection.connected_at).total_seconds()
    reported_s = stay_s * _CORRECTION if corrected else stay_s
    if connection.old_shape:
        return _old_cdr(project, session, connection, reported_s)
    return _new_cdr(project, session, connection, reported_s)


def _new_cdr(project: Project, session: Session, connection: Connection, reported_s: float) -> Document:
    minutes = -int(-reported_s // 60)
    room, entropy = session.room, connection.entropy
    is_alone = len(session.connections) == 1
    return {
        "cdr_id": connection.cdr_id,
        "app_id": project.app_id,
        "parent_partner_id": project.app_id[::-1],
        "trans_date": timestamp(connection.trans_at),
        "conf_num": session.conf_num,
        "sip": connection.sip,
        "call_num": connection.call_num,
        "call_log_id": connection.call_log_id,
        "room": {
            "room_id": room.room_id,
            "connect_dt": timestamp(connection.connected_at),
            "disconnect_dt": timestamp(connection.disconnected_at),
            "duration": int(reported_s),
            "sip": any(c.sip for c in session.connections),
            "room_details": _room_details(room),
        },
        "user": {
            "role": connection.role,
            "ip": _address(entropy),
            "name": connection.user_name,
            "ref": connection.user_ref,
            "agent": connection.agent,
        },
        "sigserver": _signalling(connection, reported_s, 2),
        "published_track": _published(connection),
        "usage": {
            "subscribed_minutes": 0 if is_alone else max(0, minutes - 1),
            "published_minutes": 0 if connection.role == "audience" else minutes,
            "screen_minutes": minutes // 3 if _shares_screen(connection) else 0,
            "connect_minutes": minutes,
            "connect_minutes_cal": minutes,
            "room_connect_minutes": minutes,
        },
        "stats_quality": _quality(connection),
        "price": {"connect_duration": round(minutes * 0.004, 3)},
    }


def _old_cdr(project: Project, session: Session, connection: Connection, reported_s: float) -> Document:
    entropy = connection.entropy
    token = f"eyJhbGciOiJIUzI1NiJ9.{SECRET_MARK}{entropy:016x}" if entropy % 4 == 1 else ""
    return {
        "trans_date": timestamp(connection.trans_at),
        "conf_num": session.conf_num,
        "call_num": connection.call_num,
        "call_log_id": connection.call_log_id,
        "room": {
            "room_id": session.room.room_id,
            "connect_dt": timestamp(connection.connected_at),
            "disconnect_dt": timestamp(connection.disconnected_at),
            "duration": round(reported_s, 3),
        },
        "user": {
            "ip": _address(entropy),
            "name": connection.user_name,
            "role": connection.role,
            "ref": connection.user_ref,
            "agent": connection.agent,
            "token": token,
            "confName": "",
        },
        "sigserver": _signalling(connection, reported_s, 3),
        "published_track": {key: str(value).lower() for key, value in _published(connection).items()},
        "usage": {
            "subscribed_minutes": round(reported_s * 0.98 / 60, 3),
            "published_minutes": round(reported_s / 60, 3),
        },
        "app_id": project.app_id,
        "cdr_id": connection.cdr_id,
    }


def _room_details(room: Room) -> Document:
    """The room at the time of the session; the only record of an ad hoc room."""
    settings: Document = {"mode": room.mode, "scheduled": room.kind == "scheduled"}
    if room.kind == "adhoc":
        settings["adhoc"] = True
    if room.scheduled_at is not None:
        settings["scheduled_time"] = f"{room.scheduled_at:%Y-%m-%d %H:%M:%S}"
        settings["duration"] = str(room.duration_min)
    settings |= {"participants": str(room.participants), "moderators": "1"}
    if room.billing_code is not None:
        settings["billing_code"] = room.billing_code
    settings |= {"auto_recording": room.auto_recording, "quality": "SD"}
    if room.single_file:
        settings["single_file_recording"] = True
    return {
        "name": room.name,
        "owner_ref": room.owner_ref,
        "settings": settings,
        "data": {"custom_key": ""},
        "created": timestamp(room.created_at),
        "room_id": room.room_id,
    }


def _address(entropy: int) -> str:
    """An address reserved for documentation; sometimes empty."""
    return "" if entropy % 29 == 5 else f"203.0.113.{1 + entropy % 250}"


def _signalling(connection: Connection, reported_s: float, places: int) -> Document:
    """The signalling connection, which starts before the room is entered and ends after it is left."""
    return {
        "connect_dt": timestamp(connection.signal_connected_at),
        "disconnect_dt": timestamp(connection.signal_disconnected_at),
        "ip": "" if connection.old_shape else _SIGNAL_SERVER,
        "duration": round(reported_s + connection.signal_margin_s, places),
        "hold_duration": round(connection.entropy % 900 / 1000, places),
    }


def _published(connection: Connection) -> dict[str, bool]:
    is_speaker = connection.role != "audience"
    return {
        "audio": is_speaker,
        "video": is_speaker and not connection.sip and connection.entropy % 9 != 4,
        "data": connection.entropy % 3 == 0,
        "screen": _shares_screen(connection),
        "url": False,
    }


def _shares_screen(connection: Connection) -> bool:
    return connection.role == "moderator" and connection.entropy % 5 == 2


def _quality(connection: Connection) -> Document:
    entropy = connection.entropy
    video = {} if connection.sip else _bitrates(300 + entropy % 300, 88)
    audio = _bitrates(28 + entropy % 9, 12)
    sends = connection.role != "audience"
    received = {**video, "bitrate_good_percent": 60 + entropy % 41} if video else {}
    return {
        "send": {"video": video if sends else {}, "audio": audio if sends else {}, "sharing": {}},
        "receive": {"video": received, "audio": audio, "sharing": {}},
    }


def _bitrates(average: int, least: int) -> Document:
    return {
        "avg_bitrate": average,
        "avg_bitrate_quality": "Bad" if average % 13 == 0 else "Good",
        "max_bitrate": average * 3 // 2,
        "min_bitrate": least,
    }


def archive_document(
    project: Project, session: Session, files: Iterable[SimFile], now: datetime, files_url: str
) -> Document | None:
    """A session's archive record as of `now`; None while no file is listed.

    A session without files has no record, except one in eight, whose record is empty.
    """
    files = list(files)
    listed = [file for file in files if file.listed_at <= now]
    is_empty_record = not files and session.number % 8 == 3 and now >= session.ended_at
    if not listed and not is_empty_record:
        return None
    document: Document = {
        "_id": session.archive_id,
        "trans_date": timestamp(session.ended_at),
        "conf_num": session.conf_num,
        "app_id": project.app_id,
        "room_id": session.room.room_id,
    }
    for turn, (key, kind) in enumerate(_ARCHIVE_KEYS):
        urls = [files_url + file.path for file in listed if file.kind == kind]
        is_list = kind in ("recording", "transcoded")
        if urls:
            document[key] = [{"url": url} for url in urls] if is_list else urls[0]
        elif (absence := (session.number + turn) % 3) > 0:
            document[key] = None if absence == 1 else [] if is_list else ""
    return document


_ARCHIVE_KEYS = (
    ("recording", "recording"),
    ("transcoded", "transcoded"),
    ("chatdata", "chat"),
    ("metadata", "metadata"),
)
"""Key in the record and kind of file, in the order of the record."""


def room_document(project: Project, room: Room) -> Document:
    """A room as in replies of the rooms routes: with keys that were never sent, numbers as text or as flags."""
    settings: Document = {
        "description": room.kind,
        "mode": room.mode,
        "scheduled": room.kind == "scheduled",
        "adhoc": room.kind == "adhoc",
    }
    if room.scheduled_at is not None:
        settings["scheduled_time"] = f"{room.scheduled_at:%Y-%m-%d %H:%M:%S}"
        settings["duration"] = str(room.duration_min)
    settings |= {"moderators": "1", "participants": str(room.participants), "viewers": 0}
    if room.billing_code is not None:
        settings["billing_code"] = room.billing_code
    variant = int(room.room_id[-2:], 16) % 3
    settings |= SERVER_SETTINGS | {
        "auto_recording": room.auto_recording,
        "single_file_recording": room.single_file,
        "max_active_talkers": (6, "6", True)[variant],
    }
    return {
        "name": room.name,
        "service_id": project.app_id,
        "owner_ref": room.owner_ref,
        "settings": settings,
        "sip": {
            "enabled": variant == 0,
            "pin": 10_000 + int(room.room_id[-4:], 16),
            "meeting_id": int(room.room_id[:6], 16),
        },
        "data": {"custom_key": ""},
        "created": timestamp(room.created_at),
        "room_id": room.room_id,
    }


SERVER_SETTINGS: Document = {
    "auto_recording": False,
    "screen_share": True,
    "canvas": False,
    "abwd": True,
    "media_configuration": "default",
    "quality": "SD",
    "active_talker": True,
    "max_active_talkers": 6,
    "encryption": False,
    "watermark": False,
    "single_file_recording": False,
    "media_zone": "XX",
    "knock": False,
    "wait_for_moderator": False,
    "role_based_recording": {"moderator": "audiovideo", "participant": "audio"},
    "live_recording": {"auto_recording": False, "url": ""},
}
"""Settings that the server adds to every room."""
