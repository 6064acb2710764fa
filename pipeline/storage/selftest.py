"""What a store can do, seen by doing it with a few small objects.

They lie under `doctor/`, are written once and stay, for stores have no delete; every trial is made with the same bytes.
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
    """Write a probe, read it back, see that other bytes cannot take its place, and read its attributes.

    Raises StoreError, FixityError: what a run would meet as well.
    """
    for key in (PROBE_KEY, CONDITIONS_KEY):
        store.put_if_absent(key, PROBE)
    if (found := read_bytes(store, PROBE_KEY)) != PROBE:
        raise DigestDiffers(PROBE_KEY, hashlib.sha256(PROBE).hexdigest(), hashlib.sha256(found).hexdigest())
    _refuses_others(store)
    if isinstance(store, LocalStore):
        return StoreFacts(is_synced=True)
    sent = Checksums()
    sent.feed(PROBE)
    stated, heeds = store.attributes(PROBE_KEY), store.probe_conditional_writes(CONDITIONS_KEY, PROBE)
    return StoreFacts(
        states_crc=stated is not None and stated.crc64nvme == sent.crc64nvme,
        states_md5=stated is not None and stated.etag == hashlib.md5(PROBE, usedforsecurity=False).hexdigest(),
        heeds_put=heeds.by_put,
        heeds_parts=heeds.by_parts,
    )


def check_lock(store: ObjectStore, retention: Retention) -> None:
    """Lock a probe; raises ConfigError or StoreError when the store does not say that it is locked."""
    store.require_lock()
    store.put_if_absent(LOCKED_KEY, PROBE, retention=retention)


def _refuses_others(store: ObjectStore) -> None:
    with suppress(ObjectDiffers):
        store.put_if_absent(PROBE_KEY, PROBE + b"other bytes")
        raise StoreError(f"{store.url}/{PROBE_KEY}: other bytes could be put over what was there", key=PROBE_KEY)


@dataclass(frozen=True)
class StoreFacts:
    """What a store was seen to do with a few small objects.

    `heeds_put`, `heeds_parts`: whether it refuses to put over what is there, as one request and as an upload in parts.
    """

    states_crc: bool = False
    states_md5: bool = False
    is_synced: bool = False
    heeds_put: bool = True
    heeds_parts: bool = True
