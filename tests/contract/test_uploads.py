"""Uploads: what every store promises (pipeline/storage/base.py), and what going on with one means in a bucket."""

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
from pipeline.storage.base import Checksums, ObjectAttributes, Upload, UploadResult, crc_text
from pipeline.storage.s3 import S3Store
from pipeline.storage.s3_multipart import MAX_PART_BYTES, MAX_PARTS, part_bytes
from tests.support.servers.proxy import Exchange, between
from tests.support.servers.s3 import PART_BYTES, S3Server

KEY = "media/project=acme/day=2026-11-22/r1/284/recording/a 1-é+%.mkv"
LABEL = '"etag of the source" 12345'
CONTENT = Random(1).randbytes(2 * PART_BYTES + 12_345)
PROOFS = {"file": {"synced"}, "s3": {"md5", "crc64nvme"}}


class Broken(Exception):
    """The source breaks off."""


def write(upload: Upload, content: bytes) -> None:
    """In chunks that fit no part."""
    for at in range(0, len(content), 1_234_567):
        upload.write(content[at : at + 1_234_567])


def break_off(store: ObjectStore, content: bytes = CONTENT, resume_token: str = LABEL, **options: Any) -> None:
    """Write some bytes, then let the source break."""
    with suppress(Broken), store.upload(KEY, resume_token=resume_token, **options) as upload:
        write(upload, content)
        raise Broken


def whole(
    store: ObjectStore, content: bytes = CONTENT, resume_token: str = LABEL, **options: Any
) -> tuple[int, UploadResult]:
    """Upload what an earlier upload lacks; where that began, and what was written."""
    with store.upload(KEY, resume_token=resume_token, **options) as upload:
        began = upload.size_bytes
        write(upload, content[began:])
        return began, upload.finish()


def tally(content: bytes) -> Checksums:
    made = Checksums()
    made.feed(content)
    return made


def sending_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("postroom-parts")]


# --- every store ---


@pytest.mark.parametrize("is_size_known", [False, True])
@pytest.mark.parametrize("size_bytes", [0, 1, PART_BYTES, PART_BYTES + 1, 2 * PART_BYTES, len(CONTENT)])
def test_what_was_uploaded_is_known(opening: Callable[[], ObjectStore], size_bytes: int, is_size_known: bool) -> None:
    """Size, SHA-256 and CRC64NVME are those of the bytes, proved by the store's word, and every byte was observed."""
    content, seen = CONTENT[:size_bytes], bytearray()
    store = opening()
    with store.upload(KEY, on_chunk=seen.extend, size_bytes=size_bytes if is_size_known else None) as upload:
        assert upload.size_bytes == 0
        write(upload, content)
        assert upload.sha256 == hashlib.sha256(content).hexdigest()
        written = upload.finish()
    assert (written.size_bytes, written.sha256) == (size_bytes, hashlib.sha256(content).hexdigest())
    assert written.crc64nvme == tally(content).crc64nvme
    assert written.proof in PROOFS[store.url.partition(":")[0]]
    assert seen == content
    assert read_bytes(opening(), KEY) == content
    assert sending_threads() == []


def test_a_store_states_what_it_has(store: ObjectStore) -> None:
    """`state` says the size, and the ETag and CRC64NVME that an upload ended with; of nothing it says None."""
    assert store.attributes(KEY) is None
    _, written = whole(store)
    state = store.attributes(KEY)
    assert state == ObjectAttributes(len(CONTENT), state.crc64nvme if state else None, written.etag)
    assert state.crc64nvme in {None, written.crc64nvme}


@pytest.mark.parametrize("size_bytes", [3, len(CONTENT)])
def test_what_took_the_key_meanwhile_stays(opening: Callable[[], ObjectStore], size_bytes: int) -> None:
    """Other bytes that came under the key during an upload stay, and the error names the key."""
    with opening().upload(KEY) as upload:
        write(upload, CONTENT[:size_bytes])
        opening().put_if_absent(KEY, b"first come")
        with pytest.raises(ObjectDiffers) as caught:
            upload.finish()
    assert caught.value.key == KEY
    assert read_bytes(opening(), KEY) == b"first come"


@pytest.mark.parametrize("size_bytes", [3, len(CONTENT)])
def test_the_same_bytes_meanwhile_are_success(opening: Callable[[], ObjectStore], size_bytes: int) -> None:
    """When somebody else finished the same object first, the later one finds its work done."""
    content = CONTENT[:size_bytes]
    with opening().upload(KEY) as upload:
        write(upload, content)
        opening().put_if_absent(KEY, content)
        written = upload.finish()
    assert (written.size_bytes, written.sha256) == (size_bytes, hashlib.sha256(content).hexdigest())


