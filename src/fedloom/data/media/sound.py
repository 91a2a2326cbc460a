"""Sounds: opening within bounds, and decoding to mono at the project's sample rate."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from math import gcd
from pathlib import Path

import numpy as np
import torch

from fedloom.data.media.parts import Part, bounds
from fedloom.data.media.settings import MediaSettings
from fedloom.data.media.sound_files import OpenSound, open_container, open_plain
from fedloom.data.media.sources import Decoded, is_container
from fedloom.data.sample import SAMPLE_RATE

CANCELLED = 0.01
"""Energy of the channels' mean, as a share of the channels' own, below which they cancel each other."""
OUT_OF_PHASE = "sound whose channels cancel each other; its loudest channel is taken"
"""The note on a sound of which one channel was taken."""
SURROUND = "sound of more than two channels; the mean of all is taken, that of low frequencies too"
"""The note on a sound such as one of 5.1 channels."""


@contextmanager
def open_sound(source: Path | bytes, settings: MediaSettings) -> Iterator[OpenSound]:
    """The undecoded sound of a file or its content. Raises ValueError for one out of bounds, or without sound."""
    opened: AbstractContextManager[OpenSound] = (open_container if is_container(source) else open_plain)(
        source
    )
    with opened as sound:
        if sound.frames < 1:
            raise ValueError("it holds no sound")
        if not settings.lowest_rate <= sound.rate <= settings.highest_rate:
            raise ValueError(
                f"its sample rate is {sound.rate} Hz, and data.media.lowest_rate and highest_rate allow "
                f"{settings.lowest_rate} to {settings.highest_rate} Hz"
            )
        settings.check_seconds(sound.frames / sound.rate)
        yield sound


def seconds(sound: OpenSound) -> float:
    """The length of an opened sound."""
    return sound.frames / sound.rate


def decode_audio(source: Path | bytes, settings: MediaSettings, part: Part) -> Decoded:
    """float32 (T,), channels averaged, 16 kHz, clipped to [-1, 1]; a note if the loudest channel stands for all.

    Raises ValueError for values that are not finite, and for a length other than the header's.
    """
    with open_sound(source, settings) as sound:
        rate, mean, energies = sound.rate, [], np.zeros(sound.channels)
        start, stop = bounds(sound.frames, part)
        for block in sound.blocks(start, stop):
            mean.append(block.mean(axis=1))
            energies += np.square(block, dtype=np.float64).sum(axis=0)
        if not np.isfinite(energies).all():
            raise ValueError("it holds values that are not finite")
        decoded = sum(map(len, mean))
        if abs(decoded - (stop - start)) > sound.slack or not decoded:
            raise ValueError(f"it holds {start + decoded} samples, and its header says {sound.frames}")
    mono = np.concatenate(mean)
    notes = (SURROUND,) if len(energies) > 2 else ()
    if len(energies) > 1 and np.square(mono, dtype=np.float64).sum() < CANCELLED * energies.mean():
        with open_sound(source, settings) as sound:
            loudest = int(energies.argmax())
            mono, notes = np.concatenate([b[:, loudest] for b in sound.blocks(start, stop)]), (OUT_OF_PHASE,)
    if rate != SAMPLE_RATE:
        from scipy.signal import resample_poly  # half a second to import, and most sound needs none

        common = gcd(rate, SAMPLE_RATE)
        mono = resample_poly(mono, SAMPLE_RATE // common, rate // common)
    return torch.from_numpy(np.clip(mono, -1, 1).astype(np.float32)), notes
