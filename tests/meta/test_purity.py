"""Pure modules do no I/O and read no clock; only entry points read the environment. import-linter checks imports."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PURE = [
    "jobs/monitoring/metrics.py",
    "jobs/monitoring/notifications.py",
    "jobs/schedule.py",
    "pipeline/billing/corrections.py",
    "pipeline/billing/csv_files.py",
    "pipeline/billing/focus.py",
    "pipeline/billing/invoice.py",
    "pipeline/billing/line_items.py",
    "pipeline/billing/month.py",
    "pipeline/billing/pricing.py",
    "pipeline/cli/day_report/html.py",
    "pipeline/cli/doctor_checks.py",
    "pipeline/core/arrow_types.py",
    "pipeline/core/errors.py",
    "pipeline/core/models.py",
    "pipeline/core/settings/prices.py",
    "pipeline/core/settings/sections.py",
    "pipeline/core/urls.py",
    "pipeline/enablex/envelope.py",
    "pipeline/enablex/lenient.py",
    "pipeline/enablex/protocol.py",
    "pipeline/enablex/rooms.py",
    "pipeline/ingest/settlement.py",
    "pipeline/media/audit_checks.py",
    "pipeline/media/content.py",
    "pipeline/media/plan.py",
    "pipeline/rooms/audit.py",
    "pipeline/rooms/fields.py",
    "pipeline/rooms/plan.py",
    "pipeline/rooms/spec.py",
    "pipeline/storage/documents.py",
    "pipeline/storage/keys.py",
    "pipeline/tables/document_days.py",
    "pipeline/tables/normalize/*.py",
    "pipeline/tables/schemas.py",
]
IMPURE_MODULES = {
    *("boto3", "botocore", "duckdb", "httpx", "os", "requests", "socket"),
    *("sqlalchemy", "sqlite3", "subprocess", "tempfile", "time", "urllib3"),
}
IMPURE_CALLS = {
    *("getenv", "monotonic", "now", "open", "perf_counter", "read_bytes"),
    *("read_text", "today", "utcnow", "write_bytes", "write_text"),
}
READ_THE_ENVIRONMENT = {"jobs/scheduler.py", "pipeline/cli/options.py", "pipeline/core/tracing.py"}
"""OpenTelemetry's standard variables are read where they are used (tracing)."""


def pure_modules() -> list[Path]:
    return [path for pattern in PURE for path in sorted(ROOT.glob(pattern))]


@pytest.mark.parametrize("path", pure_modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_pure_module_does_no_io(path: Path) -> None:
    """A pure module imports no client, database or operating system and reads neither file nor clock."""
    imported: set[str] = set()
    called: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported.add(node.module.split(".")[0])
        elif isinstance(node, ast.Call):
            called.add(node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", ""))
    assert imported & IMPURE_MODULES == set()
    assert called & IMPURE_CALLS == set()


def test_every_pattern_names_a_module() -> None:
    """A pure module that is moved or deleted must be changed in the list too."""
    assert [pattern for pattern in PURE if not list(ROOT.glob(pattern))] == []


def test_only_entry_points_read_the_environment() -> None:
    """The entry points pass `os.environ` to `settings.load`; no other module reads the environment."""
    disable_crt = 'os.environ.setdefault("BOTO_DISABLE_CRT", "true")'  # read by boto3 at import, not by us
    for path in [*ROOT.glob("pipeline/**/*.py"), *ROOT.glob("jobs/**/*.py")]:
        name = str(path.relative_to(ROOT))
        if name not in READ_THE_ENVIRONMENT and "/simulator/" not in name:
            text = path.read_text().replace(disable_crt, "")
            assert "os.environ" not in text, name
            assert "getenv" not in text, name
