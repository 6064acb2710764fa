"""The environment of processes started by tests and benchmarks."""

from __future__ import annotations

import os


def clean_environ() -> dict[str, str]:
    """This process's environment without variables of Postroom."""
    return {name: value for name, value in os.environ.items() if not name.startswith("POSTROOM_")}
