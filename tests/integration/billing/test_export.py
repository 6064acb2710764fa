"""Billing exports: they are correct, corrections name every connection, and none is incomplete."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from pipeline.billing.export import PRICES, export_billing
from pipeline.billing.line_items import LINE_KEY, MEASURES
from pipeline.billing.month import billing_month
from pipeline.billing.reconcile import UNITS
from pipeline.core.models import Period, RunResult
from pipeline.core.settings.prices import AMOUNTS
from pipeline.enablex.simulator.server import Simulator
from pipeline.enablex.simulator.world import Connection, World
from pipeline.ingest.collect import collect
from pipeline.tables.build import build
from tests.conftest import Site
from tests.support.billing_oracle import connection_sums, expected_lines
from tests.support.servers.focus import Validate

MONTH = "2026-10"
BEGIN = date(2026, 10, 27)
MID = datetime(2026, 10, 31, 13, tzinfo=UTC)
SETTLED = datetime(2026, 11, 6, 2, 15, tzinfo=UTC)
"""Past the lookback of every day of October; clocks go back in New York on 1 November, at 06:00 UTC."""

COUNTED = [name for name in MEASURES if name != "storage_gb_months"]
FILES = {"controls.json", "corrections.csv", "items.parquet", "summary.csv", "usage.csv", "usage.parquet"}

Key = tuple[Any, ...]


@dataclass
class Nights:
    """The stores of one world on two nights: within the month, and after it had settled."""

    simulator: Simulator
    folder: Path
    config: str

    def site(self, now: datetime, *, prices: str = "", **billing: str) -> Site:
        """A new site with the stores of that night."""
        site = Site(self.simulator, self.folder / f"site-{len(list(self.folder.iterdir()))}")
        site.folder.mkdir()
        lines = "".join(f'{name} = "{value}"\n' for name, value in billing.items())
        text = self.config.replace(str(self.folder / "work"), str(site.folder))
        site.config.write_text(text.replace("[collect]\n", f"[billing]\n{lines}{prices}[collect]\n"))
        self.move_on(site, now)
        return site

    def move_on(self, site: Site, now: datetime) -> None:
        """Replace the stores by those of that night; reports stay."""
        for root in ("lake", "vault"):
            shutil.copytree(self.folder / now.date().isoformat() / root, site.folder / root, dirs_exist_ok=True)


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nights]:
    """Collected and built at `MID`, and again at `SETTLED`."""
    folder = tmp_path_factory.mktemp("billing")
    world = World(projects=("acme", "globex"), sessions_per_day=20, begin=BEGIN, file_bytes=2_000)
    with Simulator(world, now=MID) as simulator:
        text = simulator.settings_toml(str(folder / "work"))
        site = Site(simulator, folder / "work")
        site.folder.mkdir()
        site.config.write_text(text)
        for now in (MID, SETTLED):
            simulator.clock.set(now)
            with site.app(now) as app:
                assert collect(app, Period(BEGIN, now.date()), sources=("cdr", "archive")).ok
                assert build(app).ok
            shutil.copytree(site.folder, folder / now.date().isoformat())
        yield Nights(simulator, folder, text)


def export(site: Site, now: datetime, month: str = MONTH, *, project: str | None = None) -> RunResult:
    with site.app(now) as app:
        billed = billing_month(month, app.settings.billing.time_zone)
        return export_billing(app, billed, project=project, provisional=True, accept_suspense=True)


def folder(site: Site, revision: int, month: str = MONTH) -> Path:
    return site.folder / f"lake/reports/billing/month={month}/revision={revision:04d}"


def usage(site: Site, revision: int, month: str = MONTH) -> dict[Key, dict[str, Any]]:
    rows = pq.read_table(folder(site, revision, month) / "usage.parquet").to_pylist()
    lines = {tuple(row[name] for name in LINE_KEY): row for row in rows}
    assert len(lines) == len(rows)
    return lines


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def as_key(row: dict[str, str]) -> Key:
    texts = {name: row[name] or None for name in LINE_KEY}
    return tuple(date.fromisoformat(row["day"]) if name == "day" else text for name, text in texts.items())


def sums(row: dict[str, Any], names: list[str]) -> dict[str, Decimal]:
    return {name: Decimal(row[name] or 0) for name in names if Decimal(row[name] or 0)}


def assert_true(site: Site, now: datetime, revision: int, month: str = MONTH, **how: str) -> None:
    truth = expected_lines(site.world, now, month, **how)
    lines = usage(site, revision, month)
    counted = {key: sums(row, COUNTED) for key, row in lines.items() if row["connections"] or row["transcoding_min"]}
    assert counted == {key: {name: value for name, value in line.items() if value} for key, line in truth.items()}
    assert len(counted) > 20


def assert_adds_up(site: Site, revision: int, compared: int | None = None) -> list[dict[str, str]]:
    """The compared revision (default: the previous one) plus corrections equals this revision in every line; returns
    the corrections.
    """
    changes: dict[Key, Counter[str]] = defaultdict(Counter)
    corrections = read_csv(folder(site, revision) / "corrections.csv")
    before, after = usage(site, compared or revision - 1), usage(site, revision)
    names = [name for name in (*MEASURES, *AMOUNTS) if name in corrections[0]]
    for row in corrections:
        changes[as_key(row)].update(sums(row, names))
    for key in before.keys() | after.keys() | changes.keys():
        total = Counter(sums(before[key], names) if key in before else {})
        total.update(changes.get(key, {}))
        expected = sums(after[key], names) if key in after else {}
        assert {name: value for name, value in total.items() if value} == expected, key
    return corrections


@pytest.mark.parametrize("rounding", ["ceil_per_connection", "exact", "vendor"])
def test_revision_and_corrections_are_the_next_revision(nights: Nights, rounding: str) -> None:
    """Revision 1 + corrections = revision 2, per line and in total; both are correct; late and corrected are listed."""
    site = nights.site(MID, rounding=rounding)
    first = export(site, MID)
    assert first.ok
    assert first.details.is_provisional
    assert_true(site, MID, 1, rounding=rounding)
    nights.move_on(site, SETTLED)
    second = export(site, SETTLED)
    assert (second.details.revision, second.details.is_provisional) == (2, False)
    assert_true(site, SETTLED, 2, rounding=rounding)

    corrections = assert_adds_up(site, 2)
    of_month = [
        one
        for project in site.world.projects
        for session in site.world.sessions_between(project, BEGIN, date(2026, 10, 31))
        for one in session.connections
        if one.signal_connected_at < datetime(2026, 11, 1, tzinfo=UTC)
    ]
    named = {cause: {row["item"] for row in corrections if row["cause"] == cause} for cause in ("late", "corrected")}
    late = {one.cdr_id for one in of_month if one.visible_at > MID}
    assert late
    assert late == {row["item"] for row in corrections if row["cause"] == "late" and row["kind"] == "connection"}
    corrected = {
        one.cdr_id
        for one in of_month
        if one.corrected_at and one.visible_at <= MID < one.corrected_at and not one.old_shape
    }
    assert corrected
    assert named["corrected"] >= corrected
    assert {row["is_provisional"] for row in corrections} == {"false"}


def test_the_sums_are_the_same_at_every_stage(nights: Nights) -> None:
    """Controls, lines, summary and CSV have the same seconds and minutes; a user who reconnects counts twice."""
    site = nights.site(SETTLED)
    assert export(site, SETTLED, "2026-11").ok
    controls = json.loads((folder(site, 1, "2026-11") / "controls.json").read_bytes())
    lines = usage(site, 1, "2026-11")
    text = read_csv(folder(site, 1, "2026-11") / "usage.csv")
    summary = read_csv(folder(site, 1, "2026-11") / "summary.csv")
    assert {as_key(row): sums(row, list(MEASURES)) for row in text} == {
        key: sums(row, list(MEASURES)) for key, row in lines.items()
    }
    for project, stages in controls["hops"].items():
        assert stages["rejects"] == {"rows": 0}
        assert stages["cdr"]["rows"] == stages["items"]["connections"] + stages["other_months"]["rows"]
        for name in MEASURES:
            total = sum(Decimal(row[name]) for row in summary if row["project"] == project)
            assert total == sum(Decimal(row[name]) for row in text if row["project"] == project)
            assert Decimal(stages["items"][name]) == Decimal(stages["lines"][name]) == total, name
    rejoined = [
        session
        for session in site.world.sessions_between("acme", date(2026, 11, 1), date(2026, 11, 5))
        if len({one.user_name for one in session.connections}) < len(session.connections)
    ]
    assert rejoined
    assert {path.name for path in folder(site, 1, "2026-11").iterdir()} == FILES
    assert not {*AMOUNTS, "currency"} & {*text[0], *summary[0]}, "without prices there are no amounts"
    assert PRICES not in controls["settings"]


def test_the_same_again_is_no_new_revision(nights: Nights) -> None:
    """Same inputs make no new revision and write nothing; another lake from the same vault has the same bytes."""
    site = nights.site(SETTLED)
    assert export(site, SETTLED).details.is_new
    before = site.objects("lake/reports")
    assert len(before) == len(FILES)
    again = export(site, SETTLED + timedelta(days=9))
    assert (again.details.is_new, again.details.revision) == (False, 1)
    assert site.objects("lake/reports") == before
    shutil.rmtree(site.folder / "lake")
    with site.app(SETTLED) as app:
        build(app)
    assert export(site, SETTLED).details.is_new
    assert site.objects("lake/reports") == before


def test_csv_files_have_the_form_of_the_settings(nights: Nights) -> None:
    """Every CSV file of an export, with FOCUS, and of an invoice comparison has the configured form; a changed form
    makes no revision and rewrites no file.
    """
    form = '[billing.csv]\nseparator = ";"\ndecimal = "comma"\nbom = true\n'
    site = nights.site(SETTLED, prices=PRICED + form)
    command = ["billing", "export", "--month", MONTH, "--format", "focus", "--accept-suspense"]
    assert site.outcome(*command, now=SETTLED)["revision"] == 1
    made, output = site.folder / "invoice.csv", site.folder / "lines.csv"
    made.write_text("owner_ref,minutes\nnorth,1\n")
    site.run("billing", "compare", str(made), "--month", MONTH, "--output", str(output), now=SETTLED)
    for path in [output, *folder(site, 1).glob("*.csv")]:
        content = path.read_text()
        assert content.startswith("\ufeff")
        assert len({line.count(";") for line in content.splitlines()}) == 1
        assert re.search(r";\d+,\d+;", content) or path.name == "corrections.csv"
        assert not re.search(r"\d\.\d{3}|0E-", content)
    printed = site.postroom("billing", "compare", str(made), "--month", MONTH, "--format", "csv", now=SETTLED)
    assert printed.stdout == output.read_text()
    written = site.objects("lake/reports")
    site.configure(form, "")
    again = site.outcome(*command, now=SETTLED)
    assert (again["ok"], again["is_new"], site.objects("lake/reports")) == (True, False, written)


def test_an_unsettled_month_needs_provisional(nights: Nights) -> None:
    """Without --provisional it is refused, with days and next step; with it every file is marked, the final one not."""
    site = nights.site(MID)
    refused = site.outcome("billing", "export", "--month", MONTH, now=MID)
    assert not refused["ok"]
    assert {failure["item"] for failure in refused["failed"]} == {"acme 2026-10", "globex 2026-10"}
    for text in ("never collected", "`postroom nightly`", "may still change", "--provisional"):
        assert text in refused["failed"][0]["error"]
    assert site.objects("lake/reports") == {}
    shown = site.postroom("billing", "export", "--month", MONTH, "--provisional", now=MID)
    assert shown.returncode == 0, shown.stderr
    assert "revision 1 of 2026-10" in shown.stdout
    for name in ("usage.csv", "summary.csv"):
        assert {row["is_provisional"] for row in read_csv(folder(site, 1) / name)} == {"true"}
    assert {row["is_provisional"] for row in usage(site, 1).values()} == {True}
    assert json.loads((folder(site, 1) / "controls.json").read_bytes())["is_provisional"]
    nights.move_on(site, SETTLED)
    final = site.outcome("billing", "export", "--month", MONTH, "--accept-suspense", now=SETTLED)
    assert (final["revision"], final["is_provisional"], final["unsettled"]) == (2, False, {})


def test_a_final_export_needs_decisions_or_consent(nights: Nights) -> None:
    """With open records in suspense a final export is refused and writes nothing; with consent it has their number and
    minutes in its controls and lines.
    """
    site = nights.site(SETTLED)
    refused = site.outcome("billing", "export", "--month", MONTH, now=SETTLED)
    assert not refused["ok"]
    assert all("stay_contradicts" in failure["error"] for failure in refused["failed"])
    assert site.objects("lake/reports") == {}
    final = site.outcome("billing", "export", "--month", MONTH, "--accept-suspense", now=SETTLED)
    assert (final["ok"], final["is_provisional"]) == (True, False)
    controls = json.loads((folder(site, 1) / "controls.json").read_bytes())
    assert controls["accepts_suspense"] is True
    totals = [total for by_reasons in controls["suspense"].values() for total in by_reasons.values()]
    lines = usage(site, 1).values()
    assert sum(total["records"] for total in totals) == sum(line["suspense"] for line in lines) > 0
    assert sum(Decimal(total["at_stake_min"]) for total in totals) == sum(line["suspense_min"] for line in lines) > 0


def test_what_was_collected_must_be_built(nights: Nights) -> None:
    """A raw response that is not built yet prevents a final export."""
    site = nights.site(SETTLED)
    shutil.rmtree(site.folder / "lake")
    with site.app(SETTLED) as app:
        refused = export_billing(app, billing_month(MONTH, "UTC"))
    assert "run `postroom build`" in refused.failed[0].error


def test_a_killed_export_leaves_nothing_that_counts(nights: Nights) -> None:
    """Controls list every file with its SHA-256. Files without controls are no revision: the same export completes them
    under the same number, another export uses the next number.
    """
    site = nights.site(MID)
    export(site, MID)
    controls = json.loads((folder(site, 1) / "controls.json").read_bytes())
    written = {name: (folder(site, 1) / name).read_bytes() for name in FILES - {"controls.json"}}
    listed = {
        name: {"size_bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()} for name, body in written.items()
    }
    assert controls["files"] == listed
    (folder(site, 1) / "controls.json").unlink()
    whole = export(site, MID)
    assert (whole.details.revision, whole.details.is_new) == (1, True)
    (folder(site, 1) / "controls.json").unlink()
    nights.move_on(site, SETTLED)
    other = export(site, SETTLED)
    assert (other.details.revision, other.details.is_provisional) == (2, False)
    assert json.loads((folder(site, 2) / "controls.json").read_bytes())["previous_revision"] is None


def test_one_project_has_its_own_series(nights: Nights) -> None:
    """`--project` makes a separate series with the lines of that project only."""
    site = nights.site(SETTLED)
    export(site, SETTLED)
    one = export(site, SETTLED, project="acme")
    assert one.details.path == "reports/billing/project=acme/month=2026-10/revision=0001/"
    alone = pq.read_table(site.folder / "lake" / one.details.path / "usage.parquet").to_pylist()
    assert alone == [row for row in usage(site, 1).values() if row["project"] == "acme"]


def test_months_of_other_zones_add_up_to_the_same(nights: Nights) -> None:
    """Over three months every zone has the same sums; days are local days, also when clocks change."""
    totals: dict[str, Counter[str]] = {}
    for zone in ("UTC", "Asia/Kolkata", "America/New_York"):
        site = nights.site(SETTLED, time_zone=zone)
        totals[zone] = Counter(dict.fromkeys(COUNTED, 0))
        for month in ("2026-09", "2026-10", "2026-11"):
            outcome = export(site, SETTLED, month)
            for lines in outcome.details.projects.values():
                totals[zone].update({name: Decimal(lines[name]) for name in COUNTED})
            if month != "2026-09":
                assert_true(site, SETTLED, 1, month, zone=zone)
    assert totals["UTC"]["connections"] > 1000
    assert totals["UTC"] == totals["Asia/Kolkata"] == totals["America/New_York"]


PRICED = """[billing.prices]
currency = "USD"
recording_min = "0.0125"
[[billing.prices.participant_min]]
tiers = [{ up_to = 500, price = "0.01" }, { price = "0.0037" }]
[[billing.prices.participant_min]]
project = "globex"
price = "0.02"
"""


def cost(project: str, minutes: Decimal) -> Decimal:
    """The cost of a month's participant minutes by `PRICED`."""
    if project == "globex":
        return minutes * Decimal("0.02")
    return min(minutes, Decimal(500)) * Decimal("0.01") + max(minutes - 500, Decimal(0)) * Decimal("0.0037")


