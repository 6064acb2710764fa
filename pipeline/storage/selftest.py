"""Check the capabilities of a store with a few small objects.

They are stored under `doctor/`, written once and kept, because stores have no delete. Every check uses the same bytes.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass

from pipeline.core.errors import DigestDiffers, ObjectDiffers, StoreError
from pipeline.storage.base import Checksums, ObjectStore, Retention, read_bytes
from pipeline.storage.local import LocalStore

PROBE_KEY = "doctor/probe.txt"
CONDITIONS_KEY = "doctor/conditions.txt"
LOCKED_KEY = "doctor/locked.txt"
PROBE = b"Written by `postroom doctor`, to see whether it can. Nothing else reads it.\n"


def check_store(store: ObjectStore) -> StoreFacts:
    """Write a probe, read it back, check that it cannot be overwritten, and read its attributes.

    Raises StoreError and FixityError, like a run with this store.
    """
    for key in (PROBE_KEY, CONDITIONS_KEY):
        store.put_if_absent(key, PROBE)
    if (content := read_bytes(store, PROBE_KEY)) != PROBE:
        raise DigestDiffers(PROBE_KEY, hashlib.sha256(PROBE).hexdigest(), hashlib.sha256(content).hexdigest())
    _check_no_overwrite(store)
    if isinstance(store, LocalStore):
        return StoreFacts(is_synced=True)
    sent = Checksums()
    sent.feed(PROBE)
    stated, conditions = store.attributes(PROBE_KEY), store.probe_conditional_writes(CONDITIONS_KEY, PROBE)
    return StoreFacts(
        returns_crc64nvme=stated is not None and stated.crc64nvme == sent.crc64nvme,
        returns_md5=stated is not None and stated.etag == hashlib.md5(PROBE, usedforsecurity=False).hexdigest(),
        has_conditional_put=conditions.by_put,
        has_conditional_multipart=conditions.by_parts,
    )


def check_lock(store: ObjectStore, retention: Retention) -> None:
    """Lock a probe. Raises ConfigError or StoreError unless the store states the lock."""
    store.require_lock()
    store.put_if_absent(LOCKED_KEY, PROBE, retention=retention)


def _check_no_overwrite(store: ObjectStore) -> None:
    with suppress(ObjectDiffers):
        store.put_if_absent(PROBE_KEY, PROBE + b"other bytes")
        raise StoreError(
            f"{store.url}/{PROBE_KEY}: was overwritten with other content; use a store that refuses this", key=PROBE_KEY
        )


@dataclass(frozen=True)
class StoreFacts:
    """Observed capabilities of a store.

    `has_conditional_put`, `has_conditional_multipart`: it refuses a PUT or a multipart upload over an existing object.
    """

    returns_crc64nvme: bool = False
    returns_md5: bool = False
    is_synced: bool = False
    has_conditional_put: bool = True
    has_conditional_multipart: bool = True
