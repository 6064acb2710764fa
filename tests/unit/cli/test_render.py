"""Text output of commands: each case below is compared with its file in tests/golden/show/.

After an intended change, `python -m tests.unit.cli.test_render` writes the files again; review the difference.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from rich.console import Console

from jobs.status import (
    DriftedField,
    FileTotals,
    Lateness,
    ObjectTotals,
    ProjectStatus,
    StatusReport,
    SuspenseTotals,
)
from pipeline.billing.export import ExportSummary
from pipeline.billing.invoice import MEASURED, RULES, compare, read_invoice, summarize_differences
from pipeline.billing.line_items import MEASURES
from pipeline.billing.reconcile import InvoiceComparison
from pipeline.billing.suspense import SuspenseTotal
from pipeline.cli import render
from pipeline.cli.billing import show_comparison, show_export
from pipeline.cli.doctor_checks import Check, DoctorReport
from pipeline.core.models import Row, RunResult
from pipeline.ingest.settlement import DayStates
from tests.support.paths import ROOT

EXPECTED = ROOT / "tests/golden" / "show"
WIDTH = 100


def plain_console(width: int = WIDTH, **settings: Any) -> Console:
    """A console of fixed width, independent of terminal, pipe and environment variables."""
    settings = {"force_terminal": False, "color_system": None, **settings}
    return Console(file=io.StringIO(), width=width, highlight=False, legacy_windows=False, _environ={}, **settings)


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def deadline(name: str, hours_left: float) -> Row:
    return {
        "project": "acme",
        "conf_num": "284170002063",
        "kind": "recording",
        "name": name,
        "expires_at": "2026-11-24T02:15:00+00:00",
        "hours_left": hours_left,
    }


# --- the cases ---


def outcome_quiet(console: Console) -> None:
    render.show_outcome(console, RunResult("build"))


def outcome_good(console: Console) -> None:
    outcome = RunResult("nightly")
    outcome.add_success(
        3, replies=8, new_pages=5, documents=1234, rejects=0, files_copied=2, bytes_copied=1_234_567_890, days_built=3
    )
    render.show_outcome(console, outcome)


def outcome_bad(console: Console) -> None:
    outcome = RunResult("media copy")
    outcome.add_success(1, files_copied=1, bytes_copied=999, own_word=7)
    for name in ("a.mkv", "b.mkv", "c.mkv"):
        outcome.add_failure(f"acme/284170002063/recording/{name}", "HTTP 503 from https://portal.enablex.io/path")
    outcome.add_failure("acme/9/chat/[b]chat[/b].json", "not whole: [red]look[/red] :boom:")
    outcome.lost.append(deadline("gone.mkv", -30.5))
    outcome.at_risk += [deadline("late.mkv", -0.0), deadline("soon.mkv", 0.5), deadline("next.mkv", 23.9)]
    render.show_outcome(console, outcome)


def outcome_audit(console: Console) -> None:
    outcome = RunResult("media audit")
    outcome.add_success(
        2, sessions_audited=5, files_audited=1204, files_reread=13, bytes_reread=12_345_678_901, problems=1
    )
    outcome.add_failure("media/a.mkv", "missing: manifest 0003 of session 284 names it (recording a.mkv); restore it")
    outcome.add_notice("orphan", "media/b.mkv")
    render.show_outcome(console, outcome)


def _status() -> RunResult[StatusReport]:
    acme = ProjectStatus(
        days=DayStates(
            first="2026-01-01",
            missing=[f"2026-11-{day:02d}" for day in range(10, 17)],
            provisional=["2026-11-22", "2026-11-23"],
            settled=318,
        ),
        last_done={"cdr": "2026-11-23T02:15:00+00:00", "audit": "2026-11-22T03:30:00+00:00"},
        media={
            "stored": FileTotals(1204, 12_345_678_901),
            "malformed": FileTotals(1, 99_000_000),
            "lost": FileTotals(2, 0),
            "pending": FileTotals(7, 0),
        },
        pending=7,
        at_risk=1,
        next_deadline="2026-11-23T03:45:00+00:00",
        hours_left=1.5,
        last_good_runs={"media copy": "2026-11-23T02:20:00.000Z", "nightly": "2026-11-23T02:15:00.000Z"},
        lateness=Lateness(
            rows=12_345,
            known_after={"1 h": 0.42, "1 day": 0.998},
            latest_h=60.0,
            settled_h=67.2,
            hint="rows arrived or changed up to 2.8 days after they were written",
        ),
        unlisted=["2026-11-20 284170002063"],
        drift=[
            DriftedField("usage.region", "2026-11-20", 0.75, "[red]eu"),
            DriftedField("user.email", "2026-11-21", 1.0, None),
        ],
    )
    fresh = ProjectStatus(
        days=DayStates(None, [], [], 0),
        last_done={},
        media={},
        pending=0,
        at_risk=0,
        next_deadline=None,
        hours_left=None,
        last_good_runs={},
        lateness=None,
        unlisted=[],
        suspense={"not_listed": SuspenseTotals(1, 31), "stay_too_long": SuspenseTotals(1_234, 18_934_590)},
    )
    report = StatusReport(
        now="2026-11-23T02:15:00+00:00",
        projects={"acme": acme, "a-much-longer-name": fresh},
        stores={
            "lake": {"tables": ObjectTotals(3_300, 456_000_000)},
            "vault": {"media": ObjectTotals(1_205, 12_444_678_901), "raw": ObjectTotals(2_600, 98_000_000)},
        },
        next_runs={"media copy": "2026-11-23T02:30:00.000Z", "nightly": "2026-11-24T02:15:00.000Z"},
    )
    return RunResult("status", details=report)


def status_busy(console: Console) -> None:
    outcome = _status()
    outcome.at_risk.append(deadline("soon.mkv", 1.5))
    render.show_status(console, outcome)


def status_fresh(console: Console) -> None:
    report = StatusReport("2026-11-23T02:15:00+00:00", projects={}, stores={"lake": {}, "vault": {}})
    outcome = RunResult("status", details=report)
    render.show_status(console, outcome)


def doctor_bad(console: Console) -> None:
    checks = [
        Check("time zones", True, "598 zones, tzdata 2026.1; billing in UTC"),
        Check("temp disk", True, "9.1 GiB free in /tmp", "low for [recordings]: free disk space soon"),
        Check("acme API", False, "GET /archive/period: credentials refused", "copy App ID and App Key"),
        Check("acme files", None, "no file to test: the API did not list any"),
    ]
    lines = ["[projects.acme]", "# is to_date inclusive? yes (9 of the 9 CDRs were returned)"]
    outcome = RunResult("doctor", details=DoctorReport(checks, toml=lines))
    outcome.add_failure("acme API", "credentials refused")
    render.show_doctor(console, outcome)


def settings_list(console: Console) -> None:
    render.show_settings(
        console,
        [
            ("lake.url", "file:./data/lake", "default"),
            ("projects.acme.app_key", "********", "POSTROOM_PROJECTS__ACME__APP_KEY"),
            ("projects.acme.file_hosts", "*.enablex.io, [files].example", "/etc/postroom/[prod].toml"),
        ],
    )


def simulator_plain(console: Console) -> None:
    render.show_simulator(console, "http://127.0.0.1:8080/video/v2", "http://127.0.0.1:8081", [], None)


def simulator_faulty(console: Console) -> None:
    config = Path("/tmp/[mine]/sim.toml")
    render.show_simulator(
        console, "http://127.0.0.1:8080/video/v2", "http://127.0.0.1:8081", ["throttle", "short_body"], config
    )


def _result() -> pa.Table:
    return pa.table(
        {
            "conf_num": ["000170002063", "284170002063", None],
            "user_name": ["A. Müller", "日本太郎", "[bold]x[/bold]"],
            "n": pa.array([7, None, 12_345], pa.int64()),
            "share": [0.5, 1234.567, None],
            "price": pa.array([Decimal("0.124000"), None, Decimal("-1.5")], pa.decimal128(18, 6)),
            "at": pa.array([datetime(2026, 11, 22, 14, 33, 5, 120_000, UTC), None, None], pa.timestamp("ms", tz="UTC")),
            "day": [date(2026, 11, 22), None, None],
            "sip": [True, False, None],
        }
    )


def table_fits(console: Console) -> None:
    console.width = 130
    render.show_table(console, _result())


def table_too_wide(console: Console) -> None:
    console.width = 60
    render.show_table(console, _result())


def table_of_one(console: Console) -> None:
    render.show_table(console, pa.table({"count_star()": [1]}))


def table_empty(console: Console) -> None:
    render.show_table(console, _result().slice(0, 0))


def table_odd_names(console: Console) -> None:
    names = ["a", "a", "tags[x]", "[/b]"]
    render.show_table(console, pa.Table.from_arrays([pa.array([number]) for number in range(4)], names=names))


def comparison(console: Console) -> None:
    made = [
        {"cdr_id": "65ec6b1f0c3a9e0012ab34cd", "here": 1, "ours": 30_000, "billed": 31_000},
        {"cdr_id": "65ec6b1f0c3a9e0012ab34cb", "here": 1, "ours": 30_000, "exact": 29_502},
        {"cdr_id": "65ec6b1f0c3a9e0012ab34ce", "here": 1, "ours": 12_000},
        {"cdr_id": "65ec6b1f0c3a9e0012ab34cf", "here": 1, "ours": 45_000, "late_ours": 45_000},
        {"cdr_id": "65ec6b1f0c3a9e0012ab34d0", "here": 1, "ours": 1_234_000},
    ]
    none = dict.fromkeys([name for name in MEASURED.names if pa.types.is_integer(MEASURED.field(name).type)], 0)
    ours = [{**none, **dict.fromkeys(RULES, row["ours"]), **row} for row in made]
    content = b"cdr_id,minutes\n65ec6b1f0c3a9e0012ab34cd,31\n65ec6b1f0c3a9e0012ab34cb,31\n"
    content += b"65ec6b1f0c3a9e0012ab34ce,12\n[made-up],90.5\n"
    lines = compare(pa.Table.from_pylist(ours, MEASURED), read_invoice(content, "invoice.csv"))
    explained = summarize_differences(lines)
    comparison = InvoiceComparison("2026-11", ["acme"], "participant_min", ["cdr_id"], explained, output="l.csv")
    outcome = RunResult("billing compare", details=comparison)
    outcome.add_failure("2026-11", "1 different, 1 missing here, 1 missing there: -1,142.500 minutes")
    show_comparison(console, outcome, lines)


def export(console: Console) -> None:
    sums = {"connections": 1234, **dict.fromkeys(list(MEASURES)[1:], Decimal("0.000")), "amount": Decimal("0.00")}
    projects = {
        "acme": sums | {"storage_gb_months": Decimal("0E-9"), "participant_min": Decimal("12345.500")},
        "globex": sums | {"storage_gb_months": Decimal("0.000000007"), "amount": Decimal("9876.54")},
    }
    unsettled = {"acme": {"missing": [date(2026, 11, 29), date(2026, 11, 30)]}}
    path = "reports/billing/month=2026-11/revision=0002/"
    suspense = {"acme": {"stay_too_long": SuspenseTotal(2, Decimal(18_934_650))}}
    summary = ExportSummary("2026-11", 2, True, True, unsettled, suspense, path, {"late": 3}, projects)
    show_export(console, RunResult("billing export", details=summary))


def table_of_small_numbers(console: Console) -> None:
    numbers = [Decimal("0E-9"), Decimal("0.000000001"), Decimal("-1234567.5"), None]
    render.show_table(console, pa.table({"storage_gb_months": pa.array(numbers, pa.decimal128(18, 9))}))


CASES: dict[str, Callable[[Console], None]] = {
    case.__name__: case
    for case in (
        outcome_quiet,
        outcome_good,
        outcome_bad,
        outcome_audit,
        status_busy,
        status_fresh,
        doctor_bad,
        settings_list,
        simulator_plain,
        simulator_faulty,
        table_fits,
        table_too_wide,
        table_of_one,
        table_empty,
        table_odd_names,
        comparison,
        export,
        table_of_small_numbers,
    )
}


def rendered(case: str) -> str:
    console = plain_console()
    CASES[case](console)
    return text_of(console)


@pytest.mark.parametrize("case", CASES)
def test_output_is_the_expected_one(case: str) -> None:
    """The output of a command equals its golden file."""
    assert rendered(case) == (EXPECTED / f"{case}.txt").read_text(encoding="utf-8")


def test_every_golden_file_has_a_case() -> None:
    """Every file in tests/golden/show belongs to a case."""
    assert {path.name for path in EXPECTED.iterdir()} == {f"{case}.txt" for case in CASES}


# --- properties of the output ---


def test_urgent_items_are_highlighted_and_last() -> None:
    """On a terminal, failures and lost files are bold red, and files at risk bold yellow, after all other lines."""
    console = plain_console(force_terminal=True, color_system="standard")
    outcome_bad(console)
    lines = text_of(console).splitlines()
    assert [line.split("m", 1)[0] for line in lines[-4:]] == ["\x1b[1;31", "\x1b[1;33", "\x1b[1;33", "\x1b[1;33"]
    assert lines[1].startswith("\x1b[1;31mfailed ")


def test_output_into_a_file_is_not_wrapped() -> None:
    """In output into a file, a long name with its hash stays on one line, for grep."""
    stream = io.StringIO()
    console = render.console_for(stream)
    outcome = RunResult("media copy")
    outcome.add_failure("acme/" + "x" * 300, "because")
    render.show_outcome(console, outcome)
    assert console.width == 160
    assert stream.getvalue().splitlines()[1] == f"failed acme/{'x' * 300}: because"


@pytest.mark.parametrize("width", range(16, 64, 4))
def test_no_cell_is_cut(width: int) -> None:
    """At any terminal width, every value is shown completely, including wide characters: as a table or as records."""
    console = plain_console(width, soft_wrap=True)
    value, key = "日本語の部屋の名前", "0123456789abcdef"
    render.show_table(console, pa.table({"room_name": [value], "sha": [key]}))
    assert value in text_of(console)
    assert key in text_of(console)
    assert "…" not in text_of(console)


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1050, "1.1 kB"),
        (999_949, "999.9 kB"),
        (999_951, "1.0 MB"),
        (1_500_000_000, "1.5 GB"),
        (999_960_000_000, "1.0 TB"),
        (5_000_000_000_000_000, "5000.0 TB"),
    ],
)
def test_sizes_are_rounded_into_their_unit(size_bytes: int, text: str) -> None:
    """Sizes have decimal units and one decimal place, and are below 1000 of their unit (except TB)."""
    assert render.bytes_text(size_bytes) == text


@pytest.mark.parametrize(
    ("hours_left", "text"),
    [
        (23.9, "23.9 h left"),
        (2.0, "2 h left"),
        (0.0, "0 h left"),
        (-0.0, "0 h left"),
        (-1.5, "deadline passed 1.5 h ago; copy is still attempted"),
    ],
)
def test_a_deadline_is_shown_in_hours(hours_left: float, text: str) -> None:
    """Before the deadline, the hours left are shown; after it, the hours since, and that the copy is retried."""
    assert render.hours_text(hours_left) == text


if __name__ == "__main__":
    for name in CASES:
        (EXPECTED / f"{name}.txt").write_text(rendered(name), encoding="utf-8")