def test_amounts_are_true_and_are_corrected(nights: Nights) -> None:
    """Lines add up to the cost of the simulator's minutes at every stage; late connections have amounts; a new price
    makes a revision with cause `repriced`, and a price for another month makes none.
    """
    site = nights.site(MID, prices=PRICED)
    export(site, MID)
    nights.move_on(site, SETTLED)
    outcome = site.outcome("billing", "export", "--month", MONTH, "--accept-suspense", now=SETTLED)
    corrections = assert_adds_up(site, 2)
    assert any(row["cause"] == "late" and Decimal(row["participant_amount"]) for row in corrections)
    assert {row["cause"] for row in corrections if row["kind"] == "amount"} == {"apportioned"}

    truth, lines = expected_lines(site.world, SETTLED, MONTH), usage(site, 2)
    summary = read_csv(folder(site, 2) / "summary.csv")
    for project in site.world.projects:
        of_project = [line for key, line in truth.items() if key[0] == project]
        used, recorded = (
            sum((line.get(name, Decimal(0)) for line in of_project), Decimal(0))
            for name in ("participant_min", "recording_min")
        )
        assert used > 500, "both tiers are needed"
        amounts = [(cost(project, used)).quantize(Decimal("0.01"), ROUND_HALF_UP)]
        amounts += [(recorded * Decimal("0.0125")).quantize(Decimal("0.01"), ROUND_HALF_UP)]
        assert sum(row["amount"] for key, row in lines.items() if key[0] == project) == sum(amounts)
        assert sum(Decimal(row["amount"]) for row in summary if row["project"] == project) == sum(amounts)
        assert Decimal(outcome["projects"][project]["amount"]) == sum(amounts)
    assert {row["currency"] for row in [*summary, *corrections]} == {"USD"}
    assert {row["storage_amount"] for row in lines.values()} == {None}

    controls = json.loads((folder(site, 2) / "controls.json").read_bytes())
    in_force = controls["settings"][PRICES]["projects"]
    assert in_force["globex"] == {"participant_min": [{"price": "0.02"}], "recording_min": [{"price": "0.0125"}]}
    site.config.write_text(site.config.read_text().replace('"0.02"', '"0.03"'))
    assert export(site, SETTLED).details.corrections.keys() == {"repriced"}
    assert {row["project"] for row in assert_adds_up(site, 3)} == {"globex"}
    later = '[[billing.prices.sip_min]]\nvalid_from = 2026-12-01\nprice = "1"\n'
    site.config.write_text(site.config.read_text().replace("[collect]\n", f"{later}[collect]\n"))
    assert not export(site, SETTLED).details.is_new
    site.config.write_text(site.config.read_text().replace("2026-12-01", "2026-10-20"))
    refused = site.outcome("billing", "export", "--month", MONTH, "--accept-suspense", now=SETTLED)
    assert "billing.prices.sip_min: acme has no price on 19 days from 2026-10-01" in refused["failed"][0]["error"]


