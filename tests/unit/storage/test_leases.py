"""Leases as a state machine: take, renew, release and expire in any order, compared with a model."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pipeline.core.errors import LeaseLost
from pipeline.storage.run_store import Lease, RunStore

NAMES = st.sampled_from(["media copy", "nightly"])
STORES = st.integers(0, 1)


class Leases(RuleBasedStateMachine):
    """Two hosts with one SQLite file. The model: the holder and the last fencing number per name."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        url = f"sqlite:///{Path(self.folder.name) / 'runs.db'}"
        self.hosts = [RunStore(url), RunStore(url)]
        self.database = sa.create_engine(url)
        self.held: dict[str, Lease] = {}
        self.given: list[Lease] = []
        self.last_fence: dict[str, int] = {}

    @rule(name=NAMES, host=STORES)
    def take(self, name: str, host: int) -> None:
        """A lease is taken if and only if it has no holder, with the next fencing number."""
        lease = self.hosts[host].take_lease(name, 600)
        assert (lease is None) is (name in self.held)
        if lease:
            assert lease.fence == self.last_fence.get(name, 0) + 1
            self.held[name], self.last_fence[name] = lease, lease.fence
            self.given.append(lease)

    @rule(name=NAMES)
    def expire(self, name: str) -> None:
        """Time passes until the lease expires."""
        if name not in self.last_fence:
            return
        with self.database.begin() as connection:
            connection.exec_driver_sql("UPDATE leases SET expires_at_s = 0 WHERE name = ?", (name,))
        self.held.pop(name, None)

    @rule(host=STORES, choice=st.integers(0, 9), ends=st.booleans())
    def use(self, host: int, choice: int, ends: bool) -> None:
        """Renewing and releasing succeed for the last holder of a name, expired or not, and fail for earlier ones."""
        if not self.given:
            return
        lease = self.given[choice % len(self.given)]
        change = self.hosts[host].release if ends else self.hosts[host].renew
        if lease.fence < self.last_fence[lease.name]:
            with pytest.raises(LeaseLost):
                change(lease)
        else:
            change(lease)
            if ends:
                self.held.pop(lease.name, None)
            else:
                self.held[lease.name] = lease

    @invariant()
    def numbers_are_never_given_twice(self) -> None:
        numbers = [(lease.name, lease.fence) for lease in self.given]
        assert len(set(numbers)) == len(numbers)

    def teardown(self) -> None:
        for host in self.hosts:
            host.close()
        self.database.dispose()
        self.folder.cleanup()


TestLeases = Leases.TestCase
TestLeases.settings = settings(max_examples=15, stateful_step_count=20, deadline=None)
