"""Apply the rooms file every hour. A file without rooms is ignored: with `prune` it would delete every room."""

from __future__ import annotations

from pathlib import Path

from pipeline.core.context import App
from pipeline.core.models import RunResult
from pipeline.rooms import apply


def apply_rooms(app: App) -> RunResult:
    """Apply the rooms file of the settings. A room in use is skipped; the next hourly run changes it."""
    path, prune = Path(app.settings.rooms.file), app.settings.rooms.prune
    if not path.exists() or not apply.read_file(app, path).rooms:
        return RunResult("rooms apply")
    return apply.apply_rooms(app, path, prune=prune)
