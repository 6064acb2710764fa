"""Temporary space on this machine's disk: for replies on their way and for rows being sorted."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import StoreUnavailable


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder that is gone afterwards; TMPDIR says where."""
    with scratch_errors(), tempfile.TemporaryDirectory(prefix="postroom-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@contextmanager
def scratch_errors() -> Iterator[None]:
    """Errors of the disk become StoreUnavailable, which names the place and the next step."""
    try:
        yield
    except OSError as error:
        raise StoreUnavailable(
            f"cannot use {tempfile.gettempdir()} for temporary files: {error.strerror or error}; free space there or"
            " set TMPDIR, then run again; nothing was half-written"
        ) from None
