"""Land every reply as received, while it arrives; read back the pages of a period.

A page is a body (`….json.zst`) and a receipt (`….receipt.json`) of the same stem. The receipt is written last: a body
without a receipt does not exist. A reply that repeats the previous one to the same request leaves a receipt only, which
names the page it repeats. So the stems that have both are exactly the moments at which EnableX said something new.

A question that had to be asked in parts (a day, room by room) leaves a page for each part, whose receipts
(`….part.json`) do not count as an answer: nobody can say whether the parts are all.
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

from pipeline.core.concurrency import ahead, mapped
from pipeline.core.errors import FixityError, ObjectMissing
from pipeline.core.models import Page, Period, Source, utc_text
from pipeline.core.tempfiles import scratch_errors
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
    asked_at_of_stem,
    page_stem,
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
"""As many as are cut into documents at once."""

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


class Spool:
    """Takes one reply while it arrives: compressed, hashed, counted; in memory while small, else in a temporary file.

    It goes to the vault only when the reply proved whole, and only if it says something new.
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
        with scratch_errors():
            self._zstd.write(chunk)

    def note(self, documents: Sequence[msgspec.Raw]) -> None:
        self.documents += len(documents)
        self.days |= self._days_of(documents)

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    def compressed(self) -> Iterator[bytes]:
        """The body as zstd, in chunks; nothing can be written afterwards."""
        with scratch_errors():
            self._zstd.close()  # type: ignore[no-untyped-call]
            self._file.seek(0)
            while chunk := self._file.read(_CHUNK_BYTES):
                yield chunk


@dataclass(frozen=True)
class Place:
    """Where and when a reply belongs: what was asked for, and the moment of asking."""

    source: Source
    project: str
    day: date
    asked_at: datetime

    def key(self, stem: str, suffix: str) -> str:
        return raw_key(self.source, self.project, self.day, stem, suffix)


def land(vault: ObjectStore, place: Place, head: ReplyHead, spool: Spool, *, is_part: bool = False) -> bool:
    """Land one readable reply; return whether it said something new.

    Landing the same reply to the same request twice at the same moment changes nothing.
    """
    suffix = PART_SUFFIX if is_part else RECEIPT_SUFFIX
    stem = _stem(place, head.request, spool.sha256)
    earlier = _latest_receipt(vault, place, str(head.request), suffix, before=stem)
    repeated = earlier is not None and earlier.sha256 == spool.sha256 and earlier.status == head.status
    page = earlier.page if earlier is not None and repeated else stem
    if vault.stat(place.key(stem, suffix)) is not None:
        return False
    if page == stem:
        vault.put_new(place.key(stem, BODY_SUFFIX), spool.compressed())
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
    vault.put_new(place.key(stem, suffix), msgspec.json.format(msgspec.json.encode(receipt), indent=1))
    return page == stem


def land_unreadable(vault: ObjectStore, place: Place, head: ReplyHead, spool: Spool) -> str:
    """Keep a reply that is not the promised JSON, with its headers; return its key."""
    key = place.key(_stem(place, head.request, spool.sha256), UNREADABLE_SUFFIX)
    facts = {
        "request": str(head.request),
        "status": head.status,
        "headers": _kept(head.headers),
        "sha256": spool.sha256,
    }
    vault.put_new(key, spool.compressed())
    vault.replace(f"{key}.json", msgspec.json.format(msgspec.json.encode(facts), indent=1))
    return key


def page_stems(vault: ObjectStore, source: Source, project: str, period: Period | None = None) -> dict[date, list[str]]:
    """Stems of the pages asked for in `period`, by day, oldest first; from listings alone."""
    suffixes: dict[tuple[date, str], set[str]] = defaultdict(set)
    for name in _raw_names(vault, source, project, period):
        suffixes[name.day, name.stem].add(name.suffix)
    stems: dict[date, list[str]] = defaultdict(list)
    for (day, stem), found in sorted(suffixes.items()):
        if BODY_SUFFIX in found and len(found) > 1:
            stems[day].append(stem)
    return dict(stems)


