"""Whether an S3 server heeds If-None-Match, seen by putting the same bytes over an object that is there already."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from pipeline.storage.base import ConditionalWriteSupport
from pipeline.storage.s3_client import S3Client, error_code
from pipeline.storage.s3_multipart import CONFLICT, UNKNOWN_OPTION, content_md5, md5_of


def probe_conditional_writes(store: S3Client, key: str, content: bytes) -> ConditionalWriteSupport:
    """A server that heeds no condition has the same bytes under the key again; a part is written every time."""
    return ConditionalWriteSupport(_heeds_put(store, key, content), _heeds_parts(store, key, content))


def _heeds_put(store: S3Client, key: str, content: bytes) -> bool:
    put = {**store.place(key), "Body": content, "ContentMD5": content_md5(md5_of(content))}
    return _is_refused(store, key, lambda: store.client.put_object(**put, IfNoneMatch="*"))


def _heeds_parts(store: S3Client, key: str, content: bytes) -> bool:
    client, place = store.client, store.place(key)
    with store.errors(key):
        upload = {**place, "UploadId": client.create_multipart_upload(**place)["UploadId"]}
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
        raise store.translated(error, key) from None
    except BotoCoreError as error:
        raise store.translated(error, key) from None
    return False
