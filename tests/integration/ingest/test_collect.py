"""Collecting replies that are too large, truncated, repeated, or received only in parts."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import pytest
import zstandard

from pipeline.core.errors import TimedOut
from pipeline.core.models import Period, RunResult
from pipeline.enablex.protocol import Request
from pipeline.enablex.simulator.world import World
from pipeline.ingest.collect import CollectTask, collect_day
from pipeline.ingest.collect import collect as run_collect
from pipeline.storage import LocalStore, raw
from pipeline.tables import parquet
from pipeline.tables.build import build as run_build
from tests.conftest import NOW, Site
from tests.support.cdrs import NEW, changed
from tests.support.lakes import DAY, FIRST_REQUEST_AT, PROJECT, Lake

WORLD = World(projects=("acme",), sessions_per_day=4, begin=(NOW - timedelta(days=2)).date())
YESTERDAY = (NOW - timedelta(days=1)).date()
ONE_DAY = Period(YESTERDAY, YESTERDAY)
TOO_SLOW = "slow@/cdr/period/=0.6"
"""Slows only the request for a whole day; `timeout_s` below is shorter."""


def impatient(site: Site) -> Site:
    site.configure("max_attempts = 2", "max_attempts = 1\ntimeout_s = 0.3")
    return site


def cdr_rows(site: Site) -> list[dict]:
    return parquet.read_arrow("cdr", lake=LocalStore(site.folder / "lake")).to_pylist()


def without_moments(rows: list[dict]) -> list[dict]:
    return [{name: value for name, value in row.items() if name not in {"first_seen_at", "changed_at"}} for row in rows]


def collected_days(site: Site) -> set[date]:
    return set(raw.last_collected(LocalStore(site.folder / "vault"), "cdr", "acme"))


def collect(site: Site, *, hours: int = 0) -> RunResult:
    """Collect the CDRs of yesterday, `hours` later by the clock of the app."""
    with site.app(NOW + timedelta(hours=hours)) as app:
        return run_collect(app, ONE_DAY, sources=("cdr",))


def build(site: Site) -> list[dict]:
    """Build and return the rows of `cdr`."""
    with site.app() as app:
        assert run_build(app).ok
    return cdr_rows(site)


def listed_rooms(site: Site) -> set[str]:
    return {room["room_id"] for room in site.world.room_documents("acme", NOW)}


def split_rooms(site: Site) -> set[str]:
    """Rooms that were requested individually."""
    return {path.split("/room-period/")[1].split("/")[0] for path in requested_paths(site) if "/room-period/" in path}


def requested_paths(site: Site) -> list[str]:
    return [request.path for request in site.simulator.requests]


@pytest.fixture
def calm_rows(make_site: Callable[..., Site]) -> list[dict]:
    """The rows of one day from one response; that response contains the following day too."""
    site = make_site(WORLD)
    assert collect(site).ok
    return build(site)


@pytest.mark.parametrize("faults", [(), ("room_period_other_spelling",)], ids=["documented", "other spelling"])
def test_a_day_that_times_out_is_split_by_room(
    make_site: Callable[..., Site], calm_rows: list[dict], faults: tuple[str, ...]
) -> None:
    """A day that times out is collected room by room, with either path: the rows of all listed rooms are built."""
    site = impatient(make_site(WORLD, faults=(TOO_SLOW, *faults)))
    outcome = collect(site)
    assert outcome.counts["days_split"] == 1
    assert [failure.item for failure in outcome.failed] == [f"acme/cdr/{YESTERDAY}"]
    listed = listed_rooms(site)
    assert split_rooms(site) == listed
    expected = [row for row in calm_rows if row["room_id"] in listed]
    assert len({row["room_id"] for row in expected}) > 1
    assert without_moments(build(site)) == without_moments(expected)


def test_a_split_day_does_not_count_as_collected(make_site: Callable[..., Site], calm_rows: list[dict]) -> None:
    """A split day may lack rows of deleted rooms: it is reported as failed and does not count as collected."""
    site = impatient(make_site(WORLD, faults=(TOO_SLOW,)))
    (failure,) = collect(site).failed
    assert "split by room" in failure.error
    assert len(build(site)) < len(calm_rows)
    assert collected_days(site) == set()


def test_rooms_of_the_tables_are_requested_too(make_site: Callable[..., Site], calm_rows: list[dict]) -> None:
    """A room that is not listed but is in the tables is requested: a split day collected before is complete."""
    site = impatient(make_site(WORLD))
    collect(site)
    build(site)
    site.simulator.faults.on(TOO_SLOW)
    assert collect(site, hours=1).counts["days_split"] == 1
    assert {row["room_id"] for row in calm_rows} <= split_rooms(site)
    assert without_moments(build(site)) == without_moments(calm_rows)


def test_the_next_run_requests_the_whole_day_first(make_site: Callable[..., Site], calm_rows: list[dict]) -> None:
    """When EnableX is fast again, the whole day is requested, and rooms that were missed are collected."""
    site = impatient(make_site(WORLD, faults=(TOO_SLOW,)))
    collect(site)
    site.simulator.faults.clear()
    assert collected_days(site) == set()
    assert "days_split" not in collect(site, hours=1).counts
    assert collected_days(site) == {YESTERDAY}
    assert without_moments(build(site)) == without_moments(calm_rows)


def test_one_failed_room_leaves_the_day_uncollected(make_site: Callable[..., Site]) -> None:
    """When one room fails, the day fails and does not count as collected; responses of other rooms are kept."""
    site = impatient(make_site(WORLD, faults=(TOO_SLOW,)))
    site.simulator.faults.on(f"api_500@/cdr/room-period/{min(listed_rooms(site))}/")
    outcome = collect(site)
    assert [failure.item for failure in outcome.failed] == [f"acme/cdr/{YESTERDAY}"]
    assert collected_days(site) == set()
    assert list((site.folder / "vault/raw/source=cdr").rglob("*.part.json"))


def test_killed_between_parts_the_day_is_uncollected(tmp_path: Path) -> None:
    """Killed after some parts, a day has their rows but does not count as collected; collected again, it has each row
    once.
    """
    lake = Lake(tmp_path)
    requests = [Request("GET", f"/cdr/room-period/r{n}/{DAY}/{DAY + timedelta(days=1)}", "cdr") for n in range(3)]
    bodies = [
        json.dumps({"result": "0", "cdr": [changed(NEW, cdr_id=f"c{n}", room__room_id=f"r{n}")]}).encode()
        for n in range(3)
    ]

    for n in range(2):
        assert lake.land_reply(bodies[n], request=requests[n], is_part=True)
    lake.build()
    assert [row["cdr_id"] for row in lake.rows("cdr")] == ["c0", "c1"]
    assert raw.last_collected(lake.vault, "cdr", PROJECT) == {}
    new = [lake.land_reply(bodies[n], request=requests[n], is_part=True, hour=1) for n in range(3)]
    assert new == [False, False, True]
    lake.build()
    assert [(row["cdr_id"], row["revision"]) for row in lake.rows("cdr")] == [("c0", 1), ("c1", 1), ("c2", 1)]
    lake.land_reply(b'{"result":"0","cdr":[]}', hour=2)
    assert raw.last_collected(lake.vault, "cdr", PROJECT) == {DAY: FIRST_REQUEST_AT + timedelta(hours=2)}


def test_identical_replies_are_stored_once(make_site: Callable[..., Site]) -> None:
    """Collected again without changes, every response has a receipt and no second body."""
    site = make_site(WORLD)
    collect(site)
    bodies = sorted((site.folder / "vault/raw").rglob("*.json.zst"))
    again = collect(site, hours=1)
    assert again.counts["replies"] > 0
    assert again.counts["new_pages"] == again.counts["documents"] == 0
    assert sorted((site.folder / "vault/raw").rglob("*.json.zst")) == bodies
    assert len(list((site.folder / "vault/raw").rglob("*.receipt.json"))) == 2 * len(bodies)


@pytest.mark.parametrize("fault", ["truncated_body=1", "truncated_json=1"])
def test_a_truncated_reply_is_requested_again(
    make_site: Callable[..., Site], calm_rows: list[dict], fault: str
) -> None:
    """A reply truncated by the connection or in its JSON is no raw response; after a retry all rows are built."""
    site = make_site(WORLD, faults=(fault,))
    assert collect(site).ok
    assert len(requested_paths(site)) == 2
    (body,) = (site.folder / "vault/raw").rglob("*.json.zst")
    assert json.loads(zstandard.ZstdDecompressor().decompressobj().decompress(body.read_bytes()))["result"] == "0"
    assert build(site) == calm_rows


def test_a_reply_that_stays_truncated_is_used_provisionally(make_site: Callable[..., Site]) -> None:
    """A truncated reply fails its day, which is not collected; the records before the break are rows."""
    site = make_site(WORLD, faults=("truncated_json",))
    site.configure("max_attempts = 2", "max_attempts = 1")
    (failure,) = collect(site).failed
    assert "documents before the break are kept provisionally" in failure.error
    (receipt,) = (site.folder / "vault/raw").rglob("*.part.json")
    facts = json.loads(receipt.read_bytes())
    assert facts["broken"]
    assert collected_days(site) == set()
    rows = build(site)
    assert 0 < len(rows) <= facts["documents"]
    site.simulator.faults.clear()
    assert collect(site, hours=1).ok
    assert len(build(site)) > len(rows)


def test_a_reply_truncated_before_its_documents_is_evidence(make_site: Callable[..., Site]) -> None:
    """A reply without a complete document is kept as evidence with its headers, not as a response."""
    site = make_site(WORLD, faults=("api_empty_body",))
    site.configure("max_attempts = 2", "max_attempts = 1")
    (failure,) = collect(site).failed
    assert "kept as" in failure.error
    (kept,) = (site.folder / "vault/raw").rglob("*.unreadable.zst")
    assert json.loads(kept.with_name(f"{kept.name}.json").read_bytes())["status"] == 200
    assert not list((site.folder / "vault/raw").rglob("*.receipt.json"))
    assert collected_days(site) == set()


def test_a_request_without_rooms_is_not_split(make_site: Callable[..., Site]) -> None:
    """A request that times out and cannot be split is an error that names the setting to raise."""
    site = impatient(make_site(WORLD, faults=("slow@/rooms=0.6",)))
    with site.app() as app, pytest.raises(TimedOut, match="timeout_s"):
        collect_day(app, CollectTask("rooms", "acme", NOW.date()))