def amount_of(site: Site, revision: int) -> Decimal:
    return sum((row["amount"] or Decimal(0) for row in usage(site, revision).values()), Decimal(0))


def test_a_provisional_revision_hides_no_invoice(nights: Nights) -> None:
    """Final, provisional, final: corrections and FOCUS of both later revisions start from what the first one invoiced;
    the provisional one, and a final one without prices, add nothing to the next.
    """
    site = nights.site(SETTLED, prices=PRICED)

    def focus(price: str, *options: str) -> dict[str | None, dict[int, Decimal]]:
        """Export at a price; costs by class and revision."""
        site.config.write_text(
            re.sub(r'(project = "globex"\nprice = )"[^"]*"', rf'\1"{price}"', site.config.read_text())
        )
        command = ["billing", "export", "--month", MONTH, "--format", "focus", "--accept-suspense"]
        done = site.outcome(*command, *options, now=SETTLED)
        assert done["ok"], done["failed"]
        costs: dict[str | None, dict[int, Decimal]] = defaultdict(lambda: defaultdict(Decimal))
        for row in pq.read_table(site.folder / "lake" / done["path"] / "focus.parquet").to_pylist():
            costs[row["ChargeClass"]][row["x_Revision"]] += row["BilledCost"]
        return costs

    assert focus("0.02").keys() == {None}
    first = amount_of(site, 1)
    (site.folder / f"lake/builds/project=acme/day={SPOILT}.json").unlink()
    assert focus("0.05", "--provisional") == {None: {1: first}, "Correction": {2: amount_of(site, 2) - first}}
    assert_adds_up(site, 2)
    rebuild(site)
    assert focus("0.03") == {None: {1: first}, "Correction": {3: amount_of(site, 3) - first}}
    assert {row["cause"] for row in assert_adds_up(site, 3, compared=1)} == {"repriced"}
    controls = json.loads((folder(site, 3) / "controls.json").read_bytes())
    assert (controls["previous_revision"], controls["compared_revision"]) == (2, 1)

    priced = site.config.read_text()
    site.config.write_text(priced.replace(priced[priced.index("[billing.prices]") : priced.index("[collect]")], ""))
    assert export(site, SETTLED).details.revision == 4
    site.config.write_text(priced)
    corrections = focus("0.04")["Correction"]
    assert corrections == {3: amount_of(site, 3) - first, 5: amount_of(site, 5) - amount_of(site, 3)}


