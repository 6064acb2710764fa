"""Undocumented fields: counts, shares and examples, without secrets and personal data."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.tables.normalize.cdr_batch import RoomDetailsCache, read_batch
from pipeline.tables.normalize.drift import Drift, example_text
from tests.support.cdrs import NEW, changed, drifted_documents, raw

pytestmark = pytest.mark.usefixtures("either_finder")


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        (("region",), "eu", "eu"), (("region",), "x" * 81, "x" * 80), (("n",), 1.5, "1.5"), (("n",), True, "true"),
        (("n",), 0, "0"), (("n",), None, None), (("n",), "", None), (("n",), {"a": 1}, "object"), (("n",), [], "list"),
        (("auth_token",), "hush", None), (("user", "email"), "a@example.org", None), (("user", "tags"), ["a"], "list"),
    ],
)  # fmt: skip
def test_an_example_shows_no_secret_and_no_person(path: tuple[str, ...], value: Any, expected: str | None) -> None:
    """An example is at most 80 characters, of objects and lists the kind, and never a secret or about a person."""
    assert example_text(path, value) == expected


def test_rows_have_shares_and_the_first_example() -> None:
    """A field is counted at every level, also in room definitions, and its first value that is not empty is shown."""
    drift, rooms = Drift(), RoomDetailsCache()
    for regions in ([None, "eu"], ["us", "us"]):
        raws = [raw(changed(NEW, region=region, room__room_details__zone=region)) for region in regions]
        batch = read_batch(raws, 0, rooms)
        drift.include(batch.unknown, batch.drift.examples, len(raws))
    assert [(row["path"], row["documents"], row["documents_total"], row["example"]) for row in drift.rows("cdr")] == [
        ("region", 4, 4, "eu"), ("room.room_details.zone", 4, 4, "eu"),
    ]  # fmt: skip


@given(st.lists(drifted_documents(), max_size=5))
def test_each_example_is_a_value_of_its_field(raws: list[msgspec.Raw]) -> None:
    """Examples belong to counted fields."""
    batch = read_batch(raws)
    assert set(batch.drift.examples) <= set(batch.unknown)
    assert not any("token" in path or "pin" in path for path, text in batch.drift.examples.items() if text == "hush")
