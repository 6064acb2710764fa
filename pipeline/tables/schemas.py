"""Every table and column, once: type, meaning, where it comes from, whether it speaks about a person.

`python -m pipeline.tables.schemas > docs/reference/tables.md` writes the reference page; a test compares it.
No stored type is inferred from data. Flags are booleans, times are UTC milliseconds, measured seconds and
minutes are float64, whatever is billed is decimal. `project` and `day` are partition columns: they stand in the
path, not in the file.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from pipeline.core.arrow_types import BILLED, COUNT, FLAG, MONEY, REAL, TEXT, TIME

TABLES_VERSION = 4
"""Part of every day's input digest: raise it when a column changes its meaning, and all days are built again."""

Privacy = Literal["", "personal"]


@dataclass(frozen=True)
class Column:
    """One column. `path` is its place in EnableX's document, where it is taken from there unchanged in meaning."""

    name: str
    type: pa.DataType
    about: str
    path: str = ""
    privacy: Privacy = ""


@dataclass(frozen=True)
class TableSpec:
    """One table: what a row is, its key (rows are sorted by it), and which day it is filed under."""

    name: str
    row_is: str
    key: tuple[str, ...]
    day_is: str
    columns: tuple[Column, ...]

    @property
    def schema(self) -> pa.Schema:
        return arrow_schema(self.columns)


def arrow_schema(columns: Iterable[Column]) -> pa.Schema:
    return pa.schema([pa.field(column.name, column.type) for column in columns])


CDR = TableSpec(
    "cdr",
    "one connection of one user, newest version",
    ("cdr_id",),
    "UTC date of `trans_date` (else of the latest time the document has)",
    (
        Column("cdr_id", TEXT, "key; `derived-…` when EnableX sent none", "cdr_id"),
        Column("cdr_id_is_derived", FLAG, "the key was made here from the identifying fields"),
        Column("app_id", TEXT, "EnableX project", "app_id"),
        Column("partner_id", TEXT, "account above the project", "parent_partner_id"),
        Column("conf_num", TEXT, "session", "conf_num"),
        Column("call_num", TEXT, "number of the connection in its session", "call_num"),
        Column("call_log_id", TEXT, "key of EnableX's audit log", "call_log_id"),
        Column("trans_at", TIME, "when EnableX wrote the record", "trans_date"),
        Column("is_sip", FLAG, "a SIP or telephone leg", "sip"),
        Column("room_id", TEXT, "room", "room.room_id"),
        Column("room_name", TEXT, "room's name at session time", "room.room_details.name"),
        Column("owner_ref", TEXT, "your tenant, as given to the room", "room.room_details.owner_ref"),
        Column("billing_code", TEXT, "your cost centre", "room.room_details.settings.billing_code"),
        Column("room_mode", TEXT, "group or lecture", "room.room_details.settings.mode"),
        Column("room_is_scheduled", FLAG, "a scheduled room", "room.room_details.settings.scheduled"),
        Column("room_is_adhoc", FLAG, "a room that is gone after use", "room.room_details.settings.adhoc"),
        Column(
            "room_auto_recording",
            FLAG,
            "recording starts automatically",
            "room.room_details.settings.auto_recording",
        ),
        Column("room_connected_at", TIME, "attached to the room", "room.connect_dt"),
        Column("room_disconnected_at", TIME, "left the room", "room.disconnect_dt"),
        Column("room_duration_s", REAL, "as EnableX states it, seconds", "room.duration"),
        Column("user_ref", TEXT, "your user id, from the token", "user.ref", "personal"),
        Column("user_name", TEXT, "display name", "user.name", "personal"),
        Column("user_role", TEXT, "moderator, participant, viewer, audience", "user.role"),
        Column("user_ip", TEXT, "address", "user.ip", "personal"),
        Column("user_agent", TEXT, "browser or device", "user.agent", "personal"),
        Column("signal_connected_at", TIME, "signalling began", "sigserver.connect_dt"),
        Column("signal_disconnected_at", TIME, "signalling ended", "sigserver.disconnect_dt"),
        Column("signal_duration_s", REAL, "as EnableX states it, seconds", "sigserver.duration"),
        Column("signal_hold_s", REAL, "waiting before admission, seconds", "sigserver.hold_duration"),
        Column("published_audio", FLAG, "sent sound", "published_track.audio"),
        Column("published_video", FLAG, "sent video", "published_track.video"),
        Column("published_data", FLAG, "sent data", "published_track.data"),
        Column("published_screen", FLAG, "shared a screen", "published_track.screen"),
        Column("published_url", FLAG, "played a URL", "published_track.url"),
        Column("subscribed_min", REAL, "minutes of streams received", "usage.subscribed_minutes"),
        Column("published_min", REAL, "minutes of streams sent", "usage.published_minutes"),
        Column("screen_min", REAL, "minutes of screen share", "usage.screen_minutes"),
        Column("connect_min", REAL, "connected, as EnableX states it", "usage.connect_minutes"),
        Column(
            "connect_min_looks_like_seconds",
            FLAG,
            "`connect_min` is over 1.5 times the stay and 2 more: seconds, most likely; it is not converted",
        ),
        Column("connect_billed_min", BILLED, "EnableX's own billed minutes", "usage.connect_minutes_cal"),
        Column("room_connect_min", REAL, "connected to the room", "usage.room_connect_minutes"),
        Column("participant_s", REAL, "exact seconds, from `signal_*` when both ends exist, else `room_*`"),
        Column("participant_min", BILLED, "whole minutes, rounded up per connection"),
        Column("price", MONEY, "charged for the connection; currency by account", "price.connect_duration"),
        Column("revision", COUNT, "1 for the first version seen"),
        Column("first_seen_at", TIME, "when the first version was collected"),
        Column("changed_at", TIME, "when this version was first collected"),
        Column("extra", TEXT, "every other field, and every value that fits no column, as JSON"),
    ),
)

