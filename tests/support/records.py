"""Small records for tests."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any

from hypothesis import strategies as st

from pipeline.core.models import ListedFile, utc_text
from pipeline.core.urls import public_url
from pipeline.storage.manifests import Entry

DAY = date(2026, 11, 22)
ENDED_AT = datetime(2026, 11, 22, 14, 33, 5, 120_000, UTC)


# Hypothesis requires limits without a time zone
LOCAL_TIMES = st.datetimes(datetime(1970, 1, 1), datetime(2099, 12, 31))  # noqa: DTZ001


def listed_file(**changes: object) -> ListedFile:
    """A recording of one session, with some fields changed."""
    fields = {
        "project": "acme",
        "day": DAY,
        "conf_num": "284170002063",
        "room_id": "65ec60000c3a9e0012ab0001",
        "kind": "recording",
        "name": "a1.mkv",
        "url": "https://portal.enablex.io/path/a1.mkv",
        "ended_at": ENDED_AT,
        "first_listed_at": datetime(2026, 11, 22, 15, 0, tzinfo=UTC),
    }
    return ListedFile(**{**fields, **changes})


def stored_entry(file: ListedFile, fields: Mapping[str, Any], at: datetime) -> Entry:
    """The entry of a file in the vault, with key, size and digest from `fields`."""
    url = public_url(file.url)
    return Entry(**{"kind": file.kind, "name": file.name, "state": "stored", "at": utc_text(at), "url": url, **fields})
