"""Apply the rooms file of the settings every hour, if it exists."""

from __future__ import annotations

from pathlib import Path

from pipeline.core.context import App
from pipeline.core.models import RunResult
from pipeline.rooms import apply


def apply_rooms(app: App) -> RunResult:
    """Apply the rooms file of the settings; a room that is in use is retried by the next run, an hour later."""
    path = Path(app.settings.rooms.file)
    if not path.exists():
        return RunResult("rooms apply")
    return apply.apply_rooms(app, path, prune=app.settings.rooms.prune)
