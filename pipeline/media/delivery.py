"""Files that EnableX's Recording Delivery has put into a bucket: copied inside S3 instead of downloaded.

Source: enablex-api.md section 7. Keys are `<room_id>/<conf_num>/<file>`; the file names differ from those of the listed
URLs; it is not documented when or whether a delivery is complete. Therefore a delivered file is not matched by name: it
is accepted when it has the size that the file host returns and the same bytes at three offsets.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.core.models import ListedFile
from pipeline.enablex.file_host import Body, FileHost
from pipeline.storage.base import ObjectStore

_SAMPLE_BYTES = 64 * 1024


@dataclass(frozen=True)
class Delivered:
    """An object of the delivery bucket, valid while it has this ETag."""

    url: str
    etag: str


class Delivery:
    """The delivery bucket, read-only."""

    def __init__(self, bucket: ObjectStore) -> None:
        self._bucket = bucket

    def find(self, file: ListedFile, body: Body, host: FileHost) -> Delivered | None:
        """The delivered copy of a file whose first response is `body`; None when there is none or the size is unknown.

        Raises FileError when the file host does not respond.
        """
        total_bytes = body.total_bytes
        if not file.room_id or not total_bytes:
            return None
        for stored in self._bucket.list(f"{file.room_id}/{file.conf_num}/"):
            if stored.size_bytes == total_bytes and self._is_same(stored.key, file.url, body, host):
                attributes = self._bucket.attributes(stored.key)
                if attributes is None or not attributes.etag:
                    return None
                return Delivered(f"{self._bucket.url}/{stored.key}", attributes.etag)
        return None

    def _is_same(self, key: str, url: str, body: Body, host: FileHost) -> bool:
        """Whether samples at the beginning, middle and end are the same in the bucket and at the file host."""
        total_bytes = body.total_bytes or 0
        offsets = {0, max(0, total_bytes // 2), max(0, total_bytes - _SAMPLE_BYTES)}
        with self._bucket.open(key) as stream:
            for offset in sorted(offsets):
                stream.seek(offset)
                expected = stream.read(min(_SAMPLE_BYTES, total_bytes - offset))
                if _sample(host, url, offset, body, len(expected)) != expected:
                    return False
        return True


def _sample(host: FileHost, url: str, offset: int, body: Body, size_bytes: int) -> bytes | None:
    """`size_bytes` of a file from `offset`; None when the host returns another range or another file size."""
    with host.open(url, first_byte=offset, validator=body.validator) as part:
        if part.first_byte != offset or part.total_bytes != body.total_bytes:
            return None
        sample = bytearray()
        for chunk in part.chunks:
            sample += chunk
            if len(sample) >= size_bytes:
                break
        return bytes(sample[:size_bytes])
