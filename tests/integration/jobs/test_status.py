"""`status` and `build`: lateness, unlisted sessions, undocumented fields, last successes."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta

import duckdb

from jobs.run import record_run
from jobs.status import status
from pipeline.core.models import RunResult
from pipeline.enablex.simulator.world import World
from pipeline.ingest.collect import collect
from pipeline.storage import LocalStore
from pipeline.tables import parquet
from pipeline.tables.build import build
from pipeline.tables.query import run_query
from tests.conftest import NOW, Site
from tests.support.paths import ROOT

WORLD = World(projects=("acme",), sessions_per_day=40, begin=(NOW - timedelta(days=1)).date())


def nights(site: Site, count: int) -> None:
    """Collect and build on `count` consecutive nights."""
    for days in range(count):
        site.simulator.clock.set(NOW + timedelta(days=days))
        site.outcome("collect")
        site.outcome("build")


def test_lateness_is_the_share_of_rows_known_in_time(make_site: Callable[..., Site]) -> None:
    """`status` shows, by project, the share of rows collected within 1 h, 6 h, 1, 2 and 3 days, as in table `cdr`."""
    site = make_site(WORLD)
    nights(site, 5)
    late = site.outcome("status")["projects"]["acme"]["lateness"]
    rows = parquet.read_arrow("cdr", lake=LocalStore(site.folder / "lake")).to_pylist()
    lateness = [row["first_seen_at"] - row["trans_at"] for row in rows]
    assert late["rows"] == len(rows)
    for step, hours in {"1 h": 1, "6 h": 6, "1 day": 24, "2 days": 48, "3 days": 72}.items():
        share = sum(late <= timedelta(hours=hours) for late in lateness) / len(lateness)
        assert late["known_after"][step] == round(share, 4)
    assert 0 < late["known_after"]["1 day"] < late["known_after"]["3 days"] <= 1


def test_a_short_lookback_gives_a_hint(make_site: Callable[..., Site]) -> None:
    """Rows that arrive or change on the last day of the lookback give a hint; with a longer lookback there is none."""
    site = make_site(WORLD)
    nights(site, 5)
    hint = site.outcome("status")["projects"]["acme"]["lateness"]["hint"]
    assert "collect.lookback_days = 3 may be too short" in hint
    assert hint in site.run("status").stdout
    site.configure("[collect]\n", "[collect]\nlookback_days = 6\n")
    assert site.outcome("status")["projects"]["acme"]["lateness"]["hint"] is None


def test_a_backfill_is_not_lateness(make_site: Callable[..., Site]) -> None:
    """Days first collected long after their end do not count as late."""
    site = make_site(World(projects=("acme",), sessions_per_day=3, begin=(NOW - timedelta(days=20)).date()))
    site.outcome("collect", "--from", "2026-11-05", "--to", "2026-11-10")
    site.outcome("build")
    assert site.outcome("status")["projects"]["acme"]["lateness"] is None


def test_status_reports_files_and_stores(site: Site) -> None:
    """Pending and at-risk files with hours left, the last response by source, store sizes; exit code 4."""
    with site.app() as app:
        collect(app)
        build(app)
    with site.app(NOW + timedelta(hours=26)) as app:
        outcome = status(app)
    acme = outcome.details.projects["acme"]
    assert acme.pending == len(site.truth_files()) > 0
    assert acme.hours_left == min(file["hours_left"] for file in outcome.at_risk) < 24
    assert acme.at_risk == len(outcome.at_risk) > 0
    assert outcome.exit_code == 4
    assert acme.last_done == dict.fromkeys(("cdr", "archive", "rooms"), NOW.isoformat())
    for root, kinds in outcome.details.stores.items():
        files = [path for path in (site.folder / root).rglob("*") if path.is_file()]
        assert sum(kind.objects for kind in kinds.values()) == len(files)
        assert sum(kind.bytes for kind in kinds.values()) == sum(path.stat().st_size for path in files)


def test_unlisted_recordings_are_reported(site: Site) -> None:
    """Sessions of rooms with automatic recording that ended 24 h ago and have no listed file are reported."""
    with site.app() as app:
        collect(app, sources=("cdr",))
        build(app)
        recorded = run_query(app.lake, "SELECT DISTINCT conf_num FROM cdr WHERE room_auto_recording").to_pylist()
        assert status(app).details.projects["acme"].unlisted != []
    site.simulator.clock.set(NOW + timedelta(hours=26))
    with site.app() as app:
        unlisted = status(app).details.projects["acme"].unlisted
        assert {name.split()[1] for name in unlisted} == {row["conf_num"] for row in recorded}
        collect(app, sources=("archive",))
        build(app)
        assert status(app).details.projects["acme"].unlisted == []


def test_undocumented_fields_are_reported_once_per_build(make_site: Callable[..., Site]) -> None:
    """An undocumented field is stored in `extra`, and the build reports it once, with its count."""
    site = make_site(WORLD, faults=("unknown_field",))
    site.outcome("collect", "--source", "cdr")
    built = site.outcome("build")
    rows = parquet.read_arrow("cdr", lake=LocalStore(site.folder / "lake")).to_pylist()
    assert set(built["unknown_fields"]) == {"beta"}
    assert built["unknown_fields"]["beta"] >= len(rows) > 0
    assert all('"beta":{"score":0.5' in row["extra"] for row in rows)
    assert "unknown_fields" not in site.outcome("build")
    (drift,) = site.outcome("status")["projects"]["acme"]["drift"]
    first = min(row["day"] for row in parquet.read_arrow("drift", lake=LocalStore(site.folder / "lake")).to_pylist())
    assert drift == {"path": "beta", "first_day": str(first), "share": 1.0, "example": "object"}
    assert f"undocumented field beta since {first}, in 100.0% of the CDRs" in site.run("status").stdout


def test_queries_of_as_known_on_md(make_site: Callable[..., Site]) -> None:
    """The queries of docs/guide/as-known-on.md run, and return the rows that the table had on that day."""
    site = make_site(WORLD)
    nights(site, 2)
    lake = LocalStore(site.folder / "lake")
    day, moment = NOW.date(), NOW + timedelta(days=1, hours=1)
    columns = ["cdr_id", "revision", "participant_min"]
    sql = f"SELECT {', '.join(columns)} FROM cdr WHERE day = DATE '{day}' ORDER BY cdr_id"
    then = run_query(lake, sql).to_pylist()
    for days in (2, 3, 4):
        site.simulator.clock.set(NOW + timedelta(days=days))
        site.outcome("collect")
        site.outcome("build")
    assert run_query(lake, sql).to_pylist() != then
    text = (ROOT / "docs/guide/as-known-on.md").read_text()
    as_known, since, unlisted = (
        query.replace("2026-11-20", str(day)).replace("2026-11-23 06:00:00Z", moment.isoformat())
        for query in re.findall(r"```sql\n(.*?)```", text, re.DOTALL)
    )
    assert run_query(lake, as_known).to_pylist() == then
    changed = run_query(lake, since).to_pylist()
    assert changed
    assert all(row["changed_at"] > moment for row in changed)
    assert all(row["last_seen_at"] for row in run_query(lake, unlisted).to_pylist())


def test_usage_equals_the_cdrs(make_site: Callable[..., Site]) -> None:
    """`sessions` and `usage_daily` equal an independent computation in SQL over `cdr`, for every connection."""
    site = make_site(WORLD)
    nights(site, 3)
    lake = site.folder / "lake/tables"
    connection = duckdb.connect()
    for table in ("cdr", "sessions", "usage_daily"):
        connection.execute(f"CREATE VIEW {table} AS FROM read_parquet('{lake}/{table}/*/*/*.parquet')")
    independent = """
        WITH newest AS (
            SELECT conf_num,
                   arg_max(owner_ref, (day, cdr_id)) FILTER (owner_ref IS NOT NULL) AS owner_ref,
                   arg_max(billing_code, (day, cdr_id)) FILTER (billing_code IS NOT NULL) AS billing_code
            FROM cdr GROUP BY conf_num)
        SELECT day, room_id, coalesce(cdr.owner_ref, newest.owner_ref) AS owner,
               coalesce(cdr.billing_code, newest.billing_code) AS code, count(*) AS connections,
               count(DISTINCT user_ref) + count(*) FILTER (user_ref IS NULL) AS unique_users,
               coalesce(sum(participant_min), 0) AS minutes
        FROM cdr JOIN newest USING (conf_num) GROUP BY ALL ORDER BY ALL"""
    ours = """
        SELECT day, room_id, owner_ref AS owner, billing_code AS code, connections, unique_users,
               participant_min AS minutes
        FROM usage_daily WHERE connections > 0 ORDER BY ALL"""
    expected = connection.execute(independent).fetchall()
    assert len(expected) > 20
    assert connection.execute(ours).fetchall() == expected
    assert connection.execute("SELECT sum(participant_min), sum(connections) FROM sessions").fetchall() == (
        connection.execute("SELECT sum(participant_min), count(*) FROM cdr").fetchall()
    )


def test_each_project_has_its_last_successes(make_site: Callable[..., Site]) -> None:
    """The last success of each job is reported by project, without runs in which the project failed or was not part."""
    site = make_site(World(projects=("acme", "umbrella"), sessions_per_day=1, begin=NOW.date()))

    def failing_for_acme(_app: object) -> RunResult:
        outcome = RunResult("nightly")
        outcome.add_success()
        outcome.add_failure("acme/cdr/2026-11-22", "it broke", project="acme")
        return outcome

    with site.app() as app:
        record_run(app, "nightly", lambda _app: RunResult("nightly"), is_unattended=False)
    with site.app(NOW + timedelta(days=1)) as app:
        record_run(app, "nightly", failing_for_acme, is_unattended=False)
        record_run(app, "nightly acme", lambda _app: RunResult("nightly"), is_unattended=False, projects=["acme"])
        record_run(app, "media audit", lambda _app: RunResult("media audit"), is_unattended=False, projects=["acme"])
    with site.app(NOW + timedelta(days=2)) as app:
        record_run(app, "nightly", failing_for_acme, is_unattended=False)
    assert site.outcome("build", "--project", "umbrella", now=NOW + timedelta(days=3))["ok"]
    last = {name: project["last_good_runs"] for name, project in site.outcome("status")["projects"].items()}
    day = "2026-11-{}T02:15:00.000Z".format
    assert last == {
        "acme": {"media audit": day(24), "nightly": day(24)},
        "umbrella": {"build": day(26), "nightly": day(25)},
    }
    assert "  success  media audit 2026-11-24 02:15, nightly 2026-11-24 02:15\n" in site.run("status").stdout
