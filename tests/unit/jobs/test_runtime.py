"""Settings of a run are checked against the schemas of the tables before anything is opened."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.runtime import load_settings
from pipeline.core.errors import ConfigError


def test_a_pseudonymised_column_must_be_a_personal_one(tmp_path: Path) -> None:
    """The message contains the key, its file, and the valid columns."""
    path = tmp_path / "postroom.toml"
    path.write_text('[privacy]\npseudonymise = ["user_name", "room_id"]\nkey = "k"\n', encoding="utf-8")
    with pytest.raises(ConfigError) as refused:
        load_settings(path, {})
    assert str(refused.value).startswith(
        f'privacy.pseudonymise ({path}): "room_id" is not a personal column; use user_ref'
    )
