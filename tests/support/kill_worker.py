"""Run `postroom` and kill the process with SIGKILL at step N on the disk; for test_killed.py.

Usage: kill_worker.py N POSTROOM-ARGUMENTS. A step is one call of fsync, link, replace or unlink in a store. With N = 0
the process is not killed, and prints the number of steps as the last line on standard error.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from pipeline.cli.main import run_command

kill_at = int(sys.argv[1])
lock = threading.Lock()
steps: list[str] = []


def counted(call: Callable[..., Any]) -> Callable[..., Any]:
    def step(*args: Any, **options: Any) -> Any:
        if "dir_fd" in options:  # shutil removes a temporary folder; not a step of a store
            return call(*args, **options)
        with lock:
            steps.append(call.__name__)
            if len(steps) == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **options)

    return step


for name in ("fsync", "link", "replace", "unlink"):
    setattr(os, name, counted(getattr(os, name)))

code = run_command(sys.argv[2:])
print(len(steps), file=sys.stderr)
sys.exit(code)
