"""Check whether an S3 server supports If-None-Match, by overwriting an existing object with its own bytes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from pipeline.storage.base import ConditionalWriteSupport
from pipeline.storage.s3_client import S3Client, error_code
from pipeline.storage.s3_multipart import CONFLICT, UNKNOWN_OPTION, content_md5, md5_of


def probe_conditional_writes(store: S3Client, key: str, content: bytes) -> ConditionalWriteSupport:
    """Without support the object is rewritten with the same bytes. One part is uploaded in any case, then aborted."""
    return ConditionalWriteSupport(_refuses_put(store, key, content), _refuses_multipart(store, key, content))


def _refuses_put(store: S3Client, key: str, content: bytes) -> bool:
    put = {**store.location(key), "Body": content, "ContentMD5": content_md5(md5_of(content))}
    return _is_refused(store, key, lambda: store.client.put_object(**put, IfNoneMatch="*"))


def _refuses_multipart(store: S3Client, key: str, content: bytes) -> bool:
    client, location = store.client, store.location(key)
    with store.errors(key):
        upload = {**location, "UploadId": client.create_multipart_upload(**location)["UploadId"]}
    try:
        with store.errors(key):
            part = client.upload_part(**upload, PartNumber=1, Body=content, ContentMD5=content_md5(md5_of(content)))
        parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
        complete = client.complete_multipart_upload
        return _is_refused(store, key, lambda: complete(**upload, MultipartUpload=parts, IfNoneMatch="*"))
    finally:
        with suppress(BotoCoreError, ClientError):
            client.abort_multipart_upload(**upload)


def _is_refused(store: S3Client, key: str, write: Callable[[], Any]) -> bool:
    try:
        write()
    except ClientError as error:
        if error_code(error) in CONFLICT | UNKNOWN_OPTION:
            return error_code(error) in CONFLICT
        raise store.store_error(error, key) from None
    except BotoCoreError as error:
        raise store.store_error(error, key) from None
    return False
