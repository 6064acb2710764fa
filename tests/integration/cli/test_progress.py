"""Progress of a long command, on a terminal and without one."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

from tests.conftest import NOW, Site
from tests.support.environ import clean_environ

ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def shown_on_a_terminal(command: list[str], *, columns: int) -> tuple[int, str]:
    """Run a command whose three streams are one terminal; returns its exit code and its output."""
    ours, theirs = pty.openpty()
    environ = {**clean_environ(), "TERM": "xterm", "COLUMNS": str(columns), "LINES": "40"}
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environ) as process:
        os.close(theirs)
        shown = b""
        try:
            while chunk := os.read(ours, 4096):
                shown += chunk
        except OSError:  # raised by Linux when the other end is closed
            pass
        code = process.wait(timeout=60)
    os.close(ours)
    return code, shown.decode()


def test_a_long_command_shows_how_far_it_is(site: Site) -> None:
    """On a terminal: a bar with items, rate and remaining time, removed at the end; else one line with the time."""
    site.configure("requests_per_second = 1000.0", "requests_per_second = 4.0")
    options = ["--config", str(site.config), "--now", NOW.isoformat()]
    command = [sys.executable, "-m", "pipeline", *options, "collect", "--from", "2026-11-21", "--to", "2026-11-23"]
    code, shown = shown_on_a_terminal(command, columns=100)
    assert code == 0
    bars = re.findall(r"collect +[━╸╺ ]+(\d)/7 +(\d+\.\d/s|) *0:\d\d:\d\d (0:\d\d:\d\d|-:--:--)", ANSI.sub("", shown))
    done = [int(done) for done, _, _ in bars]
    assert done == sorted(done)
    assert len(set(done)) > 2
    assert [bar for bar in bars if bar[0] != "7" and bar[1] and bar[2] != "-:--:--"]
    *_, last = shown.splitlines()
    assert ANSI.sub("", last).startswith("collect: 7 responses")
    assert "\x1b[2K" in last

    built = site.run("build")
    assert re.fullmatch(r"build: (\d) of \1 in \d+\.\d s\n", built.stderr)
