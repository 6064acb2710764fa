"""Guarantees of buckets beyond the contract: copies, locks, stale uploads, reads, and error messages."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
from botocore.exceptions import ClientError

from pipeline.core.errors import (
    ConfigError,
    ObjectDiffers,
    ObjectMissing,
    PipelineError,
    StoreError,
    StoreUnavailable,
    Transient,
)
from pipeline.storage import MIB, LocalStore, ObjectStore, Retention, StoredObject, open_store, read_bytes
from pipeline.storage import s3 as s3_module
from pipeline.storage.base import ObjectAttributes, UploadOptions
from pipeline.storage.s3 import S3Store
from tests.support.servers.children import free_port
from tests.support.servers.proxy import Exchange, between
from tests.support.servers.s3 import ENVIRON, PART_BYTES, SECRET_KEY, S3Server

KEY = "media/day=2026-11-22/a 1-é+%.mkv"
CONTENT = Random(1).randbytes(PART_BYTES + 12_345)
ODD_KEYS = ["a b  c+d", "é/日本", "100%/%41", "~!*'()a:b;c@d,e$f&g=h?i#j\"k"]


@pytest.fixture
def bucket(s3: S3Server) -> str:
    return s3.new_bucket()


def begin(store: S3Store, key: str, resume_token: str = "label") -> None:
    """Start an upload, store one part, and leave it unfinished."""
    with suppress(ZeroDivisionError), store.upload(key, UploadOptions(resume_token=resume_token)) as upload:
        upload.write(CONTENT)
        raise ZeroDivisionError


# --- keys and prefixes ---


def test_unusual_keys_in_every_call(s3: S3Server, bucket: str) -> None:
    """Spaces, accents, + and % are literal in every call: put, upload, resume, list, copy, read, abort."""
    store = s3.store(bucket, "an odd+préfix%20")
    for key in ODD_KEYS:
        store.put_if_absent(f"put/{key}", b"x")
        begin(store, f"up/{key}")
        with store.upload(f"up/{key}", UploadOptions(resume_token="label", size_bytes=len(CONTENT))) as upload:
            upload.write(CONTENT)
            etag = upload.finish().etag
        assert store.find_completed(f"up/{key}", "label") == store.head(f"up/{key}")
        store.copy_from(f"{store.url}/up/{key}", f"copy/{key}", resume_token="", etag=str(etag))
        assert read_bytes(store, f"copy/{key}") == CONTENT
        begin(store, f"old/{key}")
    for folder in ("put", "up", "copy"):
        assert [stored.key for stored in store.list(f"{folder}/")] == sorted(f"{folder}/{key}" for key in ODD_KEYS)
    assert sorted(store.abort_uploads("old/", timedelta(0))) == sorted(f"old/{key}" for key in ODD_KEYS)
    assert s3.unfinished(bucket) == []


def test_a_store_sees_its_prefix_only(s3: S3Server, bucket: str) -> None:
    """Two stores in one bucket do not list each other's objects and uploads."""
    ours, others = s3.store(bucket, "ours"), s3.store(bucket, "ours-not")
    others.put_if_absent("a", b"theirs")
    begin(others, KEY)
    assert list(ours.list("")) == []
    assert ours.head("a") is None
    assert ours.abort_uploads("", timedelta(0)) == []
    assert len(s3.unfinished(bucket)) == 2


def test_the_folders_of_consoles_are_no_objects(s3: S3Server, bucket: str) -> None:
    """Folder placeholders (empty objects whose key ends with a slash) are not listed; no call accepts such keys."""
    for key in ("ours/", "ours/media/"):
        s3.client.put_object(Bucket=bucket, Key=key, Body=b"")
    store = s3.store(bucket, "ours")
    store.put_if_absent("media/a", b"x")
    assert list(store.list("")) == [StoredObject("media/a", 1)]


def test_a_store_is_opened_by_its_url(s3: S3Server, bucket: str) -> None:
    """`s3://bucket/prefix` and an endpoint suffice; credentials come from the provider chain of boto3."""
    store = open_store(f"s3://{bucket}/some/prefix/", endpoint_url=s3.endpoint_url)
    store.put_if_absent("a", b"x")
    assert store.url == f"s3://{bucket}/some/prefix"
    assert s3.client.get_object(Bucket=bucket, Key="some/prefix/a")["Body"].read() == b"x"


