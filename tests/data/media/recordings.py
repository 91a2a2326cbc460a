"""Small videos and sounds in containers, and pictures and traces of formats that need a library, made on the spot."""

import io
from functools import cache

import av
import numpy as np

RATE = 44_100
FRAMES = 20
"""Frames of a video, at 10 a second."""
CODECS = {
    "mp4": "mpeg4",
    "mov": "mpeg4",
    "webm": "libvpx-vp9",
    "matroska": "mpeg4",
    "avi": "mpeg4",
    "gif": "gif",
}
READ_AS = {"adts": "aac", "ipod": "m4a", "matroska": "mkv"}
"""The suffix of a container's files, where it is not its name."""


@cache
def video(kind: str, shift: int = 0) -> bytes:
    """Twenty frames of 64 x 48 pixels: the left half gets brighter from frame to frame, the right half is noise."""
    file, noise = io.BytesIO(), np.random.default_rng(shift).integers(0, 256, (6, 4, 3), np.uint8)
    with av.open(file, "w", format=kind) as container:
        stream = container.add_stream(CODECS[kind], rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "rgb8" if kind == "gif" else "yuv420p"
        for i in range(FRAMES):
            pixels = np.kron(np.tile(noise, (1, 2, 1)), np.ones((8, 8, 1))).astype(np.uint8)
            pixels[:, :32] = 12 * i
            for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    return file.getvalue()


@cache
def sound(kind: str, codec: str = "aac", seconds: float = 1.0, layout: str = "stereo") -> bytes:
    """A tone of 440 Hz and amplitude 0.3 on every channel."""
    file, rate = io.BytesIO(), 48_000 if codec == "libopus" else RATE
    tone = (0.3 * np.sin(2 * np.pi * 440 * np.arange(int(seconds * rate)) / rate)).astype(np.float32)
    with av.open(file, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.layout = layout
        channels = len(stream.layout.channels)
        frame = av.AudioFrame.from_ndarray(np.stack([tone] * channels), format="fltp", layout=layout)
        frame.sample_rate, frame.pts = rate, 0
        form = av.AudioResampler(format=stream.codec_context.format)
        for part in [*form.resample(frame), *form.resample(None)]:
            for packet in stream.encode(part):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    return file.getvalue()
