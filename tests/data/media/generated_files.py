"""Small valid files of every accepted format."""

import io
from functools import cache

import numpy as np
import soundfile
from PIL import Image

PICTURES = {
    "png": ("PNG", {}),
    "jpg": ("JPEG", {"quality": 85}),
    "progressive.jpg": ("JPEG", {"progressive": True}),
    "webp": ("WEBP", {}),
    "bmp": ("BMP", {}),
    "tiff": ("TIFF", {"compression": "tiff_lzw"}),
    "gif": ("GIF", {}),
}
SOUNDS = {"wav": "WAV", "flac": "FLAC", "ogg": "OGG", "mp3": "MP3"}
NAMES = (*PICTURES, *SOUNDS)


def modality(name: str) -> str:
    return "image" if name in PICTURES else "audio"


@cache
def content(name: str) -> bytes:
    """A picture of 64 x 48 pixels with gradients and noise, or half a second of a noisy tone."""
    rng, file = np.random.default_rng(0), io.BytesIO()
    if name in PICTURES:
        kind, options = PICTURES[name]
        Image.fromarray(pixels()).save(file, kind, **options)
    else:
        time = np.arange(8_000) / 16_000
        sound = 0.4 * np.sin(2 * np.pi * 440 * time) + 0.1 * rng.standard_normal(len(time))
        soundfile.write(file, sound, 16_000, format=SOUNDS[name])
    return file.getvalue()


def pixels() -> np.ndarray:
    y, x = np.mgrid[:48, :64]
    planes = [128 + 90 * np.sin(x / 9), 128 + 80 * np.cos(y / 7), 2 * (x + y)]
    noise = np.random.default_rng(0).normal(0, 9, (48, 64, 3))
    return (np.stack(planes, -1) + noise).clip(0, 255).astype(np.uint8)


def hole(data: bytes, at: int, filling: bytes) -> bytes:
    return data[:at] + filling[: len(data) - at] + data[at + len(filling) :]