def test_what_a_label_finished_is_recognised(store: ObjectStore) -> None:
    """A bucket knows its finished object by its label, and only by that; a folder never says."""
    assert store.find_completed(KEY, LABEL) is None
    whole(store, b"all of it")
    is_bucket = store.url.startswith("s3:")
    assert (store.find_completed(KEY, LABEL) == store.head(KEY)) is is_bucket
    assert store.find_completed(KEY, "another") is None


def test_an_object_without_a_label_is_nobodys(store: ObjectStore) -> None:
    """An object that was put, or uploaded without a label, is not taken for a labelled one's."""
    store.put_if_absent(KEY, b"x")
    assert store.find_completed(KEY, LABEL) is None
    assert store.find_completed(KEY, "") is None


# --- a bucket: going on ---


@pytest.fixture
def bucket(s3: S3Server) -> str:
    return s3.new_bucket()


@pytest.mark.parametrize("first_part_bytes", [PART_BYTES, 6 * MIB])
@pytest.mark.parametrize("is_size_known", [False, True])
def test_an_upload_is_gone_on_with(s3: S3Server, bucket: str, first_part_bytes: int, is_size_known: bool) -> None:
    """Another host goes on at the last whole part, sends no earlier byte again, and observes every byte once, in order.

    Also when its parts are of another size; nothing unfinished is left.
    """
    size_bytes = len(CONTENT) if is_size_known else None
    break_off(s3.store(bucket, "pre", part_bytes=first_part_bytes), size_bytes=size_bytes)
    assert len(s3.unfinished(bucket)) == 2
    seen = bytearray()
    with between(s3) as proxy:
        store = proxy.server.store(bucket, "pre")
        began, written = whole(store, size_bytes=size_bytes, on_chunk=seen.extend)
        sent = sum(len(exchange.body) for exchange in proxy.seen if "partNumber" in exchange.query)
    parts = len(CONTENT) // first_part_bytes
    assert began == (parts - 1) * first_part_bytes
    assert sent == len(CONTENT) - parts * first_part_bytes
    assert seen == CONTENT
    expected = tally(CONTENT)
    if began:
        assert written == expected.result("read-back", written.etag)
    assert (written.sha256, written.crc64nvme) == (expected.sha256, expected.crc64nvme)
    assert store.attributes(KEY) == ObjectAttributes(len(CONTENT), store.attributes(KEY).crc64nvme, written.etag)  # type: ignore[union-attr]
    assert read_bytes(store, KEY) == CONTENT
    assert s3.unfinished(bucket) == []


def test_an_upload_breaks_off_again_and_again(s3: S3Server, bucket: str) -> None:
    """Each try keeps its whole parts; the last one finishes with all of them."""
    began = []
    for least in range(0, len(CONTENT), PART_BYTES):
        with suppress(Broken), s3.store(bucket).upload(KEY, resume_token=LABEL) as upload:
            began.append(upload.size_bytes)
            write(upload, CONTENT[upload.size_bytes : least + PART_BYTES + 1])
            raise Broken
    assert began == [0, 0, PART_BYTES]
    assert whole(s3.store(bucket))[1].sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert s3.unfinished(bucket) == []


def test_all_parts_were_there(s3: S3Server, bucket: str) -> None:
    """An upload that broke off between its last byte and its end is finished from its last part on."""
    content = CONTENT[: 2 * PART_BYTES]
    break_off(s3.store(bucket), CONTENT[: 2 * PART_BYTES + 1])
    assert whole(s3.store(bucket), content)[1].sha256 == hashlib.sha256(content).hexdigest()
    assert read_bytes(s3.store(bucket), KEY) == content


@pytest.mark.parametrize("other", ["", "another file"])
def test_another_label_is_never_gone_on_with(s3: S3Server, bucket: str, other: str) -> None:
    """Bytes of another file, or of nobody knows which, begin from nothing; the older upload stays for its own label."""
    break_off(s3.store(bucket))
    other_content = Random(2).randbytes(len(CONTENT))
    assert whole(s3.store(bucket), other_content, other)[0] == 0
    assert read_bytes(s3.store(bucket), KEY) == other_content
    assert len(s3.unfinished(bucket)) == 2


def test_another_key_is_never_gone_on_with(s3: S3Server, bucket: str) -> None:
    """The same label under a longer or shorter key is another upload."""
    break_off(s3.store(bucket))
    for key in (f"{KEY}x", KEY[:-1]):
        with s3.store(bucket).upload(key, resume_token=LABEL) as upload:
            assert upload.size_bytes == 0