_HISTORY = ("revision", "first_seen_at", "changed_at")
CDR_CONTENT = tuple(column for column in CDR.columns if column.name not in _HISTORY)
"""Columns that EnableX states for a connection; a change in any of these columns is a new version."""

CDR_CHANGES = TableSpec(
    "cdr_history",
    "one earlier version of a connection whose content changed",
    ("cdr_id", "revision"),
    "as in `cdr`, by this version's own times",
    (
        *CDR_CONTENT,
        Column("revision", COUNT, "1 for the first version seen"),
        Column("known_from", TIME, "when this version was first collected"),
        Column("known_to", TIME, "when the next version was first collected: from then on this one was history"),
    ),
)

CDR_QUALITY = TableSpec(
    "cdr_quality",
    "one direction and medium of one connection's transport quality, newest version",
    ("cdr_id", "direction", "medium"),
    "as in `cdr`",
    (
        Column("cdr_id", TEXT, "connection"),
        Column("conf_num", TEXT, "session"),
        Column("direction", TEXT, "send or receive", "stats_quality.*"),
        Column("medium", TEXT, "audio, video or sharing", "stats_quality.*.*"),
        Column("avg_bitrate_kbps", REAL, "average (unit inferred)", "….avg_bitrate"),
        Column("min_bitrate_kbps", REAL, "least (unit inferred)", "….min_bitrate"),
        Column("max_bitrate_kbps", REAL, "most (unit inferred)", "….max_bitrate"),
        Column("avg_bitrate_quality", TEXT, "EnableX's judgement: Good or Bad", "….avg_bitrate_quality"),
        Column("bitrate_good_percent", REAL, "share of time that was good, percent", "….bitrate_good_percent"),
        Column("extra", TEXT, "every other measure, as JSON"),
    ),
)

SESSIONS = TableSpec(
    "sessions",
    "one session: first in, last out, who, how long, what was recorded",
    ("conf_num",),
    "UTC date of the first connection; the whole session counts there, once",
    (
        Column("conf_num", TEXT, "session"),
        Column("room_id", TEXT, "room"),
        Column("room_name", TEXT, "room's name at session time"),
        Column("owner_ref", TEXT, "your tenant"),
        Column("billing_code", TEXT, "your cost centre"),
        Column("room_mode", TEXT, "group or lecture"),
        Column("room_is_scheduled", FLAG, "a scheduled room"),
        Column("room_is_adhoc", FLAG, "a room that is gone after use"),
        Column("first_connected_at", TIME, "first in"),
        Column("last_disconnected_at", TIME, "last out"),
        Column("duration_s", REAL, "first in to last out, seconds"),
        Column("connections", COUNT, "CDRs; a rejoin is a second one"),
        Column("unique_users", COUNT, "distinct `user_ref`, and every connection without one"),
        Column("sip_connections", COUNT, "SIP or telephone legs"),
        Column("participant_s", REAL, "sum over connections, seconds"),
        Column("participant_min", BILLED, "sum over connections of whole minutes"),
        Column("connect_billed_min", BILLED, "sum of EnableX's own billed minutes"),
        Column("published_min", REAL, "sum over connections"),
        Column("subscribed_min", REAL, "sum over connections"),
        Column("screen_min", REAL, "sum over connections"),
        Column("price", MONEY, "sum over connections"),
        Column("is_recorded", FLAG, "the archive lists a recording"),
        Column("is_transcoded", FLAG, "the archive lists transcoded video"),
        Column("recording_min", BILLED, "`participant_min` if recorded, else 0"),
        Column("transcoding_min", BILLED, "first in to last out in whole minutes if transcoded, else 0"),
        Column("media_files", COUNT, "files the archive lists"),
    ),
)

