"""A running S3 server, as tests see it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import boto3
from botocore.config import Config

from pipeline.storage import MIB
from pipeline.storage.s3 import S3Store

PART_BYTES = 5 * MIB
"""The least that S3 takes for a part that is not the last."""

ACCESS_KEY = "postroom-test"
SECRET_KEY = "secret-of-the-tests"
ENVIRON = {
    "AWS_ACCESS_KEY_ID": ACCESS_KEY,
    "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/dev/null",
    "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
}
"""What every test has instead of the machine's own AWS settings; both servers take these keys."""


@dataclass(frozen=True)
class S3Server:
    """Ceph or localstack, by its endpoint."""

    name: str
    endpoint_url: str
    _numbers: itertools.count[int] = field(default_factory=itertools.count, repr=False)

    @cached_property
    def client(self) -> Any:
        """A plain boto3 client that tries once: what an outsider sees, and could do."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint_url,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            region_name="us-east-1",
            config=Config(
                retries={"total_max_attempts": 1},
                s3={"addressing_style": "path"},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    def new_bucket(self, *, lock: bool = False) -> str:
        """Make a bucket of its own for a test; with `lock`, one with Object Lock (and so with versions)."""
        bucket = f"test-{next(self._numbers)}{'-lock' if lock else ''}"
        self.client.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=lock)
        return bucket

    def store(self, bucket: str, prefix: str = "", *, part_bytes: int = PART_BYTES) -> S3Store:
        """Our own store in a bucket, opened anew, as another process would."""
        return S3Store(bucket, prefix, endpoint_url=self.endpoint_url, part_bytes=part_bytes)

    def unfinished(self, bucket: str) -> list[str]:
        """Keys of all unfinished uploads in a bucket, also of those that only mark others."""
        listed = self.client.list_multipart_uploads(Bucket=bucket)
        return [upload["Key"] for upload in listed.get("Uploads", ())]

    def unfinished_bytes(self, bucket: str) -> list[str]:
        """Keys of unfinished uploads that have parts: without those that a kill left before their first one."""
        uploads = self.client.list_multipart_uploads(Bucket=bucket).get("Uploads", ())
        places = [{"Bucket": bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]} for upload in uploads]
        return [place["Key"] for place in places if self.client.list_parts(**place).get("Parts")]
