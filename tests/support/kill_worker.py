"""Run `postroom` and kill the process with SIGKILL at its n-th step on the disk; for test_killed.py.

Usage: killed.py N POSTROOM-ARGUMENTS. A step is one call of fsync, link, replace or unlink in a store. With N = 0
nothing is killed and the number of steps is the last word on standard error.
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
        if "dir_fd" in options:  # shutil clearing temporary folders: no step of the stores
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
