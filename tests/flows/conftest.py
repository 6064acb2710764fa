"""The same hypothesis settings as for unit tests, fewer examples for whole builds; and no back-off."""

from __future__ import annotations

import pytest
from hypothesis import settings

from pipeline.core import retry

settings.register_profile("unit", max_examples=60, deadline=None, derandomize=True, database=None)
settings.register_profile("explore", max_examples=2000, deadline=None, database=None)
settings.load_profile("unit")


@pytest.fixture(autouse=True)
def no_back_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tried again in this process is tried at once, unless a server names a wait: tests/unit has the waits."""
    monkeypatch.setattr(retry, "_back_off", lambda _state: 0.0)
