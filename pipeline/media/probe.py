"""Probe a stored file with PyAV: container, codecs, duration, picture size.

PyAV bundles FFmpeg. It reads the object through a seekable stream, about 5 MB at most. Only media containers are
allowed, so that a disguised playlist cannot make it read other files or URLs.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from pipeline.core.models import Probe
from pipeline.media.content import JSON_KINDS
from pipeline.storage.base import ObjectStore

if TYPE_CHECKING:
    from av.container import InputContainer

_MEDIA_KINDS = frozenset({"recording", "transcoded"})
_MEDIA_SUFFIXES = frozenset({".mkv", ".webm", ".mov", ".mp4", ".m4a", ".ogg", ".wav", ".mp3"})
_OPTIONS = {
    "format_whitelist": "matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,ogg,wav,mp3",
    "protocol_whitelist": "",
    "probesize": "5000000",
}


def is_media(kind: str, name: str) -> bool:
    """Whether a file should be audio or video: by its kind, or for undocumented kinds by its suffix."""
    return kind in _MEDIA_KINDS or (kind not in JSON_KINDS and PurePosixPath(name).suffix.lower() in _MEDIA_SUFFIXES)


def probe(store: ObjectStore, key: str) -> Probe | None:
    """Probe a stored file; None when it cannot be opened or has neither audio nor video."""
    import av  # noqa: PLC0415 - loads FFmpeg, which most commands do not need

    av.logging.set_level(av.logging.PANIC)
    with store.open(key) as stream:
        try:
            with av.open(stream, mode="r", metadata_errors="ignore", options=_OPTIONS) as container:
                return _probe_of(container, av.time_base)
        except (av.FFmpegError, ValueError, EOFError):
            return None


def _probe_of(container: InputContainer, time_base: int) -> Probe | None:
    video = next(iter(container.streams.video), None)
    audio = next(iter(container.streams.audio), None)
    if video is None and audio is None:
        return None
    return Probe(
        container=container.format.name,
        duration_s=round(container.duration / time_base, 3) if container.duration else None,
        video_codec=video.codec_context.name if video else None,
        audio_codec=audio.codec_context.name if audio else None,
        width_px=video.codec_context.width or None if video else None,
        height_px=video.codec_context.height or None if video else None,
    )