CONTRADICTION = "InvoiceId-C-005-C"
"""The validator reports a failure of either of two rules, although only one of them must hold: InvoiceId is null,
InvoiceId is not null. The rule above them, that one of them holds, passes."""


def test_the_validator_of_focus_accepts_the_export(nights: Nights, validate_focus: Validate) -> None:
    """The validator of the FinOps Foundation accepts revisions with and without corrections as FOCUS 1.2, and refuses
    another class. Costs equal those of the revision; the first final revision is charged, a new price is a correction.
    """
    without = nights.site(SETTLED).outcome("billing", "export", "--month", MONTH, "--format", "focus", now=SETTLED)
    assert "[billing.prices]" in without["failed"][0]["error"]
    site = nights.site(SETTLED, prices=PRICED)
    command = ["billing", "export", "--month", MONTH, "--format", "focus", "--accept-suspense"]
    first = site.outcome(*command, now=SETTLED)
    assert first["focus"]["usage"] > 20
    assert first["focus"]["corrections"] == 0
    site.config.write_text(site.config.read_text().replace('"0.02"', '"0.03"'))
    second = site.outcome(*command, now=SETTLED)
    assert second["focus"]["usage"] == first["focus"]["usage"]
    assert second["focus"]["corrections"] > 10
    rows = pq.read_table(folder(site, 2) / "focus.parquet")
    assert {row["x_Revision"] for row in rows.to_pylist() if row["ChargeClass"] == "Correction"} == {2}
    assert sum(rows["BilledCost"].to_pylist()) == sum(row["amount"] or 0 for row in usage(site, 2).values())
    assert len(read_csv(folder(site, 1) / "focus.csv")) == first["focus"]["usage"]
    written = site.objects("lake/reports")
    site.outcome(*command, now=SETTLED)
    assert site.objects("lake/reports") == written

    for file in (folder(site, 1) / "focus.csv", folder(site, 2) / "focus.parquet"):
        assert [failure.split(" ")[0] for failure in validate_focus(file)] == [CONTRADICTION]
    wrong = site.folder / "wrong.parquet"
    place = rows.schema.get_field_index("ChargeClass")
    pq.write_table(rows.set_column(place, "ChargeClass", pa.array(["Corrected"] * rows.num_rows)), wrong)
    assert any(failure.startswith("ChargeClass-C-005-C") for failure in validate_focus(wrong))


