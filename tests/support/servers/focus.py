"""The FinOps Foundation's own validator of FOCUS 1.2, which wants another Python and other libraries than we have."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

from tests.support.paths import ROOT
from tests.support.servers.children import program

_ENVIRONMENT = ROOT / ".venv" / "focus"

Validate = Callable[[Path], list[str]]
"""Takes a CSV or Parquet file; returns what the validator has against it, a line for each rule."""


def focus_validator(folder: Path) -> Validate:
    """The validator with a folder to write into. Raises NotInstalled."""
    command = program(_ENVIRONMENT / "bin" / "focus-validator")
    (package,) = _ENVIRONMENT.glob("lib/python3.*/site-packages/focus_validator")
    (folder / package.name).symlink_to(package)  # it looks for its list of currencies below the current folder

    def validate(file: Path) -> list[str]:
        report = folder / "report.xml"
        options = ["--validate-version", "1.2", "--block-download"]
        options += ["--output-type", "unittest", "--output-destination", str(report)]
        done = subprocess.run(
            [command, "--data-file", str(file.resolve()), *options],
            check=False,  # 1 when a rule is broken
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=300,
        )
        if not report.exists():
            raise AssertionError(f"the validator broke off: {done.stderr[-2000:]}")
        tests = ElementTree.parse(report).getroot()
        report.unlink()
        assert int(tests.get("tests", 0)) > 500, "these are not the rules of FOCUS 1.2"
        return [
            f"{case.get('name')}: {told.get('message')}"
            for case in tests.iter("testcase")
            for told in [*case.iterfind("failure"), *case.iterfind("error")]
        ]

    return validate
