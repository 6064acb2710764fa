"""Land every response as received, while it arrives; read the raw responses of a period.

A raw response is a body (`….json.zst`) and a receipt (`….receipt.json`) with the same response id. The receipt is
written last; a body without a receipt is ignored. A response that repeats the previous one to the same request is
stored as a receipt only, which names the id of the stored body. So the ids with both files are the responses that
differed from their predecessor.

A request split into parts (a day, room by room) stores one raw response per part. Their receipts (`….part.json`) do not
make the day collected, because it cannot be determined whether the parts are complete.
A response whose structure is broken is such a part too: the documents before the break are used. If there are none, it
is stored as evidence under a separate suffix and is not a raw response.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from pipeline.storage.base import ObjectStore, list_prefixes, read_bytes
from pipeline.storage.documents import LandedEnvelope, Split
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
_PREFETCH_CHUNKS = BLOCK_BYTES // _READ_BYTES
"""The chunks of one block that is split into documents."""

_ARCHIVED_HEADERS = frozenset(
    {"content-type", "content-length", "content-encoding", "date", "etag", "last-modified", "retry-after", "server",
     "x-request-id"}
)  # fmt: skip

DaysOf = Callable[[Sequence[msgspec.Raw]], set[date]]


class Receipt(msgspec.Struct, kw_only=True, forbid_unknown_fields=False):
    """Request, time, and facts of the response. `page` is the id of the response whose stored body is identical.

    `malformed` are the ordinals of documents that are not JSON; earlier versions stored no such response. `broken` is
    why the structure of the body is broken after `documents` documents.
    """

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
    malformed: list[int] = []
    broken: str | None = None


_RECEIPT = msgspec.json.Decoder(Receipt)


class SpooledBody:
    """Compress, hash and count one response while it arrives; up to 8 MiB in memory, else in a temporary file.

    It is written to the vault after the response was verified as complete, if it differs from the previous one.
    """

    def __init__(self, days_of: DaysOf) -> None:
        self._days_of = days_of
        self._file = tempfile.SpooledTemporaryFile(_SPOOL_IN_MEMORY_BYTES)  # noqa: SIM115 - closed with the spool
        compressor = zstandard.ZstdCompressor(level=_COMPRESSION_LEVEL, write_checksum=True)
        self._zstd = compressor.stream_writer(self._file, closefd=False)
        self._sha256 = hashlib.sha256()
        self.size_bytes = 0
        self.documents = 0
        self.malformed: list[int] = []
        self.days: set[date] = set()

    def write(self, chunk: bytes) -> None:
        self._sha256.update(chunk)
        self.size_bytes += len(chunk)
        with disk_errors():
            self._zstd.write(chunk)

    def note(self, documents: Sequence[msgspec.Raw]) -> None:
        self.malformed += [self.documents + at for at in getattr(documents, "malformed", ())]
        self.documents += len(documents)
        self.days |= self._days_of(documents)

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    def compressed(self) -> Iterator[bytes]:
        """The body as zstd, in chunks. No writes are possible afterwards."""
        with disk_errors():
            self._zstd.close()  # type: ignore[no-untyped-call]
            self._file.seek(0)
            while chunk := self._file.read(_CHUNK_BYTES):
                yield chunk


@dataclass(frozen=True)
class RawLocation:
    """Source, project and day of a request, and the time at which it was sent."""

    source: Source
    project: str
    day: date
    asked_at: datetime

    def key(self, response_id: str, suffix: str) -> str:
        return raw_key(self.source, self.project, self.day, response_id, suffix)


def land(
    vault: ObjectStore,
    location: RawLocation,
    head: ReplyHead,
    spool: SpooledBody,
    *,
    is_part: bool = False,
    broken: str | None = None,
) -> bool:
    """Land one parseable response; return whether it differs from the previous one to the same request.

    `broken` is why only the part before a break is parseable: it does not make the day collected.
    Idempotent: landing the same response to the same request with the same `asked_at` again changes nothing.
    """
    suffix = PART_SUFFIX if is_part or broken else RECEIPT_SUFFIX
    response_id = _response_id(location, head.request, spool.sha256)
    previous = _latest_receipt(vault, location, str(head.request), suffix, before=response_id)
    repeated = previous is not None and previous.sha256 == spool.sha256 and previous.status == head.status
    body_id = previous.page if previous is not None and repeated else response_id
    if vault.head(location.key(response_id, suffix)) is not None:
        return False
    if body_id == response_id:
        vault.put_if_absent(location.key(response_id, BODY_SUFFIX), spool.compressed())
    receipt = Receipt(
        source=location.source,
        project=location.project,
        day=location.day,
        request=str(head.request),
        asked_at=utc_text(location.asked_at),
        status=head.status,
        headers=_archived_headers(head.headers),
        size_bytes=spool.size_bytes,
        sha256=spool.sha256,
        documents=spool.documents,
        days=sorted(spool.days),
        page=body_id,
        malformed=spool.malformed,
        broken=broken,
    )
    vault.put_if_absent(location.key(response_id, suffix), msgspec.json.format(msgspec.json.encode(receipt), indent=1))
    return body_id == response_id


def land_unreadable(vault: ObjectStore, location: RawLocation, head: ReplyHead, spool: SpooledBody) -> str:
    """Store a response that is not the documented JSON, with its headers; return its key."""
    key = location.key(_response_id(location, head.request, spool.sha256), UNREADABLE_SUFFIX)
    facts = {
        "request": str(head.request),
        "status": head.status,
        "headers": _archived_headers(head.headers),
        "sha256": spool.sha256,
    }
    vault.put_if_absent(key, spool.compressed())
    vault.overwrite(f"{key}.json", msgspec.json.format(msgspec.json.encode(facts), indent=1))
    return key


def list_responses(
    vault: ObjectStore, source: Source, project: str, period: Period | None = None
) -> dict[date, list[str]]:
    """Ids of the raw responses of `period`, by day, oldest first; needs listings only."""
    stored_ids = {
        day: sorted(response_id for response_id, stored in ids.items() if _is_stored(stored))
        for day, ids in sorted(_suffixes_by_day(vault, source, project, period).items())
    }
    return {day: response_ids for day, response_ids in stored_ids.items() if response_ids}


@dataclass(frozen=True)
class Listing:
    """Whether a response is the newest for its requested day; if not, when it was last collected unchanged."""

    is_current: bool
    until: datetime


def listings(vault: ObjectStore, source: Source, project: str, period: Period) -> dict[tuple[date, str], Listing]:
    """The listing of every raw response of `period`, by day and id; needs listings only.

    A part is newest if no whole response is newer. A response that repeats its predecessor has a receipt only.
    """
    by_day = _suffixes_by_day(vault, source, project, period)
    return {(day, response_id): listing for day, ids in by_day.items() for response_id, listing in _listings(ids)}


def _suffixes_by_day(
    vault: ObjectStore, source: Source, project: str, period: Period | None
) -> dict[date, dict[str, set[str]]]:
    """The suffixes of the objects of each response id, by day."""
    by_day: dict[date, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for name in _raw_names(vault, source, project, period):
        by_day[name.day][name.response_id].add(name.suffix)
    return by_day


def _is_stored(suffixes: set[str]) -> bool:
    """Whether these are a body and its receipt."""
    return BODY_SUFFIX in suffixes and len(suffixes) > 1


def _listings(suffixes: Mapping[str, set[str]]) -> Iterator[tuple[str, Listing]]:
    """The listings of the responses of one day."""
    whole = [name for name, stored in suffixes.items() if {BODY_SUFFIX, RECEIPT_SUFFIX} <= stored]
    newest = max(whole, default="")
    repeated = sorted(name for name, stored in suffixes.items() if RECEIPT_SUFFIX in stored)
    for name, stored in suffixes.items():
        if _is_stored(stored):
            is_current, last = name >= newest, name
            if not is_current and name in whole:
                following = min(other for other in whole if other > name)
                last = max(other for other in repeated if other < following)
            yield name, Listing(is_current, asked_at_of_response(last))


def last_collected(vault: ObjectStore, source: Source, project: str) -> dict[date, datetime]:
    """Time of the last parseable response for every collected day; needs listings only."""
    moments: dict[date, datetime] = {}
    for name in _raw_names(vault, source, project, None):
        if name.suffix == RECEIPT_SUFFIX:
            moment = asked_at_of_response(name.response_id)
            moments[name.day] = max(moment, moments.get(name.day, moment))
    return moments


def read_receipt(vault: ObjectStore, source: Source, project: str, day: date, response_id: str) -> RawResponse:
    """One raw response, described by its receipt."""
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
        malformed=tuple(receipt.malformed),
        broken=receipt.broken or "",
    )


def read_documents(
    vault: ObjectStore, response: RawResponse, split: Split | None = None
) -> Iterator[Sequence[msgspec.Raw]]:
    """The documents of a raw response in the order received, one block at a time; split by `split`, or parsed as JSON.

    Raises:
        FixityError: the body differs from its receipt; raised after the last document at the latest.
    """
    if response.documents:
        # A separate thread starts with a shallow stack: a nesting depth that could be landed can also be read.
        yield from prefetch(_documents(vault, response, split))


def _documents(vault: ObjectStore, response: RawResponse, split: Split | None) -> Iterator[Sequence[msgspec.Raw]]:
    envelope = LandedEnvelope(response.source, split, response.malformed) if split else Envelope(response.source)
    count = 0
    chunks = prefetch(_body(vault, response), _PREFETCH_CHUNKS)
    try:
        try:
            for chunk in chunks:
                for documents in envelope.blocks(chunk):
                    count += len(documents)
                    yield documents
            documents = envelope.finish()
        except EnvelopeError:
            if not response.broken:
                raise
            documents = envelope.rest()
            for _ in chunks:
                pass  # the digest is compared after the last one
    except (zstandard.ZstdError, EnvelopeError) as error:
        raise FixityError(response.body_key, response.sha256, f"malformed content ({error})") from None
    count += len(documents)
    if (
        split or response.broken
    ) and count != response.documents:  # the bytes are unchanged: `split` and the parser at landing disagree
        raise FixityError(response.body_key, f"{response.documents} documents", f"{count}")
    yield documents


def _body(vault: ObjectStore, response: RawResponse) -> Iterator[bytes]:
    digest = hashlib.sha256()
    with vault.open(response.body_key) as stream:
        for chunk in zstandard.ZstdDecompressor().read_to_iter(stream, write_size=_READ_BYTES):
            digest.update(chunk)
            yield chunk
    if digest.hexdigest() != response.sha256:
        raise FixityError(response.body_key, response.sha256, digest.hexdigest())


def _response_id(location: RawLocation, request: Request, digest: str) -> str:
    return make_response_id(location.asked_at, hashlib.sha256(f"{request} {digest}".encode()).hexdigest())


def _archived_headers(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in sorted(headers.items()) if name in _ARCHIVED_HEADERS}


def _raw_names(vault: ObjectStore, source: Source, project: str, period: Period | None) -> Iterator[RawName]:
    objects = (
        list_prefixes(vault, raw_prefixes(source, project, period))
        if period
        else vault.list(raw_prefix(source, project))
    )
    for stored in objects:
        name = parse_raw_key(stored.key)
        if name and (period is None or name.day in period):
            yield name


def _latest_receipt(
    vault: ObjectStore, location: RawLocation, request: str, suffix: str, *, before: str
) -> Receipt | None:
    keys = [stored.key for stored in vault.list(raw_prefix(location.source, location.project, location.day))]
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
        raise FixityError(key, "a receipt", f"malformed content ({error})") from None


def read_receipts(vault: ObjectStore, source: Source, project: str, period: Period | None) -> Iterator[RawResponse]:
    """The raw responses of `period` (None: of all days), by day, oldest first."""
    yield from read_named_receipts(vault, source, project, iter_response_ids(vault, source, project, period))


def read_named_receipts(
    vault: ObjectStore, source: Source, project: str, names: Iterable[tuple[date, str]]
) -> Iterator[RawResponse]:
    """The raw responses with these days and ids, same order."""
    yield from map_concurrent(lambda name: read_receipt(vault, source, project, *name), names, vault.max_concurrency)


def iter_response_ids(
    vault: ObjectStore, source: Source, project: str, period: Period | None
) -> Iterator[tuple[date, str]]:
    """Day and id of every response of `period` (None: of all days), by day, oldest first."""
    for day, response_ids in list_responses(vault, source, project, period).items():
        for response_id in response_ids:
            yield day, response_id