# --- attributes ---


@pytest.mark.parametrize("content", [b"small", CONTENT])
def test_the_verification_the_server_supports(ceph: S3Server, localstack: S3Server, content: bytes) -> None:
    """CRC64NVME of the full object if supported, else MD5; content type and token are stored with the object."""
    for server, proof in ((ceph, "md5"), (localstack, "crc64nvme")):
        bucket = server.new_bucket()
        with server.store(bucket).upload(
            KEY, UploadOptions(resume_token="label", content_type="video/x-matroska")
        ) as upload:
            upload.write(content)
            written = upload.finish()
        head = server.client.head_object(Bucket=bucket, Key=KEY)
        assert written.proof == proof
        assert head["ContentType"] == "video/x-matroska"
        assert head["ETag"].strip('"') == written.etag


def test_a_checksum_of_parts_is_not_the_objects(localstack: S3Server) -> None:
    """The attributes of an object uploaded with another checksum have no CRC64NVME."""
    bucket = localstack.new_bucket()
    localstack.client.put_object(Bucket=bucket, Key="a", Body=b"x", ChecksumAlgorithm="SHA256")
    state = localstack.store(bucket).attributes("a")
    assert state == ObjectAttributes(1, None, "9dd4e461268c8034f5c8564e155c67a6")


# --- reading ---


def test_an_interrupted_read_is_resumed(s3: S3Server, bucket: str) -> None:
    """A read whose connection is lost twice resumes at the same offset."""
    s3.store(bucket).put_if_absent(KEY, CONTENT)
    cuts = [1_000_000, 123]

    def cut(exchange: Exchange) -> None:
        if exchange.method == "GET" and cuts:
            exchange.cut_at = cuts.pop()

    with between(s3) as proxy:
        proxy.on_answer = cut
        store = proxy.server.store(bucket)
        assert read_bytes(store, KEY) == CONTENT
        ranges = [dict(exchange.headers).get("Range") for exchange in proxy.seen]
    assert ranges == [None, "bytes=123-", "bytes=1000123-"]


def test_a_read_without_progress_ends(s3: S3Server, bucket: str) -> None:
    """If every response is interrupted, the read ends after a few attempts with a retryable error."""
    s3.store(bucket).put_if_absent(KEY, CONTENT)

    def cut(exchange: Exchange) -> None:
        if exchange.method == "GET":
            exchange.cut_at = 0

    with between(s3) as proxy:
        proxy.on_answer = cut
        store = proxy.server.store(bucket)
        with pytest.raises(StoreUnavailable) as caught, store.open(KEY) as stream:
            stream.read(10)
    assert_is_one_line(caught.value)


def test_a_read_never_mixes_two_objects(s3: S3Server, bucket: str) -> None:
    """A seek in an object that was replaced meanwhile is a retryable error, not bytes of both."""
    store = s3.store(bucket)
    store.overwrite(KEY, CONTENT)
    with store.open(KEY) as stream:
        stream.read(10)
        store.overwrite(KEY, bytes(len(CONTENT)))
        stream.seek(-10, 2)
        with pytest.raises(StoreUnavailable, match="replaced during the read"):
            stream.read(10)


def test_readers_close_their_connections(s3: S3Server, bucket: str) -> None:
    """After hundreds of reads, complete, partial and with seeks, no file is open."""
    store = s3.store(bucket)
    store.put_if_absent(KEY, CONTENT[:MIB])

    def read_three_ways() -> None:
        assert len(read_bytes(store, KEY)) == MIB
        with store.open(KEY) as stream:
            stream.read(1)
            stream.seek(-1, 2)
            stream.read(1)
        with store.open(KEY):
            pass

    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    read_three_ways()
    before = open_files()
    for _ in range(30):
        read_three_ways()
    assert open_files() <= before + 1


