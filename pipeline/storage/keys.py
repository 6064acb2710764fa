"""Build and parse all object keys; no other module does (pure).

Names from EnableX (room ids, conf_nums, file names) are untrusted and pass through `clean_name`. Inverse functions have
inverse names; property tests check the pairs.
"""

from __future__ import annotations

import re
import unicodedata
from datetime import UTC, date, datetime
from pathlib import PurePosixPath
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from pipeline.core.models import Period

MAX_NAME_BYTES = 200
"""Object stores allow 1024 bytes per key, file systems 255 per name; the rest is reserved for a numbered suffix."""

BODY_SUFFIX = ".json.zst"
RECEIPT_SUFFIX = ".receipt.json"
PART_SUFFIX = ".part.json"
"""Receipt of a part of a day: its raw response is used, but the day is not collected by it."""

UNREADABLE_SUFFIX = ".unreadable.zst"
"""Body of an unparsable response, stored as evidence. It is no raw response, so `parse_raw_key` returns None."""

_RESPONSE_ID = re.compile(r"(\d{8}T\d{6}\.\d{3}Z)-([0-9a-f]{8})", re.A)
_RAW = re.compile(
    r"raw/source=([^/]+)/project=([^/]+)/day=(\d{4}-\d\d-\d\d)/([^/]+?)(\.json\.zst|\.receipt\.json|\.part\.json)", re.A
)
_MANIFEST = re.compile(r"manifests/project=([^/]+)/day=(\d{4}-\d\d-\d\d)/([^/]+)/(\d{4}|[1-9]\d{4,})\.json", re.A)
_MEDIA = re.compile(r"media/project=([^/]+)/day=(\d{4}-\d\d-\d\d)/([^/]+)/([^/]+)/([^/]+)/([^/]+)", re.A)
_AUDIT = re.compile(r"audits/project=([^/]+)/day=(\d{4}-\d\d-\d\d)/([^/]+)\.parquet", re.A)
_MEDIA_DAY = re.compile(r"(?:media|manifests)/project=[^/]+/day=(\d{4}-\d\d-\d\d)/", re.A)
_BILLING = re.compile(
    r"reports/billing/(?:project=([^/]+)/)?month=(\d{4}-\d\d)/revision=(\d{4}|[1-9]\d{4,})/([^/=]+\.[a-z]+)", re.A
)
_TABLE = re.compile(r"tables/([^/]+)/project=([^/]+)/day=(\d{4}-\d\d-\d\d)/part-0\.parquet", re.A)


class RawName(NamedTuple):
    """Parsed key of a landed body or receipt."""

    source: str
    project: str
    day: date
    response_id: str
    suffix: str


class ManifestName(NamedTuple):
    """Parsed key of a manifest."""

    project: str
    day: date
    conf_num: str
    revision: int


class MediaName(NamedTuple):
    """Parsed key of a media file."""

    project: str
    day: date
    room_id: str
    conf_num: str
    kind: str
    name: str


class AuditName(NamedTuple):
    """Parsed key of an audit record; `day` is the UTC date of the audit."""

    project: str
    day: date
    audit_id: str


class BillingName(NamedTuple):
    """Parsed key of a file of a billing export; `month` is its first day, `project` is empty for all projects."""

    project: str
    month: date
    revision: int
    name: str


class TableName(NamedTuple):
    """Parsed key of a partition."""

    table: str
    project: str
    day: date


def raw_prefix(source: str, project: str, day: date | None = None) -> str:
    prefix = f"raw/source={source}/project={project}/"
    return f"{prefix}day={day}/" if day else prefix


def raw_prefixes(source: str, project: str, period: Period) -> list[str]:
    """Prefixes to list for the raw responses of a period: one per 10 days, because most days have few objects.

    They can include other days.
    """
    return list(dict.fromkeys(f"{raw_prefix(source, project)}day={day}"[:-1] for day in period))


def make_response_id(asked_at: datetime, digest: str) -> str:
    """Id of a raw response or an audit: its time (UTC, milliseconds) and the first 8 hex digits of `digest`."""
    moment = asked_at.astimezone(UTC)
    return f"{moment:%Y%m%dT%H%M%S}.{moment.microsecond // 1000:03d}Z-{digest[:8]}"


def asked_at_of_response(response_id: str) -> datetime:
    match = _RESPONSE_ID.fullmatch(response_id)
    if match is None:
        raise ValueError(f"not a response id: {response_id}")
    return datetime.fromisoformat(match[1])  # 20 times as fast as strptime


def raw_key(source: str, project: str, day: date, response_id: str, suffix: str) -> str:
    return f"{raw_prefix(source, project, day)}{response_id}{suffix}"


def parse_raw_key(key: str) -> RawName | None:
    """None for other keys: a foreign object in the vault is ignored, not an error."""
    match = _RAW.fullmatch(key)
    try:
        if match is None or not asked_at_of_response(match[4]):
            return None
        return RawName(match[1], match[2], date.fromisoformat(match[3]), match[4], match[5])
    except ValueError:  # the pattern matches, but the date or time does not exist
        return None


def media_prefix(project: str, day: date | None = None) -> str:
    prefix = f"media/project={project}/"
    return f"{prefix}day={day}/" if day else prefix


def media_key(project: str, day: date, room_id: str, conf_num: str, kind: str, name: str) -> str:
    session = f"{clean_name(room_id or 'no-room')}/{clean_name(conf_num)}"
    return f"{media_prefix(project, day)}{session}/{clean_name(kind)}/{clean_name(name)}"


