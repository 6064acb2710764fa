"""Collecting from a faulty API gives the same tables as from a healthy one."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from pipeline.core.errors import Refused
from pipeline.enablex import client
from pipeline.enablex.protocol import rooms_request
from pipeline.enablex.simulator.world import World
from pipeline.ingest.collect import collect
from pipeline.storage import LocalStore
from pipeline.tables import parquet
from tests.conftest import NOW, Site

WORLD = World(projects=("acme",), sessions_per_day=3, begin=(NOW - timedelta(days=2)).date())


def cdr_rows(site: Site) -> list[dict]:
    return parquet.read_arrow("cdr", lake=LocalStore(site.folder / "lake")).to_pylist()


@pytest.fixture
def calm_rows(make_site: Callable[..., Site]) -> list[dict]:
    site = make_site(WORLD)
    assert site.outcome("collect")["ok"]
    site.outcome("build")
    return cdr_rows(site)


@pytest.mark.parametrize(
    "fault",
    ["result_number", "result_missing", "empty_null", "empty_missing_key", "empty_404", "shuffle_rows",
     "duplicate_rows",
     "to_date_exclusive", "filter_connect_dt", "date_skew", "api_500=1", "api_503_html=1", "api_502_text=1",
     "api_empty_body=1", "api_down=1", "error_on_200=1", "truncated_body=1", "truncated_json=1", "rate_limit=1",
     "rate_limit_bare=1", "retry_after_date=1"],
)  # fmt: skip
def test_the_same_rows_come_out(make_site: Callable[..., Site], calm_rows: list[dict], fault: str) -> None:
    """Every form of success and of an empty result, both meanings of dates, and every transient fault."""
    site = make_site(WORLD, faults=(fault,))
    outcome = site.outcome("collect")
    assert outcome["ok"], outcome["failed"]
    site.outcome("build")
    assert cdr_rows(site) == calm_rows != []


@pytest.mark.parametrize("fault", ["unauthorized_a", "key_rotated", "suspended"])
def test_refusals_are_not_repeated(make_site: Callable[..., Site], fault: str) -> None:
    """A refused project is exit code 1 and takes at most 4 requests, not one per day and attempt."""
    site = make_site(WORLD, faults=(fault,))
    assert site.run("collect", "--from", "2026-11-01").returncode == 1
    assert len(site.simulator.requests) <= 4


def test_retry_after_is_respected(make_site: Callable[..., Site]) -> None:
    """After a 429 with Retry-After, no request of the project starts before that time is over."""
    site = make_site(WORLD, faults=("rate_limit=1",))
    done = site.run("collect")
    assert done.returncode == 0
    assert "request.retried" in done.stderr
    assert '"wait_s": 1.0' in done.stderr or '"wait_s": 1.' in done.stderr


def test_rows_without_an_id_are_one_row_each(make_site: Callable[..., Site], calm_rows: list[dict]) -> None:
    """Without cdr_id the derived key is stable: collected twice, there is one row per connection."""
    site = make_site(WORLD, faults=("no_cdr_id",))
    site.outcome("collect")
    site.outcome("collect", now=NOW + timedelta(hours=1))
    site.outcome("build")
    rows = cdr_rows(site)
    assert len(rows) == len(calm_rows)
    assert all(row["cdr_id_is_derived"] and row["cdr_id"].startswith("derived-") for row in rows)


def test_missing_room_details_and_usage_are_nulls(make_site: Callable[..., Site], calm_rows: list[dict]) -> None:
    """Documents with empty room_details or null usage still become rows."""
    site = make_site(WORLD, faults=("empty_room_details", "null_usage"))
    site.outcome("collect")
    site.outcome("build")
    rows = cdr_rows(site)
    assert len(rows) == len(calm_rows)
    assert all(row["owner_ref"] is None and row["published_min"] is None for row in rows)


@pytest.mark.parametrize("limit", ["_MAX_SMALL_BYTES", "_MAX_LANDED_BYTES"])
def test_the_size_of_a_reply_is_limited(site: Site, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    """A reply larger than the limit is aborted and reported."""
    monkeypatch.setattr(client, limit, 100)
    with site.app() as app:
        if limit == "_MAX_SMALL_BYTES":
            with pytest.raises(Refused, match="larger than 100 bytes"):
                app.clients["acme"].call(rooms_request())
        else:
            failed = collect(app).failed
            assert any("larger than 100 bytes" in failure.error for failure in failed)