def test_pyarrow_reads_tables_from_a_bucket(s3: S3Server, bucket: str, tmp_path: Path) -> None:
    """A partitioned Parquet dataset below a prefix with a space is read through `filesystem`."""
    store = s3.store(bucket, "the lake")
    for day in (21, 22):
        pq.write_table(pa.table({"cdr_id": [f"{day}-{number}" for number in range(3)]}), tmp_path / "part")
        store.overwrite(f"tables/cdr/day=2026-11-{day}/part-0.parquet", (tmp_path / "part").read_bytes())
    filesystem, root = store.filesystem()
    table = pads.dataset(f"{root}/tables/cdr", filesystem=filesystem, partitioning="hive").to_table()
    assert table.column("cdr_id").to_pylist() == [f"{day}-{number}" for day in (21, 22) for number in range(3)]


# --- server-side copies ---


@pytest.mark.parametrize("is_large", [False, True])
def test_an_object_is_copied_inside_the_server(
    s3: S3Server, bucket: str, is_large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server-side copy, single or multipart, is the same object with a token; no bytes are transferred."""
    content = CONTENT + CONTENT
    monkeypatch.setattr(s3_module, "_COPY_PART_BYTES", PART_BYTES)
    monkeypatch.setattr(s3_module, "_COPY_WHOLE_BYTES", MIB if is_large else 100 * MIB)
    origin = s3.new_bucket()
    etag = s3.client.put_object(Bucket=origin, Key="their/a b.mkv", Body=content, ContentType="video/x-matroska")[
        "ETag"
    ].strip('"')
    with between(s3) as proxy:
        store = proxy.server.store(bucket, "pre")
        copied = store.copy_from(f"s3://{origin}/their/a b.mkv", KEY, resume_token="label", etag=etag)
        assert sum(len(exchange.body) for exchange in proxy.seen) < 10_000
    assert copied == store.find_completed(KEY, "label") == StoredObject(KEY, len(content))
    assert (store.head_object(KEY) or {})["ContentType"] == "video/x-matroska"
    assert read_bytes(store, KEY) == content
    assert s3.unfinished(bucket) == []


def test_what_cannot_be_copied(s3: S3Server, bucket: str) -> None:
    """A deleted or changed source and an existing target are errors; the existing object is unchanged."""
    store = s3.store(bucket)
    etag = s3.client.put_object(Bucket=bucket, Key="theirs", Body=b"first")["ETag"].strip('"')
    s3.client.put_object(Bucket=bucket, Key="theirs", Body=b"second")
    for source, wanted in ((f"s3://{bucket}/theirs", etag), (f"s3://{bucket}/none", etag), ("s3://no-such/a", etag)):
        with pytest.raises(StoreError, match=source) as caught:
            store.copy_from(source, KEY, resume_token="", etag=wanted)
        assert not isinstance(caught.value, Transient)
        assert_is_one_line(caught.value)
    store.put_if_absent(KEY, b"ours")
    with pytest.raises(ObjectDiffers):
        store.copy_from(f"s3://{bucket}/theirs", KEY, resume_token="", etag=etag)
    assert read_bytes(store, KEY) == b"ours"
    assert [stored.key for stored in store.list("")] == [KEY, "theirs"]


def test_a_folder_cannot_copy(tmp_path: Path) -> None:
    """Copying from a bucket into a folder is an error."""
    with pytest.raises(StoreError, match="s3://bucket/a"):
        LocalStore(tmp_path).copy_from("s3://bucket/a", KEY, resume_token="", etag="")


# --- stale uploads ---


def test_stale_uploads_are_aborted(s3: S3Server, bucket: str) -> None:
    """Younger uploads stay; the keys of the aborted ones are returned once, and their markers are removed."""
    store = s3.store(bucket, "pre")
    for key in ("media/a", "media/b/c", "other/d"):
        begin(store, key)
    assert store.abort_uploads("media/", timedelta(hours=1)) == []
    assert len(s3.unfinished(bucket)) == 6
    assert store.abort_uploads("media/", timedelta(0)) == ["media/a", "media/b/c"]
    assert [key.split(".upload-")[0] for key in s3.unfinished(bucket)] == ["pre/other/d"] * 2
    assert store.abort_uploads("", timedelta(0)) == ["other/d"]
    assert s3.unfinished(bucket) == []


def test_the_age_of_an_upload_is_by_server_time(s3: S3Server, bucket: str) -> None:
    """A wrong local clock aborts no upload: the Date of the server is compared with its start times."""
    begin(s3.store(bucket), KEY)
    with between(s3) as proxy:

        def later(exchange: Exchange) -> None:
            date = (datetime.now(UTC) + timedelta(hours=3)).strftime("%a, %d %b %Y %H:%M:%S GMT")
            headers = [(name, value) for name, value in exchange.answer_headers if name.lower() != "date"]
            exchange.answer_headers = [*headers, ("Date", date)]

        store = proxy.server.store(bucket)
        assert store.abort_uploads("", timedelta(hours=2)) == []
        proxy.on_answer = later
        assert store.abort_uploads("", timedelta(hours=2)) == [KEY]


# --- locks ---


def test_only_a_bucket_with_object_lock_can_lock(s3: S3Server) -> None:
    """`require_lock` succeeds with Object Lock; without it the error contains the next step."""
    s3.store(s3.new_bucket(lock=True)).require_lock()
    with pytest.raises(ConfigError, match=r"vault\.lock: bucket .* has no Object Lock"):
        s3.store(s3.new_bucket()).require_lock()


@pytest.mark.parametrize("mode", ["governance", "compliance"])
@pytest.mark.parametrize("content", [b"small", CONTENT])
def test_a_locked_object_cannot_be_lost(ceph: S3Server, mode: str, content: bytes) -> None:
    """Before its retention ends, a locked version cannot be deleted, overwritten, or given a shorter lock."""
    bucket = ceph.new_bucket(lock=True)
    until = datetime.now(UTC).replace(microsecond=0) + timedelta(days=30)
    store, client = ceph.store(bucket), ceph.client
    with store.upload(KEY, UploadOptions(resume_token="label", retention=Retention(mode, until))) as upload:  # type: ignore[arg-type]
        upload.write(content)
        upload.finish()
    [version] = client.list_object_versions(Bucket=bucket)["Versions"]
    location = {"Bucket": bucket, "Key": KEY, "VersionId": version["VersionId"]}
    assert client.get_object_retention(**location)["Retention"] == {
        "Mode": mode.upper(),
        "RetainUntilDate": until,
    }
    shorter = {"Mode": mode.upper(), "RetainUntilDate": until - timedelta(days=29)}
    for attempt in (
        lambda: client.delete_object(**location),
        lambda: client.put_object_retention(**location, Retention=shorter),
        lambda: client.delete_bucket(Bucket=bucket),
    ):
        with pytest.raises(ClientError):
            attempt()
    if mode == "compliance":
        with pytest.raises(ClientError):
            client.delete_object(**location, BypassGovernanceRetention=True)
    with pytest.raises(ObjectDiffers):
        store.put_if_absent(KEY, b"other")
    client.put_object(Bucket=bucket, Key=KEY, Body=b"hides it")
    client.delete_object(Bucket=bucket, Key=KEY)
    assert client.get_object(**location)["Body"].read() == content


def test_puts_and_copies_are_locked_too(s3: S3Server) -> None:
    """Manifests and copied files get the same retention as uploads."""
    bucket, until = s3.new_bucket(lock=True), datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
    store, retention = s3.store(bucket), Retention("governance", until)
    store.put_if_absent("put", b"x", retention=retention)
    store.copy_from(
        f"s3://{bucket}/put",
        "copy",
        resume_token="",
        etag=s3.client.head_object(Bucket=bucket, Key="put")["ETag"],
        retention=retention,
    )
    for key in ("put", "copy"):
        head = s3.client.head_object(Bucket=bucket, Key=key)
        assert (head["ObjectLockMode"], head["ObjectLockRetainUntilDate"]) == ("GOVERNANCE", until)


@pytest.mark.parametrize("content", [b"small", CONTENT])
def test_an_impossible_lock_is_an_error(ceph: S3Server, content: bytes) -> None:
    """Storing an object with a retention in a bucket that cannot lock is an error.

    Observed: localstack 4.13.1 states a lock in any bucket.
    """
    retention = Retention("compliance", datetime.now(UTC) + timedelta(days=1))
    with pytest.raises(StoreError) as caught:
        ceph.store(ceph.new_bucket()).put_if_absent(KEY, content, retention=retention)
    assert_is_one_line(caught.value)


def test_a_lock_is_made_longer_never_shorter(s3: S3Server) -> None:
    """`lock` adds or extends a lock, and leaves a longer or stronger one unchanged."""
    store, now = s3.store(s3.new_bucket(lock=True)), datetime.now(UTC).replace(microsecond=0)
    with pytest.raises(ObjectMissing):
        store.lock(KEY, Retention("governance", now + timedelta(days=1)))
    store.put_if_absent(KEY, b"x")
    store.put_if_absent("strong", b"x", retention=Retention("compliance", now + timedelta(days=5)))
    for key, days, expected in (
        (KEY, 1, ("GOVERNANCE", 1)),
        (KEY, 3, ("GOVERNANCE", 3)),
        (KEY, 2, ("GOVERNANCE", 3)),
        ("strong", 4, ("COMPLIANCE", 5)),
    ):
        store.lock(key, Retention("governance", now + timedelta(days=days)))
        head = store.head_object(key)
        assert head is not None
        assert (head["ObjectLockMode"], (head["ObjectLockRetainUntilDate"] - now).days) == expected


def test_the_same_bytes_again_are_locked_too(s3: S3Server) -> None:
    """An object that an earlier run stored without its lock is locked when it is written again."""
    store, until = s3.store(s3.new_bucket(lock=True)), datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
    store.put_if_absent(KEY, b"x")
    store.put_if_absent(KEY, b"x", retention=Retention("governance", until))
    assert (store.head_object(KEY) or {})["ObjectLockRetainUntilDate"] == until


def test_a_versioned_bucket_gets_no_second_version(s3: S3Server) -> None:
    """In a versioned bucket, too, neither the same nor other bytes create a second version."""
    bucket = s3.new_bucket(lock=True)
    store = s3.store(bucket)
    for content in (b"small", CONTENT):
        store.put_if_absent(f"{len(content)}", content)
        store.put_if_absent(f"{len(content)}", content)
        with pytest.raises(ObjectDiffers):
            store.put_if_absent(f"{len(content)}", content + b"other")
    assert len(s3.client.list_object_versions(Bucket=bucket)["Versions"]) == 2


def test_a_folder_cannot_lock(tmp_path: Path) -> None:
    """A folder refuses objects with a retention and stores nothing."""
    store, retention = LocalStore(tmp_path), Retention("governance", datetime.now(UTC))
    for call in (
        store.require_lock,
        lambda: store.lock(KEY, retention),
        lambda: store.put_if_absent(KEY, b"x", retention=retention),
        lambda: store.upload(KEY, UploadOptions(retention=retention)),
    ):
        with pytest.raises(ConfigError, match=r"vault\.lock: .* is a folder"):
            call()
    assert list(store.list("")) == []


# --- error messages ---

CALLS: dict[str, Callable[[ObjectStore], object]] = {
    "put": lambda store: store.put_if_absent(KEY, b"x"),
    "put in parts": lambda store: store.put_if_absent(KEY, CONTENT),
    "replace": lambda store: store.overwrite(KEY, b"x"),
    "upload": lambda store: store.upload(KEY, UploadOptions(resume_token="label")),
    "list": lambda store: list(store.list("")),
    "read": lambda store: read_bytes(store, KEY),
    "abort": lambda store: store.abort_uploads("", timedelta(0)),
    "lock": lambda store: store.require_lock(),
}


def assert_is_one_line(error: BaseException) -> None:
    """The message is one line without access keys, signatures and signed URLs."""
    assert "\n" not in str(error)
    assert len(str(error)) < 400
    for secret in (SECRET_KEY, "wrong-secret", "Signature=", "X-Amz"):
        assert secret not in str(error)


@pytest.mark.parametrize("call", CALLS)
def test_wrong_credentials(ceph: S3Server, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """Each call names the wrong setting, and never prints the secret."""
    bucket = ceph.new_bucket()
    for name, value, step in (
        ("AWS_SECRET_ACCESS_KEY", "wrong-secret", "AWS_SECRET_ACCESS_KEY"),
        ("AWS_ACCESS_KEY_ID", "nobody", "AWS_ACCESS_KEY_ID"),
    ):
        monkeypatch.setenv(name, value)
        with pytest.raises(StoreUnavailable, match=step) as caught:
            CALLS[call](ceph.store(bucket))
        assert_is_one_line(caught.value)
        monkeypatch.setenv(name, ENVIRON[name])


@pytest.mark.parametrize("call", CALLS)
def test_no_credentials(ceph: S3Server, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """Without credentials each call names the places where they are looked up."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(StoreUnavailable, match="no credentials: set AWS_ACCESS_KEY_ID") as caught:
        CALLS[call](ceph.store("test"))
    assert_is_one_line(caught.value)


@pytest.mark.parametrize("call", CALLS)
def test_a_missing_bucket(s3: S3Server, call: str) -> None:
    """Each call names the bucket that does not exist."""
    with pytest.raises(StoreUnavailable, match=r"s3://no-such-bucket.*the bucket does not exist") as caught:
        CALLS[call](s3.store("no-such-bucket"))
    assert_is_one_line(caught.value)


@pytest.mark.parametrize("call", ["put", "list", "read"])
def test_a_refused_connection(call: str) -> None:
    """A refused connection names the address and the setting."""
    endpoint_url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(StoreUnavailable, match=rf"{endpoint_url}.*\[s3\] endpoint_url") as caught:
        CALLS[call](S3Store("bucket", endpoint_url=endpoint_url))
    assert_is_one_line(caught.value)


@pytest.mark.parametrize(
    ("environ", "options"),
    [
        ({"AWS_PROFILE": "no-such-profile"}, {}),
        ({}, {"endpoint_url": "not a url"}),
        ({}, {"endpoint_url": "127.0.0.1:9000"}),
    ],
)
def test_invalid_client_settings(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], options: dict[str, str]
) -> None:
    """Options that boto3 rejects are a ConfigError."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as caught:
        S3Store("bucket", **options)  # type: ignore[arg-type]
    assert_is_one_line(caught.value)


def test_an_invalid_bucket_name(ceph: S3Server) -> None:
    """An invalid bucket name is reported in one line."""
    with pytest.raises(PipelineError, match="Invalid bucket name") as caught:
        ceph.store("no bucket!").put_if_absent(KEY, b"x")
    assert_is_one_line(caught.value)


@pytest.mark.parametrize(("status", "code"), [(403, "AccessDenied"), (507, "QuotaExceeded"), (500, "InternalError")])
def test_a_refusal_is_retryable(ceph: S3Server, status: int, code: str) -> None:
    """A missing permission, a full bucket, a failing server: the error has the next step, nothing is stored."""
    bucket = ceph.new_bucket()
    with between(ceph) as proxy:
        proxy.on_request = lambda exchange: exchange.fail(status, code) if exchange.method == "PUT" else None
        with pytest.raises(StoreUnavailable, match=code) as caught:
            proxy.server.store(bucket).put_if_absent(KEY, b"x")
    assert_is_one_line(caught.value)
    assert ceph.store(bucket).head(KEY) is None


def test_a_part_that_cannot_be_sent(ceph: S3Server) -> None:
    """An error in the sending thread is raised in the caller, and leaves neither a thread nor an upload."""
    bucket = ceph.new_bucket()
    with between(ceph) as proxy:
        proxy.on_request = lambda exchange: (
            exchange.fail(403, "AccessDenied") if "partNumber" in exchange.query else None
        )
        with pytest.raises(StoreUnavailable, match="AccessDenied"):
            proxy.server.store(bucket).put_if_absent(KEY, [CONTENT] * 3)
    assert ceph.unfinished(bucket) == []
    assert [thread for thread in threading.enumerate() if thread.name.startswith("postroom-parts")] == []


# --- memory ---

MEMORY = """
import resource, sys
from pipeline.storage.s3 import S3Store
store = S3Store(sys.argv[1], endpoint_url=sys.argv[2], part_bytes=16 * 2**20)
chunk = bytes(2**20)
store.put_if_absent("warm", [chunk] * 2)
with store.open("warm") as stream:
    stream.read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
store.put_if_absent("large", (chunk for _ in range(128)))
with store.open("large") as stream:
    while stream.read(2**20):
        pass
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_an_upload_takes_the_memory_of_two_parts(localstack: S3Server) -> None:
    """Uploading, verifying and reading 128 MiB in parts of 16 MiB takes little more memory than two parts."""
    command = [sys.executable, "-c", MEMORY, localstack.new_bucket(), localstack.endpoint_url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.splitlines()[-1]) < 2 * 16 + 16
