"""Sounds: bounds, and channels that cancel each other."""

import io
import tracemalloc

import numpy as np
import pytest
import soundfile
import torch

from fedloom.data.media import MediaSettings, check_media, decode_media
from fedloom.data.media.sound import OUT_OF_PHASE


def encoded(channels: np.ndarray, rate: int = 16_000, kind: str = "WAV") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, channels, rate, format=kind)
    return file.getvalue()


TONE = 0.5 * np.sin(np.arange(4_000) / 5)


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3"])
def test_of_channels_that_cancel_each_other_the_loudest_is_taken(kind: str) -> None:
    data = encoded(np.stack([TONE, -TONE * 1.01], 1), kind=kind)
    assert check_media("audio", data) == (OUT_OF_PHASE,)
    assert decode_media("audio", data).std() == pytest.approx(0.35, abs=0.03)
    assert torch.equal(decode_media("audio", data), decode_media("audio", data))


@pytest.mark.parametrize("other", [TONE, 0 * TONE, np.random.default_rng(0).normal(0, 0.3, 4_000)])
def test_other_channels_are_averaged_without_a_note(other: np.ndarray) -> None:
    data = encoded(np.stack([TONE, other], 1))
    assert check_media("audio", data) == ()
    expected = soundfile.read(io.BytesIO(data), dtype="float32")[0].mean(1)
    assert torch.equal(decode_media("audio", data), torch.from_numpy(expected))


def test_silence_stays_silence() -> None:
    assert check_media("audio", encoded(np.zeros((100, 2)))) == ()


@pytest.mark.parametrize(
    ("rate", "settings", "says"),
    [
        (1, {}, "its sample rate is 1 Hz, and data.media.lowest_rate"),
        (2_000_000_000, {}, "its sample rate is 2000000000 Hz"),
        (16_000, {"seconds": 0.1}, "it lasts 1 seconds, and data.media.seconds allows 0.1"),
    ],
)
@pytest.mark.parametrize("quick", [False, True])
def test_bounds_cost_no_memory(rate: int, settings: dict, says: str, quick: bool) -> None:
    data = encoded(np.zeros(16_000), rate)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=says):
            check_media("audio", data, MediaSettings(**settings), quick=quick)
        with pytest.raises(ValueError, match=says):
            decode_media("audio", data, MediaSettings(**settings))
        assert tracemalloc.get_traced_memory()[1] < 10 * len(data)
    finally:
        tracemalloc.stop()


def test_other_formats_of_sound_under_a_known_name() -> None:
    with pytest.raises(ValueError, match="it is a AIFF file; save it as WAV"):
        check_media("audio", encoded(TONE, kind="AIFF"))