def last_asked(vault: ObjectStore, source: Source, project: str) -> dict[date, datetime]:
    """For every day ever collected: when it was last asked for and answered readably; from listings alone."""
    moments: dict[date, datetime] = {}
    for name in _raw_names(vault, source, project, None):
        if name.suffix == RECEIPT_SUFFIX:
            moment = asked_at_of_stem(name.stem)
            moments[name.day] = max(moment, moments.get(name.day, moment))
    return moments


def read_page(vault: ObjectStore, source: Source, project: str, day: date, stem: str) -> Page:
    """The facts of one page, from its receipt."""
    try:
        receipt = _read_receipt(vault, raw_key(source, project, day, stem, RECEIPT_SUFFIX))
    except ObjectMissing:
        receipt = _read_receipt(vault, raw_key(source, project, day, stem, PART_SUFFIX))
    return Page(
        stem=stem,
        source=source,
        project=project,
        day=day,
        request=receipt.request,
        asked_at=asked_at_of_stem(stem),
        status=receipt.status,
        size_bytes=receipt.size_bytes,
        sha256=receipt.sha256,
        documents=receipt.documents,
        days=tuple(receipt.days),
        body_key=raw_key(source, project, day, stem, BODY_SUFFIX),
    )


def read_documents(vault: ObjectStore, page: Page, cut: Cut | None = None) -> Iterator[Sequence[msgspec.Raw]]:
    """The documents of a landed page in the order received, some MiB at a time; cut by `cut`, or proven to be JSON.

    Raises:
        FixityError: the body is not the one the receipt speaks of; said after the last document at the latest.
    """
    if page.documents:
        # In a thread of its own the stack is shallow: however deep a reply is nested, if it could land it can be read.
        yield from ahead(_documents(vault, page, cut))


def _documents(vault: ObjectStore, page: Page, cut: Cut | None) -> Iterator[Sequence[msgspec.Raw]]:
    envelope = LandedEnvelope(page.source, cut) if cut else Envelope(page.source)
    count = 0
    try:
        for chunk in ahead(_body(vault, page), _CHUNKS_AHEAD):
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


def _body(vault: ObjectStore, page: Page) -> Iterator[bytes]:
    digest = hashlib.sha256()
    with vault.open(page.body_key) as stream:
        for chunk in zstandard.ZstdDecompressor().read_to_iter(stream, write_size=_READ_BYTES):
            digest.update(chunk)
            yield chunk
    if digest.hexdigest() != page.sha256:
        raise FixityError(page.body_key, page.sha256, digest.hexdigest())


def _stem(place: Place, request: Request, digest: str) -> str:
    return page_stem(place.asked_at, hashlib.sha256(f"{request} {digest}".encode()).hexdigest())


def _kept(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in sorted(headers.items()) if name in _KEPT_HEADERS}


def _raw_names(vault: ObjectStore, source: Source, project: str, period: Period | None) -> Iterator[RawName]:
    found = listed(vault, raw_prefixes(source, project, period)) if period else vault.list(raw_prefix(source, project))
    for stored in found:
        name = parse_raw_key(stored.key)
        if name and (period is None or name.day in period):
            yield name


def _latest_receipt(vault: ObjectStore, place: Place, request: str, suffix: str, *, before: str) -> Receipt | None:
    keys = [stored.key for stored in vault.list(raw_prefix(place.source, place.project, place.day))]
    for key in reversed(keys):
        name = parse_raw_key(key)
        if name is None or name.suffix != suffix or name.stem >= before:
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


def pages(vault: ObjectStore, source: Source, project: str, period: Period | None) -> Iterator[Page]:
    """The pages asked for in `period`, or ever, oldest first within each day."""
    names = _page_names(vault, source, project, period)
    yield from mapped(lambda name: read_page(vault, source, project, *name), names, vault.at_once)


def _page_names(vault: ObjectStore, source: Source, project: str, period: Period | None) -> Iterator[tuple[date, str]]:
    for day, stems in page_stems(vault, source, project, period).items():
        for stem in stems:
            yield day, stem