USAGE_DAILY = TableSpec(
    "usage_daily",
    "one project, day, room, owner, billing code",
    ("room_id", "owner_ref", "billing_code"),
    "connections: UTC date of `trans_date`; whole sessions: the day they began; media: the archive record's day",
    (
        Column("room_id", TEXT, "room"),
        Column("owner_ref", TEXT, "your tenant"),
        Column("billing_code", TEXT, "your cost centre"),
        Column("sessions", COUNT, "sessions that began this day"),
        Column("connections", COUNT, "CDRs"),
        Column("unique_users", COUNT, "distinct `user_ref`, and every connection without one"),
        Column("participant_s", REAL, "exact seconds"),
        Column("participant_min", BILLED, "whole minutes, rounded up per connection"),
        Column("connect_billed_min", BILLED, "EnableX's own billed minutes"),
        Column("published_min", REAL, "minutes of streams sent"),
        Column("subscribed_min", REAL, "minutes of streams received"),
        Column("screen_min", REAL, "minutes of screen share"),
        Column("sip_min", BILLED, "`participant_min` of SIP legs"),
        Column("recording_min", BILLED, "participants' minutes of recorded sessions that began this day"),
        Column("transcoding_min", BILLED, "length of transcoded sessions that began this day"),
        Column("media_files", COUNT, "files in the vault"),
        Column("media_bytes", COUNT, "their bytes"),
    ),
)

MEDIA = TableSpec(
    "media",
    "one file: where from, where to, in which state",
    ("conf_num", "kind", "name"),
    "UTC date of the archive record's `trans_date`",
    (
        Column("conf_num", TEXT, "session", "conf_num"),
        Column("room_id", TEXT, "room", "room_id"),
        Column("kind", TEXT, "recording, transcoded, chat, metadata, other-…"),
        Column("name", TEXT, "cleaned base name of the URL's path"),
        Column("url", TEXT, "where EnableX lists it, without query and user"),
        Column("first_listed_at", TIME, "first collected listing that names it"),
        Column("expires_at", TIME, "earliest moment at which EnableX may delete it"),
        Column("state", TEXT, "pending, stored, malformed (complete, but it cannot be opened), lost"),
        Column("key", TEXT, "object key in the vault"),
        Column("size_bytes", COUNT, "bytes stored"),
        Column("sha256", TEXT, "of the bytes stored, hex"),
        Column("crc64nvme", TEXT, "of the bytes stored, base64"),
        Column("verified_by", TEXT, "why the bytes stored are the ones that came: crc64nvme, md5, read-back, synced"),
        Column("etag", TEXT, "the file host's word at download"),
        Column("content_type", TEXT, "the file host's word at download"),
        Column("stored_at", TIME, "when its manifest was written"),
        Column("locked_until", TIME, "until when nobody can delete it"),
        Column("copied_from", TEXT, "object of EnableX's Recording Delivery that it was copied from, inside S3"),
        Column("version_count", COUNT, "how many different contents EnableX gave for it; all are kept"),
        Column("source_checked_at", TIME, "when the file host was last seen to have the same file still"),
        Column("deleted_at_source", TIME, "when the file host first said that it has no such file any more"),
        Column("lost_reason", TEXT, "what the server said, and when"),
        Column("duration_s", REAL, "from a media probe, seconds"),
        Column("container", TEXT, "from a media probe"),
        Column("video_codec", TEXT, "from a media probe"),
        Column("audio_codec", TEXT, "from a media probe"),
        Column("width_px", COUNT, "from a media probe"),
        Column("height_px", COUNT, "from a media probe"),
    ),
)

CHAT = TableSpec(
    "chat",
    "one chat message, read as well as possible; the file itself is in the vault",
    ("conf_num", "ordinal"),
    "as in `media`",
    (
        Column("conf_num", TEXT, "session"),
        Column("ordinal", COUNT, "place among the session's messages, from 0, in order of file name and place there"),
        Column("name", TEXT, "file, as in `media`"),
        Column("sent_at", TIME, "when it was sent", "timestamp"),
        Column("sender_name", TEXT, "display name", "sender", "personal"),
        Column("sender_ref", TEXT, "id of the sender", "senderId", "personal"),
        Column("message", TEXT, "what was written", "message", "personal"),
        Column("extra", TEXT, "every other field, as JSON"),
    ),
)

