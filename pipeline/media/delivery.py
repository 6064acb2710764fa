"""Files that EnableX's Recording Delivery has put into a bucket already: copied inside S3 instead of downloaded.

Source: enablex-api.md section 7: keys are `<room_id>/<conf_num>/<file>`, the file names differ from those of the
listed URLs, and nothing shows when or whether a delivery is complete. So the name of a delivered file proves nothing:
it is the listed one when it has the size that the file host states and the same bytes in several places.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.core.models import ListedFile
from pipeline.enablex.file_host import Body, FileHost
from pipeline.storage.base import ObjectStore

_SAMPLE_BYTES = 64 * 1024


@dataclass(frozen=True)
class Delivered:
    """An object of the delivery bucket, as long as it has this ETag."""

    url: str
    etag: str


class Delivery:
    """Where deliveries go, read only."""

    def __init__(self, bucket: ObjectStore) -> None:
        self._bucket = bucket

    def find(self, file: ListedFile, body: Body, host: FileHost) -> Delivered | None:
        """The delivered copy of a file whose first response is `body`; None when there is none, or it is uncertain.

        Raises FileError when the file host does not answer.
        """
        total_bytes = body.total_bytes
        if not file.room_id or not total_bytes:
            return None
        for stored in self._bucket.list(f"{file.room_id}/{file.conf_num}/"):
            if stored.size_bytes == total_bytes and self._is_same(stored.key, file.url, body, host):
                stated = self._bucket.attributes(stored.key)
                return Delivered(f"{self._bucket.url}/{stored.key}", stated.etag) if stated and stated.etag else None
        return None

    def _is_same(self, key: str, url: str, body: Body, host: FileHost) -> bool:
        """Whether beginning, middle and end are the same there and at the file host."""
        total_bytes = body.total_bytes or 0
        places = {0, max(0, total_bytes // 2), max(0, total_bytes - _SAMPLE_BYTES)}
        with self._bucket.open(key) as stream:
            for place in sorted(places):
                stream.seek(place)
                expected = stream.read(min(_SAMPLE_BYTES, total_bytes - place))
                if _sample(host, url, place, body, len(expected)) != expected:
                    return False
        return True


def _sample(host: FileHost, url: str, place: int, body: Body, size_bytes: int) -> bytes | None:
    """Some bytes of a file from a place on; None when the host sends others than those asked for."""
    with host.open(url, first_byte=place, validator=body.validator) as part:
        if part.first_byte != place or part.total_bytes != body.total_bytes:
            return None
        sample = bytearray()
        for chunk in part.chunks:
            sample += chunk
            if len(sample) >= size_bytes:
                break
        return bytes(sample[:size_bytes])