def invoice_of(site: Site, seen_at: datetime) -> dict[str, tuple[str, int]]:
    """The invoice for October: owner and minutes of each connection, from its records at `seen_at`."""
    month_over = datetime(2026, 11, 1, tzinfo=UTC)
    return {
        one.cdr_id: (session.room.owner_ref, int(vendor_minutes(one, seen_at)))
        for project in site.world.projects
        for session in site.world.sessions_between(project, BEGIN, date(2026, 10, 31))
        for one in session.connections
        if one.visible_at <= seen_at and one.signal_connected_at < month_over
    }


def vendor_minutes(one: Connection, now: datetime) -> Decimal:
    """The count of EnableX; for old records, which have none, the minutes rounded up."""
    sums = connection_sums(one, now, "ceil_per_connection", is_recorded=False)
    return sums.get("connect_billed_min") or sums.get("participant_min", Decimal(0))


def test_an_invoice_is_explained_to_the_last_line(nights: Nights) -> None:
    """An invoice made right after the month lacks late connections; removed, invented and doubled lines are found by
    their ID, and the causes add up to the difference. The command returns exit code 3.
    """
    site = nights.site(SETTLED)
    as_it_was, made = datetime(2026, 11, 2, tzinfo=UTC), site.folder / "invoice.csv"
    whole = invoice_of(site, SETTLED)
    lines = invoice_of(site, as_it_was)
    late = whole.keys() - lines.keys()
    dropped, doubled = sorted(lines)[:2]
    del lines[dropped]
    lines |= {doubled: (lines[doubled][0], 2 * lines[doubled][1] + 2), "made-up": ("north", 7)}
    made.write_text(
        "".join(f"{cdr_id};{minutes}\n" for cdr_id, (_, minutes) in [("CDR ID", ("", "Billed")), *lines.items()])
    )

    command = ["billing", "compare", str(made), "--month", MONTH, "--column", "minutes=billed"]
    outcome = site.outcome(*command, now=SETTLED)
    by_verdict = {row["verdict"]: row for row in outcome["explained"]}
    ours = sum((line["participant_min"] for line in expected_lines(site.world, SETTLED, MONTH).values()), Decimal(0))
    difference = sum(minutes for _, minutes in lines.values()) - ours
    assert Decimal(by_verdict["total"]["explains"]) == difference
    assert sum(Decimal(row["explains"]) for row in outcome["explained"][:-1]) == difference
    found = {
        verdict: {row["cdr_id"] for row in outcome["lines"] if row["verdict"] == verdict} for verdict in by_verdict
    }
    assert late
    assert found["late"] >= late
    assert found["missing_there"] == {dropped}
    assert found["missing_here"] == {"made-up"}
    assert doubled in found["different"]
    shown = site.run(*command, "--output", str(site.folder / "lines.csv"), now=SETTLED)
    assert shown.returncode == 3
    assert "unexplained, largest first" in shown.stdout
    assert {row["cdr_id"] for row in read_csv(site.folder / "lines.csv")} == lines.keys() | whole.keys()