ROOMS = TableSpec(
    "rooms",
    "one room as last seen on a day",
    ("room_id",),
    "the day on which the rooms were listed; the newest day is how they are now",
    (
        Column("room_id", TEXT, "room", "room_id"),
        Column("app_id", TEXT, "EnableX project", "service_id"),
        Column("room_name", TEXT, "name", "name"),
        Column("owner_ref", TEXT, "your tenant", "owner_ref"),
        Column("billing_code", TEXT, "your cost centre", "settings.billing_code"),
        Column("description", TEXT, "free text", "settings.description"),
        Column("room_mode", TEXT, "group or lecture", "settings.mode"),
        Column("room_is_scheduled", FLAG, "a scheduled room", "settings.scheduled"),
        Column("room_is_adhoc", FLAG, "a room that is gone after use", "settings.adhoc"),
        Column("scheduled_at", TIME, "when it opens", "settings.scheduled_time"),
        Column("duration_min", REAL, "how long it is open, minutes", "settings.duration"),
        Column("moderators", REAL, "most moderators", "settings.moderators"),
        Column("participants", REAL, "most participants", "settings.participants"),
        Column("room_auto_recording", FLAG, "recording starts automatically", "settings.auto_recording"),
        Column("quality", TEXT, "HD, SD or LD", "settings.quality"),
        Column("media_zone", TEXT, "where media is processed", "settings.media_zone"),
        Column("is_sip_enabled", FLAG, "can be called by SIP or telephone", "sip.enabled"),
        Column("created_at", TIME, "when it was made", "created"),
        Column("seen_at", TIME, "the listing that this row is from"),
        Column("extra", TEXT, "every other field, as JSON; dial-in secrets and stream addresses left out"),
    ),
)

REJECTS = TableSpec(
    "rejects",
    "one document that could not become a row",
    ("source_key", "ordinal"),
    "the day that was asked for",
    (
        Column("source_key", TEXT, "key of the raw response (or chat file) in the vault"),
        Column("ordinal", COUNT, "position in the page, from 0"),
        Column("source", TEXT, "cdr, archive, rooms or chat"),
        Column("reason", TEXT, "what is wrong"),
        Column("path", TEXT, "dotted path inside the document"),
        Column("value", TEXT, "what stood there, at most 200 characters"),
    ),
)

AUDITS = TableSpec(
    "audits",
    "what one audit found of one object: each file that a manifest names, each session's newest manifest, each problem",
    ("audited_at", "key"),
    "UTC date of the audit",
    (
        Column("audited_at", TIME, "when the audit began"),
        Column("key", TEXT, "object key in the vault"),
        Column("media_day", pa.date32(), "the day under which file and manifest stand, as in `media`"),
        Column("conf_num", TEXT, "session"),
        Column("kind", TEXT, "as in `media`; manifest; audit for an earlier audit's record that was altered"),
        Column("name", TEXT, "as in `media`; of a manifest its number"),
        Column(
            "verdict",
            TEXT,
            "ok, missing, size_differs, checksum_differs (as the store states it), digest_differs (when re-read),"
            " unreadable, orphan (no manifest names it), manifest_broken",
        ),
        Column("compared_by", TEXT, "the store's word that was compared: crc64nvme, etag, or size alone"),
        Column("is_content_verified", FLAG, "read from beginning to end, and its SHA-256 compared"),
        Column("size_bytes", COUNT, "bytes there"),
        Column("expected_size_bytes", COUNT, "bytes, according to the manifest"),
        Column("sha256", TEXT, "of the bytes there, hex; of a file only when it was re-read"),
        Column("expected_sha256", TEXT, "according to the manifest; of a manifest, as an earlier audit read it"),
        Column("detail", TEXT, "what is wrong"),
    ),
)

TABLES: dict[str, TableSpec] = {
    spec.name: spec
    for spec in (CDR, CDR_CHANGES, CDR_QUALITY, SESSIONS, USAGE_DAILY, MEDIA, CHAT, ROOMS, REJECTS, AUDITS)
}

PERSONAL_COLUMNS = tuple(
    dict.fromkeys(column.name for spec in TABLES.values() for column in spec.columns if column.privacy == "personal")
)


def document_tables() -> str:
    """`docs/reference/tables.md`: every table and column as Markdown."""
    lines = [
        "# Tables",
        "",
        "Written by `python -m pipeline.tables.schemas > docs/reference/tables.md`; do not edit.",
        "Every table has two more columns from its path: `project` (text) and `day` (date, UTC).",
    ]
    for spec in TABLES.values():
        lines += ["", f"## `{spec.name}`", "", f"One row is {spec.row_is}. Key: `{'`, `'.join(spec.key)}`."]
        lines += [
            f"Day: {spec.day_is}.",
            "",
            "| column | type | meaning | from | privacy |",
            "|---|---|---|---|---|",
        ]
        for column in spec.columns:
            source = f"`{column.path}`" if column.path else ""
            lines.append(f"| `{column.name}` | {column.type} | {column.about} | {source} | {column.privacy} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(document_tables(), end="")
