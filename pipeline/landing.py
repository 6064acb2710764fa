"""Land every reply as received; read back the pages of a period.

A page is a body (`….json.zst`) and a receipt (`….receipt.json`) of the same stem. The receipt is written last: a body
without a receipt does not exist. A reply that repeats the previous one to the same request leaves a receipt only, which
names the page it repeats. So the stems that have both are exactly the moments at which EnableX said something new.
A reply that cannot be read is kept as evidence under names of its own and is not a page.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime

import msgspec
import zstandard

from pipeline import layout
from pipeline.enablex.wire import RAW_LIST, Reply
from pipeline.errors import FixityError
from pipeline.model import Page, Period, Source, utc_text
from pipeline.store.base import ObjectStore, read_bytes

_COMPRESSION_LEVEL = 3
_KEPT_HEADERS = frozenset(
    {"content-type", "content-length", "content-encoding", "date", "etag", "last-modified", "retry-after", "server",
     "x-request-id"}
)  # fmt: skip


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


@dataclass(frozen=True)
class Place:
    """Where and when a reply belongs: what was asked for, and the moment of asking."""

    source: Source
    project: str
    day: date
    asked_at: datetime

    def key(self, stem: str, suffix: str) -> str:
        return layout.raw_key(self.source, self.project, self.day, stem, suffix)


def land(vault: ObjectStore, place: Place, reply: Reply, *, documents: int, days: Iterable[date]) -> bool:
    """Land one readable reply; return whether it said something new.

    `documents` counts them; `days` are the UTC dates they speak about. Landing the same reply to the same request twice
    at the same moment changes nothing.
    """
    stem, digest = _stem_and_digest(reply, place.asked_at)
    earlier = _latest_receipt(vault, place, str(reply.request), before=stem)
    repeated = earlier is not None and earlier.sha256 == digest and earlier.status == reply.status
    page = earlier.page if earlier is not None and repeated else stem
    receipt_key = place.key(stem, layout.RECEIPT_SUFFIX)
    if vault.stat(receipt_key) is not None:
        return False
    if page == stem:
        vault.put_new(place.key(stem, layout.BODY_SUFFIX), _compressed(reply.body))
    receipt = Receipt(
        source=place.source,
        project=place.project,
        day=place.day,
        request=str(reply.request),
        asked_at=utc_text(place.asked_at),
        status=reply.status,
        headers=_kept(reply.headers),
        size_bytes=len(reply.body),
        sha256=digest,
        documents=documents,
        days=sorted(set(days)),
        page=page,
    )
    vault.put_new(receipt_key, msgspec.json.format(msgspec.json.encode(receipt), indent=1))
    return page == stem


def land_unreadable(vault: ObjectStore, place: Place, reply: Reply) -> str:
    """Keep a reply that is not the promised JSON, with its headers; return its key."""
    stem, digest = _stem_and_digest(reply, place.asked_at)
    key = place.key(stem, layout.UNREADABLE_SUFFIX)
    facts = {
        "request": str(reply.request),
        "status": reply.status,
        "headers": _kept(reply.headers),
        "sha256": digest,
    }
    vault.put_new(key, _compressed(reply.body))
    vault.replace(f"{key}.json", msgspec.json.format(msgspec.json.encode(facts), indent=1))
    return key


def page_stems(vault: ObjectStore, source: Source, project: str, period: Period | None = None) -> dict[date, list[str]]:
    """Stems of the pages asked for in `period`, by day, oldest first; from listings alone."""
    suffixes: dict[tuple[date, str], set[str]] = defaultdict(set)
    for name in _raw_names(vault, source, project, period):
        suffixes[name.day, name.stem].add(name.suffix)
    stems: dict[date, list[str]] = defaultdict(list)
    for (day, stem), found in sorted(suffixes.items()):
        if len(found) == 2:
            stems[day].append(stem)
    return dict(stems)


def last_asked(vault: ObjectStore, source: Source, project: str) -> dict[date, datetime]:
    """For every day ever collected: when it was last asked for and answered readably; from listings alone."""
    moments: dict[date, datetime] = {}
    for name in _raw_names(vault, source, project, None):
        if name.suffix == layout.RECEIPT_SUFFIX:
            moment = layout.asked_at_of_stem(name.stem)
            moments[name.day] = max(moment, moments.get(name.day, moment))
    return moments


def read_page(vault: ObjectStore, source: Source, project: str, day: date, stem: str) -> Page:
    """The facts of one page, from its receipt."""
    receipt = _read_receipt(vault, layout.raw_key(source, project, day, stem, layout.RECEIPT_SUFFIX))
    return Page(
        stem=stem,
        source=source,
        project=project,
        day=day,
        request=receipt.request,
        asked_at=layout.asked_at_of_stem(stem),
        status=receipt.status,
        size_bytes=receipt.size_bytes,
        sha256=receipt.sha256,
        documents=receipt.documents,
        days=tuple(receipt.days),
        body_key=layout.raw_key(source, project, day, stem, layout.BODY_SUFFIX),
    )


def read_documents(vault: ObjectStore, page: Page) -> list[msgspec.Raw]:
    """The documents of a landed page in the order received; the whole page is in memory.

    Raises:
        FixityError: the body is not the one the receipt speaks of.
    """
    body = zstandard.ZstdDecompressor().decompress(read_bytes(vault, page.body_key))
    digest = hashlib.sha256(body).hexdigest()
    if digest != page.sha256:
        raise FixityError(page.body_key, page.sha256, digest)
    raw = msgspec.json.decode(body, type=dict[str, msgspec.Raw]).get(page.source)
    if not page.documents or raw is None:
        return []
    try:
        return RAW_LIST.decode(raw)
    except msgspec.DecodeError:
        return [raw]


def _stem_and_digest(reply: Reply, asked_at: datetime) -> tuple[str, str]:
    digest = hashlib.sha256(reply.body).hexdigest()
    return layout.page_stem(asked_at, hashlib.sha256(f"{reply.request} {digest}".encode()).hexdigest()), digest


def _compressed(body: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=_COMPRESSION_LEVEL, write_checksum=True).compress(body)


def _kept(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in sorted(headers.items()) if name in _KEPT_HEADERS}


def _raw_names(vault: ObjectStore, source: Source, project: str, period: Period | None) -> Iterator[layout.RawName]:
    prefixes = [layout.raw_prefix(source, project, day) for day in period] if period else []
    for prefix in prefixes or [layout.raw_prefix(source, project)]:
        for stored in vault.list(prefix):
            name = layout.parse_raw_key(stored.key)
            if name is not None:
                yield name


def _latest_receipt(vault: ObjectStore, place: Place, request: str, *, before: str) -> Receipt | None:
    keys = [stored.key for stored in vault.list(layout.raw_prefix(place.source, place.project, place.day))]
    for key in reversed(keys):
        name = layout.parse_raw_key(key)
        if name is None or name.suffix != layout.RECEIPT_SUFFIX or name.stem >= before:
            continue
        receipt = _read_receipt(vault, key)
        if receipt.request == request:
            return receipt
    return None


def _read_receipt(vault: ObjectStore, key: str) -> Receipt:
    try:
        return msgspec.json.decode(read_bytes(vault, key), type=Receipt)
    except msgspec.DecodeError as error:
        raise FixityError(key, "a receipt", f"something else ({error})") from None
