"""Sound files: opening within bounds, and decoding to mono at the project's sample rate."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor

from fedloom.data.media.settings import MediaSettings
from fedloom.data.sample import SAMPLE_RATE

FORMATS = ("WAV", "WAVEX", "RF64", "FLAC", "OGG", "MP3")
CANCELLED = 0.01
"""Energy of the channels' mean, as a share of the channels' own, below which they cancel each other."""
OUT_OF_PHASE = "sound whose channels cancel each other; its loudest channel is taken"
"""The note on a sound of which one channel was taken."""
SLACK = 2 * 1152
"""Samples by which an MP3's decoder may miss the length that its header gives: a frame at either end."""
BLOCK = 1 << 20


@contextmanager
def open_sound(source: Path | bytes, settings: MediaSettings) -> Iterator[Any]:
    """The undecoded sound of a file or its content. Raises ValueError for one out of bounds, or without sound."""
    with soundfile.SoundFile(source if isinstance(source, Path) else io.BytesIO(source)) as sound:
        rate, frames = sound.samplerate, sound.frames
        if sound.format not in FORMATS:
            raise ValueError(f"it is a {sound.format} file; save it as WAV, FLAC, OGG or MP3")
        if frames < 1:
            raise ValueError("it holds no sound")
        if not settings.lowest_rate <= rate <= settings.highest_rate:
            raise ValueError(
                f"its sample rate is {rate} Hz, and data.media.lowest_rate and highest_rate allow "
                f"{settings.lowest_rate} to {settings.highest_rate} Hz"
            )
        if frames > settings.seconds * rate:
            raise ValueError(
                f"it lasts {frames / rate:.0f} seconds, and data.media.seconds allows {settings.seconds:g}"
            )
        yield sound


def decode_audio(source: Path | bytes, settings: MediaSettings) -> tuple[Tensor, str | None]:
    """float32 (T,), channels averaged, 16 kHz, clipped to [-1, 1]; a note if the loudest channel stands for all.

    Raises ValueError for values that are not finite, and for a length other than the header's.
    """
    with open_sound(source, settings) as sound:
        rate, mean, energies = sound.samplerate, [], np.zeros(sound.channels)
        for block in _blocks(sound):
            mean.append(block.mean(axis=1))
            energies += np.square(block, dtype=np.float64).sum(axis=0)
        if not np.isfinite(energies).all():
            raise ValueError("it holds values that are not finite")
        decoded = sum(map(len, mean))
        if abs(decoded - sound.frames) > (SLACK if sound.format == "MP3" else 0):
            raise ValueError(f"it holds {decoded} samples, and its header says {sound.frames}")
    mono, note = np.concatenate(mean), None
    if len(energies) > 1 and np.square(mono, dtype=np.float64).sum() < CANCELLED * energies.mean():
        with open_sound(source, settings) as sound:
            loudest = int(energies.argmax())
            mono, note = np.concatenate([block[:, loudest] for block in _blocks(sound)]), OUT_OF_PHASE
    if rate != SAMPLE_RATE:
        from scipy.signal import resample_poly  # half a second to import, and most sound needs none

        common = gcd(rate, SAMPLE_RATE)
        mono = resample_poly(mono, SAMPLE_RATE // common, rate // common)
    return torch.from_numpy(np.clip(mono, -1, 1).astype(np.float32)), note


def _blocks(sound: Any) -> Iterator[Any]:
    """The samples as float32 (frames, channels), a few million at a time."""
    while len(block := sound.read(max(BLOCK // sound.channels, 1), dtype="float32", always_2d=True)):
        yield block
