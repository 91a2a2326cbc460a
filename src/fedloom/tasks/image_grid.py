"""Picture grids: a generator's samples in rows (one class or prompt each), as one image file."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from fedloom.core.files import write_atomic

CELL = 64
"""Minimum pixels of a picture's longer side; smaller ones are enlarged by an integer factor, without smoothing."""
_GAP, _STRIP = 2, 16  # pixels around a picture; height of a row's label
_BACKGROUND = 224


def write_grid(pictures: Tensor, path: Path, labels: Sequence[str] | None = None) -> Path:
    """Write pictures uint8 (rows, columns, 3, H, W), each row under its label if any; returns the path.

    The path's suffix decides the format. All rows have equal height, so that a page can label them beside the image. Creates
    the folder. Raises ValueError for pictures of another shape or dtype, for none, and unless there is one label per row.
    """
    x = pictures.detach().cpu().numpy()
    if x.ndim != 5 or x.shape[2] != 3 or x.dtype != np.uint8 or not x.size:
        raise ValueError(
            f"pictures are {x.dtype} {x.shape}; uint8 (rows, columns, 3, H, W), none of them 0, fits."
        )
    if labels is not None and len(labels) != len(x):
        raise ValueError(f"there are {len(labels)} labels for {len(x)} rows")
    rows, columns, _, tall, wide = x.shape
    factor = max(1, -(-CELL // max(tall, wide)))
    strip = 0 if labels is None else _STRIP
    high, broad = tall * factor + 2 * _GAP + strip, wide * factor + 2 * _GAP
    font = ImageFont.load_default()
    width = max([columns * broad, *(int(font.getlength(label)) + 2 * _GAP for label in labels or ())])
    page = np.full((rows * high, width, 3), _BACKGROUND, np.uint8)
    for row, column in np.ndindex(rows, columns):
        top, left = row * high + strip + _GAP, column * broad + _GAP
        large = x[row, column].transpose(1, 2, 0).repeat(factor, 0).repeat(factor, 1)
        page[top : top + tall * factor, left : left + wide * factor] = large
    image = Image.fromarray(page)
    pen = ImageDraw.Draw(image)
    for row, label in enumerate(labels or ()):
        pen.text((_GAP, row * high + 2), label, fill="black", font=font)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    image.save(buffer, Image.registered_extensions()[path.suffix.lower()], optimize=True)
    write_atomic(path, buffer.getvalue(), durable=False)
    return path
