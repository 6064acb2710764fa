"""Retries in this process do not wait."""

from __future__ import annotations

import pytest

from pipeline.core import retry


@pytest.fixture(autouse=True)
def no_back_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """A retry does not wait, unless a server names the wait; tests/unit/core/test_retry.py checks the waits."""
    monkeypatch.setattr(retry, "_back_off", lambda _state: 0.0)
