"""Records in suspense through the command line: they are listed, decided, and never billed by accident."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.enablex.simulator.world import World
from pipeline.tables import read_arrow
from tests.conftest import Site
from tests.support.cdrs import DROP, NEW, changed, utc
from tests.support.lakes import FIRST_REQUEST_AT, Lake

MONTH = "2026-11"
BEGIN, DAY, LAST = date(2026, 11, 27), date(2026, 11, 28), date(2026, 12, 3)
NOW = datetime(2026, 12, 10, 2, 15, tzinfo=UTC)
SUSPENSE = ("billing", "suspense")
EXPORT = ("billing", "export", "--month", MONTH)


def call(cdr_id: str, minutes: int, **changes: Any) -> dict[str, Any]:
    """A connection from 10:00 of `DAY`, whose times, durations and minutes agree."""
    began = datetime(DAY.year, DAY.month, DAY.day, 10, tzinfo=UTC)
    ended = began + timedelta(minutes=minutes)
    own: dict[str, Any] = {"cdr_id": cdr_id, "conf_num": "c1", "call_log_id": cdr_id, "trans_date": utc(ended)}
    for side in ("room", "sigserver"):
        own |= {
            f"{side}__connect_dt": utc(began),
            f"{side}__disconnect_dt": utc(ended),
            f"{side}__duration": minutes * 60,
        }
    own |= {"usage__connect_minutes": minutes, "usage__connect_minutes_cal": minutes}
    return changed(NEW, **{**own, **changes})


FINE, LONG, LONGER = call("fine", 30), call("long", 25 * 60), call("longer", 26 * 60)
BROKEN = call("broken", 30, conf_num=DROP)


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    """A settled month of one project with a record that is believed, two that are too long, and a reject; built."""
    site = make_site(World(projects=("acme",), begin=BEGIN), now=NOW)
    for offset in range((LAST - BEGIN).days + 1):
        day = BEGIN + timedelta(days=offset)
        for source in ("cdr", "archive"):
            Lake(site.folder).land_documents((), day=day, hour=hours(NOW), source=source)
    land(site, FINE, LONG, LONGER, BROKEN, at=NOW + timedelta(hours=1))
    return site


def hours(moment: datetime) -> float:
    return (moment - FIRST_REQUEST_AT) / timedelta(hours=1)


def land(site: Site, *documents: dict[str, Any], at: datetime) -> None:
    """A new response for the day after `DAY`, on which the long calls ended; and a build."""
    Lake(site.folder).land_documents(documents, day=DAY + timedelta(days=1), hour=hours(at))
    assert site.run("build", now=at).returncode == 0


def records(site: Site, *options: str) -> dict[str, dict[str, Any]]:
    """What `billing suspense list` lists, by id; a reject as `reject`."""
    listed = site.outcome(*SUSPENSE, "list", *options)["records"]
    return {row["suspense_id"] if row["conf_num"] else "reject": row for row in listed}


def minutes(site: Site) -> dict[str, Decimal | None]:
    with site.app() as app:
        rows = read_arrow("cdr", lake=app.lake).to_pylist()
    return {row["cdr_id"]: row["participant_min"] for row in rows}


def refusal(site: Site, *command: str, code: int) -> str:
    """The one line on the standard error of a command that is refused."""
    done = site.run(*command)
    assert done.returncode == code, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_records_are_listed_with_what_is_at_stake(site: Site) -> None:
    """The list has each open record with reasons, minutes at stake and its document; options select among them."""
    listed = records(site)
    assert {name: (row["reasons"], Decimal(row["at_stake_min"])) for name, row in listed.items()} == {
        "long": ("stay_too_long", 1500),
        "longer": ("stay_too_long", 1560),
        "reject": ("rejected", 30),
    }
    for row in listed.values():
        assert (row["project"], row["decision"]) == ("acme", "open")
        assert (site.folder / "vault" / row["source_key"]).exists()
    assert records(site, "--reason", "rejected").keys() == {"reject"}
    assert records(site, "--month", MONTH).keys() == listed.keys()
    assert records(site, "--month", "2026-12") == {}
    shown = site.run(*SUSPENSE, "list").stdout
    assert all(text in shown for text in ("longer", "stay_too_long", "rejected"))
    assert "no records in suspense" in site.run(*SUSPENSE, "list", "--month", "2026-12").stdout


def test_released_records_are_billed_and_excluded_ones_are_not(site: Site) -> None:
    """A decision takes effect in the tables and in the next export; `--all` lists it with its reason."""
    assert minutes(site) == {"fine": 30, "long": None, "longer": None}
    assert site.outcome(*SUSPENSE, "release", "long", "--because", "night shift")["ok"]
    assert site.outcome(*SUSPENSE, "exclude", "longer", "--because", "test traffic")["ok"]
    assert minutes(site) == {"fine": 30, "long": 1500, "longer": None}
    assert records(site).keys() == {"reject"}
    decided = records(site, "--all")
    assert {name: (row["decision"], row["decided_because"]) for name, row in decided.items()} == {
        "long": ("released", "night shift"),
        "longer": ("excluded", "test traffic"),
        "reject": ("open", None),
    }
    assert site.outcome(*SUSPENSE, "exclude", "--reason", "rejected", "--because", "no session")["ok"]
    final = site.outcome(*EXPORT)
    assert final["ok"], final["failed"]
    assert Decimal(final["projects"]["acme"]["participant_min"]) == 1530


def test_a_final_export_needs_decisions_or_consent(site: Site) -> None:
    """With open records it is refused with their number, minutes and the next step; `--accept-suspense` exports, and
    controls.json and the lines have what was accepted. Without consent the month can be exported provisionally.
    """
    refused = site.outcome(*EXPORT)
    assert [failure["item"] for failure in refused["failed"]] == [f"acme {MONTH}"]
    for text in ("3 records in suspense", "3,090 minutes", "1 rejected", "2 stay_too_long", "--accept-suspense"):
        assert text in refused["failed"][0]["error"]
    assert site.objects("lake/reports") == {}
    provisional = site.outcome(*EXPORT, "--provisional")
    assert (provisional["ok"], provisional["is_provisional"]) == (True, True)
    accepted = site.outcome(*EXPORT, "--accept-suspense")
    assert (accepted["ok"], accepted["revision"], accepted["is_provisional"]) == (True, 2, False)
    folder = site.folder / "lake" / accepted["path"]
    controls = json.loads((folder / "controls.json").read_bytes())
    assert controls["accepts_suspense"]
    assert {name: total["records"] for name, total in controls["suspense"]["acme"].items()} == {
        "rejected": 1,
        "stay_too_long": 2,
    }
    lines = pq.read_table(folder / "usage.parquet").to_pylist()
    assert sum(line["suspense"] for line in lines) == 3
    assert sum(line["suspense_min"] for line in lines) == 3090
    assert sum(line["participant_min"] for line in lines) == 30
    earlier = [
        json.loads(path.read_bytes()) for path in site.folder.glob("lake/reports/**/revision=0001/controls.json")
    ]
    assert [one["accepts_suspense"] for one in earlier] == [False]


def test_a_decision_is_kept_when_tables_are_deleted(site: Site) -> None:
    """Decisions are facts: after the tables and all build state were deleted, a build gives the same records."""
    assert site.outcome(*SUSPENSE, "release", "long", "--because", "night shift")["ok"]
    before = site.objects("lake/tables")
    for folder in ("tables", "index", "builds"):
        shutil.rmtree(site.folder / "lake" / folder)
    assert site.run("build").returncode == 0
    assert site.objects("lake/tables") == before
    assert minutes(site)["long"] == 1500
    assert records(site, "--all")["long"]["decided_because"] == "night shift"


def test_a_corrected_record_is_open_again(site: Site) -> None:
    """A decision holds for the version that was seen: other minutes are another question."""
    assert site.outcome(*SUSPENSE, "release", "long", "--because", "night shift")["ok"]
    land(site, FINE, call("long", 30 * 60), LONGER, BROKEN, at=NOW + timedelta(hours=2))
    assert minutes(site)["long"] is None
    again = records(site)["long"]
    assert (again["decision"], Decimal(again["at_stake_min"])) == ("open", 1800)


def test_what_cannot_be_decided_is_refused_in_one_line(site: Site) -> None:
    """A reject cannot be billed; unknown and decided ids, a missing reason and missing records are named; nothing is
    decided.
    """
    reject = records(site)["reject"]["suspense_id"]
    because = ("--because", "x")
    assert "exclude it instead" in refusal(site, *SUSPENSE, "release", reject, *because, code=2)
    assert "not open in suspense: nobody" in refusal(site, *SUSPENSE, "exclude", "long", "nobody", *because, code=2)
    assert "--because" in refusal(site, *SUSPENSE, "exclude", "long", "--because", " ", code=2)
    assert "--because" in site.run(*SUSPENSE, "exclude", "long").stderr
    assert "name the records" in refusal(site, *SUSPENSE, "exclude", *because, code=2)
    assert "no open record" in refusal(site, *SUSPENSE, "exclude", "--reason", "not_listed", *because, code=2)
    assert "--month" in refusal(site, *SUSPENSE, "list", "--month", "11/2026", code=2)
    assert {row["decision"] for row in records(site, "--all").values()} == {"open"}
    assert not (site.folder / "lake/decisions").exists()
    assert site.outcome(*SUSPENSE, "exclude", reject, *because)["ok"]
    assert "not open" in refusal(site, *SUSPENSE, "exclude", reject, *because, code=2)