@pytest.mark.parametrize("unit", UNITS)
def test_an_invoice_by_owner_that_agrees_is_good(nights: Nights, unit: str) -> None:
    """An invoice with the measured sums by day and owner is equal in every line, for any unit; exit code 0."""
    site = nights.site(SETTLED)
    sums: Counter[tuple[date, str | None]] = Counter()
    for (_, day, owner, _, _), line in expected_lines(site.world, SETTLED, MONTH).items():
        sums[day, owner] += line.get(unit, Decimal(0))
    made = site.folder / "invoice.csv"
    text = "".join(f"{day},{owner or ''},{minutes}\n" for (day, owner), minutes in sums.items() if minutes)
    made.write_text(f"Day,Owner Ref,Minutes\n{text}")
    shown = site.run("billing", "compare", str(made), "--month", MONTH, "--unit", unit, now=SETTLED)
    assert shown.returncode == 0, shown.stdout
    billed = [minutes for minutes in sums.values() if minutes]
    total = f"{sum(billed):,}.000"
    assert billed
    assert shown.stdout.splitlines()[-1].split() == ["total", str(len(billed)), total, total, "+0.000", "+0.000"]


@pytest.mark.parametrize("rounding", ["ceil_per_connection", "vendor"])
def test_rounding_has_an_exact_range(nights: Nights, rounding: str) -> None:
    """By owner, an invoice by any rule is explained by rounding; a minute beyond the range of the rules is not, and the
    result has the range and the minutes outside of it.
    """
    site = nights.site(SETTLED, rounding=rounding)
    for store in ("lake", "vault"):
        shutil.rmtree(site.folder / store)
    with site.app(SETTLED) as app:  # first collected after the month, so no connection is late
        assert collect(app, Period(BEGIN, SETTLED.date()), sources=("cdr", "archive")).ok
        assert build(app).ok
    totals: dict[str, Counter[str]] = defaultdict(Counter)
    connections: Counter[str] = Counter()
    for rule in ("ceil_per_connection", "exact", "vendor"):
        for (_, _, owner, _, _), line in expected_lines(site.world, SETTLED, MONTH, rounding=rule).items():
            totals[rule][owner or ""] += line.get("participant_min", Decimal(0))
            connections[owner or ""] += int(line.get("connections", 0)) if rule == "exact" else 0
    made = site.folder / "invoice.csv"

    def compared(sums: dict[str, Decimal]) -> tuple[int, list[dict[str, str]]]:
        made.write_text("owner_ref,minutes\n" + "".join(f"{owner},{minutes}\n" for owner, minutes in sums.items()))
        output = site.folder / "lines.csv"
        shown = site.run("billing", "compare", str(made), "--month", MONTH, "--output", str(output), now=SETTLED)
        return shown.returncode, read_csv(output)

    for sums in totals.values():
        code, lines = compared(sums)
        assert [line for line in lines if line["verdict"] not in {"equal", "rounding"}] == []
        assert code == 0
    ranges = {owner: sorted(sums[owner] for sums in totals.values()) for owner in connections}
    for end, away in ((-1, 1), (0, -1)):
        slack = {owner: Decimal(count) / 1000 + 1 for owner, count in connections.items()}
        code, lines = compared({owner: ranges[owner][end] + away * slack[owner] for owner in ranges})
        assert (code, {line["verdict"] for line in lines}) == (3, {"different"})
        for line in lines:
            owner = line["owner_ref"]
            expected = [Decimal(line[f"expected_{name}_min"]) for name in ("low", "high")]
            assert expected == [ranges[owner][0], ranges[owner][-1]]
            assert Decimal(line["outside_min"]) == away * slack[owner]


