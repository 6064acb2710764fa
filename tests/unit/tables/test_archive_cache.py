"""Parsed archive listings are cached for planning every 15 minutes."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from pipeline.core.errors import FixityError
from pipeline.core.models import Period
from pipeline.tables.sources import ArchiveListingCache, read_archives
from tests.support.lakes import DAY, PROJECT, Lake

PERIOD = Period(DAY - timedelta(days=1), DAY)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Three pages of two days: sessions are listed again and again, one page has a reject."""
    lake = Lake(tmp_path)
    sessions = [
        {"conf_num": str(number), "trans_date": f"{DAY}T0{number}:00:00.000Z", "chatdata": f"https://h/{number}/c.json"}
        for number in range(1, 5)
    ]
    lake.land_documents(sessions[:2], source="archive")
    lake.land_documents([*sessions[:3], "no record"], source="archive", hour=1)
    lake.land_documents(sessions, source="archive", hour=2, day=DAY - timedelta(days=1))
    return lake


@pytest.mark.parametrize("most_records", [0, 4, 6, 100])
def test_what_is_remembered_is_what_was_read(lake: Lake, most_records: int) -> None:
    """However many records it may hold, files, rejects and counts are those of the pages, each time."""
    memory = ArchiveListingCache(most_records)
    for period in (PERIOD, Period(DAY, DAY), PERIOD, PERIOD):
        assert read_archives(lake.vault, PROJECT, period, memory) == read_archives(lake.vault, PROJECT, period)
    found = read_archives(lake.vault, PROJECT, PERIOD, memory)
    assert (len(found.files), len(found.rejects[DAY]), found.documents) == (4, 1, 10)


def test_a_page_is_read_once(lake: Lake) -> None:
    """A page that is known is not opened again; a new one is; without a memory each is read and verified."""
    memory = ArchiveListingCache()
    before = read_archives(lake.vault, PROJECT, PERIOD, memory)
    for body in (lake.folder / "vault/raw").rglob("*.zst"):
        body.write_bytes(b"damaged")
    assert read_archives(lake.vault, PROJECT, PERIOD, memory) == before
    with pytest.raises(FixityError):
        read_archives(lake.vault, PROJECT, PERIOD)
    new = {"conf_num": "9", "trans_date": f"{DAY}T09:00:00.000Z", "chatdata": "https://h/9/c.json"}
    lake.land_documents([new], source="archive", hour=3)
    assert len(read_archives(lake.vault, PROJECT, PERIOD, memory).files) == len(before.files) + 1
