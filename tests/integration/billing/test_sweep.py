"""Before its final export a month is collected again, so that no record is too late for its bill."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.core.models import Period
from pipeline.enablex.simulator.world import World
from pipeline.ingest.collect import collect
from pipeline.tables.build import build
from tests.conftest import Site

BEGIN = date(2026, 10, 24)
SWEEP = datetime(2026, 11, 4, 2, 15, tzinfo=UTC)
"""The first night on which October can be swept, with a lookback of 3 days."""

FOUND = datetime(2026, 11, 2, tzinfo=UTC)
"""When the late record becomes visible: after the lookback of its day, and before the sweep."""

EXPORT = ("billing", "export", "--month", "2026-10")


@dataclass(frozen=True)
class LateWorld(World):
    """The first CDR of the first day is delivered more than a week late."""

    def cdr_records(self, project: str, sessions: Any, now: datetime, *span: Any, **how: Any) -> list[dict[str, Any]]:
        records = super().cdr_records(project, sessions, now, *span, **how)
        return [record for record in records if now >= FOUND or record["cdr_id"] != self.late]

    @property
    def late(self) -> str:
        return next(one.cdr_id for session in self.sessions("acme", BEGIN) for one in session.connections)


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    """October was collected night by night and has settled, but was not swept."""
    site = make_site(LateWorld(projects=("acme",), sessions_per_day=1, file_bytes=1, begin=BEGIN), now=SWEEP)
    for night in nights():
        site.simulator.clock.set(night)
        with site.app(night) as app:
            assert collect(app, Period(max(BEGIN, night.date() - timedelta(days=3)), night.date())).ok
    with site.app(SWEEP) as app:
        assert build(app).ok
    return site


def nights() -> Iterator[datetime]:
    for day in Period(BEGIN, SWEEP.date()):
        yield datetime.combine(day, SWEEP.timetz())


def billed(site: Site, revision: int = 1) -> list[str]:
    path = site.folder / f"lake/reports/billing/month=2026-10/revision={revision:04d}/items.parquet"
    return pq.read_table(path)["item"].to_pylist()


def requested(site: Site) -> list[str]:
    """Requested days of CDRs."""
    return [request.path.split("/")[-2] for request in site.simulator.requests if "/cdr/period/" in request.path]


def run_nightly(site: Site, now: datetime) -> None:
    """Run `nightly`; from here on, only its requests are counted. Media of the world are too old to be copied."""
    site.simulator.requests.clear()
    site.simulator.clock.set(now)
    assert [failure for failure in site.outcome("nightly", now=now)["failed"] if "/cdr/" in failure["item"]] == []


def late(site: Site) -> str:
    assert isinstance(site.world, LateWorld)
    return site.world.late


def test_the_night_after_the_lookback_sweeps_the_month(site: Site) -> None:
    """A settled month is refused as `unswept`; `nightly` collects each of its days again, once, and then the final
    export has the record that arrived after its lookback.
    """
    refused = site.outcome(*EXPORT, now=SWEEP)
    (failure,) = refused["failed"]
    assert "8 days not collected again after the month" in failure["error"]
    assert "(2026-10-24 to 2026-10-31)" in failure["error"]
    for step in ("`postroom nightly`", "`postroom billing sweep --month 2026-10`"):
        assert step in failure["error"]

    run_nightly(site, SWEEP)
    assert sorted(requested(site)) == [str(day) for day in Period(BEGIN, SWEEP.date())]
    assert site.outcome(*EXPORT, now=SWEEP)["ok"]
    assert late(site) in billed(site)

    next_night = SWEEP + timedelta(days=1)
    run_nightly(site, next_night)
    assert min(requested(site)) == "2026-11-02"


def test_a_month_can_be_swept_now(site: Site) -> None:
    """`billing sweep` collects and builds what is unswept, in any later month; repeating it requests nothing."""
    much_later = SWEEP + timedelta(days=200)
    site.simulator.clock.set(much_later)
    swept = site.outcome("billing", "sweep", "--month", "2026-10", now=much_later)
    assert swept["ok"], swept["failed"]
    assert swept["counts"]["replies"] == 8
    assert site.outcome(*EXPORT, now=much_later)["ok"]
    assert late(site) in billed(site)
    again = site.outcome("billing", "sweep", "--month", "2026-10", now=much_later)
    assert (again["ok"], again["counts"].get("replies", 0)) == (True, 0)


def test_before_its_date_a_month_cannot_be_swept(site: Site) -> None:
    """The refusal names the date; a night before it collects only the lookback."""
    before = SWEEP - timedelta(days=1)
    refused = site.run("billing", "sweep", "--month", "2026-10", now=before)
    assert (refused.returncode, "2026-10 can be swept from 2026-11-04 on" in refused.stdout + refused.stderr) == (
        2,
        True,
    )
    run_nightly(site, before)
    assert min(requested(site)) == "2026-10-31"


def test_the_sweep_can_be_turned_off(site: Site) -> None:
    """With `sweep = false` a settled month is final, a night collects its lookback, and `billing sweep` is refused."""
    site.configure("[collect]\n", "[billing]\nsweep = false\n[collect]\n")
    assert site.outcome(*EXPORT, now=SWEEP)["is_provisional"] is False
    assert late(site) not in billed(site)
    run_nightly(site, SWEEP)
    assert min(requested(site)) == "2026-11-01"
    assert site.run("billing", "sweep", "--month", "2026-10", now=SWEEP).returncode == 2


def test_a_provisional_export_names_unswept_days(site: Site) -> None:
    """`--provisional` exports the month and lists its unswept days in `controls.json`."""
    exported = site.outcome(*EXPORT, "--provisional", now=SWEEP)
    controls = json.loads((site.folder / "lake" / exported["path"] / "controls.json").read_bytes())
    assert controls["unsettled"] == {"acme": {"unswept": [str(day) for day in Period(BEGIN, date(2026, 10, 31))]}}