def test_the_farthest_upload_is_gone_on_with(s3: S3Server, bucket: str) -> None:
    """Of two uploads of the same file that broke off the one with more bytes is taken."""
    with suppress(Broken), s3.store(bucket).upload(KEY, resume_token=LABEL) as late:
        break_off(s3.store(bucket))
        write(late, CONTENT[: PART_BYTES + 1])
        raise Broken
    assert len(s3.unfinished(bucket)) == 4
    assert whole(s3.store(bucket))[0] == PART_BYTES


@pytest.mark.parametrize("parts", [1, 2])
def test_a_source_that_gives_other_bytes_is_noticed(s3: S3Server, bucket: str, parts: int) -> None:
    """What is there of the last part is compared; when it differs the upload is given up, and the next try is whole."""
    break_off(s3.store(bucket), CONTENT[: parts * PART_BYTES + 1])
    other = CONTENT[: -100_000 - (3 - parts) * PART_BYTES] + Random(3).randbytes(100_000 + (3 - parts) * PART_BYTES)
    with pytest.raises(SourceDiffers) as caught:
        whole(s3.store(bucket), other)
    assert caught.value.key == KEY
    assert s3.unfinished(bucket) == []
    assert s3.store(bucket).head(KEY) is None
    assert whole(s3.store(bucket), other)[0] == 0
    assert read_bytes(s3.store(bucket), KEY) == other


def test_a_source_that_became_shorter_is_noticed(s3: S3Server, bucket: str) -> None:
    """An upload that holds more than the source has now is given up."""
    break_off(s3.store(bucket))
    with pytest.raises(SourceDiffers):
        whole(s3.store(bucket), CONTENT[: PART_BYTES + 1000])
    assert s3.unfinished(bucket) == []


def test_bytes_that_do_not_make_up_the_size_are_no_object(s3: S3Server, bucket: str) -> None:
    """Parts that came from more than one run and are too few or too many never become an object."""
    break_off(s3.store(bucket))
    with pytest.raises(SourceDiffers):
        whole(s3.store(bucket), CONTENT[:-1], size_bytes=len(CONTENT))
    assert s3.store(bucket).head(KEY) is None


def test_an_upload_may_begin_again(s3: S3Server, bucket: str) -> None:
    """After `restart` an upload that had parts already takes all bytes, and is proved without reading them back."""
    break_off(s3.store(bucket))
    seen = bytearray()
    with s3.store(bucket).upload(KEY, resume_token=LABEL, on_chunk=seen.extend) as upload:
        assert upload.size_bytes == PART_BYTES
        upload.restart()
        assert upload.size_bytes == 0
        write(upload, CONTENT)
        written = upload.finish()
    assert written.proof in PROOFS["s3"]
    assert seen == CONTENT
    assert s3.unfinished(bucket) == []


@pytest.mark.parametrize("content", [b"", b"small", CONTENT])
def test_an_upload_that_never_had_a_part_is_no_hindrance(s3: S3Server, bucket: str, content: bytes) -> None:
    """An upload that broke off in its first part is gone on with from nothing, also by a small or empty object."""
    with between(s3) as proxy:
        proxy.on_request = lambda exchange: (
            exchange.fail(403, "AccessDenied") if "partNumber" in exchange.query else None
        )
        with pytest.raises(StoreUnavailable):
            whole(proxy.server.store(bucket))
    assert KEY in s3.unfinished(bucket)
    began, written = whole(s3.store(bucket), content)
    assert (began, written.size_bytes) == (0, len(content))
    assert read_bytes(s3.store(bucket), KEY) == content
    assert s3.unfinished(bucket) == []


@pytest.mark.parametrize("theirs", [b"small", bytes(PART_BYTES)])
def test_parts_that_another_writer_changed_make_no_object(s3: S3Server, bucket: str, theirs: bytes) -> None:
    """When somebody else writes into the same upload it is given up, and the next try is whole."""
    with s3.store(bucket).upload(KEY, resume_token=LABEL) as upload:
        write(upload, CONTENT)
        for begun in s3.client.list_multipart_uploads(Bucket=bucket)["Uploads"]:
            if begun["Key"] == KEY:
                place = {"Bucket": bucket, "Key": KEY, "UploadId": begun["UploadId"], "PartNumber": 1}
                s3.client.upload_part(**place, Body=theirs, ChecksumCRC64NVME=crc_text(crc64nvme(theirs)))
        with pytest.raises(StoreUnavailable, match="another process was at the same upload"):
            upload.finish()
    assert s3.unfinished(bucket) == []
    assert whole(s3.store(bucket))[0] == 0