def parse_media_key(key: str) -> MediaName | None:
    """None for other keys, and if a name is not clean: `media_key` never builds such a key."""
    match = _MEDIA.fullmatch(key)
    try:
        name = MediaName(match[1], date.fromisoformat(match[2]), *match.group(3, 4, 5, 6)) if match else None
    except ValueError:
        return None
    return name if name and all(clean_name(part) == part for part in name[2:]) else None


def media_day(key: str) -> date | None:
    """The day in a key of media or manifests, also if the rest of the key is foreign."""
    match = _MEDIA_DAY.match(key)
    try:
        return date.fromisoformat(match[1]) if match else None
    except ValueError:
        return None


def manifest_prefix(project: str, day: date | None = None, conf_num: str = "") -> str:
    prefix = f"manifests/project={project}/"
    prefix += f"day={day}/" if day else ""
    return f"{prefix}{clean_name(conf_num)}/" if conf_num else prefix


def manifest_key(project: str, day: date, conf_num: str, revision: int) -> str:
    return f"{manifest_prefix(project, day, conf_num)}{revision:04d}.json"


def parse_manifest_key(key: str) -> ManifestName | None:
    match = _MANIFEST.fullmatch(key)
    try:
        return ManifestName(match[1], date.fromisoformat(match[2]), match[3], int(match[4])) if match else None
    except ValueError:
        return None


def audit_prefix(project: str, day: date | None = None) -> str:
    prefix = f"audits/project={project}/"
    return f"{prefix}day={day}/" if day else prefix


def audit_key(project: str, day: date, audit_id: str) -> str:
    return f"{audit_prefix(project, day)}{audit_id}.parquet"


def parse_audit_key(key: str) -> AuditName | None:
    match = _AUDIT.fullmatch(key)
    try:
        if match is None or not asked_at_of_response(match[3]):
            return None
        return AuditName(match[1], date.fromisoformat(match[2]), match[3])
    except ValueError:
        return None


def table_prefix(table: str, project: str = "") -> str:
    return f"tables/{table}/project={project}/" if project else f"tables/{table}/"


def table_key(table: str, project: str, day: date) -> str:
    return f"{table_prefix(table, project)}day={day}/part-0.parquet"


def parse_table_key(key: str) -> TableName | None:
    match = _TABLE.fullmatch(key)
    try:
        return TableName(match[1], match[2], date.fromisoformat(match[3])) if match else None
    except ValueError:
        return None


def build_record_key(project: str, day: date) -> str:
    """Key of the build record of a day."""
    return f"builds/project={project}/day={day}.json"


def day_index_key(project: str, month: date) -> str:
    """Key of the index of the ids of table `cdr` of a month, given by its first day."""
    return f"index/cdr/project={project}/month={month:%Y-%m}.bin"


def moved_days_key(project: str) -> str:
    """Key of the days of records that EnableX moved between days."""
    return f"index/cdr/project={project}/moved.json"


def decision_prefix(project: str) -> str:
    """Prefix of the decisions on records in suspense."""
    return f"decisions/suspense/project={project}/"


def decision_key(project: str, decision_id: str) -> str:
    return f"{decision_prefix(project)}{decision_id}.json"


def billing_prefix(month: date, project: str = "") -> str:
    """Prefix of the exports of a month: of all projects, or of one project with its own revision numbers."""
    return f"reports/billing/{f'project={project}/' if project else ''}month={month:%Y-%m}/"


def billing_key(month: date, revision: int, name: str, project: str = "") -> str:
    return f"{billing_prefix(month, project)}revision={revision:04d}/{name}"


def parse_billing_key(key: str) -> BillingName | None:
    match = _BILLING.fullmatch(key)
    try:
        month = date.fromisoformat(f"{match[2]}-01") if match else None
    except ValueError:
        return None
    return BillingName(match[1] or "", month, int(match[3]), match[4]) if match and month else None


def name_from_url(url: str) -> str:
    """The cleaned base name of the path of a URL; `file` if the path has none."""
    try:
        path = urlsplit(url).path
    except ValueError:  # invalid host; the path is still usable
        path = re.split(r"[?#]", url, maxsplit=1)[0]
    return clean_name(unquote(PurePosixPath(path).name) or "file")


def clean_name(text: str) -> str:
    """Convert untrusted text into one safe path segment; clean names are unchanged.

    The result has no separators, no control or format characters, no leading or trailing dots and blanks (so it is
    never `.` or `..`), and at most `MAX_NAME_BYTES` of UTF-8; the extension is kept. Characters with a meaning in Hive
    paths or shell globs are replaced.
    """
    text = unicodedata.normalize("NFC", text)
    text = "".join("_" if _is_unsafe(character) else character for character in text).strip(". ")
    stem, dot, extension = text.rpartition(".")
    if not dot or len(extension) > 16:
        stem, dot, extension = text, "", ""
    max_stem_bytes = MAX_NAME_BYTES - len(f"{dot}{extension}".encode())
    stem = stem.encode()[:max_stem_bytes].decode(errors="ignore").strip(". ")
    name = f"{stem}{dot}{extension}" if stem else (extension or "_")
    return name if name == text else clean_name(name)  # truncation can create a new ending


def numbered_name(name: str, number: int) -> str:
    """The name with `-2`, `-3`, … before its extension; 1 returns the name unchanged."""
    if number == 1:
        return name
    stem, dot, extension = name.rpartition(".")
    return f"{stem}-{number}.{extension}" if dot and stem else f"{name}-{number}"


def _is_unsafe(character: str) -> bool:
    return character in '/\\:*?"<>|=%#' or unicodedata.category(character) in {
        "Cc",
        "Cf",
        "Cs",
        "Co",
        "Cn",
        "Zl",
        "Zp",
    }
