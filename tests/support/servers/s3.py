"""A running S3 server, for tests."""

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
"""Smallest part that S3 accepts, except for the last one."""

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
"""Variables of every test instead of the machine's AWS settings. Both servers accept these keys."""


@dataclass(frozen=True)
class S3Server:
    """Ceph or localstack."""

    name: str
    endpoint_url: str
    _numbers: itertools.count[int] = field(default_factory=itertools.count, repr=False)

    @cached_property
    def client(self) -> Any:
        """A plain boto3 client without retries, for access without the program."""
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
        """Create a new bucket; with `lock`, one with Object Lock and therefore versioning."""
        bucket = f"test-{next(self._numbers)}{'-lock' if lock else ''}"
        self.client.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=lock)
        return bucket

    def store(self, bucket: str, prefix: str = "", *, part_bytes: int = PART_BYTES) -> S3Store:
        """A new S3Store for a bucket, as another process would open it."""
        return S3Store(bucket, prefix, endpoint_url=self.endpoint_url, part_bytes=part_bytes)

    def unfinished(self, bucket: str) -> list[str]:
        """Keys of all unfinished uploads in a bucket, including those without parts."""
        listed = self.client.list_multipart_uploads(Bucket=bucket)
        return [upload["Key"] for upload in listed.get("Uploads", ())]

    def unfinished_bytes(self, bucket: str) -> list[str]:
        """Keys of unfinished uploads that have parts."""
        uploads = self.client.list_multipart_uploads(Bucket=bucket).get("Uploads", ())
        places = [{"Bucket": bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]} for upload in uploads]
        return [place["Key"] for place in places if self.client.list_parts(**place).get("Parts")]