def test_without_a_label_nothing_is_left(s3: S3Server, bucket: str) -> None:
    """An upload without a label that breaks off leaves no part, no unfinished upload and no thread behind."""
    break_off(s3.store(bucket), resume_token="")
    assert s3.unfinished(bucket) == []
    assert sending_threads() == []


def test_a_broken_upload_leaves_no_thread(s3: S3Server, bucket: str) -> None:
    """Parts that are on their way are waited for, so that the next try finds them."""
    break_off(s3.store(bucket))
    assert sending_threads() == []
    with s3.store(bucket).upload(KEY, resume_token=LABEL) as upload:
        assert upload.size_bytes == PART_BYTES


def test_long_listings_are_read_to_their_end(s3: S3Server, bucket: str) -> None:
    """More parts, uploads and objects than one answer holds are all seen."""
    content = Random(4).randbytes(3 * PART_BYTES + 1)
    for resume_token in ("a", "b", "c", LABEL):
        break_off(s3.store(bucket), content[: PART_BYTES + 1] if resume_token != LABEL else content, resume_token)
    store = s3.store(bucket)
    short_pages(store)
    assert whole(store, content)[0] == 2 * PART_BYTES
    for number in range(5):
        store.put_if_absent(f"a/{number}", b"")
    assert [stored.key for stored in store.list("a/")] == [f"a/{number}" for number in range(5)]


def short_pages(store: S3Store) -> None:
    """Ask the server for at most two of whatever it lists."""
    for operation, name in {
        "ListParts": "MaxParts",
        "ListMultipartUploads": "MaxUploads",
        "ListObjectsV2": "MaxKeys",
    }.items():

        def shorten(params: dict[str, Any], name: str = name, **_: Any) -> None:
            params[name] = 2

        store.client.meta.events.register(f"provide-client-params.s3.{operation}", shorten)


@pytest.mark.parametrize(("name", "size_bytes"), [("ceph", 3), ("localstack", 3), ("localstack", len(CONTENT))])
def test_whoever_comes_after_the_look_is_too_late(request: pytest.FixtureRequest, name: str, size_bytes: int) -> None:
    """Where the server knows the condition, an object that appears between our look and our end stays.

    Ceph 16 does not know it for uploads in parts.
    """
    server: S3Server = request.getfixturevalue(name)
    bucket, looks = server.new_bucket(), []

    def look_too_early(exchange: Exchange) -> None:
        if exchange.method == "HEAD" and not looks:
            looks.append(exchange)
            exchange.fail(404, "NoSuchKey")

    server.store(bucket).put_if_absent(KEY, b"first come")
    with between(server) as proxy:
        proxy.on_answer = look_too_early
        with pytest.raises(ObjectDiffers):
            whole(proxy.server.store(bucket), CONTENT[:size_bytes])
    assert looks
    assert read_bytes(server.store(bucket), KEY) == b"first come"
    assert server.unfinished(bucket) == []


# --- a bucket: what goes wrong on the way ---


@pytest.mark.parametrize("size_bytes", [3, len(CONTENT)])
def test_an_answer_that_is_lost_does_no_harm(s3: S3Server, bucket: str, size_bytes: int) -> None:
    """The server does everything and its answer never comes, each first time: the object is there once, whole."""
    content, lost = CONTENT[:size_bytes], set()

    def lose(exchange: Exchange) -> None:
        name = (exchange.method, exchange.query.get("partNumber", [exchange.target])[0])
        if exchange.method in {"PUT", "POST"} and name not in lost:
            lost.add(name)
            exchange.is_lost = True

    with between(s3) as proxy:
        proxy.on_answer = lose
        _, written = whole(proxy.server.store(bucket), content)
    assert lost
    assert written.sha256 == hashlib.sha256(content).hexdigest()
    assert read_bytes(s3.store(bucket), KEY) == content


@pytest.mark.parametrize("size_bytes", [3, len(CONTENT)])
def test_a_busy_server_is_asked_again(s3: S3Server, bucket: str, size_bytes: int) -> None:
    """Everything that is sent fails once with 503 before it is let through: the same bytes go out again."""
    content, failed = CONTENT[:size_bytes], set()

    def fail(exchange: Exchange) -> None:
        if exchange.method in {"PUT", "POST"} and exchange.target not in failed:
            failed.add(exchange.target)
            exchange.fail(503, "SlowDown")

    with between(s3) as proxy:
        proxy.on_request = fail
        whole(proxy.server.store(bucket), content)
    assert read_bytes(s3.store(bucket), KEY) == content


