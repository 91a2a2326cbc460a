"""DICOM pictures, by pydicom: grey values rescaled, seen through the file's window, and inverted where it says so.

Messages hold no value of a file's own: those tell of a patient.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedloom.data.media.extra import needed
from fedloom.data.media.picture import FIRST_FRAME
from fedloom.data.media.settings import MediaSettings
from fedloom.data.media.sources import Decoded, head, named, opened

GREY = ("MONOCHROME1", "MONOCHROME2")
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
PALETTE = "PALETTE COLOR"
DEFLATED = b"1.2.840.10008.1.2.1.99"
NO_WINDOW = "DICOM without a window, scaled by its own range (data.media.grey_bits fixes it)"
"""The note on a grey picture whose range was guessed."""

Values = NDArray[Any]


def is_dicom(source: Path | bytes) -> bool:
    """Whether the file has DICOM's mark behind its preamble."""
    return head(source, 132)[128:] == b"DICM"


@contextmanager
def open_dicom(source: Path | bytes, settings: MediaSettings) -> Iterator[Any]:
    """The data set, its pixels undecoded. Raises ValueError for one out of bounds or without a picture that can be read."""
    pydicom = needed("pydicom", "pydicom", named(source, "a DICOM picture"))
    _silence(pydicom)
    if DEFLATED in head(source, 4096):
        raise ValueError("its DICOM is deflated as a whole; save it uncompressed")
    with opened(source) as file:
        try:
            data = pydicom.dcmread(file)
            fault = _fault(data)
        except Exception as error:  # pydicom raises many types, and their texts hold values
            raise ValueError(f"its DICOM cannot be read ({type(error).__name__})") from None
    if fault:
        raise ValueError(fault)
    settings.check_size(int(data.Columns), int(data.Rows))
    yield data


def decode_dicom(source: Path | bytes, settings: MediaSettings) -> Decoded:
    """uint8 (3, H, W) of the first frame; a note where there are several, or where the range was guessed.

    Grey: rescale slope and intercept, or the modality's table; then the first window of the file, or its table of values of
    interest, or `grey_bits`, or the picture's own range; MONOCHROME1 inverted. Colour has 8 bits, or is scaled to them.
    """
    with open_dicom(source, settings) as data:
        several = int(data.get("NumberOfFrames") or 1) > 1
        try:
            share, note = _shares(data, settings)
        except Exception as error:
            raise ValueError(f"its DICOM pixels cannot be decoded ({type(error).__name__})") from None
        pixels = (share.clip(0, 1) * 255).round().astype(np.uint8)
        if pixels.ndim == 2:
            pixels = np.stack([pixels] * 3, -1)
        notes = (*((note,) if note else ()), *((FIRST_FRAME,) if several else ()))
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous(), notes


@cache
def _silence(pydicom: Any) -> None:
    """Keep the library's warnings off the terminal: they show a patient's data."""
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    warnings.filterwarnings("ignore", module="pydicom")
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)


def _fault(data: Any) -> str | None:
    """The reason why these pixels are not read, from the header and the length of the pixels."""
    from pydicom.pixels import get_decoder

    if "PixelData" not in data:
        return "its DICOM holds no picture"
    rows, columns, bits = (int(data[name].value) for name in ("Rows", "Columns", "BitsAllocated"))
    stored, samples = int(data.BitsStored), int(data.SamplesPerPixel)
    frames = int(data.get("NumberOfFrames") or 1)
    if min(rows, columns, frames) < 1 or bits not in (1, 8, 16, 32) or not 1 <= stored <= bits:
        return "its DICOM header states an impossible size"
    kind = str(data.PhotometricInterpretation)
    if kind not in (*GREY, *COLOUR, PALETTE) or samples != (3 if kind in COLOUR else 1):
        return "its DICOM picture is neither grey nor RGB, YBR or of a palette; save it as MONOCHROME2 or RGB"
    syntax = data.file_meta.TransferSyntaxUID
    if syntax.is_compressed:
        try:
            usable = get_decoder(syntax).is_available
        except NotImplementedError:
            usable = False
        if not usable:
            known = syntax.name if syntax.name != syntax else "an unknown syntax"
            return (
                f"its pixels are compressed as {known}, which needs a decoder of pydicom's, such as pylibjpeg with "
                "pylibjpeg-libjpeg and pylibjpeg-openjpeg; install it, or save the file uncompressed"
            )
        return None
    samples = 2 if kind == "YBR_FULL_422" else samples  # two pixels share their colour
    expected = -(-rows * columns * samples * frames * bits // 8)
    if len(data.PixelData or b"") not in (expected, expected + expected % 2):
        return f"its pixels are damaged (not the {expected} bytes of its header)"
    return None


def _shares(data: Any, settings: MediaSettings) -> tuple[Values, str | None]:
    """The first frame as shares of white, (H, W) or (H, W, 3), and a note where the range was guessed."""
    from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi, pixel_array

    first: Values = pixel_array(data, index=0)
    kind = str(data.PhotometricInterpretation)
    if kind == PALETTE:
        colours = apply_color_lut(first, data)
        return colours[..., :3] / np.iinfo(colours.dtype).max, None
    if kind in COLOUR:
        return first / (2 ** int(data.BitsStored) - 1), None
    values, note = np.asarray(apply_modality_lut(first, data), np.float64), None
    if not np.isfinite(values).all():
        raise ValueError
    centre, width = (_first(data.get(name)) for name in ("WindowCenter", "WindowWidth"))
    if centre is not None and width is not None:
        share = _windowed(values, centre, width, str(data.get("VOILUTFunction") or "LINEAR"))
    elif data.get("VOILUTSequence"):
        bits = int(data.VOILUTSequence[0].LUTDescriptor[2])
        share = apply_voi(apply_modality_lut(first, data), data) / (2**bits - 1)
    elif settings.grey_bits is not None:
        share = first / (2**settings.grey_bits - 1)
    else:
        low, high = values.min(), values.max()
        share, note = (values - low) / max(high - low, 1e-9), NO_WINDOW
    return (1 - share.clip(0, 1) if kind == "MONOCHROME1" else share), note


def _windowed(values: Values, centre: float, width: float, function: str) -> Values:
    """Shares of white through a window, as DICOM defines its three functions (PS3.3, C.11.2.1)."""
    if not np.isfinite([centre, width]).all() or width <= 0:
        raise ValueError
    if function == "SIGMOID":
        return np.asarray(1 / (1 + np.exp(-4 * (values - centre) / width)))
    if function == "LINEAR_EXACT":
        return np.asarray((values - centre) / width + 0.5)
    return np.asarray((values - (centre - 0.5)) / max(width - 1, 1e-9) + 0.5)


def _first(value: Any) -> float | None:
    """The first of one number or several; None for none."""
    if value is None or value == "":
        return None
    listed = list(value) if not isinstance(value, (str, int, float)) else [value]
    return float(listed[0]) if listed else None
