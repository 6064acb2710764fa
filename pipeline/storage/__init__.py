"""Object stores (contract in `base`, folders in `local`, buckets in `s3`), their keys and records, and the run store.

Formats of raw responses, receipts, manifests and audit records belong here. Fields of EnableX, tables, and decisions
about what to store do not.
"""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.storage.base import MIB, ObjectStore, Retention, StoredObject, read_bytes
from pipeline.storage.local import LocalStore

os.environ.setdefault("BOTO_DISABLE_CRT", "true")
"""awscrt is installed for CRC64NVME only; boto3 would also sign with it, and copy every part to do so."""

__all__ = ["MIB", "LocalStore", "ObjectStore", "Retention", "StoredObject", "open_store", "read_bytes"]


def open_store(
    url: str, *, endpoint_url: str | None = None, region: str | None = None, part_bytes: int = 16 * MIB
) -> ObjectStore:
    """Open a store by root URL: `file:PATH` (relative to the working directory), `file:///PATH` or `s3://BUCKET/PREFIX`.

    Credentials and missing options come from the provider chain of boto3 (environment, `~/.aws`, roles).
    """
    if url.startswith("file:"):
        return LocalStore(Path(url.removeprefix("file://" if url.startswith("file://") else "file:")))
    from pipeline.storage.s3 import S3Store  # noqa: PLC0415 - boto3 is slow to import; only buckets need it

    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    return S3Store(bucket, prefix, endpoint_url=endpoint_url, region=region, part_bytes=part_bytes)
