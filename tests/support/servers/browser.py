"""Debian's headless Chromium: opens a page, returns its output and console messages."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support.servers.children import program

_OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-extensions",
    "--disable-background-networking",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--enable-logging=stderr",
)


def browse(page: Path, *options: str) -> tuple[str, list[str]]:
    """Open a page in a browser without network access; returns standard output and every console message."""
    command = [
        program("chromium"),
        *_OPTIONS,
        f"--user-data-dir={page.parent}/browser",
        *options,
        page.resolve().as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]
