"""Opened sound files of libsndfile and of PyAV, with one face."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import soundfile
from numpy.typing import NDArray

from fedloom.data.media import boxes, mp3
from fedloom.data.media.sources import container, demuxer

FORMATS = ("WAV", "WAVEX", "RF64", "FLAC", "OGG", "MP3")
MP3_SLACK = 2 * 1152
"""Samples by which an MP3's decoder may miss the length that its header gives: a frame at either end."""
AAC_SLACK = 2 * 2048
"""The same for AAC and Opus in containers: blocks of 1024 samples, or 2048 at the doubled rate of HE-AAC."""
BLOCK = 1 << 20


class OpenSound(Protocol):
    """A sound whose header is read."""

    rate: int
    frames: int
    channels: int
    slack: int
    """Frames by which the decoded length may miss the header's."""

    def blocks(self, start: int, stop: int) -> Iterator[NDArray[np.float32]]:
        """The frames from `start` up to `stop` as float32 (frames, channels), a few million values at a time."""


@dataclass
class PlainSound:
    """A sound that libsndfile reads."""

    file: Any
    rate: int
    frames: int
    channels: int
    slack: int

    def blocks(self, start: int, stop: int) -> Iterator[NDArray[np.float32]]:
        """The frames from `start` up to `stop`; those behind the header's length if `stop` is there."""
        if start:
            self.file.seek(start)
        left = stop - start if stop < self.frames else None
        while left is None or left > 0:
            size = max(BLOCK // self.channels, 1)
            block = self.file.read(size if left is None else min(size, left), dtype="float32", always_2d=True)
            if not len(block):
                return
            left = None if left is None else left - len(block)
            yield block


@dataclass
class ContainedSound:
    """A sound that PyAV reads from a container: the first of its sound tracks."""

    file: Any
    rate: int
    frames: int
    channels: int
    slack: int

    def blocks(self, start: int, stop: int) -> Iterator[NDArray[np.float32]]:
        """The frames from `start` up to `stop`, decoded from the beginning; padding behind the stated length is left out."""
        import av

        planar, at = av.AudioResampler(format="fltp"), 0
        for frame in self.file.decode(self.file.streams.audio[0]):
            if frame.sample_rate != self.rate or frame.layout.nb_channels != self.channels:
                raise ValueError("its sample rate or channels change in the middle")
            for made in planar.resample(frame):
                values = made.to_ndarray().T
                kept = values[max(start - at, 0) : max(stop - at, 0)]
                at += len(values)
                if len(kept):
                    yield np.ascontiguousarray(kept, np.float32)
            if at >= stop and stop < self.frames:  # a whole file is decoded to its end
                return


@contextmanager
def open_plain(source: Path | bytes) -> Iterator[PlainSound]:
    """A sound in WAV, FLAC, OGG or MP3. Raises ValueError for other formats."""
    with soundfile.SoundFile(source if isinstance(source, Path) else io.BytesIO(source)) as file:
        if file.format not in FORMATS:
            raise ValueError(f"it is a {file.format} file; save it as WAV, FLAC, OGG or MP3")
        slack = MP3_SLACK if file.format == "MP3" else 0
        yield PlainSound(file, file.samplerate, file.frames, file.channels, slack)


@contextmanager
def open_container(source: Path | bytes) -> Iterator[ContainedSound]:
    """The sound of an MP4, M4A, AAC, WebM, MKV or AVI file. Raises ValueError for one without."""
    with container(source, "sound") as file:
        if not file.streams.audio:
            raise ValueError("it holds no sound")
        stream = file.streams.audio[0]
        rate = int(stream.codec_context.sample_rate or 0)
        channels = int(stream.codec_context.layout.nb_channels)
        frames = round(_seconds(source, file, stream) * rate)
        yield ContainedSound(file, rate, frames, channels, AAC_SLACK)


def _seconds(source: Path | bytes, file: Any, stream: Any) -> float:
    """The length that the track states, else the container; a bare AAC file's is that of its frames."""
    if demuxer(source) == "aac":
        data = source.read_bytes() if isinstance(source, Path) else source
        return boxes.adts_seconds(data, mp3.after_tags(data))
    if stream.duration:
        return float(stream.duration * stream.time_base)
    return (file.duration or 0) / 1e6
