"""Pictures and sounds from Python become what a file of them would be, or are refused in one clause."""

import numpy as np
import pytest
import torch
from PIL import Image

from fedloom.data.media import decode_media
from fedloom.data.media.given import picture_source, sound_source

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (5, 7, 3), np.uint8)
WAVE = RNG.uniform(-1, 1, 1600)


def pixels(value) -> np.ndarray:
    return decode_media("image", picture_source(value)).permute(1, 2, 0).numpy()


@pytest.mark.parametrize(
    "value",
    [PIXELS, PIXELS.transpose(2, 0, 1), torch.from_numpy(PIXELS), Image.fromarray(PIXELS)],
    ids=["HWC", "CHW", "tensor", "PIL"],
)
def test_a_picture_keeps_every_pixel(value) -> None:
    assert (pixels(value) == PIXELS).all()


def test_grey_modes_and_a_phones_orientation_are_read_as_in_files() -> None:
    assert (pixels(PIXELS[:, :, 0]) == PIXELS[:, :, :1]).all()
    assert pixels(Image.fromarray(PIXELS).convert("CMYK")).shape == (5, 7, 3)
    turned = Image.fromarray(PIXELS)
    turned.getexif()[0x0112] = 3
    assert (pixels(turned) == PIXELS[::-1, ::-1]).all()


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (PIXELS / 255, "is an array of float64; give uint8"),
        (np.zeros((3, 9, 3), np.uint8), "does not tell whether channels come first or last"),
        (np.zeros((2, 9, 9), np.uint8), "and a picture has"),
        (Image.new("F", (4, 4)), "a picture of floats"),
        (7, "and is a int"),
    ],
)
def test_a_picture_that_may_mean_two_things_is_refused(value, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        picture_source(value)


def sound(value, rate: int = 16000) -> np.ndarray:
    return decode_media("audio", sound_source(value, rate)).numpy()


def test_a_sound_of_floats_and_of_int16_is_the_same() -> None:
    whole = (WAVE * 32767).astype(np.int16)
    np.testing.assert_allclose(sound(WAVE), WAVE, atol=1e-6)
    np.testing.assert_allclose(sound(whole), whole / 32768, atol=1e-6)


def test_channels_are_averaged_on_either_side_and_other_rates_resampled() -> None:
    two = np.stack([WAVE, WAVE * 0.5])
    np.testing.assert_allclose(sound(two), WAVE * 0.75, atol=1e-6)
    np.testing.assert_allclose(sound(two.T), WAVE * 0.75, atol=1e-6)
    assert sound(WAVE, 8000).shape == (3200,)


@pytest.mark.parametrize(
    ("value", "rate", "says"),
    [
        (WAVE, None, "needs its rate"),
        (WAVE, 0, "has the rate 0"),
        (WAVE, 16000.5, "has the rate 16000.5"),
        (WAVE, 1 << 32, "has the rate 4294967296"),
        (WAVE * 3000, 16000, "floats lie in"),
        (WAVE.astype(np.int32), 16000, "is an array of int32; give int16"),
        (WAVE[:16].reshape(4, 4), 16000, "does not tell time from channels"),
        (np.full(9, np.nan), 16000, "not finite"),
        (WAVE[:0], 16000, "has the shape"),
        ("a.wav", 16000, "states its own rate"),
    ],
)
def test_a_sound_that_may_mean_two_things_is_refused(value, rate, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        sound_source(value, rate)
