"""Hypothesis settings that make every run the same (`--hypothesis-profile=explore` looks farther), and the finders."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

from pipeline.tables.normalize import field_scanner

settings.register_profile("unit", max_examples=60, deadline=None, derandomize=True, database=None)
settings.register_profile("explore", max_examples=2000, deadline=None, database=None)
settings.load_profile("unit")


@pytest.fixture(params=["compiled", "decoding"], scope="module")
def either_finder(request: pytest.FixtureRequest) -> Iterator[None]:
    """The finder that was compiled, and the one that stands in for it."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "decoding":
            patch.setattr(field_scanner, "_scanner", None)
        elif field_scanner._scanner is None:
            pytest.skip("nothing was compiled here")
        yield
