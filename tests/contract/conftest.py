"""Fixtures of all stores. A new store needs one line in `opening` that opens an empty one per test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.storage import LocalStore, ObjectStore
from tests.support.servers.s3 import S3Server


@pytest.fixture(params=["local", "ceph", "localstack"])
def opening(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], ObjectStore]:
    """Open the store of this test; a second call opens the same store again, like another process."""
    if request.param == "local":
        return lambda: LocalStore(tmp_path / "store")
    server: S3Server = request.getfixturevalue(request.param)
    bucket = server.new_bucket()
    return lambda: server.store(bucket, "a prefix")


@pytest.fixture
def store(opening: Callable[[], ObjectStore]) -> ObjectStore:
    return opening()
