"""The import rows of docs/style.md section 3."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROWS = {
    0: ["errors", "model", "schemas"],
    1: [
        "_scan",
        "checks",
        "documents",
        "layout",
        "enablex.envelope",
        "enablex.room_calls",
        "enablex.wire",
        "normalise.*",
        "prices",
        "media.audit",
        "media.content",
        "media.manifest",
        "media.plan",
        "reports.*",
        "room_audit",
        "room_fields",
        "room_wanted",
        "rooms",
    ],
    2: [
        "engines",
        "enablex.client",
        "landing",
        "pacing",
        "parallel",
        "runs",
        "scratch",
        "tables",
        "tracing",
        "query",
        "results",
        "media.copy",
        "media.delivery",
        "media.probe",
        "media.source",
        "store",
        "store.*",
        "ledger",
        "exposition",
        "webhook",
        "retry",
        "log",
        "progress",
    ],
    3: [
        "alarms",
        "settings",
        "observed",
        "readings",
        "auditing",
        "backfilling",
        "billing",
        "building",
        "collecting",
        "comparing",
        "copying",
        "doctor",
        "provisioning",
        "workers",
        "app",
    ],
    4: ["flows", "observing"],
    5: ["cli", "cli.*", "__main__"],
}
IMPURE = {
    "httpx",
    "boto3",
    "botocore",
    "sqlite3",
    "sqlalchemy",
    "duckdb",
    "requests",
    "socket",
    "os",
    "time",
    "subprocess",
}
SHARED_EDGES = {"retry", "scratch", "parallel", "tables", "pacing", "tracing"}
CLOCKS = {"now", "utcnow", "today", "monotonic", "perf_counter"}


def modules(package: str) -> dict[str, Path]:
    """Dotted name inside the package -> file."""
    base = ROOT / package
    found = {}
    for path in sorted(base.rglob("*.py")):
        parts = path.relative_to(base).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path) -> set[str]:
    """Every module a file imports, `from a import b` as both `a` and `a.b`."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def row_of(module: str) -> int | None:
    for row, patterns in ROWS.items():
        for pattern in patterns:
            if module == pattern or (pattern.endswith(".*") and module.startswith(pattern[:-1])):
                return row
    return None


PIPELINE = {name: path for name, path in modules("pipeline").items() if name and not name.startswith("simulator")}
EMPTY_PACKAGES = {"enablex", "normalise", "media", "reports"}


def test_every_module_has_a_row() -> None:
    """A new module cannot slip past the rows."""
    assert [name for name in PIPELINE if row_of(name) is None and name not in EMPTY_PACKAGES] == []


@pytest.mark.parametrize("module", [name for name in PIPELINE if name not in EMPTY_PACKAGES])
def test_imports_point_down(module: str) -> None:
    """No module imports one of a higher row, and edges import each other only as style.md says."""
    own = row_of(module)
    assert own is not None
    for name in imports(PIPELINE[module]):
        target = name.removeprefix("pipeline.")
        if not name.startswith("pipeline.") or target not in PIPELINE:
            continue
        row = row_of(target)
        assert row is None or row <= own, f"{module} (row {own}) imports {target} (row {row})"
        if own == row == 2 and module.split(".", maxsplit=1)[0] != target.split(".")[0]:
            assert target.startswith("store") or target in SHARED_EDGES, f"edge {module} imports edge {target}"


@pytest.mark.parametrize("module", [name for name in PIPELINE if row_of(name) in {0, 1}])
def test_pure_code_sees_no_world(module: str) -> None:
    """Rows 0 and 1 never see httpx, boto3, SQL, the environment or the clock; time comes in as an argument."""
    path = PIPELINE[module]
    assert {name.split(".")[0] for name in imports(path)} & IMPURE == set()
    called = {
        node.func.attr
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }
    assert called & (CLOCKS | {"getenv", "open", "read_text", "write_text"}) == set()


def test_pipeline_never_imports_jobs() -> None:
    """Jobs sit on top of the pipeline, never below it."""
    for path in modules("pipeline").values():
        assert not any(name.split(".")[0] == "jobs" for name in imports(path)), path


def test_only_the_command_line_imports_the_simulator() -> None:
    """The look-alike is for `demo`, `simulate` and tests: no flow can come to depend on it."""
    for name, path in PIPELINE.items():
        if not name.startswith("cli"):
            assert not any(imported.startswith("pipeline.enablex.simulator") for imported in imports(path)), name


def test_the_simulator_stands_alone() -> None:
    """The simulator imports nothing of the pipeline but words: a shared mistake cannot hide in both."""
    for name, path in modules("pipeline").items():
        if name.startswith("simulator"):
            for imported in imports(path):
                allowed = (
                    "pipeline.enablex.simulator",
                    "pipeline.core.errors",
                    "pipeline.core.models",
                    "pipeline.tables.schemas",
                )
                assert not imported.startswith("pipeline.") or imported.startswith(allowed), f"{name}: {imported}"


def test_only_settings_reads_the_environment() -> None:
    """Configuration has one door: the command line hands `os.environ` to `settings.load`, nobody else reads it."""
    # OpenTelemetry's standard variables are its own, and read where it is (tracing).
    told_to_boto = 'os.environ.setdefault("BOTO_DISABLE_CRT", "true")'
    for name, path in PIPELINE.items():
        text = path.read_text().replace(told_to_boto, "")
        if name not in {"settings", "cli.commands", "tracing"}:
            assert "os.environ" not in text, name
            assert "getenv" not in text, name
