"""The day report. tests/golden/report.html is the page without its style sheet.

`python -m tests.unit.cli.test_day_report` writes it.
"""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from html.parser import HTMLParser

import pytest

from pipeline.cli.day_report.html import columns, el, number_text
from pipeline.cli.day_report.page import DayFacts, day_page
from pipeline.cli.day_report.style import CSS
from pipeline.core.models import Row
from tests.support.paths import ROOT

EXPECTED = ROOT / "tests/golden" / "report.html"
NOW = datetime(2026, 11, 23, 2, 15, tzinfo=UTC)


def usage(owner: str | None, minutes: str) -> Row:
    return {
        "owner_ref": owner,
        "sessions": 3,
        "connections": 12,
        "participant_min": Decimal(minutes),
        "recording_min": Decimal(0),
    }


def file(state: str, name: str, hours: float | None = None, why: str | None = None) -> Row:
    return {
        "project": "acme",
        "conf_num": "000170002063",
        "kind": "recording",
        "name": name,
        "state": state,
        "expires_at": None if hours is None else NOW + timedelta(hours=hours),
        "lost_reason": why,
    }


def audited(verdict: str, key: str, detail: str | None = None) -> Row:
    return {
        "audited_at": NOW,
        "key": key,
        "kind": "x",
        "verdict": verdict,
        "is_content_verified": False,
        "detail": detail,
    }


FACTS = DayFacts(
    day=date(2026, 11, 22),
    now=NOW,
    settled={"acme": True, "globex": False, "initech": None},
    usage=[usage(None if number == 5 else f"tenant-{number}", str(1500 - 100 * number)) for number in range(14)],
    hours=[{"hour": 9, "sessions": 7}, {"hour": 23, "sessions": 1}],
    lateness=[
        {"late_h": 0.5, "is_corrected": False, "rows": 100},
        {"late_h": 49.0, "is_corrected": True, "rows": 3},
        {"late_h": None, "is_corrected": False, "rows": 1},
    ],
    rejects=[{"source": "cdr", "reason": "no time at all", "rows": 2}],
    suspense=[
        {"reasons": "stay_too_long", "decision": "open", "records": 2, "at_stake_min": Decimal(18_934_650)},
        {"reasons": "stay_unknown", "decision": "excluded", "records": 1, "at_stake_min": None},
    ],
    drift=[
        {"path": "usage.region", "documents": 30, "documents_total": 40, "example": "<eu>", "first_day": "2026-11-20"}
    ],
    media=[
        {"state": "stored", "files": 40, "size_bytes": 1_234_567_890},
        {"state": "lost", "files": 1, "size_bytes": 0},
    ],
    open_files=[file("pending", "soon.mkv", 3), file("pending", "late.mkv", -1), file("lost", "a.mkv", why="404")],
    audits=[audited("missing", "media/b.mkv", "manifest 0001 names it"), audited("ok", "media/c.mkv")],
)


