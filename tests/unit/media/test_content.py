"""Verdicts on bodies: whole, broken, unknown or an error page, for any chunks."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.enablex.simulator import samples
from pipeline.media.content import ErrorPage, Inspector, Verdict

FOLDER = Path(str(samples.__file__)).parent
ENDINGS = ("mkv", "webm", "mp4", "mov")
SAMPLES = {ending: (FOLDER / f"sample.{ending}").read_bytes() for ending in ENDINGS}
CHAT = json.dumps(
    [{"sender": "A", "message": 'brackets ]} and "quotes"', "timestamp": "2026-11-22T10:00:00Z"}]
).encode()


def judged(kind: str, chunks: Iterable[bytes]) -> str:
    """The verdict on a body that arrives in these chunks, or the error page that it is."""
    inspector = Inspector(kind)
    try:
        for chunk in chunks:
            inspector.feed(chunk)
        return inspector.verdict().value
    except ErrorPage as page:
        return f"error page: {page}"


def box(name: bytes, payload: bytes = b"") -> bytes:
    return (8 + len(payload)).to_bytes(4) + name + payload


def element(identity: bytes, payload: bytes, size_bytes: int = 8) -> bytes:
    """An EBML element whose size takes this many bytes; at most eight."""
    return identity + (len(payload) | 1 << 7 * size_bytes).to_bytes(size_bytes) + payload


EBML, SEGMENT, UNKNOWN_SIZE = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67", b"\x01" + b"\xff" * 7
MP4 = box(b"ftyp", b"isom0000") + box(b"moov", b"m" * 700) + box(b"mdat", b"d" * 900)
MKV = element(EBML, b"h" * 40) + element(SEGMENT, b"s" * 900)


# --- media ---


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("kind", ["recording", "transcoded", "other-live"])
def test_a_whole_file_is_whole(ending: str, kind: str) -> None:
    """A real file of every container that EnableX serves is recognised as complete."""
    assert judged(kind, [SAMPLES[ending]]) == "whole"


@pytest.mark.parametrize("ending", ENDINGS)
def test_no_cut_file_is_whole(ending: str) -> None:
    """A real file truncated at any byte is never whole."""
    whole = SAMPLES[ending]
    assert [size for size in range(len(whole)) if judged("recording", [whole[:size]]) == "whole"] == []


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_truncated_container_is_broken(ending: str) -> None:
    """Once the first 64 bytes arrived, truncation is certain, not unknown."""
    whole = SAMPLES[ending]
    assert {judged("recording", [whole[:size]]) for size in range(64, len(whole), 17)} == {"broken"}


@pytest.mark.parametrize("whole", [MP4, MKV, *(SAMPLES[ending] for ending in ENDINGS)], ids=["MP4", "MKV", *ENDINGS])
def test_a_file_followed_by_other_bytes_is_not_whole(whole: bytes) -> None:
    """Bytes after the last part that are not a part mean damage."""
    assert judged("recording", [whole + b"\x20\x00\x01"]) == "broken"


@pytest.mark.parametrize(
    ("body", "verdict"),
    [
        (MP4, "whole"),
        (box(b"ftyp", b"isom0000") + box(b"mdat", b"d" * 9) + box(b"moov"), "whole"),
        (MP4 + b"\x00\x00\x00\x01free" + (16 + 5).to_bytes(8) + b"12345", "whole"),
        (MP4 + b"\x00\x00\x00\x01free" + (16 + 5).to_bytes(8) + b"1234", "broken"),
        (MP4 + b"\x00\x00\x00\x00mdat" + b"to the end", "unknown"),
        (MP4 + b"\x00\x00\x00", "broken"),
        (box(b"ftyp", b"isom0000") + box(b"moov", b"m" * 700), "broken"),
        (box(b"ftyp", b"isom0000") + box(b"mdat", b"d" * 700), "broken"),
        (box(b"ftyp", b"isom0000"), "broken"),
        (MKV, "whole"),
        (MKV + element(b"\xec", b"padding"), "whole"),
        (MKV + element(b"\xec", b"padding")[:-1], "broken"),
        (element(EBML, b"h" * 5, 1) + element(SEGMENT, b"s" * 9, 2), "whole"),
        (element(EBML, b"h" * 40) + SEGMENT + UNKNOWN_SIZE + b"s" * 99, "unknown"),
        (element(EBML, b"h" * 40) + SEGMENT + b"\xff" + b"s" * 99, "unknown"),
        (element(EBML, b"h" * 40), "broken"),
    ],
)
def test_parts_are_walked_by_their_sizes(body: bytes, verdict: str) -> None:
    """Every form of a part's size is understood; a file without its index or its data is broken at any length."""
    assert judged("recording", [body]) == verdict


def test_an_unknown_format_is_unknown() -> None:
    """A format without declared sizes is unknown."""
    assert judged("recording", [b"RIFF" + bytes(2000)]) == "unknown"
    assert judged("recording", [b"x"]) == "unknown"


def test_nothing_at_all_is_no_recording() -> None:
    """An empty body is an error page, not a short recording."""
    assert judged("recording", []) == judged("recording", [b"", b""]) == "error page: an empty body"


