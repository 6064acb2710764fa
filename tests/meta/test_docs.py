"""Statements of the documentation are true."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.cli.main import run_command
from pipeline.cli.options import cli
from pipeline.tables.schemas import TABLES
from tests.support.environ import clean_environ
from tests.support.paths import ROOT


def test_the_readme_names_every_table_and_command() -> None:
    """The README lists every table, and every command it shows exists."""
    readme = (ROOT / "README.md").read_text()
    commands = {info.name or getattr(info.callback, "__name__", "") for info in cli.registered_commands}
    commands |= {str(group.typer_instance.info.name) for group in cli.registered_groups if group.typer_instance}
    for table in TABLES:
        assert f"| `{table}` |" in readme
    shown = re.findall(r"^(?:\.venv/bin/)?postroom (?:--config \S+ |--json )?([a-z-]+)", readme, re.MULTILINE)
    assert shown
    assert set(shown) <= commands


def test_every_command_has_help_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    """`--help` of every command ends with an example of that command."""
    for info in cli.registered_commands:
        name = info.name or getattr(info.callback, "__name__", "")
        assert run_command([name, "--help"]) == 0
        text = " ".join(capsys.readouterr().out.split())
        assert "Example: postroom" in text, name
        assert name in text.partition("Example: postroom")[2], name


@pytest.mark.parametrize(
    ("group", "name"),
    [
        (str(group.typer_instance.info.name), str(info.name or getattr(info.callback, "__name__", "")))
        for group in cli.registered_groups
        if group.typer_instance
        for info in group.typer_instance.registered_commands
    ],
)
def test_every_command_of_a_group_has_help_with_an_example(
    group: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--help` of every `postroom GROUP COMMAND` ends with an example of that command."""
    assert run_command([group, name, "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert re.search(rf"Example: postroom (--json )?{group} {name}\b[^:]*$", text), text


@pytest.mark.integration
def test_the_tour_runs_as_written(tmp_path: Path) -> None:
    """Every shell block of the README's tour runs: the query returns tenants, the last block copies the file."""
    readme = (ROOT / "README.md").read_text()
    tour = readme.partition("## Five minutes")[2].partition("\n## ")[0]
    blocks = re.findall(r"```sh\n(.*?)```", tour, re.DOTALL)
    python = re.findall(r"```python\n(.*?)```", tour, re.DOTALL)
    assert len(blocks) == 4
    (tmp_path / ".venv").symlink_to(ROOT / ".venv") if (ROOT / ".venv").exists() else pytest.skip("no .venv here")
    run: Callable[..., subprocess.CompletedProcess[str]] = lambda script: subprocess.run(  # noqa: E731
        ["bash", "-c", script],
        cwd=tmp_path,
        env=clean_environ(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    demo = run(".venv/bin/postroom demo")
    assert demo.returncode == 0, demo.stderr
    assert "at risk" in demo.stdout
    assert demo.stdout.splitlines()[-1].endswith("/data/demo/report.html")
    assert "Usage by owner" in (tmp_path / "data/demo/report.html").read_text()
    query, corrected, status, rescue = blocks
    assert "tenant-" in run(query).stdout
    assert run(corrected).returncode == 0
    before = run(status)
    assert before.returncode == 4
    # The README starts the simulator in the background of an interactive shell; a script must wait for its port.
    script = rescue.replace(
        "postroom simulate &",
        "postroom simulate & for i in $(seq 100); do "
        "(exec 3<>/dev/tcp/127.0.0.1/8640) 2>/dev/null && break; read -t 0.1 <> <(:); done",
    )
    done = run(f"set -m\n{script}")
    assert "1 files copied" in done.stdout or "files copied" in done.stdout, done.stdout + done.stderr
    assert run(status).returncode == 0
    shown = run(f".venv/bin/python - <<'END'\n{python[0]}\nEND")
    assert "tenant-" in shown.stdout, shown.stderr


def test_a_cdr_passes_few_modules() -> None:
    """architecture.md lists at most 18 modules that a CDR passes, and each of them exists."""
    text = (ROOT / "docs/contributing/architecture.md").read_text().split("## One CDR")[1].split("\n## ")[0]
    modules = re.findall(r"^\| \d+ \| `([^`]+)`", text, re.MULTILINE)
    assert 10 < len(modules) <= 18
    assert [name for name in modules if not (ROOT / "pipeline" / name).exists()] == []
