"""The day's page of a real night: true to the tables, and shown by a real browser."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta
from html import escape
from pathlib import Path

import av
import pytest

from pipeline import flows
from pipeline.query import run_query
from pipeline.simulator.server import Simulator
from pipeline.simulator.world import World
from tests.conftest import NOW, Site
from tests.servers.browser import browse
from tests.servers.children import NotInstalled

DAY = (NOW - timedelta(days=1)).date()
PHONE_PX = 390


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One project after one night and an audit."""
    world = World(projects=("acme",), sessions_per_day=8, begin=DAY)
    folder = tmp_path_factory.mktemp("night")
    with Simulator(world, now=NOW) as simulator:
        site = Site(simulator, folder)
        site.config.write_text(simulator.settings_toml(str(folder)))
        with site.app() as app:
            flows.nightly(app)
            flows.audit_media(app)
        yield site


@pytest.fixture(scope="module")
def page(night: Site) -> Path:
    """The page as the command writes it."""
    file = night.folder / "day.html"
    assert night.postroom("report", "--day", str(DAY), "--output", str(file)).stdout == f"{DAY} is in {file}\n"
    return file


def test_the_page_tells_what_the_tables_hold(night: Site, page: Path) -> None:
    """Minutes of each owner, sessions, rows and verdicts on the page are sums that SQL over the tables gives."""
    text = page.read_text()
    with night.app() as app:
        (totals,) = run_query(
            app.lake,
            f"""SELECT (SELECT count(*) FROM sessions WHERE day = DATE '{DAY}') AS sessions,
                       (SELECT count(*) FROM cdr WHERE day = DATE '{DAY}') AS connections,
                       (SELECT sum(participant_min) FROM cdr WHERE day = DATE '{DAY}') AS minutes,
                       (SELECT count(*) FROM audits WHERE media_day = DATE '{DAY}') AS audited""",
        ).to_pylist()
        owners = run_query(
            app.lake,
            f"SELECT coalesce(owner_ref, '(no owner)') AS owner, sum(participant_min) AS minutes FROM usage_daily"
            f" WHERE day = DATE '{DAY}' GROUP BY ALL",
        ).to_pylist()
    assert len(owners) > 2
    assert sum(owner["minutes"] for owner in owners) == totals["minutes"]
    for what, number in (("sessions", "sessions"), ("connections", "connections"), ("participant minutes", "minutes")):
        assert f"<dt>{what}</dt><dd>{totals[number]:,.0f}</dd>" in text
    assert f"{totals['audited']:,} objects of this day" in text
    for owner in owners:
        assert f'<th scope="row">{escape(owner["owner"])}</th>' in text
        assert f'<td class="number">{owner["minutes"]:,.0f}</td>' in text
    assert ">acme: <strong" in text


def test_a_browser_shows_the_page(page: Path, tmp_path: Path) -> None:
    """Chromium shows it without a word on the console and without network; on a phone nothing sticks out; it prints."""
    text = page.read_text()
    frame = tmp_path / "phone.html"
    frame.write_text(
        f'<iframe id="phone" width="{PHONE_PX}" height="800" srcdoc="{escape(text)}"></iframe><script>'
        "addEventListener('load', () => { const page = document.getElementById('phone').contentDocument;"
        "document.title = page.documentElement.scrollWidth + ' ' + page.querySelectorAll('svg').length; })</script>"
    )
    picture, paper = tmp_path / "page.png", tmp_path / "page.pdf"
    try:
        shown, said = browse(frame, "--dump-dom")
    except NotInstalled:
        if os.environ.get("REQUIRE_SERVERS"):
            raise
        pytest.skip("no Chromium to look at the report with: `make servers` says why (tests/servers/README.md)")
    assert said == []
    assert f"<title>{PHONE_PX} {text.count('<svg')}</title>" in shown
    assert browse(page, "--window-size=1280,1400", f"--screenshot={picture}")[1] == []
    with av.open(str(picture)) as opened:
        pixels = next(opened.decode(video=0)).to_ndarray(format="rgb24")
    assert pixels.shape == (1400, 1280, 3)
    blue = (pixels == (0x2F, 0x6F, 0xD0)).all(axis=2).mean()
    assert 0.01 < blue < 0.5, "the bars are there, in their colour"
    assert browse(page, f"--print-to-pdf={paper}")[1] == []
    assert paper.read_bytes().startswith(b"%PDF")
