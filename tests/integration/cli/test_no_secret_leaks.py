"""No output and no stored object contains a secret in any spelling, also under faults.

The secrets are found by the types of the settings, so new ones are covered automatically.
"""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args, get_origin
from urllib.parse import quote, quote_plus

import pyarrow.parquet as pq
import pytest
import zstandard
from pydantic import BaseModel, SecretStr

from pipeline.cli.main import run_command
from pipeline.core.errors import PipelineError
from pipeline.core.settings.load import load
from pipeline.core.settings.sections import Settings
from pipeline.enablex.simulator.traffic import SECRET_MARK
from pipeline.enablex.simulator.world import World
from tests.conftest import NOW, Site
from tests.support.buckets import in_buckets
from tests.support.servers.s3 import ACCESS_KEY, SECRET_KEY, S3Server

PASSWORD_IN_URL = "led/ger p@ss+word"
CHAOS = (
    "api_503_html=2",
    "rate_limit_bare=1",
    "truncated_body=1",
    "broken_document=0.2",
    "unknown_field=0.5",
    "url_changes",
    "foreign_url=0.1",
    "files_401=0.1",
    "files_403=0.1",
    "redirect_foreign=0.3",
    "html_200=0.2",
    "short_body=0.2",
    "gone_early=0.1",
)


def secret_settings(model: type[BaseModel] = Settings, at: str = "") -> Iterator[str]:
    """The dotted name of every setting that is a SecretStr; a project is called acme."""
    for name, field in model.model_fields.items():
        kind: Any = field.annotation
        if get_origin(kind) is dict:
            name, kind = f"{name}.acme", get_args(kind)[1]  # noqa: PLW2901
        if kind is SecretStr or SecretStr in get_args(kind):
            yield f"{at}{name}"
        elif isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from secret_settings(kind, f"{at}{name}.")


def spellings(secret: str) -> set[bytes]:
    """A secret in plain text, URL-quoted and in base64."""
    texts = {secret, quote(secret), quote(secret, safe=""), quote_plus(secret)}
    return {text.encode() for text in texts} | {base64.b64encode(secret.encode())}


def basic(user: str, password: str) -> bytes:
    return base64.b64encode(f"{user}:{password}".encode())


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    """With 10 sessions per day, some users have tokens in their CDRs."""
    return make_site(World(projects=("acme",), sessions_per_day=10, begin=(NOW - timedelta(days=2)).date()))