# --- pages dressed as files ---


@pytest.mark.parametrize("start", [b"", b" \r\n\t", b"\xef\xbb\xbf", b" " * 600, b"\n" * 5000])
@pytest.mark.parametrize(
    "page", [b"<!DOCTYPE html><title>Expired</title>", b"<?xml version='1.0'?><Error/>", b"<" + b"a" * 999]
)
@pytest.mark.parametrize("kind", ["recording", "chat"])
def test_a_web_page_is_no_file(start: bytes, page: bytes, kind: str) -> None:
    """HTML and XML are error pages for every kind of file, after any leading white space."""
    assert judged(kind, [start + page]) == f"error page: {page[:60].decode()}"


@pytest.mark.parametrize("body", [b'{"result": 40001, "error": "gone"}', b' {"x": ' + b'"' + b"a" * 999 + b'"}'])
def test_json_is_no_recording(body: bytes) -> None:
    """A JSON answer where media were asked for is an error page."""
    assert judged("recording", [body]).startswith("error page: {")


def test_an_error_page_is_found_early() -> None:
    """An error page with the size of a large file is refused after its first 512 bytes, not after the last byte."""
    inspector = Inspector("recording")
    with pytest.raises(ErrorPage):
        inspector.feed(b"<html>" + b"x" * 600)


# --- JSON files ---


@pytest.mark.parametrize("kind", ["chat", "metadata"])
@pytest.mark.parametrize("body", [CHAT, b"{}", b"[]", b' {"events": []}\n', b'{"error": null, "x": 1}'])
def test_json_that_closes_is_whole(kind: str, body: bytes) -> None:
    """Chat and metadata are whole when they parse, as object or as list."""
    assert judged(kind, [body]) == "whole"


def test_no_cut_json_is_whole() -> None:
    """A chat file truncated at any byte is broken, the empty file too."""
    assert {judged("chat", [CHAT[:size]]) for size in range(len(CHAT))} == {"broken"}


@pytest.mark.parametrize("body", [b'{"error": "File expired"}', b'{"error_code": "File expired", "message": "m"}'])
def test_an_error_as_json_is_no_chat(body: bytes) -> None:
    """An error envelope with status 200 is not taken for a chat script."""
    assert judged("chat", [body]) == "error page: File expired"


def test_json_beyond_reason_is_not_judged() -> None:
    """JSON that is too deeply nested for the parser is unknown and does not stop the copy."""
    assert judged("chat", [b"[" * 100_000 + b"]" * 100_000]) == "unknown"


# --- however they arrive ---

BODIES = {
    **SAMPLES,
    "cut mkv": SAMPLES["mkv"][:-7],
    "cut mp4": SAMPLES["mp4"][:-7],
    "two parts": MKV + element(b"\xec", b"padding"),
    "small boxes": box(b"ftyp", b"isom0000") + box(b"free") * 40 + box(b"moov") + box(b"mdat"),
    "live": element(EBML, b"h" * 40) + SEGMENT + UNKNOWN_SIZE + b"s" * 99,
    "page": b" " * 700 + b"<html>not here</html>",
    "json page": b'\n{"error": "gone"}',
    "blanks": b" \n" * 400,
    "chat": CHAT,
    "other": b"RIFF" + bytes(600),
    "nothing": b"",
}


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("kind", ["recording", "chat"])
@given(cuts=st.lists(st.integers(0, 5400), max_size=12))
def test_a_verdict_is_blind_to_chunks(name: str, kind: str, cuts: list[int]) -> None:
    """The same bytes get the same verdict in any chunks, including empty ones."""
    body = BODIES[name]
    edges = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    assert judged(kind, [body[start:end] for start, end in pairwise(edges)]) == judged(kind, [body])


@pytest.mark.parametrize("name", BODIES)
def test_a_verdict_is_the_same_byte_by_byte(name: str) -> None:
    """A connection that delivers single bytes changes nothing."""
    body = BODIES[name]
    assert judged("recording", [bytes([byte]) for byte in body]) == judged("recording", [body])


@given(st.binary(max_size=80), st.sampled_from([b"", b"\x00\x00\x00\x08ftyp", EBML]), st.booleans())
def test_any_bytes_get_a_verdict(body: bytes, start: bytes, is_json: bool) -> None:
    """Damaged headers are judged, never a crash or an endless walk."""
    verdict = judged("chat" if is_json else "recording", [start + body])
    assert verdict in {each.value for each in Verdict} or verdict.startswith("error page")


def test_memory_does_not_grow_with_the_file() -> None:
    """64 MiB after a valid header leave nothing in the inspector."""
    inspector = Inspector("recording")
    inspector.feed(element(EBML, b"h" * 600) + SEGMENT + b"\x01" + (2**40).to_bytes(7))
    block = bytes(2**20)
    for _ in range(64):
        inspector.feed(block)
    held = sum(len(value) for value in vars(inspector).values() if isinstance(value, bytes | bytearray))
    assert held < 4096
    assert inspector.verdict() is Verdict.BROKEN