@pytest.mark.parametrize(
    ("header", "arguments", "message"),
    [
        (None, [], "{path}: cannot be read: No such file or directory"),
        ("cdr_id,minutes", ["--decimal", "dot"], "--decimal dot: unknown; use one of comma, point"),
        ("cdr_id,minutes", ["--unit", "hours"], f"--unit hours: unknown; valid units: {', '.join(UNITS)}"),
        (
            "cdr_id,minutes",
            ["--unit", "transcoding_min"],
            "invoice.csv: transcoding is compared by session; a column conf_num is needed, and no cdr_id",
        ),
    ],
)
def test_an_invoice_that_cannot_be_compared_is_one_line(
    nights: Nights, header: str | None, arguments: list[str], message: str
) -> None:
    """One line with the problem, and exit code 2."""
    site = nights.site(SETTLED)
    made = site.folder / "invoice.csv"
    made.unlink(missing_ok=True)
    if header:
        made.write_text(f"{header}\n")
    shown = site.run("billing", "compare", str(made), "--month", MONTH, *arguments, now=SETTLED)
    assert (shown.returncode, shown.stderr) == (2, f"postroom: {message.format(path=made)}\n")


SPOILT = date(2026, 10, 29)


def test_a_repaired_reject_is_no_late_connection(nights: Nights) -> None:
    """A record that was a reject and is now a row is a correction with cause `repaired`."""
    site = nights.site(SETTLED)
    stored = [path for path in site.folder.glob("vault/raw/source=cdr/project=acme/*/*") if path.is_file()]
    whole = {path: path.read_bytes() for path in stored}
    spoilt = spoil_one_record(stored)
    rebuild(site)
    export(site, SETTLED)
    controls = json.loads((folder(site, 1) / "controls.json").read_bytes())
    assert controls["hops"]["acme"]["rejects"]["rows"] > 0
    for path, content in whole.items():
        path.write_bytes(content)
    rebuild(site)
    export(site, SETTLED)
    corrections = assert_adds_up(site, 2)
    assert {row["item"]: row["cause"] for row in corrections if row["kind"] == "connection"} == {spoilt: "repaired"}


