"""Uploads: the contract of every store (pipeline/storage/base.py), and resumed uploads of buckets."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Any

import pytest
from awscrt.checksums import crc64nvme
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import (
    DigestDiffers,
    FixityError,
    ObjectDiffers,
    PipelineError,
    SourceDiffers,
    StoreUnavailable,
)
from pipeline.storage import MIB, ObjectStore, read_bytes
from pipeline.storage.base import Checksums, ObjectAttributes, Upload, UploadOptions, UploadResult, crc_text
from pipeline.storage.s3 import S3Store
from pipeline.storage.s3_multipart import MAX_PART_BYTES, MAX_PARTS, part_bytes
from tests.support.servers.proxy import Exchange, between
from tests.support.servers.s3 import PART_BYTES, S3Server

KEY = "media/project=acme/day=2026-11-22/r1/284/recording/a 1-é+%.mkv"
TOKEN = '"etag of the source" 12345'
CONTENT = Random(1).randbytes(2 * PART_BYTES + 12_345)
PROOFS = {"file": {"synced"}, "s3": {"md5", "crc64nvme"}}


class Interrupted(Exception):
    """The source raises."""


def write(upload: Upload, content: bytes) -> None:
    """Write in chunks that do not match part sizes."""
    for at in range(0, len(content), 1_234_567):
        upload.write(content[at : at + 1_234_567])


def interrupt(store: ObjectStore, content: bytes = CONTENT, resume_token: str = TOKEN, **options: Any) -> None:
    """Write some bytes, then raise."""
    with suppress(Interrupted), store.upload(KEY, UploadOptions(resume_token=resume_token, **options)) as upload:
        write(upload, content)
        raise Interrupted


def complete(
    store: ObjectStore, content: bytes = CONTENT, resume_token: str = TOKEN, **options: Any
) -> tuple[int, UploadResult]:
    """Upload the bytes that an earlier upload lacks; return its offset and the result."""
    with store.upload(KEY, UploadOptions(resume_token=resume_token, **options)) as upload:
        began = upload.size_bytes
        write(upload, content[began:])
        return began, upload.finish()


def checksums(content: bytes) -> Checksums:
    made = Checksums()
    made.feed(content)
    return made


def sending_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("postroom-parts")]


# --- every store ---


@pytest.mark.parametrize("is_size_known", [False, True])
@pytest.mark.parametrize("size_bytes", [0, 1, PART_BYTES, PART_BYTES + 1, 2 * PART_BYTES, len(CONTENT)])
def test_the_result_of_an_upload(opening: Callable[[], ObjectStore], size_bytes: int, is_size_known: bool) -> None:
    """Size, SHA-256 and CRC64NVME match the bytes, the result is verified, and `on_chunk` received every byte."""
    content, seen = CONTENT[:size_bytes], bytearray()
    store = opening()
    with store.upload(
        KEY, UploadOptions(on_chunk=seen.extend, size_bytes=size_bytes if is_size_known else None)
    ) as upload:
        assert upload.size_bytes == 0
        write(upload, content)
        assert upload.sha256 == hashlib.sha256(content).hexdigest()
        written = upload.finish()
    assert (written.size_bytes, written.sha256) == (size_bytes, hashlib.sha256(content).hexdigest())
    assert written.crc64nvme == checksums(content).crc64nvme
    assert written.proof in PROOFS[store.url.partition(":")[0]]
    assert seen == content
    assert read_bytes(opening(), KEY) == content
    assert sending_threads() == []


def test_attributes_match_the_upload(store: ObjectStore) -> None:
    """`attributes` returns size, ETag and CRC64NVME of the upload, and None without an object."""
    assert store.attributes(KEY) is None
    _, written = complete(store)
    state = store.attributes(KEY)
    assert state == ObjectAttributes(len(CONTENT), state.crc64nvme if state else None, written.etag)
    assert state.crc64nvme in {None, written.crc64nvme}


@pytest.mark.parametrize("size_bytes", [3, len(CONTENT)])
def test_an_object_written_meanwhile_stays(opening: Callable[[], ObjectStore], size_bytes: int) -> None:
    """An object with other bytes, written during an upload, stays; the error names the key."""
    with opening().upload(KEY) as upload:
        write(upload, CONTENT[:size_bytes])
        opening().put_if_absent(KEY, b"first come")
        with pytest.raises(ObjectDiffers) as caught:
            upload.finish()
    assert caught.value.key == KEY
    assert read_bytes(opening(), KEY) == b"first come"


@pytest.mark.parametrize("size_bytes", [3, len(CONTENT)])
def test_the_same_bytes_meanwhile_are_success(opening: Callable[[], ObjectStore], size_bytes: int) -> None:
    """If another process wrote the same bytes first, the upload is a success."""
    content = CONTENT[:size_bytes]
    with opening().upload(KEY) as upload:
        write(upload, content)
        opening().put_if_absent(KEY, content)
        written = upload.finish()
    assert (written.size_bytes, written.sha256) == (size_bytes, hashlib.sha256(content).hexdigest())


def test_a_completed_upload_is_found_by_its_token(store: ObjectStore) -> None:
    """A bucket finds a completed object by its token only; a folder always returns None."""
    assert store.find_completed(KEY, TOKEN) is None
    complete(store, b"all of it")
    is_bucket = store.url.startswith("s3:")
    assert (store.find_completed(KEY, TOKEN) == store.head(KEY)) is is_bucket
    assert store.find_completed(KEY, "another") is None


def test_an_object_without_a_token_is_not_found(store: ObjectStore) -> None:
    """An object written without a token is not returned for any token."""
    store.put_if_absent(KEY, b"x")
    assert store.find_completed(KEY, TOKEN) is None
    assert store.find_completed(KEY, "") is None


# --- buckets: resumed uploads ---


@pytest.fixture
def bucket(s3: S3Server) -> str:
    return s3.new_bucket()


@pytest.mark.parametrize("first_part_bytes", [PART_BYTES, 6 * MIB])
@pytest.mark.parametrize("is_size_known", [False, True])
def test_an_upload_is_resumed(s3: S3Server, bucket: str, first_part_bytes: int, is_size_known: bool) -> None:
    """Another host resumes at the last complete part, sends no earlier byte again, and reads every byte once, in order.

    This also holds with another part size. No unfinished upload remains.
    """
    size_bytes = len(CONTENT) if is_size_known else None
    interrupt(s3.store(bucket, "pre", part_bytes=first_part_bytes), size_bytes=size_bytes)
    assert len(s3.unfinished(bucket)) == 2
    seen = bytearray()
    with between(s3) as proxy:
        store = proxy.server.store(bucket, "pre")
        began, written = complete(store, size_bytes=size_bytes, on_chunk=seen.extend)
        sent = sum(len(exchange.body) for exchange in proxy.seen if "partNumber" in exchange.query)
    parts = len(CONTENT) // first_part_bytes
    assert began == (parts - 1) * first_part_bytes
    assert sent == len(CONTENT) - parts * first_part_bytes
    assert seen == CONTENT
    expected = checksums(CONTENT)
    if began:
        assert written == expected.result("read-back", written.etag)
    assert (written.sha256, written.crc64nvme) == (expected.sha256, expected.crc64nvme)
    assert store.attributes(KEY) == ObjectAttributes(len(CONTENT), store.attributes(KEY).crc64nvme, written.etag)  # type: ignore[union-attr]
    assert read_bytes(store, KEY) == CONTENT
    assert s3.unfinished(bucket) == []


def test_an_upload_is_interrupted_repeatedly(s3: S3Server, bucket: str) -> None:
    """Each attempt keeps its complete parts; the last one completes the object with all of them."""
    began = []
    for min_bytes in range(0, len(CONTENT), PART_BYTES):
        with suppress(Interrupted), s3.store(bucket).upload(KEY, UploadOptions(resume_token=TOKEN)) as upload:
            began.append(upload.size_bytes)
            write(upload, CONTENT[upload.size_bytes : min_bytes + PART_BYTES + 1])
            raise Interrupted
    assert began == [0, 0, PART_BYTES]
    assert complete(s3.store(bucket))[1].sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert s3.unfinished(bucket) == []


def test_an_upload_with_all_parts_is_resumed(s3: S3Server, bucket: str) -> None:
    """An upload interrupted between its last byte and its completion is resumed from its last part."""
    content = CONTENT[: 2 * PART_BYTES]
    interrupt(s3.store(bucket), CONTENT[: 2 * PART_BYTES + 1])
    assert complete(s3.store(bucket), content)[1].sha256 == hashlib.sha256(content).hexdigest()
    assert read_bytes(s3.store(bucket), KEY) == content


@pytest.mark.parametrize("other", ["", "another file"])
def test_an_upload_of_another_token_is_not_resumed(s3: S3Server, bucket: str, other: str) -> None:
    """An upload with another token or none starts from zero; the older upload stays for its own token."""
    interrupt(s3.store(bucket))
    other_content = Random(2).randbytes(len(CONTENT))
    assert complete(s3.store(bucket), other_content, other)[0] == 0
    assert read_bytes(s3.store(bucket), KEY) == other_content
    assert len(s3.unfinished(bucket)) == 2


def test_an_upload_of_another_key_is_not_resumed(s3: S3Server, bucket: str) -> None:
    """The same token with a longer or shorter key is another upload."""
    interrupt(s3.store(bucket))
    for key in (f"{KEY}x", KEY[:-1]):
        with s3.store(bucket).upload(key, UploadOptions(resume_token=TOKEN)) as upload:
            assert upload.size_bytes == 0


def test_the_largest_upload_is_resumed(s3: S3Server, bucket: str) -> None:
    """Of two interrupted uploads of one file, the one with more bytes is resumed."""
    with suppress(Interrupted), s3.store(bucket).upload(KEY, UploadOptions(resume_token=TOKEN)) as late:
        interrupt(s3.store(bucket))
        write(late, CONTENT[: PART_BYTES + 1])
        raise Interrupted
    assert len(s3.unfinished(bucket)) == 4
    assert complete(s3.store(bucket))[0] == PART_BYTES


@pytest.mark.parametrize("parts", [1, 2])
def test_a_changed_source_is_detected(s3: S3Server, bucket: str, parts: int) -> None:
    """The last stored part is compared; if it differs, the upload is aborted and the next attempt succeeds."""
    interrupt(s3.store(bucket), CONTENT[: parts * PART_BYTES + 1])
    other = CONTENT[: -100_000 - (3 - parts) * PART_BYTES] + Random(3).randbytes(100_000 + (3 - parts) * PART_BYTES)
    with pytest.raises(SourceDiffers) as caught:
        complete(s3.store(bucket), other)
    assert caught.value.key == KEY
    assert s3.unfinished(bucket) == []
    assert s3.store(bucket).head(KEY) is None
    assert complete(s3.store(bucket), other)[0] == 0
    assert read_bytes(s3.store(bucket), KEY) == other


def test_a_shorter_source_is_detected(s3: S3Server, bucket: str) -> None:
    """An upload with more bytes than its source is aborted."""
    interrupt(s3.store(bucket))
    with pytest.raises(SourceDiffers):
        complete(s3.store(bucket), CONTENT[: PART_BYTES + 1000])
    assert s3.unfinished(bucket) == []


def test_a_wrong_total_size_makes_no_object(s3: S3Server, bucket: str) -> None:
    """Parts of several runs with too few or too many bytes never become an object."""
    interrupt(s3.store(bucket))
    with pytest.raises(SourceDiffers):
        complete(s3.store(bucket), CONTENT[:-1], size_bytes=len(CONTENT))
    assert s3.store(bucket).head(KEY) is None


def test_an_upload_can_restart(s3: S3Server, bucket: str) -> None:
    """After `restart` a resumed upload accepts all bytes, and is verified without reading them back."""
    interrupt(s3.store(bucket))
    seen = bytearray()
    with s3.store(bucket).upload(KEY, UploadOptions(resume_token=TOKEN, on_chunk=seen.extend)) as upload:
        assert upload.size_bytes == PART_BYTES
        upload.restart()
        assert upload.size_bytes == 0
        write(upload, CONTENT)
        written = upload.finish()
    assert written.proof in PROOFS["s3"]
    assert seen == CONTENT
    assert s3.unfinished(bucket) == []


@pytest.mark.parametrize("content", [b"", b"small", CONTENT])
def test_an_upload_without_parts_starts_from_zero(s3: S3Server, bucket: str, content: bytes) -> None:
    """An upload interrupted in its first part starts from zero, also with a small or empty object."""
    with between(s3) as proxy:
        proxy.on_request = lambda exchange: (
            exchange.fail(403, "AccessDenied") if "partNumber" in exchange.query else None
        )
        with pytest.raises(StoreUnavailable):
            complete(proxy.server.store(bucket))
    assert KEY in s3.unfinished(bucket)
    began, written = complete(s3.store(bucket), content)
    assert (began, written.size_bytes) == (0, len(content))
    assert read_bytes(s3.store(bucket), KEY) == content
    assert s3.unfinished(bucket) == []


@pytest.mark.parametrize("theirs", [b"small", bytes(PART_BYTES)])
def test_parts_that_another_writer_changed_make_no_object(s3: S3Server, bucket: str, theirs: bytes) -> None:
    """If another process writes into an upload, it is aborted, and the next attempt succeeds."""
    with s3.store(bucket).upload(KEY, UploadOptions(resume_token=TOKEN)) as upload:
        write(upload, CONTENT)
        for uploaded in s3.client.list_multipart_uploads(Bucket=bucket)["Uploads"]:
            if uploaded["Key"] == KEY:
                location = {"Bucket": bucket, "Key": KEY, "UploadId": uploaded["UploadId"], "PartNumber": 1}
                s3.client.upload_part(**location, Body=theirs, ChecksumCRC64NVME=crc_text(crc64nvme(theirs)))
        with pytest.raises(StoreUnavailable, match="upload aborted by another process"):
            upload.finish()
    assert s3.unfinished(bucket) == []
    assert complete(s3.store(bucket))[0] == 0


def test_an_interrupted_upload_without_token_leaves_nothing(s3: S3Server, bucket: str) -> None:
    """An interrupted upload without a token leaves no part, no unfinished upload and no thread."""
    interrupt(s3.store(bucket), resume_token="")
    assert s3.unfinished(bucket) == []
    assert sending_threads() == []


def test_an_interrupted_upload_leaves_no_thread(s3: S3Server, bucket: str) -> None:
    """Parts in flight are awaited, so the next attempt finds them."""
    interrupt(s3.store(bucket))
    assert sending_threads() == []
    with s3.store(bucket).upload(KEY, UploadOptions(resume_token=TOKEN)) as upload:
        assert upload.size_bytes == PART_BYTES


def test_long_listings_are_read_to_their_end(s3: S3Server, bucket: str) -> None:
    """All pages of listings of parts, uploads and objects are read."""
    content = Random(4).randbytes(3 * PART_BYTES + 1)
    for resume_token in ("a", "b", "c", TOKEN):
        interrupt(s3.store(bucket), content[: PART_BYTES + 1] if resume_token != TOKEN else content, resume_token)
    store = s3.store(bucket)
    short_pages(store)
    assert complete(store, content)[0] == 2 * PART_BYTES
    for number in range(5):
        store.put_if_absent(f"a/{number}", b"")
    assert [stored.key for stored in store.list("a/")] == [f"a/{number}" for number in range(5)]


def short_pages(store: S3Store) -> None:
    """Limit the pages of all listings to 2 entries."""
    for operation, name in {
        "ListParts": "MaxParts",
        "ListMultipartUploads": "MaxUploads",
        "ListObjectsV2": "MaxKeys",
    }.items():

        def shorten(params: dict[str, Any], name: str = name, **_: Any) -> None:
            params[name] = 2

        store.client.meta.events.register(f"provide-client-params.s3.{operation}", shorten)


@pytest.mark.parametrize(("name", "size_bytes"), [("ceph", 3), ("localstack", 3), ("localstack", len(CONTENT))])
def test_an_object_written_after_the_check_stays(request: pytest.FixtureRequest, name: str, size_bytes: int) -> None:
    """If the server supports the condition, an object written between HEAD and completion stays.

    Ceph 16 does not support it for multipart uploads.
    """
    server: S3Server = request.getfixturevalue(name)
    bucket, heads = server.new_bucket(), []

    def hide_object(exchange: Exchange) -> None:
        if exchange.method == "HEAD" and not heads:
            heads.append(exchange)
            exchange.fail(404, "NoSuchKey")

    server.store(bucket).put_if_absent(KEY, b"first come")
    with between(server) as proxy:
        proxy.on_answer = hide_object
        with pytest.raises(ObjectDiffers):
            complete(proxy.server.store(bucket), CONTENT[:size_bytes])
    assert heads
    assert read_bytes(server.store(bucket), KEY) == b"first come"
    assert server.unfinished(bucket) == []


# --- buckets: network and server faults ---


@pytest.mark.parametrize("size_bytes", [3, len(CONTENT)])
def test_a_lost_response_does_no_harm(s3: S3Server, bucket: str, size_bytes: int) -> None:
    """If the first response of every request is lost, the object is stored once and complete."""
    content, lost = CONTENT[:size_bytes], set()

    def lose(exchange: Exchange) -> None:
        name = (exchange.method, exchange.query.get("partNumber", [exchange.target])[0])
        if exchange.method in {"PUT", "POST"} and name not in lost:
            lost.add(name)
            exchange.is_lost = True

    with between(s3) as proxy:
        proxy.on_answer = lose
        _, written = complete(proxy.server.store(bucket), content)
    assert lost
    assert written.sha256 == hashlib.sha256(content).hexdigest()
    assert read_bytes(s3.store(bucket), KEY) == content


@pytest.mark.parametrize("size_bytes", [3, len(CONTENT)])
def test_a_busy_server_is_retried(s3: S3Server, bucket: str, size_bytes: int) -> None:
    """If every request fails once with 503, the same bytes are sent again."""
    content, failed = CONTENT[:size_bytes], set()

    def fail(exchange: Exchange) -> None:
        if exchange.method in {"PUT", "POST"} and exchange.target not in failed:
            failed.add(exchange.target)
            exchange.fail(503, "SlowDown")

    with between(s3) as proxy:
        proxy.on_request = fail
        complete(proxy.server.store(bucket), content)
    assert read_bytes(s3.store(bucket), KEY) == content


@pytest.mark.parametrize("size_bytes", [3, len(CONTENT)])
def test_a_byte_altered_in_transit_is_refused(s3: S3Server, bucket: str, size_bytes: int) -> None:
    """The server refuses a body with one altered byte; no object is created."""

    def alter(exchange: Exchange) -> None:
        if exchange.method == "PUT":
            exchange.body = bytes([exchange.body[0] ^ 1]) + exchange.body[1:]

    with between(s3) as proxy:
        proxy.on_request = alter
        with pytest.raises(PipelineError):
            complete(proxy.server.store(bucket), CONTENT[:size_bytes])
    assert s3.store(bucket).head(KEY) is None


@pytest.mark.parametrize("size_bytes", [3, len(CONTENT)])
def test_a_server_that_stores_other_bytes_is_detected(s3: S3Server, bucket: str, size_bytes: int) -> None:
    """Bytes altered before the checksum was computed are detected by the attributes of the server."""

    def alter(exchange: Exchange) -> None:
        if exchange.method == "PUT":
            exchange.body = bytes([exchange.body[0] ^ 1]) + exchange.body[1:]
            exchange.sign()

    with between(s3) as proxy:
        proxy.on_request = alter
        store = proxy.server.store(bucket)
        with pytest.raises(PipelineError) as caught:
            complete(store, CONTENT[:size_bytes])
    assert isinstance(caught.value, FixityError) or s3.store(bucket).head(KEY) is None


@pytest.mark.parametrize("size_bytes", [3, len(CONTENT)])
def test_an_object_without_a_usable_checksum_is_read_back(ceph: S3Server, size_bytes: int) -> None:
    """If the ETag is no MD5 (encrypted buckets) and there is no CRC, the object is read back and compared."""

    def other_etag(exchange: Exchange) -> None:
        exchange.answer_headers = [
            (name, f'"{"e" * 32}"' if name.lower() == "etag" and "partNumber" not in exchange.query else value)
            for name, value in exchange.answer_headers
        ]

    def wrong_bytes(exchange: Exchange) -> None:
        other_etag(exchange)
        if exchange.method == "GET" and not exchange.query:
            exchange.answer = exchange.answer[:-1] + bytes([exchange.answer[-1] ^ 1])

    bucket, content = ceph.new_bucket(), CONTENT[:size_bytes]
    with between(ceph) as proxy:
        proxy.on_answer = other_etag
        assert complete(proxy.server.store(bucket, "right"), content)[1].proof == "read-back"
        proxy.on_answer = wrong_bytes
        with pytest.raises(DigestDiffers):
            complete(proxy.server.store(bucket, "wrong"), content)


@pytest.mark.parametrize("lacks", ["no checksum", "no condition", "neither"])
@pytest.mark.parametrize("size_bytes", [3, len(CONTENT)])
def test_a_server_without_checksum_or_condition(ceph: S3Server, lacks: str, size_bytes: int) -> None:
    """A server that rejects the checksum or the condition gets the object, but never over an existing one."""
    refused = {"no checksum": {"checksum"}, "no condition": {"if-none-match"}, "neither": {"checksum", "if-none-match"}}

    def refuse(exchange: Exchange) -> None:
        names = " ".join(name.lower() for name, _ in exchange.headers)
        if exchange.method in {"PUT", "POST"} and any(name in names for name in refused[lacks]):
            exchange.fail(501, "NotImplemented")

    content = CONTENT[:size_bytes]
    with between(ceph) as proxy:
        proxy.on_request = refuse
        store = proxy.server.store(ceph.new_bucket())
        assert complete(store, content)[1].proof == "md5"
        with pytest.raises(ObjectDiffers):
            complete(store, b"other" + content)
        assert read_bytes(store, KEY) == content


# --- sizes of parts ---


@given(st.integers(0, 5 * 2**40), st.integers(5 * MIB, 1024 * MIB))
def test_an_object_of_known_size_fits_the_part_limit(total: int, min_bytes: int) -> None:
    """An object of known size up to 5 TiB has at most 10,000 parts, none too small or too large."""
    size = part_bytes(1, min_bytes, total)
    assert min_bytes <= size <= MAX_PART_BYTES
    assert -(-total // size) <= MAX_PARTS


@given(st.integers(0, 5 * 2**40), st.integers(0, 9_000), st.integers(5 * MIB, 64 * MIB), st.integers(5 * MIB, 64 * MIB))
def test_a_resumed_object_fits_the_part_limit(total: int, uploaded: int, first: int, min_bytes: int) -> None:
    """The limit holds after parts of another size."""
    done = min(uploaded, total // first)
    remaining = total - done * first
    size = part_bytes(done + 1, min_bytes, remaining)
    assert done + -(-remaining // size) <= MAX_PARTS


@given(st.integers(5 * MIB, 1024 * MIB))
def test_an_object_of_unknown_size_fits_the_part_limit(min_bytes: int) -> None:
    """10,000 parts of an object of unknown size hold 5 TiB, and sizes never decrease."""
    sizes = [part_bytes(number, min_bytes, None) for number in range(1, MAX_PARTS + 1)]
    assert sum(sizes) >= 5 * 2**40
    assert sizes == sorted(sizes)
    assert sizes[0] == min_bytes
    assert sizes[-1] <= MAX_PART_BYTES
