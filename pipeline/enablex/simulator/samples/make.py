"""Make the four sample media files that the simulator pads and serves.

Run manually from the project's root after a change here: `python -m pipeline.enablex.simulator.samples.make`. It needs
PyAV, a development dependency; the simulator itself only reads the files. Each file is one second of a moving grey ramp
(64x48, 10 frames) and a square wave of about 500 Hz, and is accepted by players and probes.

Matroska and WebM carry VP8 and Opus, as EnableX does; MP4 and MOV carry H.264 and AAC, which every reader
of those containers has.
"""

from __future__ import annotations

import io
from array import array
from pathlib import Path
from typing import cast

import av

WIDTH, HEIGHT, FRAMES = 64, 48, 10
SOUND_RATE, SOUND_SAMPLES = 48_000, 48_000

CODECS = {
    "mkv": ("matroska", "libvpx", "libopus"),
    "webm": ("webm", "libvpx", "libopus"),
    "mp4": ("mp4", "libx264", "aac"),
    "mov": ("mov", "libx264", "aac"),
}
"""Per ending: container, video codec, audio codec."""


def _picture(number: int) -> av.VideoFrame:
    frame = av.VideoFrame(WIDTH, HEIGHT, "yuv420p")
    luma, *chroma = frame.planes
    row = bytes((16 + 3 * x + 8 * number) % 220 for x in range(WIDTH))
    luma.update(b"".join(row + bytes(luma.line_size - WIDTH) for _ in range(HEIGHT)))
    for plane in chroma:
        plane.update(b"\x80" * plane.buffer_size)
    frame.pts = number
    return frame


def _sound() -> av.AudioFrame:
    wave = array("h", ((3000 if (n // 48) % 2 else -3000) for n in range(SOUND_SAMPLES)))
    frame = av.AudioFrame(format="s16", layout="mono", samples=SOUND_SAMPLES)
    frame.planes[0].update(wave.tobytes())
    frame.sample_rate = SOUND_RATE
    frame.pts = 0
    return frame


def make(ending: str) -> bytes:
    """One sample, muxed into a seekable buffer, so that a Matroska Segment states its size."""
    container_name, video_codec, audio_codec = CODECS[ending]
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container_name, options={"fflags": "+bitexact"}) as container:
        video = cast(av.VideoStream, container.add_stream(video_codec, rate=FRAMES))
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        video.bit_rate = 16_000
        audio = cast(av.AudioStream, container.add_stream(audio_codec, rate=SOUND_RATE))
        audio.layout = "mono"
        audio.bit_rate = 12_000
        resampler = av.AudioResampler(format=audio.format, layout="mono", rate=SOUND_RATE, frame_size=0)
        for number in range(FRAMES):
            container.mux(video.encode(_picture(number)))
        for frame in resampler.resample(_sound()):
            container.mux(audio.encode(frame))
        container.mux(video.encode(None))
        container.mux(audio.encode(None))
    return buffer.getvalue()


def main() -> None:
    for ending in CODECS:
        target = Path(__file__).with_name(f"sample.{ending}")
        target.write_bytes(make(ending))
        print(target.name, target.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
