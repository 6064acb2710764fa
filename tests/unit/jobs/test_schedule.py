"""When jobs are due: cron expressions and fire times."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from jobs.schedule import is_due, next_runs
from pipeline.core.errors import ConfigError
from pipeline.core.settings.load import load
from pipeline.core.settings.sections import Settings

NOW = datetime(2026, 11, 23, 2, 15, tzinfo=UTC)  # a Monday
MINUTE = timedelta(minutes=1)


def settings(folder: Path, text: str = "") -> Settings:
    config = folder / "postroom.toml"
    config.write_text(
        "".join(f'[projects.{name}]\napp_id = "a"\napp_key = "k"\n' for name in ("globex", "acme")) + text
    )
    return load(config, {}).settings


def test_each_job_has_a_next_fire_time(tmp_path: Path) -> None:
    """Defaults: media every 15 minutes, nightly at 02:15, audit on Sundays, all in UTC. The current time counts."""
    assert {name: f"{moment:%a %H:%M}" for name, moment in next_runs(settings(tmp_path), NOW).items() if moment} == {
        "media copy": "Mon 02:15",
        "nightly": "Mon 02:15",
        "rooms apply": "Mon 03:05",
        "rooms snapshot": "Mon 23:50",
        "media audit": "Sun 03:30",
    }


def test_times_are_settings(tmp_path: Path) -> None:
    """Times of jobs and projects are cron expressions; if every project has its own, there is no shared nightly job."""
    text = 'nightly = "45 20 * * *"\n[schedule]\naudit_media = "0 4 1 * *"\n'
    fire_times = next_runs(settings(tmp_path, text), NOW)
    assert list(fire_times) == [
        "media copy",
        "nightly",
        "nightly acme",
        "rooms apply",
        "rooms snapshot",
        "media audit",
    ]
    assert (fire_times["nightly acme"], fire_times["media audit"]) == (
        datetime(2026, 11, 23, 20, 45, tzinfo=UTC),
        datetime(2026, 12, 1, 4, 0, tzinfo=UTC),
    )
    globex = '[projects.globex]\napp_id = "a"\napp_key = "k"\nnightly = "0 1 * * *"\n'
    alone = tmp_path / "alone.toml"
    alone.write_text(globex)
    assert "nightly" not in next_runs(load(alone, {}).settings, NOW)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("* * * *", "must be five fields"),
        ("61 2 * * *", "must be five fields"),
        ("at noon", "must be five fields"),
        ("0 2 * * 1", "written as names"),
    ],
)
def test_an_invalid_time_is_refused(tmp_path: Path, text: str, why: str) -> None:
    """An invalid cron expression, or one with numbers for days of the week, is refused with the name of the setting."""
    with pytest.raises(ConfigError, match=rf"schedule\.nightly .*{why}"):
        settings(tmp_path, f'[schedule]\nnightly = "{text}"\n')


def test_a_job_is_due_once_after_missed_fire_times() -> None:
    """A job is due if one or more fire times passed since its last run started, and immediately if it never ran."""
    assert is_due("15 2 * * *", None, NOW)
    assert not is_due("15 2 * * *", NOW, NOW + 23 * 60 * MINUTE)
    assert is_due("15 2 * * *", NOW, NOW + 24 * 60 * MINUTE)
    assert is_due("15 2 * * *", NOW - timedelta(days=9), NOW)
    assert not is_due("0 0 30 2 *", NOW, NOW + timedelta(days=900))
