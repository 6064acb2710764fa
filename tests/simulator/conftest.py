"""Fixtures: a simulator per test on free ports with a frozen clock, and clients with valid credentials."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import httpx
import pytest

from pipeline.enablex.simulator import Simulator, World

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def now() -> datetime:
    return NOW


@pytest.fixture
def simulator(world: World, now: datetime) -> Iterator[Simulator]:
    with Simulator(world, now=now) as running:
        yield running


@pytest.fixture
def api(simulator: Simulator) -> Iterator[httpx.Client]:
    """A client of the API with the first project's credentials."""
    project = simulator.world.project("acme")
    with httpx.Client(base_url=simulator.base_url, auth=(project.app_id, project.app_key)) as client:
        yield client


@pytest.fixture
def files(simulator: Simulator) -> Iterator[httpx.Client]:
    """A client of the file host with the first project's credentials."""
    project = simulator.world.project("acme")
    credentials = (project.files_user, project.files_password)
    with httpx.Client(base_url=simulator.files_url, auth=credentials) as client:
        yield client
