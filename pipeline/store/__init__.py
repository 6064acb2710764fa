"""Places for objects: the contract in `base`, a folder in `local`."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import ConfigError
from pipeline.store.base import ObjectStore, StoredObject, read_bytes
from pipeline.store.local import LocalStore

__all__ = ["LocalStore", "ObjectStore", "StoredObject", "open_store", "read_bytes"]


def open_store(url: str) -> ObjectStore:
    """The store at a root URL: `file:PATH` (relative to the working directory) or `file:///PATH`."""
    if url.startswith("file:"):
        return LocalStore(Path(url.removeprefix("file://" if url.startswith("file://") else "file:")))
    raise ConfigError(f'{url}: only "file:" roots work in this version; S3 is the next one to come')
