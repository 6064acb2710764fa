"""Media: playable, unique, of any size, readable from any byte."""

from __future__ import annotations

import hashlib
import io
import tracemalloc
from dataclasses import replace
from datetime import UTC, date, datetime

import av
import pytest

from pipeline.enablex.simulator import SimFile, World
from pipeline.enablex.simulator.media import BLOCK_BYTES, CHUNK_BYTES, media_size, open_media

DAY = date(2026, 11, 20)
FORMATS = ("mkv", "mov", "mp4", "webm")
GIB = 1 << 30


def sample(ending: str, size_bytes: int = 20_000) -> SimFile:
    moment = datetime(2026, 11, 20, tzinfo=UTC)
    path = f"/path/x/1/a1.{ending}"
    return SimFile("acme", "1", "r", "recording", path, ending, size_bytes, moment, moment)


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("size_bytes", [20_000, 3_000_000])
def test_files_play(ending: str, size_bytes: int) -> None:
    """A padded file opens in a real demuxer and all its frames decode, video and sound."""
    file = sample(ending, size_bytes)
    whole = b"".join(open_media(file))
    assert len(whole) == size_bytes
    for kind, frames in (("video", 10), ("audio", 40)):
        with av.open(io.BytesIO(whole)) as container:
            assert sum(1 for _ in container.decode(**{kind: 0})) >= frames


@pytest.mark.parametrize("ending", FORMATS)
def test_padding_is_a_valid_block_of_its_container(ending: str) -> None:
    """After the sample there is exactly one EBML Void element or one `free` box, up to the last byte."""
    whole = b"".join(open_media(sample(ending, 100_000)))
    if ending in ("mkv", "webm"):
        end = 0
        for element in (b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67", b"\xec"):
            end = end_of_element(whole, end, element)
        assert end == len(whole)
    else:
        kinds, at = [], 0
        while at < len(whole):
            size, kind = int.from_bytes(whole[at : at + 4], "big"), whole[at + 4 : at + 8]
            at += int.from_bytes(whole[at + 8 : at + 16], "big") if size == 1 else size
            kinds.append(kind)
        assert at == len(whole)
        assert kinds[-1] == b"free"


def end_of_element(data: bytes, at: int, element_id: bytes) -> int:
    """The end of the EBML element at `at`, which must have this id and a known size."""
    assert data.startswith(element_id, at)
    at += len(element_id)
    length = 9 - data[at].bit_length()
    size = int.from_bytes(data[at : at + length], "big") & ((1 << 7 * length) - 1)
    assert size != (1 << 7 * length) - 1
    return at + length + size


@pytest.mark.parametrize("ending", FORMATS)
def test_any_start_gives_the_rest_of_the_file(ending: str) -> None:
    """Reading from byte n gives the file without its first n bytes, for any n."""
    file = sample(ending, 1_200_000)
    whole = b"".join(open_media(file))
    for start in (0, 1, 4_000, 5_400, CHUNK_BYTES, BLOCK_BYTES + 5_301, 1_199_999, 1_200_000, 1_300_000):
        assert b"".join(open_media(file, start)) == whole[start:]


def test_every_file_is_unique_and_has_its_stated_size(world: World) -> None:
    """No two media files of a day have equal bytes, and size and digest are those of the bytes."""
    digests = set()
    for file in world.files_of_day("acme", DAY):
        whole = b"".join(open_media(file))
        assert len(whole) == file.size_bytes
        assert hashlib.sha256(whole).hexdigest() == file.sha256
        assert b"".join(open_media(file, altered=True)) != whole or not whole
        if file.text is None:
            digests.add(file.sha256)
    assert len(digests) == sum(f.text is None for f in world.files_of_day("acme", DAY))


def test_the_bytes_of_a_file_do_not_change() -> None:
    """The bytes of a file stay the same in later versions of the simulator: recorded digests remain valid."""
    digests = [sample(ending, size).sha256[:16] for ending in FORMATS for size in (20_000, 3_000_000)]
    assert digests == [
        "99e22e4dd7de35b0",
        "1c9b1cd8edbcca38",
        "9722bc22e3a18cbe",
        "fc19300b3e68ac58",
        "f00ccd0330c88aaf",
        "9c8befcf2684c471",
        "df18371dc562774f",
        "5e4890d849e66db9",
    ]


def test_many_gigabytes_take_little_memory() -> None:
    """The end of a 40 GiB file is read without its start, and reading 64 MiB takes less than 4 blocks of memory."""
    file = replace(sample("mp4"), size_bytes=media_size("mp4", 40 * GIB))
    assert len(b"".join(open_media(file, 40 * GIB - 100))) == 100
    tracemalloc.start()
    read = 0
    for block in open_media(file, 5 * GIB):
        read += len(block)
        if read >= 64 << 20:
            break
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * BLOCK_BYTES


def test_sizes_follow_file_bytes() -> None:
    """Media sizes are 0.5 to 1.5 times `file_bytes`; values below the sample's size give the smallest file."""
    sizes = [f.size_bytes for f in World(file_bytes=100_000).files_of_day("acme", DAY) if f.text is None]
    assert all(50_000 <= size < 150_000 for size in sizes)
    assert all(f.size_bytes < 12_000 for f in World(file_bytes=0).files_of_day("acme", DAY))
