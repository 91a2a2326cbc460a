"""Pictures side by side in one PNG: what a generator draws, class by class, for a person to look at."""

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from fedloom.core.files import write_atomic

CELL = 48
"""Pixels that a picture's longer side has at least; smaller ones are enlarged by a whole number, without smoothing."""
_GAP = 2
_EMPTY = 128  # grey: a gap, or a place without a picture


def write_grid(pictures: Tensor, columns: int, path: Path) -> Path:
    """Write pictures uint8 (N, 3, H, W) as a PNG of `columns` a row, row by row (one row a class); returns its path.

    All rows are equally high, so that a page can name them beside the picture. Makes the folder. Raises ValueError for pictures
    of another kind, none, and no columns.
    """
    x = pictures.detach().cpu().numpy()
    if x.ndim != 4 or x.shape[1] != 3 or x.dtype != np.uint8 or not len(x) or columns < 1:
        raise ValueError(
            f"pictures are {x.dtype} {x.shape} in {columns} columns; uint8 (N, 3, H, W) and at least 1 of each fit."
        )
    _, _, tall, wide = x.shape
    times = max(1, -(-CELL // max(tall, wide)))
    high, broad = tall * times + 2 * _GAP, wide * times + 2 * _GAP
    rows = -(-len(x) // columns)
    page = np.full((rows * high, columns * broad, 3), _EMPTY, np.uint8)
    for i, picture in enumerate(x):
        top, left = i // columns * high + _GAP, i % columns * broad + _GAP
        large = picture.transpose(1, 2, 0).repeat(times, 0).repeat(times, 1)
        page[top : top + tall * times, left : left + wide * times] = large
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    out = io.BytesIO()
    Image.fromarray(page).save(out, "PNG", optimize=True)
    write_atomic(path, out.getvalue(), durable=False)
    return path


def write_classes(names: Sequence[str], folder: Path) -> None:
    """Write `classes.json`: the names of a grid's rows, from the top."""
    folder.mkdir(parents=True, exist_ok=True)
    data = json.dumps(list(names), ensure_ascii=False) + "\n"
    write_atomic(folder / "classes.json", data.encode(), durable=False)
