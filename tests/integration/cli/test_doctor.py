"""`doctor` checks every part of an installation; each injected fault is reported with its next step."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pipeline.cli.doctor import doctor
from pipeline.core.models import Period
from pipeline.enablex.simulator.world import World
from pipeline.ingest.collect import collect
from pipeline.storage import LocalStore
from pipeline.tables import parquet
from pipeline.tables.build import build
from tests.conftest import Site
from tests.support.buckets import in_buckets
from tests.support.servers.s3 import S3Server

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
WORLD = World(projects=("acme",), sessions_per_day=6, begin=(NOON - timedelta(days=4)).date())


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    """A working installation. Requests are not retried, so that injected faults are reported soon."""
    site = make_site(WORLD, now=NOON)
    site.configure("max_attempts = 2", "max_attempts = 1")
    return site


def checks(site: Site) -> dict[str, dict[str, Any]]:
    """Checks of `doctor` by name. Failed checks have a next step and are the failures of the result."""
    with site.app() as app:
        outcome = doctor(app)
    results = {check.name: asdict(check) for check in outcome.details.checks}
    assert {failure.item for failure in outcome.failed} == failed(results)
    assert all(results[name]["next_step"] for name in failed(results))
    return results


def failed(results: dict[str, dict[str, Any]]) -> set[str]:
    return {name for name, check in results.items() if check["ok"] is False}


def answers(site: Site) -> dict[str, str]:
    with site.app() as app:
        results = doctor(app, probe=True).details.answers
    return {result.question: result.answer for result in results or ()}


def test_a_working_installation_passes(site: Site) -> None:
    """Every check passes, exit code 0, one line each; a second run writes no new object."""
    done = site.postroom("doctor")
    assert done.returncode == 0, done.stdout
    assert "no check failed" in done.stdout
    before = site.objects()
    assert set(before) == {
        f"{root}/doctor/{name}.txt" for root in ("lake", "vault") for name in ("probe", "conditions")
    }
    results = checks(site)
    assert failed(results) == set()
    assert {"run store", "lake writable", "vault writable", "acme API", "acme clock", "acme files"} <= set(results)
    assert {"time zones", "CDR reader", "temp disk", "lake disk", "vault disk", "run store disk"} <= set(results)
    assert site.objects() == before


def test_a_failure_is_exit_code_1_and_in_json(site: Site) -> None:
    """A failed check is in the JSON output, with exit code 1; a configuration without projects fails."""
    text = site.config.read_text()
    site.config.write_text(text[: text.index("[projects.acme]")])
    done = site.postroom("--json", "doctor")
    outcome = json.loads(done.stdout)
    assert (done.returncode, outcome["ok"]) == (1, False)
    assert [failure["item"] for failure in outcome["failed"]] == ["projects"]


@pytest.mark.parametrize(
    ("fault", "broken", "step"),
    [
        ("key_rotated", "acme API", "projects.acme.app_id and app_key"),
        ("unauthorized_a", "acme API", "projects.acme.app_id and app_key"),
        ("api_down", "acme API", "projects.acme.base_url"),
        ("api_503_html", "acme API", "try again later"),
        ("api_502_text", "acme API", "try again later"),
        ("rate_limit_bare", "acme API", "lower collect.requests_per_second"),
        ("truncated_json", "acme API", "projects.acme.base_url"),
        ("date_skew=600", "acme clock", "set the clock"),
        ("files_401", "acme files", "projects.acme.files_user and files_password"),
        ("files_403", "acme files", "projects.acme.files_user and files_password"),
        ("files_503", "acme files", "try again later"),
        ("html_200", "acme files", "try again later"),
        ("empty_file", "acme files", "try again later"),
        ("foreign_url", "acme files", 'add "localhost" to projects.acme.file_hosts'),
    ],
)
def test_each_fault_of_enablex_is_reported(site: Site, fault: str, broken: str, step: str) -> None:
    """Each fault of the API or the file host fails only its own check, with the next step."""
    site.simulator.faults.on(fault)
    results = checks(site)
    assert failed(results) == {broken}
    assert step in results[broken]["next_step"]


def test_wrong_credentials_are_distinguished(site: Site) -> None:
    """A wrong app_key fails the API check, a wrong files_password the files check; a missing files_user is named."""
    config = site.config.read_text()
    project = WORLD.project("acme")
    site.configure(project.app_key, "wrong")
    assert failed(checks(site)) == {"acme API"}
    site.config.write_text(config.replace(project.files_password, "wrong"))
    assert failed(checks(site)) == {"acme files"}
    site.config.write_text(config.replace(project.files_user, ""))
    assert "files_user" in checks(site)["acme files"]["next_step"]


def test_without_a_file_the_check_is_skipped(make_site: Callable[..., Site]) -> None:
    """Before the first session there is no file to test: the check neither passes nor fails."""
    site = make_site(World(projects=("acme",), sessions_per_day=3, begin=NOON.date()), now=NOON - timedelta(days=2))
    results = checks(site)
    assert results["acme files"]["ok"] is None
    assert failed(results) == set()
    assert set(answers(site).values()) == {"unknown"}


def test_a_root_that_cannot_be_written_is_named(site: Site) -> None:
    """A file at the path of the vault's folder fails only the vault."""
    (site.folder / "vault").write_text("in the way")
    results = checks(site)
    assert failed(results) == {"vault writable"}
    assert "vault.url" in results["vault writable"]["next_step"]