class Read(HTMLParser):
    """Elements and text of a page, without the content of `style`."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data + " "


def without_style(page: str) -> str:
    """The page with an empty `style` element."""
    assert page.count(CSS) == 1
    return page.replace(CSS, "")


def test_the_page_is_the_expected_one() -> None:
    """The page, except for its style sheet, equals the golden file."""
    assert without_style(day_page(FACTS)) == EXPECTED.read_text(encoding="utf-8")


def test_numbers_of_charts_are_text() -> None:
    """Every fact is on the page as text: totals, owners and the rest of them, shares, deadlines, reasons."""
    text = " ".join(Read(day_page(FACTS)).text.split())
    for expected in (
        "Sunday, 22 November 2026",
        "acme: settled globex: provisional initech: never collected",
        "participant minutes 11,900",
        "(no owner) 1,000",
        "2 more 500",
        "most in the hour from 09:00 UTC",
        "104 rows: 3 corrected after first collection, 2 rejected",
        "within 1 h 100 (97%)",
        "no time at all 2",
        "records in suspense 2",
        "stay too long open 2 18,934,650",
        "stay unknown excluded 1 unknown",
        "files at risk 2",
        "stored 40 (1.2 GB)",
        "soon.mkv 3 h left",
        "late.mkv passed 1 h ago",
        "a.mkv 404",
        "media/b.mkv manifest 0001 names it",
    ):
        assert expected in text, expected


EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)> \"' & ]]> <!-- </style></svg>"


def test_nothing_from_outside_becomes_markup() -> None:
    """Names from EnableX or a file host are text, whatever they contain: the elements of the page stay the same."""
    evil = replace(
        FACTS,
        usage=[{**row, "owner_ref": EVIL} for row in FACTS.usage],
        rejects=[{**row, "source": EVIL, "reason": EVIL} for row in FACTS.rejects],
        open_files=[{**row, "conf_num": EVIL, "name": EVIL, "lost_reason": EVIL} for row in FACTS.open_files],
        audits=[{**row, "key": EVIL, "detail": EVIL} for row in FACTS.audits],
    )
    plain, escaped = Read(day_page(FACTS)), Read(day_page(evil))
    assert [tag for tag, _ in escaped.tags] == [tag for tag, _ in plain.tags]
    assert [set(attributes) for _, attributes in escaped.tags] == [set(attributes) for _, attributes in plain.tags]
    assert escaped.text.count(EVIL) >= 14
    assert Read(el("p", title=EVIL)).tags == [("p", {"title": EVIL})]


def test_the_page_is_self_contained() -> None:
    """The page is one file without scripts, addresses or external resources, and its policy forbids them."""
    page = day_page(FACTS)
    assert not {tag for tag, _ in Read(page).tags} & {"script", "link", "img", "iframe", "object", "a"}
    assert "Content-Security-Policy" in page
    assert not re.search(r"url\(|@import|https?:|\bsrc=|\bhref=", page)
    assert len(page) < 30_000


def test_a_day_without_data_has_a_page() -> None:
    """Before anything is collected, the page states it as text, without empty charts."""
    quiet = DayFacts(FACTS.day, NOW, {"acme": None}, [], [], [], [], [], [], [], [], [])
    page = Read(day_page(quiet))
    assert "svg" not in {tag for tag, _ in page.tags}
    for expected in (
        "No connections.",
        "No session started",
        "0 rows",
        "EnableX listed no files",
        "are not audited yet",
    ):
        assert expected in page.text


@pytest.mark.parametrize(("highest", "top"), [(0, "2"), (2, "2"), (3, "4"), (7, "10"), (11, "20"), (399, "400")])
def test_a_scale_ends_on_a_round_number(highest: int, top: str) -> None:
    """The scale ends at or above the highest column, at a number whose half is whole."""
    chart = Read(columns("title", [highest], ["00"]))
    assert chart.text.split()[1:4] == ["0", number_text(float(top) / 2), top]


def luminance(colour: str) -> float:
    """Relative luminance of `#rrggbb`, as WCAG 2 defines it."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_colours_have_enough_contrast() -> None:
    """In light, dark and print styles, text has a contrast of 4.5 to its background, and shapes of 3 (WCAG AA)."""
    schemes = re.findall(r":root \{([^}]*)\}", CSS)
    assert len(schemes) == 3
    for scheme in schemes:
        colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", scheme))
        for name in ("ink", "soft", "good", "soon", "bad", "odd", "bar", "quiet"):
            for background in ("paper", "card"):
                dark, light = sorted((luminance(colours[name]), luminance(colours[background])))
                assert (light + 0.05) / (dark + 0.05) >= (3 if name in {"bar", "quiet"} else 4.5), (name, background)


if __name__ == "__main__":
    EXPECTED.write_text(without_style(day_page(FACTS)), encoding="utf-8")
