"""What a user sees when something is wrong: one line that names the thing and the next step, and an exit code."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import zstandard

from pipeline.enablex.simulator.world import World
from pipeline.tables import read_arrow
from tests.conftest import NOW, Site


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """The single line on standard error; nothing else there, nothing on standard output, no traceback."""
    assert "Traceback" not in done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("postroom: ")]
    assert len(lines) == 1, done.stderr
    return lines[0]


@pytest.mark.parametrize(
    ("old", "new", "named", "step"),
    [
        ("app_key", "app_kee", "projects.acme.app_kee", 'did you mean "app_key"'),
        ("[collect]", "[colect]", "colect", 'did you mean "collect"'),
        ("requests_per_second", "requests_per_sec", "collect.requests_per_sec", "requests_per_second"),
        ("requests_per_second = 1000.0", 'requests_per_second = "fast"', "collect.requests_per_second", "number"),
        ('base_url = "http://127.0.0.1', 'base_url = "http://example.com', "projects.acme.base_url", "https"),
        ('[lake]\nurl = "file:', '[lake]\nurl = "ftp:', "lake.url", "file:PATH"),
        ("[lake]", "[lake", "postroom.toml", "TOML"),
    ],
)
def test_wrong_settings_name_the_key_and_the_cure(site: Site, old: str, new: str, named: str, step: str) -> None:
    """A wrong setting is exit code 2 and one line with the key, the file it stands in, and what would be right."""
    site.configure(old, new)
    done = site.run("nightly")
    line = one_line(done)
    assert done.returncode == 2
    assert named in line
    assert "postroom.toml" in line
    assert step in line


def test_a_missing_credential_names_the_variable(site: Site) -> None:
    """Without an app_key the error names the setting and the environment variable that would carry it."""
    lines = [line for line in site.config.read_text().splitlines() if not line.startswith("app_key")]
    site.config.write_text("\n".join(lines))
    done = site.run("nightly")
    assert done.returncode == 2
    assert "projects.acme.app_key" in one_line(done)
    assert "POSTROOM_PROJECTS__ACME__APP_KEY" in done.stderr


def test_a_missing_settings_file_is_named(site: Site) -> None:
    """A --config that does not exist is exit code 2, with its path."""
    site.config.rename(site.folder / "elsewhere.toml")
    done = site.run("status")
    assert done.returncode == 2
    assert str(site.config) in one_line(done)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("collect", "--from", "2026-13-01"), "2026-13-01"),
        (("collect", "--from", "22/11/2026"), "22/11/2026"),
        (("build", "--from", "2026-11-22", "--to", "2026-11-20"), "2026-11-20"),
        (("collect", "--to", "2026-11-20"), "--from"),
        (("collect", "--project", "acmee"), "acmee"),
        (("collect", "--source", "cdrs"), "cdrs"),
        (("build", "--table", "usage"), "usage"),
        (("media", "copy", "--limit", "0"), "--limit"),
        (("query", "SELECT nothing FROM nowhere"), "nowhere"),
        (("reprot",), "reprot"),
    ],
)
def test_wrong_arguments_are_usage_errors(site: Site, arguments: tuple[str, ...], named: str) -> None:
    """A malformed date, an unknown name, a wrong statement: exit code 2 and one line that quotes it."""
    done = site.run(*arguments)
    assert done.returncode == 2
    assert named in one_line(done)


def test_wrong_credentials_stop_the_project_once(site: Site) -> None:
    """A refused key is exit code 1, asked about once per worker and not once per day, and names what to check."""
    site.simulator.faults.on("key_rotated")
    outcome = site.outcome("nightly")
    assert not outcome["ok"]
    assert any("app_id and app_key" in failure["error"] for failure in outcome["failed"])
    assert len([request for request in site.simulator.requests if request.host == "api"]) <= 2 * 4
    assert site.run("nightly").returncode == 1
    assert site.objects() == {}


def test_one_refused_project_does_not_stop_the_other(make_site: Callable[..., Site]) -> None:
    """With one of two keys wrong the other project is done in full, and the exit code is 3."""
    site = make_site(World(sessions_per_day=3, begin=(NOW - timedelta(days=1)).date()))
    site.configure(f'app_key = "{site.world.project("globex").app_key}"', 'app_key = "wrong"')
    done = site.run("collect")
    assert done.returncode == 3
    assert "globex" in done.stdout
    assert not any("project=globex" in name for name in site.objects())
    assert any("project=acme" in name for name in site.objects())


def test_an_unreachable_api_is_said_once_with_its_host(site: Site) -> None:
    """When nothing listens there, the exit code is 1 and the message names host, cause and what to check."""
    port = site.simulator.base_url.split(":")[2].split("/")[0]
    site.configure(f'base_url = "http://127.0.0.1:{port}', 'base_url = "http://127.0.0.1:9')
    done = site.run("nightly")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "127.0.0.1" in done.stdout
    assert "check the network and base_url" in done.stdout
    assert site.objects() == {}


@pytest.mark.parametrize("fault", ["api_503_html", "api_502_text", "api_empty_body", "truncated_json"])
def test_a_page_that_is_not_json_is_kept_and_named(site: Site, fault: str) -> None:
    """An unreadable response does not make its day collected; the error names the request and the response. What stood
    whole before the break is landed as a part.
    """
    site.simulator.faults.on(fault)
    outcome = site.outcome("collect", "--from", "2026-11-22", "--to", "2026-11-22", "--source", "cdr")
    assert not outcome["ok"]
    assert "GET /cdr/period/2026-11-22" in outcome["failed"][0]["error"]
    landed = [name for name in site.objects("vault/raw") if name.endswith((".json.zst", ".receipt.json"))]
    assert not [name for name in landed if not (fault == "truncated_json" and name.endswith(".json.zst"))]
    site.simulator.faults.clear()
    assert site.outcome("nightly")["ok"]


def test_an_unreadable_reply_is_kept_as_evidence(site: Site) -> None:
    """The bytes of a reply without a whole document are in the vault under the key that the error names."""
    site.simulator.faults.on("truncated_json")
    before_the_world = "2026-11-19"
    outcome = site.outcome("collect", "--from", before_the_world, "--to", before_the_world, "--source", "cdr")
    key = outcome["failed"][0]["error"].rpartition("kept as ")[2]
    body = zstandard.ZstdDecompressor().decompressobj().decompress((site.folder / "vault" / key).read_bytes())
    assert body.startswith(b'{"result"')


def test_what_stood_whole_before_a_break_is_used(site: Site) -> None:
    """The documents of a cut reply are rows, the day stays uncollected, and the next whole reply completes it."""
    site.simulator.faults.on("truncated_json")
    outcome = site.outcome("collect", "--from", "2026-11-22", "--to", "2026-11-22", "--source", "cdr")
    assert "documents before the break are kept provisionally" in outcome["failed"][0]["error"]
    (body,) = (site.folder / "vault").rglob("*.json.zst")
    assert zstandard.ZstdDecompressor().decompressobj().decompress(body.read_bytes()).startswith(b'{"result"')
    assert site.run("build").returncode == 0
    before = ids(site)
    assert before
    site.simulator.faults.clear()
    assert site.outcome("nightly")["ok"]
    assert before < ids(site)


def ids(site: Site) -> set[str]:
    """`cdr_id` of all rows of table `cdr`."""
    with site.app() as app:
        return set(read_arrow("cdr", columns=["cdr_id"], lake=app.lake)["cdr_id"].to_pylist())


def mounted(folder: Path, *options: str) -> bool:
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", *options, "tmpfs", str(folder)], capture_output=True, check=False)
    return done.returncode == 0


@pytest.fixture
def small_disk(site: Site) -> Iterator[Path]:
    """The site's vault on a disk of 64 KiB; needs the right to mount."""
    folder = site.folder / "vault"
    if os.geteuid() != 0 or not mounted(folder, "-o", "size=64k"):
        pytest.skip("mounting a small disk is not allowed here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_one_line_and_nothing_is_half_written(site: Site, small_disk: Path) -> None:
    """A full vault ends the run with exit code 1 and one line; with room again, the next run puts everything right."""
    done = site.run("nightly")
    assert done.returncode == 1
    line = one_line(done)
    assert "No space left" in line
    assert "free space" in line
    assert not any((small_disk / ".tmp").iterdir())
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    assert site.outcome("nightly")["ok"]
    truth = site.truth_files()
    assert len(site.objects("vault/media/")) == len(truth)


def test_a_read_only_disk_is_one_line(site: Site, small_disk: Path) -> None:
    """A read-only vault is exit code 1 and one line with the reason."""
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    done = site.run("nightly")
    assert done.returncode == 1
    assert "ead-only file system" in one_line(done)


def test_json_errors_are_outcomes_too(site: Site) -> None:
    """With --json, even a usage error is an outcome a program can read."""
    outcome = site.outcome("collect", "--from", "nonsense")
    assert outcome["command"] == "collect"
    assert outcome["ok"] is False
    assert "nonsense" in outcome["failed"][0]["error"]