def test_an_unusable_run_store_is_named(site: Site) -> None:
    """A run store that is no database fails its own check; the other checks still run."""
    (site.folder / "ledger.db").write_text("this is not a database, and long enough to be taken for one" * 20)
    results = checks(site)
    assert failed(results) == {"run store"}
    assert "run_store.url" in results["run store"]["next_step"]
    assert results["acme API"]["ok"]


def test_buckets_are_tested(make_site: Callable[..., Site], s3: S3Server) -> None:
    """Conditional writes and checksums are reported as each server supports them; two runs leave no upload behind."""
    site = make_site(WORLD, now=NOON)
    bucket = in_buckets(site, s3)
    for _ in range(2):
        results = checks(site)
        assert failed(results) == set()
    states = "CRC64NVME of whole objects" if s3.name == "localstack" else "MD5 as ETag"
    assert states in results["vault checksums"]["detail"]
    support = "is supported for PUT and" if s3.name == "localstack" else "is not supported for multipart uploads"
    assert support in results["vault conditions"]["detail"]
    assert s3.unfinished(bucket) == []


def test_missing_buckets_and_wrong_keys_are_named(
    make_site: Callable[..., Site], ceph: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing bucket and unknown credentials fail their roots, with the next step."""
    site = make_site(WORLD, now=NOON)
    vault = in_buckets(site, ceph)
    site.configure(f"s3://{vault}/", "s3://nobody-made-this/")
    assert failed(results := checks(site)) == {"vault writable"}
    assert "the bucket does not exist: create it" in results["vault writable"]["detail"]
    monkeypatch.setitem(os.environ, "AWS_ACCESS_KEY_ID", "unknown")
    assert failed(results := checks(site)) == {"lake writable", "vault writable"}
    assert "AWS_ACCESS_KEY_ID" in results["lake writable"]["detail"]


def test_object_lock_is_tested(make_site: Callable[..., Site], ceph: S3Server) -> None:
    """With vault.lock, a test object is locked until tomorrow; a bucket without Object Lock, or a folder, fails."""
    now = datetime.now(UTC).replace(microsecond=0)
    site = make_site(WORLD, now=now)
    bucket = in_buckets(site, ceph, lock='mode = "governance"\ndays = 30')
    assert checks(site)["vault lock"]["ok"]
    held = ceph.client.get_object_retention(Bucket=bucket, Key="the/vault/doctor/locked.txt")["Retention"]
    assert held == {"Mode": "GOVERNANCE", "RetainUntilDate": now + timedelta(days=1)}
    for other in (make_site(WORLD, now=now), make_site(WORLD, now=now)):
        if other.folder.name.endswith("1"):
            in_buckets(other, ceph)
        other.config.write_text(other.config.read_text() + '\n[vault.lock]\nmode = "governance"\ndays = 1\n')
        assert failed(checks(other)) == {"vault lock"}


# --- the open questions ---


def test_a_healthy_account_answers(site: Site) -> None:
    """Without faults: to_date is inclusive; Range, lengths and strong ETags are supported; printed as settings."""
    assert answers(site) == {
        "is to_date inclusive": "yes",
        "does the file host honour Range": "yes",
        "does the file host send lengths": "yes",
        "does the file host send ETags": "ETag strong, Last-Modified",
    }
    shown = site.postroom("doctor", "--probe").stdout
    assert "[projects.acme]\n# observed on 2026-11-23" in shown
    assert "\nto_date_is_inclusive = true\n" in shown


@pytest.mark.parametrize(
    ("fault", "question", "answer"),
    [
        ("to_date_exclusive", "is to_date inclusive", "no"),
        ("no_range", "does the file host honour Range", "no: it returns the whole file"),
        ("wrong_range", "does the file host honour Range", "no: "),
        ("lying_range", "does the file host honour Range", "no: it returns other bytes than the range it states"),
        ("no_length", "does the file host send lengths", "no"),
        ("chunked", "does the file host send lengths", "no, but truncation is detected"),
        ("no_validators", "does the file host send ETags", "no"),
        ("weak_etag", "does the file host send ETags", "ETag weak"),
        ("files_down", "does the file host honour Range", "unknown"),
        ("api_down", "is to_date inclusive", "unknown"),
    ],
)
def test_answers_are_the_behavior_of_the_account(site: Site, fault: str, question: str, answer: str) -> None:
    """Each answer is the observed behavior of the account."""
    site.simulator.faults.on(fault)
    assert answers(site)[question].startswith(answer)


def test_to_date_is_inclusive_is_used_and_rechecked(site: Site) -> None:
    """With `to_date_is_inclusive` a day is requested alone and has all its rows; `doctor` fails if that changes."""
    site.configure("[projects.acme]\n", "[projects.acme]\nto_date_is_inclusive = true\n")
    day = (NOON - timedelta(days=2)).date()
    with site.app() as app:
        collect(app, Period(day, day), sources=("cdr",))
        build(app)
    assert f"/video/v2/cdr/period/{day}/{day}" in {request.path for request in site.simulator.requests}
    rows = parquet.read_arrow("cdr", Period(day, day), lake=LocalStore(site.folder / "lake"))
    assert rows["cdr_id"].to_pylist() == sorted(
        document["cdr_id"] for document in site.world.cdr_documents("acme", NOON, day, day)
    )
    assert checks(site)["acme to_date"]["ok"]
    site.simulator.faults.on("to_date_exclusive")
    results = checks(site)
    assert failed(results) == {"acme to_date"}
    assert "remove to_date_is_inclusive from projects.acme" in results["acme to_date"]["next_step"]