@pytest.mark.parametrize("size_bytes", [3, len(CONTENT)])
def test_a_byte_that_changes_on_its_way_is_refused(s3: S3Server, bucket: str, size_bytes: int) -> None:
    """A server gets one wrong byte and says so; no object appears."""

    def alter(exchange: Exchange) -> None:
        if exchange.method == "PUT":
            exchange.body = bytes([exchange.body[0] ^ 1]) + exchange.body[1:]

    with between(s3) as proxy:
        proxy.on_request = alter
        with pytest.raises(PipelineError):
            whole(proxy.server.store(bucket), CONTENT[:size_bytes])
    assert s3.store(bucket).head(KEY) is None


@pytest.mark.parametrize("size_bytes", [3, len(CONTENT)])
def test_a_server_that_keeps_other_bytes_is_caught(s3: S3Server, bucket: str, size_bytes: int) -> None:
    """Bytes that went wrong where no checksum looks do not pass for ours: the server states what it has."""

    def alter(exchange: Exchange) -> None:
        if exchange.method == "PUT":
            exchange.body = bytes([exchange.body[0] ^ 1]) + exchange.body[1:]
            exchange.sign()

    with between(s3) as proxy:
        proxy.on_request = alter
        store = proxy.server.store(bucket)
        with pytest.raises(PipelineError) as caught:
            whole(store, CONTENT[:size_bytes])
    assert isinstance(caught.value, FixityError) or s3.store(bucket).head(KEY) is None


@pytest.mark.parametrize("size_bytes", [3, len(CONTENT)])
def test_a_server_whose_word_is_no_checksum_is_read_back(ceph: S3Server, size_bytes: int) -> None:
    """Where an ETag is no MD5 (encrypted buckets) and no CRC is there, the object is read back, and judged by that."""

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
        assert whole(proxy.server.store(bucket, "right"), content)[1].proof == "read-back"
        proxy.on_answer = wrong_bytes
        with pytest.raises(DigestDiffers):
            whole(proxy.server.store(bucket, "wrong"), content)


@pytest.mark.parametrize("knows", ["no checksum", "no condition", "neither"])
@pytest.mark.parametrize("size_bytes", [3, len(CONTENT)])
def test_a_server_that_knows_less_is_asked_for_less(ceph: S3Server, knows: str, size_bytes: int) -> None:
    """A server that refuses the checksum or the condition gets the object all the same, and never over another one."""
    refused = {"no checksum": {"checksum"}, "no condition": {"if-none-match"}, "neither": {"checksum", "if-none-match"}}

    def refuse(exchange: Exchange) -> None:
        names = " ".join(name.lower() for name, _ in exchange.headers)
        if exchange.method in {"PUT", "POST"} and any(name in names for name in refused[knows]):
            exchange.fail(501, "NotImplemented")

    content = CONTENT[:size_bytes]
    with between(ceph) as proxy:
        proxy.on_request = refuse
        store = proxy.server.store(ceph.new_bucket())
        assert whole(store, content)[1].proof == "md5"
        with pytest.raises(ObjectDiffers):
            whole(store, b"other" + content)
        assert read_bytes(store, KEY) == content


# --- sizes of parts ---


@given(st.integers(0, 5 * 2**40), st.integers(5 * MIB, 1024 * MIB))
def test_few_enough_parts_hold_any_object(total: int, least: int) -> None:
    """An object of known size up to 5 TiB has at most 10,000 parts, none too small or too large."""
    size = part_bytes(1, least, total)
    assert least <= size <= MAX_PART_BYTES
    assert -(-total // size) <= MAX_PARTS


@given(st.integers(0, 5 * 2**40), st.integers(0, 9_000), st.integers(5 * MIB, 64 * MIB), st.integers(5 * MIB, 64 * MIB))
def test_few_enough_parts_hold_what_is_left(total: int, begun: int, first: int, least: int) -> None:
    """Also after parts of another size."""
    done = min(begun, total // first)
    left = total - done * first
    size = part_bytes(done + 1, least, left)
    assert done + -(-left // size) <= MAX_PARTS


@given(st.integers(5 * MIB, 1024 * MIB))
def test_growing_parts_hold_any_object(least: int) -> None:
    """10,000 parts of an object whose size nobody knows hold 5 TiB, and never shrink."""
    sizes = [part_bytes(number, least, None) for number in range(1, MAX_PARTS + 1)]
    assert sum(sizes) >= 5 * 2**40
    assert sizes == sorted(sizes)
    assert sizes[0] == least
    assert sizes[-1] <= MAX_PART_BYTES
