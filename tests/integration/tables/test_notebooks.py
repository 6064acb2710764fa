"""What people get of a real night: the day's page, true to the tables and shown by a browser; notebooks."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from html import escape
from pathlib import Path
from typing import Any

import av
import matplotlib
import matplotlib.pyplot as plt
import pyarrow.parquet as pq
import pytest

from jobs.nightly import nightly
from pipeline.enablex.simulator.server import Simulator
from pipeline.enablex.simulator.world import World
from pipeline.media.audit import audit_media
from pipeline.tables.query import run_query
from pipeline.tables.schemas import TABLES
from tests.conftest import NOW, Site
from tests.support.paths import ROOT
from tests.support.servers.browser import browse
from tests.support.servers.children import NotInstalled

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
DAY = (NOW - timedelta(days=1)).date()
PHONE_PX = 390
SECOND = timedelta(seconds=1)


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One project after one night and an audit."""
    world = World(projects=("acme",), sessions_per_day=8, begin=DAY)
    folder = tmp_path_factory.mktemp("night")
    with Simulator(world, now=NOW) as simulator:
        site = Site(simulator, folder)
        site.config.write_text(simulator.settings_toml(str(folder)))
        with site.app() as app:
            nightly(app)
            audit_media(app)
        yield site


@pytest.fixture(scope="module")
def page(night: Site) -> Path:
    """The page as the command writes it."""
    file = night.folder / "day.html"
    assert night.postroom("report", "--day", str(DAY), "--output", str(file)).stdout == f"{DAY} is in {file}\n"
    return file


def test_the_page_shows_the_tables(night: Site, page: Path) -> None:
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
    """Chromium shows it without a word on the console and without network; on a phone nothing sticks out, however long
    names are; it prints."""
    text = page.read_text().replace("tenant-4", "the-name-of-a-tenant-" * 5)
    frame = tmp_path / "phone.html"
    frame.write_text(
        f'<iframe id="phone" width="{PHONE_PX}" height="800" srcdoc="{escape(text)}"></iframe><script>'
        "addEventListener('load', () => { const page = document.getElementById('phone').contentDocument;"
        "document.title = page.documentElement.scrollWidth + ' ' + page.querySelectorAll('svg').length;"
        "console.log('looked'); })</script>"
    )
    picture, paper = tmp_path / "page.png", tmp_path / "page.pdf"
    try:
        shown, said = browse(frame, "--dump-dom")
    except NotInstalled:
        if os.environ.get("REQUIRE_SERVERS"):
            raise
        pytest.skip("no Chromium to open the report: `make servers` prints why (tests/support/servers/README.md)")
    assert len(said) == 1, "the page itself prints nothing"
    assert "looked" in said[0]
    assert f"<title>{PHONE_PX} {text.count('<svg')}</title>" in shown
    assert browse(page, "--window-size=1280,1400", f"--screenshot={picture}")[1] == []
    with av.open(str(picture)) as opened:
        pixels = next(opened.decode(video=0)).to_ndarray(format="rgb24")
    assert pixels.shape == (1400, 1280, 3)
    blue = (pixels == (0x2F, 0x6F, 0xD0)).all(axis=2).mean()
    assert 0.01 < blue < 0.5, "the bars are there, in their colour"
    assert browse(page, f"--print-to-pdf={paper}")[1] == []
    assert paper.read_bytes().startswith(b"%PDF")


def test_what_is_kept_is_billed_by_the_gigabyte_month(night: Site) -> None:
    """Bytes in the manifests of the vault, times what is left of the month, are the export's storage, on the day on
    which the files were stored."""
    told = night.outcome("billing", "export", "--month", "2026-11", "--provisional")
    ends_at, month = datetime(2026, 12, 1, tzinfo=UTC), timedelta(days=30)
    newest = {path.parent: path for path in sorted(night.folder.glob("vault/manifests/*/*/*/*.json"))}
    files = [file for path in newest.values() for file in json.loads(path.read_bytes())["files"]]
    sizes = [file["size_bytes"] for file in files if file["state"] != "lost"]
    kept = [(Decimal(size) * ((ends_at - NOW) // SECOND) / (month // SECOND)).quantize(Decimal(1)) for size in sizes]
    assert len(kept) > 10
    assert Decimal(told["projects"]["acme"]["storage_gb_months"]) == sum(kept).scaleb(-9)
    with (night.folder / "lake" / told["path"] / "usage.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    stored = {row["day"]: Decimal(row["storage_gb_months"]) for row in rows if Decimal(row["storage_gb_months"])}
    assert stored.keys() == {str(NOW.date())}


def test_every_object_is_in_order_of_its_key(night: Site) -> None:
    """The rows of every object of every table are sorted by the table's key, null first: readers sort nothing."""
    filled = set()
    for path in sorted(night.folder.glob("lake/tables/*/*/*/*.parquet")):
        name = path.relative_to(night.folder / "lake/tables").parts[0]
        rows = pq.read_table(path, partitioning=None).select(list(TABLES[name].key)).to_pylist()
        assert rows == sorted(rows, key=lambda row: [(value is not None, value) for value in row.values()]), path
        filled |= {name} if len(rows) > 1 else set()
    assert filled >= TABLES.keys() - {"cdr_history", "rejects", "suspense", "drift"}


def cells(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text())["cells"]
    return found


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_answers_its_question(night: Site, path: Path) -> None:
    """It opens with the question it answers; each cell runs on a real lake; all that is drawn shows something."""
    assert cells(path)[0]["cell_type"] == "markdown"
    assert cells(path)[0]["source"][0].startswith("# ")
    assert cells(path)[0]["source"][0].rstrip().endswith("?")
    matplotlib.use("Agg")
    code = ["".join(cell["source"]) for cell in cells(path) if cell["cell_type"] == "code"]
    assert "file:data/demo/lake" in code[0]
    names: dict[str, Any] = {}
    try:
        for source in code:
            exec(source.replace("file:data/demo/lake", f"file:{night.folder}/lake"), names)
        drawn = [axes for number in plt.get_fignums() for axes in plt.figure(number).axes]
        assert drawn
        assert all(axes.has_data() and axes.get_title() for axes in drawn)
        plt.gcf().savefig(os.devnull, format="png")
    finally:
        plt.close("all")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_output_is_committed(path: Path) -> None:
    """Notebooks contain no output."""
    code = [cell for cell in cells(path) if cell["cell_type"] == "code"]
    assert [(cell["outputs"], cell["execution_count"]) for cell in code] == [([], None)] * len(code)
