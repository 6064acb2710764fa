"""Schemas of all tables: type, meaning, source and privacy of each column.

`python -m tests.support.reference_pages` writes docs/reference/tables.md from it; a test compares the page.
Types are never inferred from data. Flags are booleans, times are UTC milliseconds, measured seconds and minutes are
float64, billed values are decimal. `project` and `day` are partition columns: in the path, not in the file.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from pipeline.core.arrow_types import BILLED, COUNT, FLAG, MONEY, REAL, TEXT, TIME

TABLES_VERSION = 5
"""Part of the inputs digest of every day. Raise it when a column changes its meaning; then all days are built again."""

Privacy = Literal["", "personal"]


@dataclass(frozen=True)
class Column:
    """One column. `path` is its path in the EnableX document, if it is taken from there with the same meaning."""

    name: str
    type: pa.DataType
    about: str
    path: str = ""
    privacy: Privacy = ""


@dataclass(frozen=True)
class TableSpec:
    """One table: what a row is, its key (rows are sorted by it), and how its `day` is determined."""

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
        Column("cdr_id_is_derived", FLAG, "the key was derived from the identifying fields"),
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
        Column("room_is_adhoc", FLAG, "a room that is deleted after use", "room.room_details.settings.adhoc"),
        Column(
            "room_auto_recording",
            FLAG,
            "recording starts automatically",
            "room.room_details.settings.auto_recording",
        ),
        Column("room_connected_at", TIME, "attached to the room", "room.connect_dt"),
        Column("room_disconnected_at", TIME, "left the room", "room.disconnect_dt"),
        Column("room_duration_s", REAL, "as EnableX reports it, seconds", "room.duration"),
        Column("user_ref", TEXT, "your user id, from the token", "user.ref", "personal"),
        Column("user_name", TEXT, "display name", "user.name", "personal"),
        Column("user_role", TEXT, "moderator, participant, viewer, audience", "user.role"),
        Column("user_ip", TEXT, "address", "user.ip", "personal"),
        Column("user_agent", TEXT, "browser or device", "user.agent", "personal"),
        Column("signal_connected_at", TIME, "signalling started", "sigserver.connect_dt"),
        Column("signal_disconnected_at", TIME, "signalling ended", "sigserver.disconnect_dt"),
        Column("signal_duration_s", REAL, "as EnableX reports it, seconds", "sigserver.duration"),
        Column("signal_hold_s", REAL, "waiting before admission, seconds", "sigserver.hold_duration"),
        Column("published_audio", FLAG, "sent sound", "published_track.audio"),
        Column("published_video", FLAG, "sent video", "published_track.video"),
        Column("published_data", FLAG, "sent data", "published_track.data"),
        Column("published_screen", FLAG, "shared a screen", "published_track.screen"),
        Column("published_url", FLAG, "played a URL", "published_track.url"),
        Column("subscribed_min", REAL, "minutes of streams received", "usage.subscribed_minutes"),
        Column("published_min", REAL, "minutes of streams sent", "usage.published_minutes"),
        Column("screen_min", REAL, "minutes of screen share", "usage.screen_minutes"),
        Column("connect_min", REAL, "minutes connected, as EnableX reports them", "usage.connect_minutes"),
        Column(
            "connect_min_looks_like_seconds",
            FLAG,
            "`connect_min` exceeds 1.5 times the stay plus 2 minutes: probably seconds; it is not converted",
        ),
        Column("connect_billed_min", BILLED, "EnableX's own billed minutes", "usage.connect_minutes_cal"),
        Column("room_connect_min", REAL, "connected to the room", "usage.room_connect_minutes"),
        Column("began_at", TIME, "when the connection began, as `participant_s` counts it; never null"),
        Column("participant_s", REAL, "exact seconds; null if unknown or held (`suspense`)"),
        Column(
            "participant_s_from",
            TEXT,
            "where the stay is from, also of a held one: `signal` or `room` times; where they are missing,"
            " `signal_duration`, `room_duration` or `connect_billed_min`",
        ),
        Column("participant_min", BILLED, "whole minutes, rounded up per connection"),
        Column("is_system", FLAG, "nothing published and a headless browser: a recorder or streaming view of EnableX"),
        Column("suspense", TEXT, "why the record is in doubt (table `suspense`); reasons are separated by `, `"),
        Column("price", MONEY, "charged for the connection; currency by account", "price.connect_duration"),
        Column("revision", COUNT, "1 for the first version seen"),
        Column("first_seen_at", TIME, "when the first version was collected"),
        Column("changed_at", TIME, "when this version was first collected"),
        Column(
            "last_seen_at",
            TIME,
            "when a response last contained the record; null while it is listed",
        ),
        Column("is_listed", FLAG, "the newest response for its requested day contains the record"),
        Column("extra", TEXT, "all other fields, and values that fit no column, as JSON"),
    ),
)

_HISTORY = ("revision", "first_seen_at", "changed_at", "last_seen_at", "is_listed")
RATED = (
    "connect_min_looks_like_seconds", "began_at", "participant_s", "participant_s_from", "participant_min",
    "is_system", "suspense",
)  # fmt: skip
"""Columns of `cdr` that follow from the others, the settings and decisions (normalize/ratings.py)."""

_VERSIONED = tuple(column for column in CDR.columns if column.name not in _HISTORY)
CDR_CONTENT = tuple(column for column in _VERSIONED if column.name not in RATED)
"""Columns with what EnableX reports of a connection; a change in any of them is a new version."""

CDR_CHANGES = TableSpec(
    "cdr_history",
    "one earlier version of a connection whose content changed",
    ("cdr_id", "revision"),
    "as in `cdr`, by this version's own times",
    (
        *_VERSIONED,
        Column("revision", COUNT, "1 for the first version seen"),
        Column("known_from", TIME, "when this version was first collected"),
        Column("known_to", TIME, "when the next version was first collected"),
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
        Column("min_bitrate_kbps", REAL, "minimum (unit inferred)", "….min_bitrate"),
        Column("max_bitrate_kbps", REAL, "maximum (unit inferred)", "….max_bitrate"),
        Column("avg_bitrate_quality", TEXT, "EnableX's rating: Good or Bad", "….avg_bitrate_quality"),
        Column("bitrate_good_percent", REAL, "share of time that was good, percent", "….bitrate_good_percent"),
        Column("extra", TEXT, "all other measures, as JSON"),
    ),
)

SESSIONS = TableSpec(
    "sessions",
    "one session: start, end, participants, duration, recordings. Connections of one `conf_num` with starts at most 24"
    " hours apart are one session; if its first and last start are further apart, one per UTC day",
    ("conf_num",),
    "UTC date of the first connection; the whole session counts on that day",
    (
        Column("conf_num", TEXT, "session"),
        Column("room_id", TEXT, "room"),
        Column("room_name", TEXT, "room's name at session time"),
        Column("owner_ref", TEXT, "your tenant"),
        Column("billing_code", TEXT, "your cost centre"),
        Column("room_mode", TEXT, "group or lecture"),
        Column("room_is_scheduled", FLAG, "a scheduled room"),
        Column("room_is_adhoc", FLAG, "a room that is deleted after use"),
        Column("first_connected_at", TIME, "start of the first connection"),
        Column("last_disconnected_at", TIME, "end of the last connection"),
        Column("duration_s", REAL, "first start to last end, seconds"),
        Column("connections", COUNT, "CDRs; a rejoin is another one"),
        Column("unique_users", COUNT, "distinct `user_ref`, and every connection without one"),
        Column("sip_connections", COUNT, "SIP or telephone legs"),
        Column("suspense", COUNT, "connections in suspense without a decision"),
        Column("participant_s", REAL, "sum over connections, seconds"),
        Column("participant_min", BILLED, "sum over connections of whole minutes"),
        Column("connect_billed_min", BILLED, "sum of EnableX's own billed minutes"),
        Column("published_min", REAL, "sum over connections"),
        Column("subscribed_min", REAL, "sum over connections"),
        Column("screen_min", REAL, "sum over connections"),
        Column("price", MONEY, "sum over connections"),
        Column("is_recorded", FLAG, "the archive lists a recording of it"),
        Column("is_transcoded", FLAG, "the archive lists transcoded video of it"),
        Column("recording_min", BILLED, "`participant_min` if recorded, else 0"),
        Column("transcoding_min", BILLED, "first in to last out in whole minutes if transcoded, else 0"),
        Column("media_files", COUNT, "files the archive lists for it; each file belongs to one session"),
    ),
)

USAGE_DAILY = TableSpec(
    "usage_daily",
    "one project, day, room, owner, billing code",
    ("room_id", "owner_ref", "billing_code"),
    "connections: UTC date of `trans_date`; whole sessions: the day they started; media: the day of the archive record",
    (
        Column("room_id", TEXT, "room"),
        Column("owner_ref", TEXT, "your tenant"),
        Column("billing_code", TEXT, "your cost centre"),
        Column("sessions", COUNT, "sessions that started this day"),
        Column("connections", COUNT, "CDRs"),
        Column("suspense", COUNT, "connections in suspense without a decision"),
        Column("unique_users", COUNT, "distinct `user_ref`, and every connection without one"),
        Column("participant_s", REAL, "exact seconds"),
        Column("participant_min", BILLED, "whole minutes, rounded up per connection"),
        Column("connect_billed_min", BILLED, "EnableX's own billed minutes"),
        Column("published_min", REAL, "minutes of streams sent"),
        Column("subscribed_min", REAL, "minutes of streams received"),
        Column("screen_min", REAL, "minutes of screen share"),
        Column("sip_min", BILLED, "`participant_min` of SIP legs"),
        Column("recording_min", BILLED, "participant minutes of recorded sessions that started this day"),
        Column("transcoding_min", BILLED, "duration of transcoded sessions that started this day"),
        Column("media_files", COUNT, "files in the vault"),
        Column("media_bytes", COUNT, "bytes of these files"),
    ),
)

MEDIA = TableSpec(
    "media",
    "one file: source, object in the vault, state",
    ("conf_num", "kind", "name"),
    "UTC date of `trans_date` in the archive record",
    (
        Column("conf_num", TEXT, "session", "conf_num"),
        Column("room_id", TEXT, "room", "room_id"),
        Column("kind", TEXT, "recording, transcoded, chat, metadata, other-…"),
        Column("name", TEXT, "cleaned base name of the URL path"),
        Column("url", TEXT, "URL in the archive listing, without query and user"),
        Column("session_began_at", TIME, "`first_connected_at` of the session it belongs to, if there is one"),
        Column("first_listed_at", TIME, "first collected listing that names it"),
        Column("expires_at", TIME, "earliest time at which EnableX may delete it"),
        Column("state", TEXT, "pending, stored, malformed (complete, but it cannot be opened), lost"),
        Column("key", TEXT, "object key in the vault"),
        Column("size_bytes", COUNT, "bytes stored"),
        Column("sha256", TEXT, "of the bytes stored, hex"),
        Column("crc64nvme", TEXT, "of the bytes stored, base64"),
        Column("verified_by", TEXT, "how the stored bytes were verified: crc64nvme, md5, read-back, synced"),
        Column("etag", TEXT, "sent by the file host at download"),
        Column("content_type", TEXT, "sent by the file host at download"),
        Column("stored_at", TIME, "when its manifest was written"),
        Column("locked_until", TIME, "end of the Object Lock retention"),
        Column("copied_from", TEXT, "object of EnableX Recording Delivery from which it was copied inside S3"),
        Column("version_count", COUNT, "number of different contents received for it; all are kept"),
        Column("source_checked_at", TIME, "when the file host last had the same file"),
        Column("deleted_at_source", TIME, "when the file host first reported it missing"),
        Column("lost_reason", TEXT, "response of the server, with time"),
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
    "one chat message, parsed on a best-effort basis; the file itself is in the vault",
    ("conf_num", "ordinal"),
    "as in `media`",
    (
        Column("conf_num", TEXT, "session"),
        Column("ordinal", COUNT, "position in the session, from 0, sorted by file name and position in the file"),
        Column("name", TEXT, "file, as in `media`"),
        Column("sent_at", TIME, "when it was sent", "timestamp"),
        Column("sender_name", TEXT, "display name", "sender", "personal"),
        Column("sender_ref", TEXT, "id of the sender", "senderId", "personal"),
        Column("message", TEXT, "text of the message", "message", "personal"),
        Column("extra", TEXT, "all other fields, as JSON"),
    ),
)

ROOMS = TableSpec(
    "rooms",
    "one room as last seen on a day",
    ("room_id",),
    "the day of the room listing; the newest day is the current state",
    (
        Column("room_id", TEXT, "room", "room_id"),
        Column("app_id", TEXT, "EnableX project", "service_id"),
        Column("room_name", TEXT, "name", "name"),
        Column("owner_ref", TEXT, "your tenant", "owner_ref"),
        Column("billing_code", TEXT, "your cost centre", "settings.billing_code"),
        Column("description", TEXT, "free text", "settings.description"),
        Column("room_mode", TEXT, "group or lecture", "settings.mode"),
        Column("room_is_scheduled", FLAG, "a scheduled room", "settings.scheduled"),
        Column("room_is_adhoc", FLAG, "a room that is deleted after use", "settings.adhoc"),
        Column("scheduled_at", TIME, "when it opens", "settings.scheduled_time"),
        Column("duration_min", REAL, "scheduled duration, minutes", "settings.duration"),
        Column("moderators", REAL, "maximum number of moderators", "settings.moderators"),
        Column("participants", REAL, "maximum number of participants", "settings.participants"),
        Column("room_auto_recording", FLAG, "recording starts automatically", "settings.auto_recording"),
        Column("quality", TEXT, "HD, SD or LD", "settings.quality"),
        Column("media_zone", TEXT, "where media is processed", "settings.media_zone"),
        Column("is_sip_enabled", FLAG, "can be called by SIP or telephone", "sip.enabled"),
        Column("created_at", TIME, "when it was created", "created"),
        Column("seen_at", TIME, "time of the listing of this row"),
        Column("extra", TEXT, "all other fields, as JSON; without dial-in secrets and stream addresses"),
    ),
)

REJECTS = TableSpec(
    "rejects",
    "one document that could not become a row",
    ("source_key", "ordinal"),
    "the requested day",
    (
        Column("source_key", TEXT, "key of the raw response (or chat file) in the vault"),
        Column("ordinal", COUNT, "position in the response, from 0"),
        Column("source", TEXT, "cdr, archive, rooms or chat"),
        Column("reason", TEXT, "what is wrong"),
        Column("path", TEXT, "dotted path inside the document"),
        Column("value", TEXT, "value at `path`, at most 200 characters"),
    ),
)

SUSPENSE = TableSpec(
    "suspense",
    "one CDR that was read but cannot be believed or rated, or a document that could not be read; with its decision",
    ("suspense_id",),
    "as in `cdr`; of a document that could not be read, the requested day (of consecutive ones the first that has it)",
    (
        Column("suspense_id", TEXT, "`cdr_id`; for a reject `reject-` and 24 hex digits of the document's SHA-256"),
        Column("conf_num", TEXT, "session"),
        Column("room_id", TEXT, "room"),
        Column("owner_ref", TEXT, "your tenant"),
        Column("billing_code", TEXT, "your cost centre"),
        Column(
            "reasons",
            TEXT,
            "separated by `, `: stay_too_long, stay_contradicts, stay_unknown, times_missing, vendor_minutes,"
            " same_id_twice, not_listed, rejected",
        ),
        Column("detail", TEXT, "what was found; for a reject its reason"),
        Column("is_held", FLAG, "its minutes are in no sum and on no bill until it is released"),
        Column("at_stake_min", BILLED, "whole minutes that the record would bill; null if unknown"),
        Column("began_at", TIME, "as in `cdr`; null for a reject"),
        Column("source_key", TEXT, "key in the vault of the newest response that contains it"),
        Column("ordinal", COUNT, "position in that response, from 0"),
        Column("decision", TEXT, "open, released or excluded"),
        Column("decided_at", TIME, "when it was decided"),
        Column("decided_because", TEXT, "the reason given for the decision"),
    ),
)

DRIFT = TableSpec(
    "drift",
    "one undocumented field in the newest response for a day; its values are in `extra`",
    ("source", "path"),
    "the requested day",
    (
        Column("source", TEXT, "cdr"),
        Column("path", TEXT, "dotted path inside the document"),
        Column("documents", COUNT, "documents with the field"),
        Column("documents_total", COUNT, "documents of the response"),
        Column("share", REAL, "`documents` / `documents_total`"),
        Column(
            "example",
            TEXT,
            "first value, at most 80 characters; of an object or list its kind; null if empty, in `user`, or a secret",
        ),
    ),
)

AUDITS = TableSpec(
    "audits",
    "the result of one audit for one object: every manifested file, every newest manifest, every problem",
    ("audited_at", "key"),
    "UTC date of the audit",
    (
        Column("audited_at", TIME, "when the audit started"),
        Column("key", TEXT, "object key in the vault"),
        Column("media_day", pa.date32(), "the day of file and manifest, as in `media`"),
        Column("conf_num", TEXT, "session"),
        Column("kind", TEXT, "as in `media`; manifest; audit for an altered record of an earlier audit"),
        Column("name", TEXT, "as in `media`; for a manifest its number"),
        Column(
            "verdict",
            TEXT,
            "ok, missing, size_differs, checksum_differs (reported by the store), digest_differs (when read again),"
            " unreadable, orphan (no manifest names it), manifest_broken",
        ),
        Column("compared_by", TEXT, "attribute of the store that was compared: crc64nvme, etag, or only the size"),
        Column("is_content_verified", FLAG, "read completely, and its SHA-256 compared"),
        Column("size_bytes", COUNT, "size of the object, bytes"),
        Column("expected_size_bytes", COUNT, "size in the manifest, bytes"),
        Column("sha256", TEXT, "of the object, hex; of a file only if it was read again"),
        Column("expected_sha256", TEXT, "in the manifest; for a manifest, in an earlier audit record"),
        Column("detail", TEXT, "what is wrong"),
    ),
)

_SPECS = (
    CDR, CDR_CHANGES, CDR_QUALITY, SESSIONS, USAGE_DAILY, MEDIA, CHAT, ROOMS, REJECTS, SUSPENSE, DRIFT, AUDITS,
)  # fmt: skip
TABLES: dict[str, TableSpec] = {spec.name: spec for spec in _SPECS}

PERSONAL_COLUMNS = tuple(
    dict.fromkeys(column.name for spec in TABLES.values() for column in spec.columns if column.privacy == "personal")
)


def document_tables() -> str:
    """The content of `docs/reference/tables.md`: every table and column as Markdown."""
    lines = [
        "# Tables",
        "",
        "Written by `python -m tests.support.reference_pages`; do not edit.",
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
