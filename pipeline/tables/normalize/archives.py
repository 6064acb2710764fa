"""Turn archive documents into listed files (pure).

Source: enablex-api.md section 5. Every payload key may be missing, null, empty, a URL, an object with `url`, or a
list of either (11.10); unknown keys with URLs are files of kind `other-<key>`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time
from itertools import count
from typing import Any

from pipeline.core.errors import RecordError
from pipeline.core.models import ListedFile, RawResponse
from pipeline.enablex.lenient import REPAIRED
from pipeline.storage import keys
from pipeline.tables.normalize import values

_KINDS = {"recording": "recording", "transcoded": "transcoded", "chatdata": "chat", "metadata": "metadata"}
_NOT_FILES = {"_id", "trans_date", "conf_num", "app_id", "room_id", REPAIRED}


@dataclass(frozen=True)
class ArchiveRecord:
    """One archive document of one response."""

    conf_num: str
    room_id: str
    ended_at: datetime
    urls: tuple[tuple[str, str], ...]
    """(kind, url) in the order listed."""


def archive_record(document: Any, response: RawResponse) -> ArchiveRecord:
    """Read one archive document; a record without a readable `trans_date` is dated to the requested day.

    Raises:
        RecordError: not an object, or no `conf_num`.
    """
    if not isinstance(document, dict):
        raise RecordError("not an object", value=document)
    conf_num = _lenient(values.text, document.get("conf_num"))
    if conf_num is None:
        raise RecordError("missing or unreadable", path="conf_num", value=document.get("conf_num"))
    ended_at = _lenient(values.timestamp, document.get("trans_date")) or noon(response.day)
    return ArchiveRecord(
        conf_num=conf_num,
        room_id=_lenient(values.text, document.get("room_id")) or "",
        ended_at=ended_at,
        urls=tuple(
            (_KINDS.get(key, f"other-{keys.clean_name(key)}"), url)
            for key, value in document.items()
            if key not in _NOT_FILES
            for url in _urls(value)
            if key in _KINDS or url.lower().startswith(("http://", "https://"))
        ),
    )


def noon(day: date) -> datetime:
    """12:00 UTC, in place of a missing time."""
    return datetime.combine(day, time(12), UTC)


def listed_files(readings: Iterable[tuple[RawResponse, ArchiveRecord]]) -> list[ListedFile]:
    """All files ever listed, each once, sorted by identity.

    Identity is (conf_num, kind, name), because URLs change between listings. A second file with the same base name in
    one record gets a numbered name by its position. `day`, `ended_at` and `first_listed_at` are those of the first
    listing of the file, `url` is that of the last.
    """
    files: dict[tuple[str, str, str], ListedFile] = {}
    last: dict[str, ArchiveRecord] = {}
    for response, record in sorted(readings, key=lambda reading: (reading[0].asked_at, reading[0].response_id)):
        if record == last.get(record.conf_num):
            continue  # most records: every response lists all sessions of a day again
        last[record.conf_num] = record
        for kind, name, url in _named(record.urls):
            earlier = files.get((record.conf_num, kind, name))
            files[record.conf_num, kind, name] = (
                replace(earlier, url=url)
                if earlier
                else ListedFile(
                    project=response.project,
                    day=record.ended_at.date(),
                    conf_num=record.conf_num,
                    room_id=record.room_id,
                    kind=kind,
                    name=name,
                    url=url,
                    ended_at=record.ended_at,
                    first_listed_at=response.asked_at,
                )
            )
    return [files[identity] for identity in sorted(files)]


def _named(urls: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str, str]]:
    used: set[tuple[str, str]] = set()
    for kind, url in dict.fromkeys(urls):
        plain = keys.name_from_url(url)
        names = (keys.numbered_name(plain, number) for number in count(1))
        name = next(name for name in names if (kind, name) not in used)
        used.add((kind, name))
        yield kind, name, url


def _urls(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for item in value:
            yield from _urls(item)
    elif isinstance(value, dict):
        yield from _urls(value.get("url"))
    elif isinstance(value, str) and value.strip():
        yield value.strip()


def _lenient(read: Any, value: Any) -> Any:
    try:
        return read(value)
    except ValueError:
        return None
