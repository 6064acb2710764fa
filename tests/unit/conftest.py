"""The compiled field scanner and its replacement."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipeline.tables.normalize import field_scanner


@pytest.fixture(params=["compiled", "decoding"], scope="module")
def either_finder(request: pytest.FixtureRequest) -> Iterator[None]:
    """The finder that was compiled, and the one that stands in for it."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "decoding":
            patch.setattr(field_scanner, "_scanner", None)
        elif field_scanner._scanner is None:
            pytest.skip("nothing was compiled here")
        yield
