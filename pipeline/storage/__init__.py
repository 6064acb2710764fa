"""Places for objects: the contract in `base`, a folder in `local`, a bucket in `s3`."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.storage.base import MIB, ObjectStore, Retention, StoredObject, read_bytes
from pipeline.storage.local import LocalStore

os.environ.setdefault("BOTO_DISABLE_CRT", "true")
"""awscrt is here for its CRC64NVME; boto3 would also sign with it, and copy every part for that."""

__all__ = ["MIB", "LocalStore", "ObjectStore", "Retention", "StoredObject", "open_store", "read_bytes"]


def open_store(
    url: str, *, endpoint_url: str | None = None, region: str | None = None, part_bytes: int = 16 * MIB
) -> ObjectStore:
    """The store at a root URL: `file:PATH` (relative to the working directory), `file:///PATH`, or `s3://BUCKET/PREFIX`.

    Credentials for S3, and whatever is not given here, come from boto3's own chain (environment, `~/.aws`, roles).
    """
    if url.startswith("file:"):
        return LocalStore(Path(url.removeprefix("file://" if url.startswith("file://") else "file:")))
    from pipeline.storage.s3 import S3Store  # noqa: PLC0415 - boto3 is slow to start and needed by buckets only

    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    return S3Store(bucket, prefix, endpoint_url=endpoint_url, region=region, part_bytes=part_bytes)