@pytest.fixture
def secrets(site: Site, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Set every secret of the site by an environment variable; returns the secrets by setting, all different."""
    project = site.world.project("acme")
    valid = {"projects.acme.app_key": project.app_key, "projects.acme.files_password": project.files_password}
    secrets = {}
    for number, setting in enumerate(secret_settings()):
        is_url = setting.endswith("_url")
        text = f"http://127.0.0.1:9/hooks/hush-{number}-of-{setting}" if is_url else f"hush {number}/{setting}&+?"
        secrets[setting] = valid.get(setting, text)
        monkeypatch.setenv(f"POSTROOM_{setting.replace('.', '__').upper()}", secrets[setting])
    lines = site.config.read_text().splitlines()
    site.config.write_text("\n".join(line for line in lines if not any(secret in line for secret in valid.values())))
    monkeypatch.setenv("POSTROOM_PRIVACY__PSEUDONYMISE", '["user_name", "user_ip"]')
    monkeypatch.setenv("POSTROOM_MEDIA__RECHECK_AFTER_HOURS", "[0.1]")
    if "metrics" in Settings.model_fields:
        monkeypatch.setenv("POSTROOM_METRICS__TEXTFILE", str(site.folder / "postroom.prom"))
    return secrets


@pytest.fixture
def output_of(site: Site, capfd: pytest.CaptureFixture[str]) -> Callable[..., bytes]:
    """Run commands with --verbose; returns their output on both streams, and tracebacks."""

    def output_of(*commands: str, hours: float = 0) -> bytes:
        now = (NOW + timedelta(hours=hours)).isoformat()
        tracebacks = ""
        for command in commands:
            try:
                run_command(["--config", str(site.config), "--now", now, "--verbose", *command.split()])
            except PipelineError:  # with --verbose Python prints the traceback
                tracebacks += traceback.format_exc()
        out, err = capfd.readouterr()
        return (out + err + tracebacks).encode()

    return output_of


def content_of(folder: Path) -> bytes:
    """The bytes of all files in a folder, also decompressed (zstd), and each cell of Parquet."""
    texts = []
    for path in folder.rglob("*"):
        if path.is_file():
            texts.append(path.read_bytes())
            if path.suffix == ".zst":
                texts.append(zstandard.ZstdDecompressor().decompressobj().decompress(texts[-1]))
            if path.suffix == ".parquet":
                texts.append(repr(pq.read_table(path).to_pylist()).encode())
    return b"\n".join(texts)


def test_every_secret_is_masked_in_logs(site: Site, secrets: dict[str, str]) -> None:
    """All settings that are secrets are masked in logs, results and the run store."""
    assert {"projects.acme.app_key", "projects.acme.files_password", "privacy.key"} <= set(secrets)
    masked = set(load(site.config, os.environ).settings.secrets())
    assert set(secrets.values()) <= masked


def test_no_secret_with_many_faults(site: Site, secrets: dict[str, str], output_of: Callable[..., bytes]) -> None:
    """With many faults, logs, errors, JSON, tables, manifests, metrics, run store, report and billing contain no secret
    in any spelling.

    Users' tokens are in the vault's raw responses as received, and nowhere else.
    """
    for fault in CHAOS:
        site.simulator.faults.on(fault)
    output = output_of("nightly", "--json nightly", "--json doctor --probe")
    site.simulator.faults.clear()
    site.simulator.clock.advance(timedelta(hours=5))
    page, invoice, lines = (site.folder / name for name in ("report.html", "invoice.csv", "lines.csv"))
    invoice.write_text("day,minutes\n2026-11-22,17\n")
    output += output_of(
        "nightly",
        "--json media audit --sample 100",
        "settings",
        "status",
        "--json status",
        f"report --day 2026-11-22 --output {page}",
        "billing export --month 2026-11 --provisional",
        f"billing compare {invoice} --month 2026-11 --output {lines}",
        "--json billing export --month 2026-11",
        f"--json billing compare {invoice} --month 2026-11",
        hours=5,
    )
    assert page.exists()
    assert lines.exists()
    assert list(site.folder.glob("lake/reports/billing/*/*/controls.json"))
    site.simulator.faults.on("key_rotated")
    output += output_of("collect", "--json rooms list", "doctor", hours=6)
    assert b"response.landed" in output
    vault, others = content_of(site.folder / "vault"), output + content_of(site.folder / "lake")
    assert SECRET_MARK.encode() in vault
    assert SECRET_MARK.encode() not in others
    everything = vault + others + b"".join(path.read_bytes() for path in site.folder.glob("*") if path.is_file())
    project = site.world.project("acme")
    forbidden = {spelling for secret in secrets.values() for spelling in spellings(secret)}
    forbidden |= {basic(project.app_id, project.app_key), basic(project.files_user, project.files_password)}
    assert not [spelling for spelling in forbidden if spelling in everything]


def test_the_password_of_the_run_store_is_not_shown(
    site: Site, secrets: dict[str, str], output_of: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unreachable run store is named without its password, also by a separate process."""
    del secrets
    monkeypatch.setenv(
        "POSTROOM_RUN_STORE__URL", f"postgresql+psycopg://post:{quote_plus(PASSWORD_IN_URL)}@127.0.0.1:9/x"
    )
    output = output_of("status", "doctor", "settings")
    command = [sys.executable, "-m", "pipeline", "--verbose", "--config", str(site.config), "status"]
    done = subprocess.run(command, capture_output=True, check=False, timeout=60)
    assert done.returncode != 0
    everything = output + done.stdout + done.stderr
    assert b"run store" in everything
    assert not [spelling for spelling in spellings(PASSWORD_IN_URL) if spelling in everything]


def test_keys_of_a_bucket_are_not_shown(
    make_site: Callable[..., Site], ceph: S3Server, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After copies into a bucket, with a missing bucket and a wrong key, output and objects contain no key."""
    site = make_site(World(projects=("acme",), sessions_per_day=2, begin=(NOW - timedelta(days=1)).date()))
    vault = in_buckets(site, ceph)
    command = ["--config", str(site.config), "--now", NOW.isoformat(), "--verbose"]
    assert run_command([*command, "nightly"]) in {0, 4}
    run_command([*command, "doctor"])
    objects = ceph.client.list_objects_v2(Bucket=vault)["Contents"]
    stored = [ceph.client.get_object(Bucket=vault, Key=entry["Key"])["Body"].read() for entry in objects]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "unknown")
    run_command([*command, "doctor"])
    out, err = capfd.readouterr()
    assert ACCESS_KEY.encode() not in b"".join(stored)
    everything = b"\n".join([out.encode(), err.encode(), *stored, content_of(site.folder)])
    assert not [spelling for spelling in spellings(SECRET_KEY) if spelling in everything]
