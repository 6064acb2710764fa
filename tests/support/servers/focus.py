"""The FinOps Foundation's validator of FOCUS 1.2, in a separate environment: it requires another Python."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

from tests.support.paths import ROOT
from tests.support.servers.children import program

_ENVIRONMENT = ROOT / ".venv" / "focus"

Validate = Callable[[Path], list[str]]
"""Validates a CSV or Parquet file; returns one line per violated rule."""


def focus_validator(folder: Path) -> Validate:
    """The validator, with a folder for its files. Raises NotInstalled."""
    command = program(_ENVIRONMENT / "bin" / "focus-validator")
    (package,) = _ENVIRONMENT.glob("lib/python3.*/site-packages/focus_validator")
    (folder / package.name).symlink_to(package)  # it reads its list of currencies below the current folder

    def validate(file: Path) -> list[str]:
        report = folder / "report.xml"
        options = ["--validate-version", "1.2", "--block-download"]
        options += ["--output-type", "unittest", "--output-destination", str(report)]
        done = subprocess.run(
            [command, "--data-file", str(file.resolve()), *options],
            check=False,  # exit code 1: a rule is violated
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=300,
        )
        if not report.exists():
            raise AssertionError(f"the validator failed: {done.stderr[-2000:]}")
        tests = ElementTree.parse(report).getroot()
        report.unlink()
        assert int(tests.get("tests", 0)) > 500, "fewer rules than FOCUS 1.2 has"
        return [
            f"{case.get('name')}: {problem.get('message')}"
            for case in tests.iter("testcase")
            for problem in [*case.iterfind("failure"), *case.iterfind("error")]
        ]

    return validate
