"""Land every reply as received, while it arrives; read back the pages of a period.

A page is a body (`….json.zst`) and a receipt (`….receipt.json`) of the same stem. The receipt is written last: a body
without a receipt does not exist. A reply that repeats the previous one to the same request leaves a receipt only, which
names the page it repeats. So the stems that have both are exactly the moments at which EnableX said something new.

A question that had to be asked in parts (a day, room by room) leaves a page for each part, whose receipts
(`….part.json`) do not count as a response: it is unknown whether the parts are complete.
A reply that cannot be read is kept as evidence under names of its own and is not a page.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime

import msgspec
import zstandard

from pipeline.core.concurrency import map_concurrent, prefetch
from pipeline.core.errors import FixityError, ObjectMissing
from pipeline.core.models import Period, RawResponse, Source, utc_text
from pipeline.core.tempfiles import disk_errors
from pipeline.enablex.envelope import BLOCK_BYTES, Envelope, EnvelopeError
from pipeline.enablex.protocol import ReplyHead, Request
from pipeline.storage.base import ObjectStore, listed, read_bytes
from pipeline.storage.documents import Cut, LandedEnvelope
from pipeline.storage.keys import (
    BODY_SUFFIX,
    PART_SUFFIX,
    RECEIPT_SUFFIX,
    UNREADABLE_SUFFIX,
    RawName,
    asked_at_of_response,
    make_response_id,
    parse_raw_key,
    raw_key,
    raw_prefix,
    raw_prefixes,
)

_COMPRESSION_LEVEL = 3
_SPOOL_IN_MEMORY_BYTES = 8 * 2**20
_CHUNK_BYTES = 2**20
_READ_BYTES = 2**20
_CHUNKS_AHEAD = BLOCK_BYTES // _READ_BYTES
"""Number of chunks that are split into documents together."""

_KEPT_HEADERS = frozenset(
    {"content-type", "content-length", "content-encoding", "date", "etag", "last-modified", "retry-after", "server",
     "x-request-id"}
)  # fmt: skip

DaysOf = Callable[[Sequence[msgspec.Raw]], set[date]]


class Receipt(msgspec.Struct, kw_only=True, forbid_unknown_fields=False):
    """What was asked, when, and what came back. `page` is the stem whose body this reply had."""

    format: int = 1
    source: str
    project: str
    day: date
    request: str
    asked_at: str
    status: int
    headers: dict[str, str]
    size_bytes: int
    sha256: str
    documents: int
    days: list[date]
    page: str


_RECEIPT = msgspec.json.Decoder(Receipt)


class SpooledBody:
    """Takes one reply while it arrives: compressed, hashed, counted; in memory while small, else in a temporary file.

    It goes to the vault only when the response was complete, and only if it is new.
    """

    def __init__(self, days_of: DaysOf) -> None:
        self._days_of = days_of
        self._file = tempfile.SpooledTemporaryFile(_SPOOL_IN_MEMORY_BYTES)  # noqa: SIM115 - closed with the spool
        compressor = zstandard.ZstdCompressor(level=_COMPRESSION_LEVEL, write_checksum=True)
        self._zstd = compressor.stream_writer(self._file, closefd=False)
        self._sha256 = hashlib.sha256()
        self.size_bytes = 0
        self.documents = 0
        self.days: set[date] = set()

    def write(self, chunk: bytes) -> None:
        self._sha256.update(chunk)
        self.size_bytes += len(chunk)
        with disk_errors():
            self._zstd.write(chunk)

    def note(self, documents: Sequence[msgspec.Raw]) -> None:
        self.documents += len(documents)
        self.days |= self._days_of(documents)

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    def compressed(self) -> Iterator[bytes]:
        """The body as zstd, in chunks; nothing can be written afterwards."""
        with disk_errors():
            self._zstd.close()  # type: ignore[no-untyped-call]
            self._file.seek(0)
            while chunk := self._file.read(_CHUNK_BYTES):
                yield chunk


@dataclass(frozen=True)
class RawLocation:
    """Where and when a reply belongs: what was asked for, and the moment of asking."""

    source: Source
    project: str
    day: date
    asked_at: datetime

    def key(self, response_id: str, suffix: str) -> str:
        return raw_key(self.source, self.project, self.day, response_id, suffix)


def land(vault: ObjectStore, place: RawLocation, head: ReplyHead, spool: SpooledBody, *, is_part: bool = False) -> bool:
    """Land one readable reply; return whether it said something new.

    Landing the same reply to the same request twice at the same moment changes nothing.
    """
    suffix = PART_SUFFIX if is_part else RECEIPT_SUFFIX
    response_id = _response_id(place, head.request, spool.sha256)
    earlier = _latest_receipt(vault, place, str(head.request), suffix, before=response_id)
    repeated = earlier is not None and earlier.sha256 == spool.sha256 and earlier.status == head.status
    page = earlier.page if earlier is not None and repeated else response_id
    if vault.head(place.key(response_id, suffix)) is not None:
        return False
    if page == response_id:
        vault.put_if_absent(place.key(response_id, BODY_SUFFIX), spool.compressed())
    receipt = Receipt(
        source=place.source,
        project=place.project,
        day=place.day,
        request=str(head.request),
        asked_at=utc_text(place.asked_at),
        status=head.status,
        headers=_kept(head.headers),
        size_bytes=spool.size_bytes,
        sha256=spool.sha256,
        documents=spool.documents,
        days=sorted(spool.days),
        page=page,
    )
    vault.put_if_absent(place.key(response_id, suffix), msgspec.json.format(msgspec.json.encode(receipt), indent=1))
    return page == response_id


def land_unreadable(vault: ObjectStore, place: RawLocation, head: ReplyHead, spool: SpooledBody) -> str:
    """Keep a reply that is not the promised JSON, with its headers; return its key."""
    key = place.key(_response_id(place, head.request, spool.sha256), UNREADABLE_SUFFIX)
    facts = {
        "request": str(head.request),
        "status": head.status,
        "headers": _kept(head.headers),
        "sha256": spool.sha256,
    }
    vault.put_if_absent(key, spool.compressed())
    vault.overwrite(f"{key}.json", msgspec.json.format(msgspec.json.encode(facts), indent=1))
    return key


def list_responses(
    vault: ObjectStore, source: Source, project: str, period: Period | None = None
) -> dict[date, list[str]]:
    """Stems of the pages asked for in `period`, by day, oldest first; from listings alone."""
    suffixes: dict[tuple[date, str], set[str]] = defaultdict(set)
    for name in _raw_names(vault, source, project, period):
        suffixes[name.day, name.response_id].add(name.suffix)
    response_ids: dict[date, list[str]] = defaultdict(list)
    for (day, response_id), found in sorted(suffixes.items()):
        if BODY_SUFFIX in found and len(found) > 1:
            response_ids[day].append(response_id)
    return dict(response_ids)


def last_collected(vault: ObjectStore, source: Source, project: str) -> dict[date, datetime]:
    """For every day ever collected: when it was last asked for and answered readably; from listings alone."""
    moments: dict[date, datetime] = {}
    for name in _raw_names(vault, source, project, None):
        if name.suffix == RECEIPT_SUFFIX:
            moment = asked_at_of_response(name.response_id)
            moments[name.day] = max(moment, moments.get(name.day, moment))
    return moments


def read_receipt(vault: ObjectStore, source: Source, project: str, day: date, response_id: str) -> RawResponse:
    """The facts of one page, from its receipt."""
    try:
        receipt = _read_receipt(vault, raw_key(source, project, day, response_id, RECEIPT_SUFFIX))
    except ObjectMissing:
        receipt = _read_receipt(vault, raw_key(source, project, day, response_id, PART_SUFFIX))
    return RawResponse(
        response_id=response_id,
        source=source,
        project=project,
        day=day,
        request=receipt.request,
        asked_at=asked_at_of_response(response_id),
        status=receipt.status,
        size_bytes=receipt.size_bytes,
        sha256=receipt.sha256,
        documents=receipt.documents,
        days=tuple(receipt.days),
        body_key=raw_key(source, project, day, response_id, BODY_SUFFIX),
    )


def read_documents(vault: ObjectStore, page: RawResponse, cut: Cut | None = None) -> Iterator[Sequence[msgspec.Raw]]:
    """The documents of a raw response in the order received, some MiB at a time; split by `cut`, or validated as JSON.

    Raises:
        FixityError: the body is not the one of the receipt; raised after the last document at the latest.
    """
    if page.documents:
        # In a thread of its own the stack is shallow: however deep a reply is nested, if it could land it can be read.
        yield from prefetch(_documents(vault, page, cut))


def _documents(vault: ObjectStore, page: RawResponse, cut: Cut | None) -> Iterator[Sequence[msgspec.Raw]]:
    envelope = LandedEnvelope(page.source, cut) if cut else Envelope(page.source)
    count = 0
    try:
        for chunk in prefetch(_body(vault, page), _CHUNKS_AHEAD):
            if documents := envelope.feed(chunk):
                count += len(documents)
                yield documents
        documents = envelope.finish()
    except (zstandard.ZstdError, EnvelopeError) as error:
        raise FixityError(page.body_key, page.sha256, f"something else ({error})") from None
    count += len(documents)
    if cut and count != page.documents:  # the bytes are the same, so `cut` and what proved them disagree
        raise FixityError(page.body_key, f"{page.documents} documents", f"{count}")
    yield documents


def _body(vault: ObjectStore, page: RawResponse) -> Iterator[bytes]:
    digest = hashlib.sha256()
    with vault.open(page.body_key) as stream:
        for chunk in zstandard.ZstdDecompressor().read_to_iter(stream, write_size=_READ_BYTES):
            digest.update(chunk)
            yield chunk
    if digest.hexdigest() != page.sha256:
        raise FixityError(page.body_key, page.sha256, digest.hexdigest())


def _response_id(place: RawLocation, request: Request, digest: str) -> str:
    return make_response_id(place.asked_at, hashlib.sha256(f"{request} {digest}".encode()).hexdigest())


def _kept(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in sorted(headers.items()) if name in _KEPT_HEADERS}


def _raw_names(vault: ObjectStore, source: Source, project: str, period: Period | None) -> Iterator[RawName]:
    found = listed(vault, raw_prefixes(source, project, period)) if period else vault.list(raw_prefix(source, project))
    for stored in found:
        name = parse_raw_key(stored.key)
        if name and (period is None or name.day in period):
            yield name


def _latest_receipt(
    vault: ObjectStore, place: RawLocation, request: str, suffix: str, *, before: str
) -> Receipt | None:
    keys = [stored.key for stored in vault.list(raw_prefix(place.source, place.project, place.day))]
    for key in reversed(keys):
        name = parse_raw_key(key)
        if name is None or name.suffix != suffix or name.response_id >= before:
            continue
        receipt = _read_receipt(vault, key)
        if receipt.request == request:
            return receipt
    return None


def _read_receipt(vault: ObjectStore, key: str) -> Receipt:
    try:
        return _RECEIPT.decode(read_bytes(vault, key))
    except msgspec.DecodeError as error:
        raise FixityError(key, "a receipt", f"something else ({error})") from None


def pages(vault: ObjectStore, source: Source, project: str, period: Period | None) -> Iterator[RawResponse]:
    """The pages asked for in `period`, or ever, oldest first within each day."""
    names = _page_names(vault, source, project, period)
    yield from map_concurrent(lambda name: read_receipt(vault, source, project, *name), names, vault.max_concurrency)


def _page_names(vault: ObjectStore, source: Source, project: str, period: Period | None) -> Iterator[tuple[date, str]]:
    for day, response_ids in list_responses(vault, source, project, period).items():
        for response_id in response_ids:
            yield day, response_id
