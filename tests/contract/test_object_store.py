"""The object store contract (pipeline/storage/base.py), checked for every store.

`store` and `opening` (conftest.py) are parametrized with all stores. Multipart uploads are in test_uploads.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pyarrow.fs as pafs
import pytest

from pipeline.core.errors import ObjectDiffers, ObjectMissing, StoreError, StoreUnavailable
from pipeline.storage import LocalStore, ObjectStore, StoredObject, read_bytes

KEY = "media/project=acme/day=2026-11-22/r1/284/recording/a 1-é.mkv"


def everything(store: ObjectStore) -> list[tuple[str, bytes]]:
    return [(stored.key, read_bytes(store, stored.key)) for stored in store.list("")]


# --- put_if_absent ---


@pytest.mark.parametrize(
    "content", [b"", b"x", b"\x00\xff" * 40_000, [], [b""], [b"one", b"", b"two"], [b"a" * 2**20] * 3]
)
def test_an_object_is_read_as_written(opening: Callable[[], ObjectStore], content: bytes | list[bytes]) -> None:
    """Another process reads the same bytes; the returned size is their number."""
    whole = content if isinstance(content, bytes) else b"".join(content)
    assert opening().put_if_absent(KEY, content) == len(whole)
    again = opening()
    assert read_bytes(again, KEY) == whole
    assert again.head(KEY) == StoredObject(KEY, len(whole))
    assert list(again.list("")) == [StoredObject(KEY, len(whole))]


def test_content_can_be_a_generator(store: ObjectStore) -> None:
    """Content can be a generator that is read once."""
    assert store.put_if_absent(KEY, (bytes([number]) for number in range(5))) == 5
    assert read_bytes(store, KEY) == bytes(range(5))


@pytest.mark.parametrize("again", [b"same", [b"sa", b"me"]])
def test_the_same_bytes_again_are_success(store: ObjectStore, again: bytes | list[bytes]) -> None:
    """Writing the same bytes again is success: no error, the same size, one object."""
    store.put_if_absent(KEY, b"same")
    assert store.put_if_absent(KEY, again) == 4
    assert everything(store) == [(KEY, b"same")]


@pytest.mark.parametrize("other", [b"othe", b"", b"same and more", b"sam"])
def test_an_object_is_never_replaced_by_other_bytes(store: ObjectStore, other: bytes) -> None:
    """`put_if_absent` never overwrites an object, for any sizes; the error names the key."""
    store.put_if_absent(KEY, b"same")
    with pytest.raises(ObjectDiffers) as caught:
        store.put_if_absent(KEY, iter([other]))
    assert caught.value.key == KEY
    assert everything(store) == [(KEY, b"same")]


@pytest.mark.parametrize("error", [ValueError("cut short"), OSError("network"), KeyboardInterrupt()])
@pytest.mark.parametrize("exists", [False, True])
def test_an_interrupted_stream_leaves_nothing(store: ObjectStore, error: BaseException, exists: bool) -> None:
    """If the content raises, that error propagates, nothing is stored, and an existing object stays."""
    if exists:
        store.put_if_absent(KEY, b"first")

    def content() -> Iterator[bytes]:
        yield b"first"
        yield b"x" * 100_000
        raise error

    with pytest.raises(type(error)) as caught:
        store.put_if_absent(KEY, content())
    assert caught.value is error
    assert everything(store) == ([(KEY, b"first")] if exists else [])
    assert store.put_if_absent(KEY, b"first") == 5


def test_a_partial_object_is_not_visible(opening: Callable[[], ObjectStore]) -> None:
    """During a write the object is neither readable nor listed."""
    reader = opening()
    seen = []

    def content() -> Iterator[bytes]:
        yield b"x" * 2**20
        seen.append((reader.head(KEY), list(reader.list("media/"))))
        yield b"y"

    opening().put_if_absent(KEY, content())
    assert seen == [(None, [])]


def test_one_of_several_writers_succeeds(opening: Callable[[], ObjectStore]) -> None:
    """Of concurrent writers with different bytes exactly one succeeds, and the object is complete."""
    writers = 6
    start = Barrier(writers)

    def put(number: int) -> bytes | None:
        content = bytes([number]) * 50_000
        store = opening()
        start.wait()
        try:
            store.put_if_absent(KEY, content)
        except ObjectDiffers:
            return None
        return content

    with ThreadPoolExecutor(writers) as threads:
        winners = [content for content in threads.map(put, range(writers)) if content is not None]
    assert everything(opening()) == [(KEY, content) for content in winners]
    assert len(winners) == 1


# --- overwrite ---


def test_overwrite_replaces_an_object(store: ObjectStore) -> None:
    """The last write is the object, shorter or longer, also if none existed."""
    for content in (b"first", b"a longer second one", b""):
        store.overwrite(KEY, content)
        assert everything(store) == [(KEY, content)]
    store.overwrite(KEY, iter([b"in ", b"", b"pieces"]))
    assert everything(store) == [(KEY, b"in pieces")]


@pytest.mark.parametrize("error", [ValueError("cut short"), OSError("network"), KeyboardInterrupt()])
def test_an_interrupted_overwrite_changes_nothing(store: ObjectStore, error: BaseException) -> None:
    """If the new content raises, that error propagates and the old object stays."""
    store.overwrite(KEY, b"old")

    def content() -> Iterator[bytes]:
        yield b"x" * 100_000
        raise error

    with pytest.raises(type(error)) as caught:
        store.overwrite(KEY, content())
    assert caught.value is error
    assert everything(store) == [(KEY, b"old")]


def test_a_reader_reads_the_old_or_the_new_object(opening: Callable[[], ObjectStore]) -> None:
    """During overwrites each read returns one complete version."""
    versions = [bytes([number]) * 30_000 for number in range(8)]
    store = opening()
    store.overwrite(KEY, versions[0])
    digests = {hashlib.sha256(version).digest() for version in versions}
    with ThreadPoolExecutor(1) as threads:
        writing = threads.submit(lambda: [opening().overwrite(KEY, version) for version in versions * 4])
        readings = 0
        while not writing.done() or readings == 0:
            assert hashlib.sha256(read_bytes(store, KEY)).digest() in digests
            readings += 1
        writing.result()
    assert read_bytes(store, KEY) == versions[-1]


# --- open and head ---


def test_an_open_object_is_seekable(store: ObjectStore) -> None:
    """Readers can seek, as pyarrow does to read the footer of a Parquet file."""
    store.put_if_absent(KEY, b"0123456789")
    with store.open(KEY) as stream:
        assert stream.seekable()
        stream.seek(-3, 2)
        assert stream.read() == b"789"
        stream.seek(2)
        assert stream.read(3) == b"234"


@pytest.mark.parametrize("missing", ["nothing", "media/nothing", f"{KEY}/below", KEY[:-1]])
def test_a_missing_object_is_missing(store: ObjectStore, missing: str) -> None:
    """`head` returns None, `open` raises ObjectMissing with the key; a longer or shorter key is another key."""
    store.put_if_absent(KEY, b"x")
    assert store.head(missing) is None
    with pytest.raises(ObjectMissing) as caught, store.open(missing):
        pass
    assert caught.value.key == missing


@pytest.mark.parametrize("prefix", ["media", "media/project=acme"])
def test_a_prefix_is_no_object(store: ObjectStore, prefix: str) -> None:
    """A prefix of other keys is no object."""
    store.put_if_absent(KEY, b"x")
    assert store.head(prefix) is None
    with pytest.raises(ObjectMissing), store.open(prefix):
        pass


# --- list ---

KEYS = ["a", "b/1", "b/10", "b/2", "b/é", "b!/x", "ba/1", "c/d/e/f"]


@pytest.mark.parametrize(
    ("prefix", "keys"),
    [
        ("", sorted(KEYS)),
        ("b/", ["b/1", "b/10", "b/2", "b/é"]),
        ("b/1", ["b/1", "b/10"]),
        ("b", ["b!/x", "b/1", "b/10", "b/2", "b/é", "ba/1"]),
        ("c/d", ["c/d/e/f"]),
        ("c/d/e/f", ["c/d/e/f"]),
        ("c/d/e/f/", []),
        ("nothing/", []),
        ("d", []),
    ],
)
def test_a_listing_is_sorted_and_complete(store: ObjectStore, prefix: str, keys: list[str]) -> None:
    """All keys with the prefix, with or without a slash, sorted by UTF-8, each once with its size."""
    for key in reversed(KEYS):
        store.put_if_absent(key, key.encode())
    assert list(store.list(prefix)) == [StoredObject(key, len(key.encode())) for key in keys]
    assert keys == sorted(keys, key=str.encode)


def test_a_new_store_is_empty(store: ObjectStore) -> None:
    """Before the first write a store is empty, and reading it is no error."""
    assert list(store.list("")) == []
    assert store.head(KEY) is None


@pytest.mark.parametrize("broken", ["store", "store/b"])
def test_an_unreadable_folder_is_an_error(tmp_path: Path, broken: str) -> None:
    """An unreadable root or folder raises StoreUnavailable; no object is reported as missing."""
    store = LocalStore(tmp_path / "store")
    store.put_if_absent("b/1", b"x")
    (tmp_path / broken).rename(tmp_path / "away")
    (tmp_path / broken).symlink_to(tmp_path / broken)  # unreadable for root as well
    for ask in (lambda: list(store.list("")), lambda: list(store.list("b/")), lambda: store.head("b/1")):
        with pytest.raises(StoreUnavailable, match=f"cannot use .*{broken}"):
            ask()
    with pytest.raises(StoreUnavailable, match=f"cannot use .*{broken}"):
        store.put_if_absent("b/2", b"x")


def test_a_failing_disk_is_one_error(tmp_path: Path) -> None:
    """A failing disk raises StoreUnavailable, also if the temporary file cannot be removed."""
    root = tmp_path / "store"

    def content() -> Iterator[bytes]:
        yield b"x"
        root.rename(tmp_path / "away")
        root.symlink_to(root)

    with pytest.raises(StoreUnavailable, match="cannot use"):
        LocalStore(root).put_if_absent("b/1", content())


# --- keys, URL, datasets ---


@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/./b", "a\0b"])
def test_an_invalid_key_is_refused(store: ObjectStore, tmp_path: Path, key: str) -> None:
    """Absolute keys and keys with `.`, `..` or empty parts are refused for reads and writes; nothing is written."""
    with pytest.raises(StoreError):
        store.put_if_absent(key, b"x")
    with pytest.raises(StoreError):
        store.overwrite(key, b"x")
    with pytest.raises(StoreError):
        store.head(key)
    with pytest.raises(StoreError), store.open(key):
        pass
    assert list(store.list("")) == []
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("key", ["a" * 200, "x=1/y=2/...", "a b/c'd", "日本/語.json", "-rf", "#%&+"])
def test_unusual_keys_work(store: ObjectStore, key: str) -> None:
    """Every key that `storage.keys` can build can be stored and listed."""
    store.put_if_absent(key, b"x")
    assert everything(store) == [(key, b"x")]


def test_pyarrow_reads_the_same_objects(store: ObjectStore) -> None:
    """The file system for pyarrow finds an object at root and key, with the same bytes."""
    store.put_if_absent("tables/cdr/part-0.parquet", b"parquet")
    filesystem, root = store.filesystem()
    assert isinstance(filesystem, pafs.FileSystem)
    with filesystem.open_input_stream(f"{root}/tables/cdr/part-0.parquet") as stream:
        assert stream.read() == b"parquet"


def test_the_url_of_a_store(store: ObjectStore, tmp_path: Path) -> None:
    """The URL has a scheme and a location, no user and no query."""
    scheme, colon, location = store.url.partition(":")
    assert scheme in {"file", "s3"}
    assert colon
    assert location
    assert not set(location) & set("@?#")
