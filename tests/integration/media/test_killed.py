"""`kill -9` at any moment of nightly, then nightly again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta

import pytest

from pipeline.enablex.simulator.world import World
from tests.conftest import NOW, Site
from tests.support.environ import clean_environ
from tests.support.paths import ROOT

IS_SOAK = "SOAK_TIMES" in os.environ
SHARES = [share / 50 for share in range(50)] if IS_SOAK else [0.0, 0.15, 0.45, 0.75, 0.99]
LAST_SHARE_OF_MANY = 0.75
WORLD = World(projects=("acme",), sessions_per_day=3, begin=(NOW - timedelta(days=1)).date())


def run_killed(site: Site, kill_at: int) -> subprocess.CompletedProcess[str]:
    script = ROOT / "tests/support/kill_worker.py"
    command = [
        sys.executable,
        str(script),
        str(kill_at),
        "--config",
        str(site.config),
        "--now",
        NOW.isoformat(),
        "nightly",
    ]
    environment = {**clean_environ(), "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)


def end_state(site: Site) -> dict[str, object]:
    """All objects by digest; for manifests, whose order within a session may differ, the content of the last one."""
    state: dict[str, object] = {name: digest for name, digest in site.objects().items() if "/manifests/" not in name}
    for path in sorted((site.folder / "vault/manifests").rglob("*.json")):
        manifest = json.loads(path.read_bytes())
        state[str(path.parent.relative_to(site.folder))] = (manifest["revision"], manifest["files"])
    return state


@pytest.mark.parametrize("share", SHARES)
def test_killed_and_run_again_is_as_if_never_killed(make_site: Callable[..., Site], share: float) -> None:
    """Killed after any share of its steps on disk, nightly leaves a state that the next run completes."""
    whole, broken = make_site(WORLD), make_site(WORLD)
    if share > LAST_SHARE_OF_MANY:
        # Writers of one manifest race, so the number of steps differs between runs: near the end one at a time.
        whole.configure("[collect]\n", "[media]\nconcurrency = 1\n[collect]\n")
    # Both use one simulator, because its ports are part of the landed URLs.
    broken.config.write_text(whole.config.read_text().replace(str(whole.folder), str(broken.folder)))
    done = run_killed(whole, 0)
    assert done.returncode == 0, done.stderr
    steps = int(done.stderr.split()[-1])
    assert steps > 100
    killed = run_killed(broken, 1 + int(share * (steps - 1)))
    assert killed.returncode == -signal.SIGKILL
    assert end_state(broken) != end_state(whole)
    assert run_killed(broken, 0).returncode == 0
    assert end_state(broken) == end_state(whole)
    assert list((broken.folder / "vault/.tmp").iterdir()) == []