def spoil_one_record(paths: list[Path]) -> str:
    """Remove the `conf_num` of one record of a large session in every response; returns its `cdr_id`."""
    cdr_id = ""
    for path in sorted(path for path in paths if path.name.endswith(".json.zst")):
        reply = json.loads(zstandard.ZstdDecompressor().decompressobj().decompress(path.read_bytes()))
        sessions = Counter(record["conf_num"] for record in reply["cdr"])
        for record in reply["cdr"]:
            is_of_many = sessions[record["conf_num"]] > 3 and record["trans_date"].startswith(str(SPOILT))
            if record.get("cdr_id") and record["cdr_id"] == (cdr_id or record["cdr_id"]) and (cdr_id or is_of_many):
                cdr_id = record["cdr_id"]
                record["conf_num"] = None
        body = json.dumps(reply).encode()
        receipt_path = path.with_name(path.name.replace(".json.zst", ".receipt.json"))
        receipt = json.loads(receipt_path.read_bytes())
        receipt |= {"size_bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}
        path.write_bytes(zstandard.compress(body))
        receipt_path.write_text(json.dumps(receipt))
    return cdr_id


def rebuild(site: Site) -> None:
    """Build the day again without its build record, as after a repair."""
    (site.folder / f"lake/builds/project=acme/day={SPOILT}.json").unlink(missing_ok=True)
    with site.app(SETTLED) as app:
        assert build(app, Period(SPOILT, SPOILT), project="acme").ok
