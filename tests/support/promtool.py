"""Prometheus's checker promtool, if it is installed (`make servers`)."""

from __future__ import annotations

import shutil
import subprocess

from tests.support.paths import ROOT

_INSTALLED = ROOT / ".venv/promtool/promtool"


_ACCEPTED = ['postroom_days use base unit "seconds" instead of "days"']
"""Accepted: the metric is a number of days, not a duration in days."""


def promtool(*arguments: str, given: str = "") -> None:
    """Run promtool on a text and fail the test on any message. Without promtool nothing is checked."""
    program = shutil.which("promtool") or (str(_INSTALLED) if _INSTALLED.exists() else None)
    if program:
        done = subprocess.run(
            [program, *arguments], input=given, capture_output=True, text=True, check=False, timeout=60
        )
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line not in _ACCEPTED]
        assert done.returncode == 0 or not lines, lines


def check_metrics(text: str) -> None:
    promtool("check", "metrics", given=text)
