"""Probes of stored files, and content that must never be opened."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.core.models import Probe
from pipeline.enablex.simulator import samples
from pipeline.media.probe import is_media, probe
from pipeline.storage import LocalStore

FOLDER = Path(str(samples.__file__)).parent


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


@pytest.mark.parametrize(
    ("ending", "container", "video", "audio", "duration_s"),
    [
        ("mkv", "matroska,webm", "vp8", "opus", 1.008),
        ("webm", "matroska,webm", "vp8", "opus", 1.008),
        ("mp4", "mov,mp4,m4a,3gp,3g2,mj2", "h264", "aac", 1.0),
        ("mov", "mov,mp4,m4a,3gp,3g2,mj2", "h264", "aac", 1.0),
    ],
)
def test_a_recording_is_described(
    store: LocalStore, ending: str, container: str, video: str, audio: str, duration_s: float
) -> None:
    """Container, codecs, length and picture size of every format that EnableX serves."""
    store.put_if_absent("a", (FOLDER / f"sample.{ending}").read_bytes())
    assert probe(store, "a") == Probe(container, duration_s, video, audio, 64, 48)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00\xff" * 5000,
        (FOLDER / "sample.mp4").read_bytes()[:2000],
        b"<html>gone</html>",
        b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/secret.ts\n",
        b"ffconcat version 1.0\nfile '/etc/hostname'\n",
        b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n",
    ],
    ids=["empty", "noise", "cut", "page", "playlist", "concat", "sdp"],
)
def test_what_is_no_recording_does_not_open(store: LocalStore, content: bytes) -> None:
    """Noise, truncated files, and playlists that refer to other files: not opened, and no crash."""
    store.put_if_absent("a", content)
    assert probe(store, "a") is None


@pytest.mark.parametrize(
    ("kind", "name", "expected"),
    [
        ("recording", "a1", True),
        ("transcoded", "t1.bin", True),
        ("chat", "chat.mp4", False),
        ("metadata", "metadata.json", False),
        ("other-live", "l1.MP4", True),
        ("other-transcript", "t.vtt", False),
    ],
)
def test_only_what_claims_to_be_media_is_probed(kind: str, name: str, expected: bool) -> None:
    """Recordings and transcoded files always; undocumented kinds by suffix; chat and metadata never."""
    assert is_media(kind, name) is expected
