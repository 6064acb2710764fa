"""Libraries that commands import at startup. The tests measure imports, not time."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from tests.support.environ import clean_environ

_RUN = """
import contextlib, io, json, sys
from pipeline.cli.main import run_command
import pipeline.cli
results = []
for arguments in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        code = run_command(arguments)
    results.append([code, sorted({name.split(".")[0] for name in sys.modules})])
print(json.dumps(results))
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
OF_OTHER_WORK = {"av", "awscrt", "boto3", "dask", "distributed", "httpx"}
if int(pa.__version__.partition(".")[0]) >= 26:  # before, pyarrow imports pandas whenever it is installed
    OF_OTHER_WORK |= {"pandas"}


def loaded(folder: Path, commands: Sequence[Sequence[str]]) -> list[tuple[int, set[str]]]:
    """Exit codes of commands that run in sequence in one process, and the libraries loaded after each."""
    command = [sys.executable, "-c", _RUN, json.dumps(commands)]
    done = subprocess.run(command, cwd=folder, env=clean_environ(), capture_output=True, text=True, check=True)
    return [(code, set(libraries)) for code, libraries in json.loads(done.stdout)]


@pytest.mark.parametrize(("commands", "code"), [(HELP, 0), (WRONG, 2)], ids=["help", "wrong"])
def test_help_and_usage_errors_load_few_libraries(tmp_path: Path, commands: list[list[str]], code: int) -> None:
    """Help and usage errors import no library that only the work of a command needs."""
    for arguments, (ended, libraries) in zip(commands, loaded(tmp_path, commands), strict=True):
        assert (arguments, ended, libraries & OF_THE_WORK) == (arguments, code, set())


def test_status_loads_what_it_needs(tmp_path: Path) -> None:
    """`status` of local stores imports no library for requests, copies or data analysis."""
    config = tmp_path / "postroom.toml"
    config.write_text('[projects.acme]\napp_id = "a"\napp_key = "k"\n')
    [(ended, libraries)] = loaded(tmp_path, [["--config", str(config), "status"]])
    assert (ended, libraries & OF_OTHER_WORK) == (0, set())
    assert {"sqlalchemy", "pyarrow"} <= libraries
