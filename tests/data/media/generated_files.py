"""Small valid files of every accepted format."""

import io
from functools import cache

import numpy as np
import soundfile
from PIL import Image
from pillow_heif import register_heif_opener

from tests.data.media.recordings import sound

register_heif_opener()

PICTURES = {
    "png": ("PNG", {}),
    "jpg": ("JPEG", {"quality": 85}),
    "progressive.jpg": ("JPEG", {"progressive": True}),
    "webp": ("WEBP", {}),
    "bmp": ("BMP", {}),
    "tiff": ("TIFF", {"compression": "tiff_lzw"}),
    "gif": ("GIF", {}),
    "jfif": ("JPEG", {"quality": 85}),
    "heic": ("HEIF", {}),
    "avif": ("AVIF", {}),
}
SOUNDS = {
    "wav": "WAV",
    "flac": "FLAC",
    "ogg": "OGG",
    "mp3": "MP3",
    "opus": "OGG",
    "m4a": "ipod",
    "aac": "adts",
}
NAMES = (*PICTURES, *SOUNDS)


def modality(name: str) -> str:
    return "image" if name in PICTURES else "audio"


@cache
def content(name: str) -> bytes:
    """A picture of 64 x 48 pixels with gradients and noise, or half a second of a noisy tone."""
    if name in ("m4a", "aac"):
        return sound(SOUNDS[name], seconds=0.5)
    rng, file = np.random.default_rng(0), io.BytesIO()
    if name in PICTURES:
        kind, options = PICTURES[name]
        Image.fromarray(pixels()).save(file, kind, **options)
    else:
        time = np.arange(8_000) / 16_000
        wave = 0.4 * np.sin(2 * np.pi * 440 * time) + 0.1 * rng.standard_normal(len(time))
        subtype = "OPUS" if name == "opus" else None
        soundfile.write(file, wave, 16_000, format=SOUNDS[name], subtype=subtype)
    return file.getvalue()


def pixels() -> np.ndarray:
    y, x = np.mgrid[:48, :64]
    planes = [128 + 90 * np.sin(x / 9), 128 + 80 * np.cos(y / 7), 2 * (x + y)]
    noise = np.random.default_rng(0).normal(0, 9, (48, 64, 3))
    return (np.stack(planes, -1) + noise).clip(0, 255).astype(np.uint8)


def hole(data: bytes, at: int, filling: bytes) -> bytes:
    return data[:at] + filling[: len(data) - at] + data[at + len(filling) :]
