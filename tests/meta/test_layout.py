"""Limits of the source tree: number of rooms, length of modules."""

from __future__ import annotations

from tests.support.paths import ROOT

MAX_LINES = 480


def test_no_module_is_too_long() -> None:
    """No module has more than 480 lines."""
    modules = [*ROOT.glob("pipeline/**/*.py"), *ROOT.glob("jobs/**/*.py")]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in modules}
    assert {name: lines for name, lines in lengths.items() if lines > MAX_LINES} == {}


def test_only_rooms_are_directly_under_pipeline() -> None:
    """`pipeline/` has at most ten rooms, each with a docstring, and no module besides `__init__` and `__main__`."""
    entries = [path for path in (ROOT / "pipeline").iterdir() if path.name != "__pycache__"]
    rooms = [path for path in entries if path.is_dir()]
    assert {path.name for path in entries if path.is_file()} == {"__init__.py", "__main__.py", "py.typed"}
    assert len(rooms) <= 10
    assert [room.name for room in rooms if not (room / "__init__.py").read_text().startswith('"""')] == []
