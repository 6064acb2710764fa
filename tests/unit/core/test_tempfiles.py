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
def tmp_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_folder_is_gone_afterwards(tmp_folder: Path) -> None:
    """The folder and its files are removed even after an error, and the error is raised unchanged."""
    with pytest.raises(OSError, match="the vault"), temp_folder() as folder:  # noqa: PT012 - the error comes from inside
        assert folder.parent == tmp_folder
        (folder / "rows").write_bytes(b"x")
        raise OSError("the vault")
    assert list(tmp_folder.iterdir()) == []


def test_what_a_killed_process_left_is_removed(tmp_folder: Path) -> None:
    """Folders of processes that ended are removed; those of running processes and other hosts are kept."""
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
        (tmp_folder / name).mkdir()
        (tmp_folder / name / "run-1.arrow").write_bytes(b"names and addresses")
    with temp_folder():
        assert {name: (tmp_folder / name).exists() for name in names} == names
    assert is_alive(os.getpid())


def test_a_place_that_cannot_be_used_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the folder and TMPDIR."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(StoreUnavailable, match=r"nowhere.*TMPDIR"), temp_folder():
        pass
