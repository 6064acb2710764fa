"""Files of docs/deploy are valid, as checked by systemd and Kubernetes."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from pipeline.cli.main import run_command
from pipeline.core.settings.load import load
from tests.support.paths import ROOT

DEPLOY = ROOT / "docs" / "deploy"
UNITS = sorted(DEPLOY.glob("postroom*.*"))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_the_units_are_valid() -> None:
    """`systemd-analyze verify` reports no problem in any service or timer."""
    assert len(UNITS) == 5
    done = subprocess.run(
        ["systemd-analyze", "verify", *map(str, UNITS)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
OBJECTS = [made for path in MANIFESTS for made in yaml.safe_load_all(path.read_text())]
PODS = [
    template["spec"]
    for made in OBJECTS
    if (template := made.get("spec", {}).get("jobTemplate", made).get("spec", {}).get("template"))
]


def test_the_manifests_are_valid() -> None:
    """Every object matches the schema of Kubernetes; a CronJob never runs concurrently with itself."""
    kinds = [made["kind"] for made in OBJECTS]
    assert sorted(kinds) == ["ConfigMap", "CronJob", "CronJob", "CronJob", "Deployment"]
    for made in OBJECTS:
        kubernetes_validate.validate(made, kubernetes_validate.latest_version(), strict=True)
    assert {made["spec"]["concurrencyPolicy"] for made in OBJECTS if made["kind"] == "CronJob"} == {"Forbid"}


@pytest.mark.parametrize("pod", PODS, ids=lambda pod: pod["containers"][0]["command"][-1])
def test_a_pod_has_least_privileges(pod: dict[str, Any]) -> None:
    """Pods run as non-root, write only to /tmp, get secrets by environment variables, and run a `postroom` command."""
    [container] = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert not pod["automountServiceAccountToken"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")} == {"/tmp"}
    assert container["envFrom"] == [{"secretRef": {"name": "postroom"}}]
    program, *arguments = container["command"]
    assert (program, run_command([*arguments, "--help"])) == ("postroom", 0)


def test_the_settings_of_the_manifests_are_valid(tmp_path: Path) -> None:
    """With the secrets named in its comment, the ConfigMap is valid; probes use the port of the metrics."""
    [path] = [path for path in MANIFESTS if path.name == "settings.yaml"]
    settings = yaml.safe_load(path.read_text())["data"]["postroom.toml"]
    secrets = dict.fromkeys(re.findall(r"POSTROOM_\w+", path.read_text()), "postgresql+psycopg://u:p@h/d")
    config = tmp_path / "postroom.toml"
    config.write_text(settings)
    loaded = load(config, secrets).settings
    assert loaded.projects["acme"].app_key.get_secret_value()
    [scheduler] = [pod["containers"][0] for pod in PODS if pod["containers"][0]["command"][-1] == "schedule"]
    assert [port["containerPort"] for port in scheduler["ports"]] == [loaded.metrics.port]
    assert {scheduler[probe]["httpGet"]["port"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")} == {
        "metrics"
    }
