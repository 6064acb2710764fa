"""The environment of the processes that tests and benchmarks start."""

from __future__ import annotations

import os


def clean_environ() -> dict[str, str]:
    """This process's environment without the machine's own settings of Postroom."""
    return {name: value for name, value in os.environ.items() if not name.startswith("POSTROOM_")}
