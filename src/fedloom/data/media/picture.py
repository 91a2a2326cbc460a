"""Pictures, depth maps and thermal pictures: opening within bounds, and decoding to raw tensors."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, features

from fedloom.data.media.extra import missing, needed
from fedloom.data.media.settings import MediaSettings
from fedloom.data.media.sources import Decoded, head, named
from fedloom.data.media.structure import png_chunks

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1", b"hevc", b"hevx")
SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I")  # a 16-bit grey PNG is "I" in older Pillow
DEPTHS = (8, 10, 12, 14, 16)
"""Bits of grey that cameras and scanners write into 16-bit files."""
ORIENTATION = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
OWN_RANGE = "16-bit grey that states no depth, scaled by its own range (data.media.grey_bits fixes it)"
"""The note on a picture whose depth was guessed."""

FIRST_FRAME = "an animation or a file of several pictures; the first is taken"
"""The note on a file of which one picture is read."""


@contextmanager
def open_picture(source: Path | bytes, modality: str, settings: MediaSettings) -> Iterator[Image.Image]:
    """The undecoded picture of a file or its content. Raises ValueError for one out of bounds or of a wrong mode."""
    formats = (*FORMATS, *_format_by_library(source)) if modality == "image" else ("PNG",)
    with Image.open(source if isinstance(source, Path) else io.BytesIO(source), formats=formats) as picture:
        settings.check_size(*picture.size)
        if fault := _wrong_mode(picture, modality):
            raise ValueError(fault)
        yield picture


def _format_by_library(source: Path | bytes) -> tuple[str, ...]:
    """The format of a picture that needs a further library, which is then loaded. Raises MissingLibraryError."""
    begin = head(source, 12)
    if begin[4:8] != b"ftyp":
        return ()
    if begin[8:] in (b"avif", b"avis"):
        if not features.check("avif"):
            raise missing(named(source, "an AVIF picture"), "Pillow 11.3 or later with AVIF")
        return ("AVIF",)
    if begin[8:] in HEIF_BRANDS:
        needed("pillow_heif", "pillow-heif", named(source, "a HEIC picture")).register_heif_opener()
        return ("HEIF",)
    return ()


def decode_image(source: Path | bytes, settings: MediaSettings) -> Decoded:
    """uint8 (3, H, W), upright; transparent pixels lie on white. Raises many types for a broken file."""
    with open_picture(source, "image", settings) as opened:
        deep = opened.mode not in SIXTEEN_BIT and _bits_per_sample(opened, source) == 16
        picture, note = opened, None
        several = (
            opened.format != "MPO" and getattr(opened, "n_frames", 1) > 1
        )  # a phone's photo and its extras
        opened.load()
        if opened.mode in SIXTEEN_BIT:
            values = np.asarray(opened)
            bits, note = _grey_bits(opened, source, values, settings)
            picture = Image.fromarray((values >> (bits - 8)).clip(0, 255).astype(np.uint8))
        turn = UPRIGHT.get(opened.getexif().get(ORIENTATION, 1))
        if picture.has_transparency_data:
            picture = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
        pixels = picture.convert("RGB")
        if deep and np.asarray(pixels).max() < 16:
            raise ValueError(
                "its 16-bit colours use the lowest 12 bits alone and would become black; save it with 8 bits a channel"
            )
        if (
            turn is not None
        ):  # not ImageOps.exif_transpose, which writes the other tags anew and fails on odd ones
            pixels = pixels.transpose(turn)
        rows = torch.from_numpy(np.array(pixels))
        return rows.permute(2, 0, 1), _notes(note, several)  # no copy: processors read rows of pixels again


def decode_depth(source: Path | bytes, settings: MediaSettings) -> Decoded:
    """float32 (1, H, W) in metres; 0 where the camera saw nothing."""
    with open_picture(source, "depth", settings) as picture:
        return torch.from_numpy(np.array(picture, dtype=np.float32) / 1000).unsqueeze(0), ()


def decode_thermal(source: Path | bytes, settings: MediaSettings) -> Decoded:
    """float32 (1, H, W) in [0, 1], black to white."""
    with open_picture(source, "thermal", settings) as picture:
        values, bits, note = np.array(picture), 8, None
        if picture.mode in SIXTEEN_BIT:
            bits, note = _grey_bits(picture, source, values, settings)
        grey = (values.astype(np.float32) / (2**bits - 1)).clip(0, 1)
        return torch.from_numpy(grey).unsqueeze(0), _notes(note)


def _notes(depth: str | None, several: bool = False) -> tuple[str, ...]:
    """The notes on a picture, from that on its depth."""
    return (*((depth,) if depth else ()), *((FIRST_FRAME,) if several else ()))


def _wrong_mode(picture: Image.Image, modality: str) -> str | None:
    mode = picture.mode
    if modality == "depth" and mode not in SIXTEEN_BIT:
        return f"depth is a 16-bit grey PNG in millimetres, and this has mode {mode}"
    if modality == "thermal" and mode not in ("L", *SIXTEEN_BIT):
        return f"thermal is a grey PNG of 8 or 16 bits, and this has mode {mode}"
    if mode == "F" or (mode == "I" and picture.format != "PNG"):
        return "32-bit pixels have no agreed range; save it with 8 or 16 bits"
    return None


def _grey_bits(
    picture: Image.Image, source: Path | bytes, values: Any, settings: MediaSettings
) -> tuple[int, str | None]:
    """Bits of a 16-bit grey picture, 8 to 16, and a note where the file does not state them.

    In turn: the setting; what the file states, if its values fit; the least usual depth that holds its values. The PNG
    standard has stated depths below 16 stretched over all 16 bits, which values above the stated range show.
    """
    highest = int(values.max())
    if settings.grey_bits is not None:
        return settings.grey_bits, None
    stated = _stated_bits(picture, source)
    if stated is not None:
        return (stated if highest < 2**stated else 16), None
    bits = next((b for b in DEPTHS if highest < 2**b), 16)
    return bits, OWN_RANGE if bits < 16 else None


def _stated_bits(picture: Image.Image, source: Path | bytes) -> int | None:
    """The bits of grey that PNG's sBIT, or TIFF's BitsPerSample or MaxSampleValue, state; None for none or plain 16."""
    if picture.format == "PNG":
        bits = next((body[0] for name, body in _png_head(source) if name == b"sBIT" and body), 16)
    else:
        tags = getattr(picture, "tag_v2", {})
        highest = tags.get(281, 0)
        highest = highest[0] if isinstance(highest, tuple) else highest
        bits = int(highest).bit_length() or 16
        bits = min(bits, _bits_per_sample(picture, source) or 16)
    return max(bits, 8) if 0 < bits < 16 else None


def _bits_per_sample(picture: Image.Image, source: Path | bytes) -> int | None:
    """The bits of one sample in a PNG's or TIFF's header; None for other formats."""
    if picture.format == "PNG":
        return next((body[8] for name, body in _png_head(source) if name == b"IHDR"), None)
    bits = getattr(picture, "tag_v2", {}).get(258)
    return max(bits) if isinstance(bits, tuple) else bits


def _png_head(source: Path | bytes) -> Iterator[tuple[bytes, bytes]]:
    """The chunks of a PNG before its pixels."""
    with source.open("rb") if isinstance(source, Path) else io.BytesIO(source) as file:
        for name, body, _ in png_chunks(file):
            if name == b"IDAT":
                return
            yield name, body
