"""Pictures uint8 (N, 3, 16, 16): printed digits (public), handwritten digits (private), and Tabletop objects.

Both kinds of digits are light on dark. The fonts ship with matplotlib.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from fedloom.core.streams import numpy_stream
from fedloom.data.digits.names import DIGITS
from fedloom.data.pictures.pictures import enlarged
from fedloom.data.tabletop.objects import Combination, object_sample
from fedloom.data.tabletop.scene import SHAPES, TEXTURES, pairs_of

SIDE = 16
"""Pixels of a picture's side."""
FONTS = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "DejaVuSerif-Italic",
    "STIXGeneral",
    "STIXGeneralBol",
    "STIXGeneralItalic",
    "cmr10",
    "cmb10",
    "cmss10",
    "cmtt10",
)
_FINE = 6
"""Supersampling factor of a printed digit."""


def printed(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """uint8 (count, 3, 16, 16) and labels int64 (count,): label i mod 10, random font, place, rotation, size and stroke.

    Equal arguments give equal bytes; a longer series begins with the pictures of a shorter one.
    """
    labels = torch.arange(count) % len(DIGITS)
    pictures = [_print(int(label), seed, number) for number, label in enumerate(labels)]
    return (torch.stack(pictures) if pictures else torch.zeros(0, 3, SIDE, SIDE, dtype=torch.uint8)), labels


def _print(label: int, seed: int, number: int) -> Tensor:
    rng = numpy_stream(seed, "digits", "printed", number)
    side = SIDE * _FINE
    glyph = _glyph(FONTS[int(rng.integers(len(FONTS)))], label)
    # Handwritten digits fill their frame; the printed ones match that height within some pixels.
    height = rng.uniform(12.0, 15.5) * _FINE
    width = min(glyph.width * height / glyph.height * rng.uniform(0.85, 1.25), 15.0 * _FINE)
    sized = glyph.resize((max(int(width), 1), int(height)), Image.Resampling.BILINEAR)
    place = ((side - sized.width) / 2, (side - sized.height) / 2)
    shift = rng.uniform(-1.0, 1.0, size=2) * _FINE
    canvas = Image.new("L", (side, side))
    canvas.paste(sized, (int(place[0] + shift[0]), int(place[1] + shift[1])))
    canvas = canvas.rotate(float(rng.uniform(-10, 10)), Image.Resampling.BILINEAR)
    fine = np.asarray(_thickened(canvas, int(rng.integers(0, 3))), np.float64)
    pixels = fine.reshape(SIDE, _FINE, SIDE, _FINE).mean((1, 3)) * rng.uniform(0.8, 1.0)
    return torch.from_numpy(pixels.round().astype(np.uint8)).expand(3, -1, -1).contiguous()


def _thickened(picture: Any, steps: int) -> Any:
    """The picture with strokes wider by `steps` supersampled pixels on each side."""
    from PIL import ImageFilter

    return picture.filter(ImageFilter.MaxFilter(2 * steps + 1)) if steps else picture


@cache
def _glyph(font: str, label: int) -> Any:
    """A white digit cut to its bounding box, about 200 pixels high."""
    import matplotlib

    file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf"
    canvas = Image.new("L", (600, 600))
    ImageDraw.Draw(canvas).text((150, 150), str(label), fill=255, font=ImageFont.truetype(str(file), 280))
    return canvas.crop(canvas.getbbox())


def handwriting() -> tuple[Tensor, Tensor]:
    """scikit-learn's 1,797 digits of 8 x 8 pixels, enlarged: uint8 (1797, 3, 16, 16), labels int64, in the data's own order."""
    pictures, labels = _handwriting()
    return pictures.clone(), labels.clone()


@cache
def _handwriting() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    small = np.round(digits.images * (255 / 16)).astype(np.uint8)
    return torch.stack([enlarged(s, SIDE) for s in small]), torch.from_numpy(digits.target.astype(np.int64))


def tabletop_objects(count: int, seed: int, split: str, styles: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Pictures of one Tabletop object each, at half size: uint8 (count, 3, 16, 16), labels int64 (count,) into the six SHAPES.

    Label i mod 6; random colour and texture of `split`, styles in rotation. Raises ExperimentError for an unknown
    split or style.
    """
    pictures, labels = [], torch.arange(count) % len(SHAPES)
    for number, label in enumerate(labels):
        rng = numpy_stream(seed, "digits", "tabletop", split, number)
        colours = [colour for shape, colour in pairs_of(split) if shape == SHAPES[label]]
        colour = colours[int(rng.integers(len(colours)))]
        combination = Combination(SHAPES[label], colour, TEXTURES[int(rng.integers(len(TEXTURES)))])
        style = styles[number // len(SHAPES) % len(styles)]
        large = object_sample(seed, split, number, combination, style).modalities["image"]
        pictures.append(large.view(3, SIDE, 2, SIDE, 2).float().mean((2, 4)).round().to(torch.uint8))
    return (torch.stack(pictures) if pictures else torch.zeros(0, 3, SIDE, SIDE, dtype=torch.uint8)), labels
