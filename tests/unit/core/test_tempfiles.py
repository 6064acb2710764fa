"""Temporary folders."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from pipeline.core.errors import StoreUnavailable
from pipeline.core.tempfiles import is_alive, temp_folder


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_folder_is_gone_afterwards(place: Path) -> None:
    """Whatever happens inside, the folder and what lies in it are gone, and the error is its own."""
    with pytest.raises(OSError, match="the vault"), temp_folder() as folder:  # noqa: PT012 - the error comes from inside
        assert folder.parent == place
        (folder / "rows").write_bytes(b"x")
        raise OSError("the vault")
    assert list(place.iterdir()) == []


def test_what_a_killed_process_left_is_removed(place: Path) -> None:
    """Folders of processes that are no more are removed; those of others, and of other hosts, are left alone."""
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True
    )
    host = socket.gethostname()
    names = {
        f"postroom-{host}-{int(dead.stdout)}-abc": False,
        f"postroom-{host}-{os.getpid()}-abc": True,
        f"postroom-elsewhere-{int(dead.stdout)}-abc": True,
        "postroom-bench-abc": True,
    }
    for name in names:
        (place / name).mkdir()
        (place / name / "run-1.arrow").write_bytes(b"names and addresses")
    with temp_folder():
        assert {name: (place / name).exists() for name in names} == names
    assert is_alive(os.getpid())


def test_a_place_that_cannot_be_used_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the place and TMPDIR."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(StoreUnavailable, match=r"nowhere.*TMPDIR"), temp_folder():
        pass
