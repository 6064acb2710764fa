"""What a run opens: settings are checked against the tables before anything is."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.runtime import load_settings
from pipeline.core.errors import ConfigError


def test_a_pseudonymised_column_must_be_a_personal_one(tmp_path: Path) -> None:
    """The message names the key, the file it stands in, and the columns that would be right."""
    path = tmp_path / "postroom.toml"
    path.write_text('[privacy]\npseudonymise = ["user_name", "room_id"]\nkey = "k"\n', encoding="utf-8")
    with pytest.raises(ConfigError) as refused:
        load_settings(path, {})
    assert str(refused.value).startswith(
        f'privacy.pseudonymise ({path}): "room_id" is not a personal column; use user_ref'
    )
