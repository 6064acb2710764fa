"""What commands load before they do anything: no clock is asked, only which libraries are there."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.environ import clean_environ

_RUN = """
import contextlib, io, json, sys
from pipeline.cli.main import run_command
import pipeline.cli
told = []
for arguments in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        code = run_command(arguments)
    told.append([code, sorted({name.split(".")[0] for name in sys.modules})])
print(json.dumps(told))
"""

HELP = [
    ["--help"],
    ["--version"],
    *(
        [*command.split(), "--help"]
        for command in ("collect", "build", "media copy", "nightly", "backfill", "query", "status")
    ),
    ["billing", "export", "--help"],
    ["rooms", "list", "--help"],
]
WRONG = [["no-such-command"], ["query", "--no-such-option"], ["backfill"], ["media", "copy", "--limit", "none"]]
OF_THE_WORK = {"av", "awscrt", "boto3", "dask", "distributed", "duckdb", "httpx", "numpy", "pandas", "pyarrow",
               "pydantic_settings", "sqlalchemy", "structlog", "tenacity", "urllib3", "zstandard"}  # fmt: skip
OF_OTHER_WORK = {"av", "awscrt", "boto3", "dask", "distributed", "httpx", "pandas"}


def loaded(folder: Path, commands: Sequence[Sequence[str]]) -> list[tuple[int, set[str]]]:
    """The exit code of each command, run one after the other, and the libraries that were loaded by then."""
    command = [sys.executable, "-c", _RUN, json.dumps(commands)]
    done = subprocess.run(command, cwd=folder, env=clean_environ(), capture_output=True, text=True, check=True)
    return [(code, set(libraries)) for code, libraries in json.loads(done.stdout)]


@pytest.mark.parametrize(("commands", "code"), [(HELP, 0), (WRONG, 2)], ids=["help", "wrong"])
def test_help_and_wrong_arguments_wait_for_nothing(tmp_path: Path, commands: list[list[str]], code: int) -> None:
    """Help, and what is wrong with an argument, load no library that only the work itself needs."""
    for arguments, (ended, libraries) in zip(commands, loaded(tmp_path, commands), strict=True):
        assert (arguments, ended, libraries & OF_THE_WORK) == (arguments, code, set())


def test_status_loads_what_it_needs(tmp_path: Path) -> None:
    """What only asks, copies or analyses is not loaded to say how a site on a disk stands."""
    config = tmp_path / "postroom.toml"
    config.write_text('[projects.acme]\napp_id = "a"\napp_key = "k"\n')
    [(ended, libraries)] = loaded(tmp_path, [["--config", str(config), "status"]])
    assert (ended, libraries & OF_OTHER_WORK) == (0, set())
    assert {"sqlalchemy", "pyarrow"} <= libraries
