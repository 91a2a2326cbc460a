"""Media files: accepted formats, checks before a run, and decoding to raw tensors."""

from collections.abc import Callable
from dataclasses import dataclass
from math import gcd
from pathlib import Path

import numpy as np
import soundfile
import torch
from PIL import Image, ImageOps
from torch import Tensor

from fedloom.data.sample import SAMPLE_RATE

PICTURES = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I")  # a 16-bit grey PNG is "I" in older Pillow


def check_media(modality: str, path: Path) -> None:
    """Raise ValueError, or what the decoder raises, unless `path` is a complete, usable file of the modality.

    Looks at the name, the header and the ends or checksums, so that a run fails before its first step.
    """
    kind = KINDS[modality]
    if path.suffix.lower() not in kind.suffixes:
        raise ValueError(f"its name should end in one of {', '.join(kind.suffixes)}")
    if path.stat().st_size == 0:
        raise ValueError("it is empty")
    kind.check(path)


def decode_media(modality: str, path: Path) -> Tensor:
    """The raw tensor of a file, in the shape, type and unit that `Sample` states for the modality."""
    return KINDS[modality].decode(path)


def _check_image(path: Path) -> None:
    with Image.open(path, formats=PICTURES) as picture:
        if picture.mode == "F" or (picture.mode == "I" and picture.format != "PNG"):
            raise ValueError("32-bit pixels have no agreed range; save it with 8 or 16 bits")
        _probe(picture)


def _check_depth(path: Path) -> None:
    with Image.open(path, formats=("PNG",)) as picture:
        if picture.mode not in SIXTEEN_BIT:
            raise ValueError(f"depth is a 16-bit grey PNG in millimetres, and this has mode {picture.mode}")
        _probe(picture)


def _check_thermal(path: Path) -> None:
    with Image.open(path, formats=("PNG",)) as picture:
        if picture.mode not in ("L", *SIXTEEN_BIT):
            raise ValueError(f"thermal is a grey PNG of 8 or 16 bits, and this has mode {picture.mode}")
        _probe(picture)


def _probe(picture: Image.Image) -> None:
    """Checksums where the format has them (PNG); else a decoding, for JPEG at an eighth of the size."""
    if picture.format == "PNG":
        picture.verify()
    else:
        picture.draft(None, (max(picture.width // 8, 1), max(picture.height // 8, 1)))
        picture.load()
        picture.getexif()


def _check_audio(path: Path) -> None:
    with soundfile.SoundFile(path) as sound:
        if sound.frames < 1:
            raise ValueError("it holds no sound")
        sound.seek(sound.frames - 1)
        if len(sound.read(1)) != 1:
            raise ValueError("it ends before its header says")
        if sound.subtype in ("FLOAT", "DOUBLE"):  # the only ones that can hold NaN
            sound.seek(0)
            if not all(np.isfinite(block).all() for block in sound.blocks(SAMPLE_RATE)):
                raise ValueError("it holds values that are not finite")


def _decode_image(path: Path) -> Tensor:
    """uint8 (3, H, W), upright; transparent pixels lie on white."""
    with Image.open(path, formats=PICTURES) as opened:
        picture = ImageOps.exif_transpose(opened)
    if picture.mode in SIXTEEN_BIT:
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1).contiguous()


def _decode_depth(path: Path) -> Tensor:
    """float32 (1, H, W) in metres; 0 where the camera saw nothing."""
    with Image.open(path, formats=("PNG",)) as picture:
        return torch.from_numpy(np.array(picture, dtype=np.float32) / 1000).unsqueeze(0)


def _decode_thermal(path: Path) -> Tensor:
    """float32 (1, H, W) in [0, 1], black to white."""
    with Image.open(path, formats=("PNG",)) as picture:
        white = 65535 if picture.mode in SIXTEEN_BIT else 255
        return torch.from_numpy(np.array(picture, dtype=np.float32) / white).unsqueeze(0)


def _decode_audio(path: Path) -> Tensor:
    """float32 (T,), channels averaged, 16 kHz, clipped to [-1, 1]."""
    sound, rate = soundfile.read(path, dtype="float32", always_2d=True)
    mono = sound.mean(axis=1)
    if rate != SAMPLE_RATE:
        from scipy.signal import resample_poly  # half a second to import, and most sound needs none

        common = gcd(rate, SAMPLE_RATE)
        mono = resample_poly(mono, SAMPLE_RATE // common, rate // common)
    return torch.from_numpy(np.clip(mono, -1, 1).astype(np.float32))


@dataclass(frozen=True)
class Kind:
    """File suffixes, check and decoder of one modality."""

    suffixes: tuple[str, ...]
    check: Callable[[Path], None]
    decode: Callable[[Path], Tensor]


KINDS: dict[str, Kind] = {
    "image": Kind(
        (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"), _check_image, _decode_image
    ),
    "audio": Kind((".wav", ".flac", ".ogg", ".mp3"), _check_audio, _decode_audio),
    "depth": Kind((".png",), _check_depth, _decode_depth),
    "thermal": Kind((".png",), _check_thermal, _decode_thermal),
}
