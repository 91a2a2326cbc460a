"""Videos, by PyAV: frames evenly spread over the whole."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedloom.data.media.parts import Part, bounds
from fedloom.data.media.settings import MediaSettings
from fedloom.data.media.sources import Decoded, container

STRICT = {"err_detect": "crccheck+bitstream+buffer+explode"}
"""FFmpeg's decoders hide damage unless they are told not to."""


@contextmanager
def open_video(source: Path | bytes, settings: MediaSettings) -> Iterator[Any]:
    """The undecoded container. Raises ValueError for one out of bounds, or without pictures."""
    with container(source, "video") as file:
        if not file.streams.video:
            raise ValueError("it holds no pictures")
        stream = file.streams.video[0]
        if stream.codec_context is None:
            raise ValueError("its pictures are in a format that PyAV does not decode")
        if min(stream.codec_context.width, stream.codec_context.height) < 1:
            raise ValueError("its header states no size")
        settings.check_size(stream.codec_context.width, stream.codec_context.height)
        settings.check_seconds(seconds(file))
        yield file


def seconds(file: Any) -> float:
    """The length of an opened video, as it states it; 0 for none."""
    stream = file.streams.video[0]
    if stream.duration:
        return float(stream.duration * stream.time_base)
    return (file.duration or 0) / 1e6


def decode_video(source: Path | bytes, settings: MediaSettings, part: Part) -> Decoded:
    """uint8 (N, 3, H, W): N = `frames` frames, the middles of as many equal parts, upright; a short video repeats some.

    A whole video is decoded to its end. Raises ValueError for a number of frames other than the container's.
    """
    with open_video(source, settings) as file:
        count = sum(packet.size > 0 for packet in file.demux(file.streams.video[0]))
    if count < 1:
        raise ValueError("it holds no pictures")
    start, stop = bounds(count, part)
    places = [start + int((i + 0.5) * (stop - start) / settings.frames) for i in range(settings.frames)]
    wanted, found, at = set(places), {}, 0
    with open_video(source, settings) as file:
        stream = file.streams.video[0]
        stream.codec_context.options = STRICT
        size = stream.codec_context.width, stream.codec_context.height
        for frame in file.decode(stream):
            if (frame.width, frame.height) != size:
                raise ValueError("the size of its pictures changes in the middle")
            if at in wanted:
                found[at] = np.rot90(frame.to_ndarray(format="rgb24"), -_quarters(frame))
            at += 1
            if at == stop < count:  # a window; the last one reads to the end
                return _stacked(found, places), ()
    if at != count:
        raise ValueError(f"it holds {at} frames that can be decoded, and {count} in all")
    return _stacked(found, places), ()


def _stacked(found: Mapping[int, Any], places: Sequence[int]) -> Tensor:
    """uint8 (N, 3, H, W) of the frames (H, W, 3) at these places."""
    return torch.from_numpy(np.stack([found[place] for place in places])).permute(0, 3, 1, 2).contiguous()


def _quarters(frame: Any) -> int:
    """Quarter turns, clockwise, that set a frame upright."""
    return int(round(-frame.rotation / 90) % 4)
