"""Shape facts about the one object in a picture, from its pixels: loops, bars, walls, bays, weight, slant.

The object is every pixel unlike the colour of the picture's border. A bay is background that ink encloses on three of four sides;
a compass point names the side on which it lies and opens.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from torch import Tensor

Mask = npt.NDArray[np.bool_]

BAYS = ("north", "northeast", "east", "southeast", "south", "southwest", "west", "northwest")
_LOOP, _BAY = 0.012, 0.045
"""Smallest loop and bay, as a share of the object's bounding box."""


def object_mask(picture: Tensor) -> Mask:
    """bool (h, w): the object of uint8 (3, H, W), cut to its bounding box; (1, 1) False if there is none."""
    pixels = picture.double().numpy()
    rim = np.concatenate([pixels[:, 0], pixels[:, -1], pixels[:, :, 0], pixels[:, :, -1]], axis=1)
    distance = np.abs(pixels - np.median(rim, axis=1)[:, None, None]).max(0)
    mask: Mask = distance > max(_threshold(distance), 20.0)
    if not mask.any():
        return np.zeros((1, 1), bool)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _threshold(values: npt.NDArray[np.float64]) -> float:
    """Otsu's threshold: the level that maximises the variance between the classes below and above it."""
    levels, ordered = np.arange(4.0, 252.0, 4.0), np.sort(values, axis=None)
    below = np.searchsorted(ordered, levels, side="right")
    above = ordered.sum() - np.concatenate([[0.0], ordered.cumsum()])[below]
    share = 1 - below / values.size
    inside = (share > 0) & (share < 1)
    between = np.zeros_like(levels)
    mean, part = values.mean(), share[inside]
    between[inside] = (mean * part - above[inside] / values.size) ** 2 / (part * (1 - part))
    return float(levels[between.argmax()])


def facts(picture: Tensor) -> tuple[str, ...]:
    """Names of the facts true of the object in uint8 (3, H, W), in a fixed order; keys of the vocabularies in `describe`."""
    mask = object_mask(picture)
    if not mask.any():
        return ("nothing",)
    return (*_loops(mask), *_bars(mask), *_walls(mask), *_bays(mask), *_weight(mask), *_slant(mask))


def _loops(mask: Mask) -> Iterator[str]:
    """The number of holes, and the place of a single one."""
    from scipy import ndimage

    holes, count = ndimage.label(~np.pad(mask, 1))
    sizes = ndimage.sum_labels(np.ones_like(holes), holes, np.arange(count + 1))
    loops = [n for n in range(1, count + 1) if n != holes[0, 0] and sizes[n] >= _LOOP * mask.size]
    yield ("loops-none", "loops-single", "loops-pair")[min(len(loops), 2)]
    if len(loops) == 1:
        rows = np.flatnonzero((holes == loops[0]).any(1)) - 0.5
        middle, tall = rows.mean() / mask.shape[0], len(rows) / mask.shape[0]
        yield "loop-tall" if tall > 0.5 else "loop-high" if middle < 0.5 else "loop-low"


def _longest(lines: Mask) -> int:
    """Length of the longest run of True in any row."""
    longest, run = 0, np.zeros(len(lines), np.int64)
    for column in lines.T:
        run = (run + 1) * column
        longest = max(longest, int(run.max(initial=0)))
    return longest


def _thirds(mask: Mask) -> tuple[Mask, Mask, Mask]:
    """The first, middle and last rows; the outer thirds are of one size."""
    third = round(len(mask) / 3)
    return mask[:third], mask[third : len(mask) - third], mask[len(mask) - third :]


def _bars(mask: Mask) -> Iterator[str]:
    """Horizontal strokes over most of the width, per third of the height."""
    height, width = mask.shape
    for name, part in zip(("bar-high", "bar-middle", "bar-low"), _thirds(mask), strict=True):
        if height >= 3 and _longest(part) >= 0.72 * width:
            yield name


def _walls(mask: Mask) -> Iterator[str]:
    """Vertical strokes over most of the height, per third of the width; and whether the object is narrow or wide."""
    height, width = mask.shape
    if width <= 0.42 * height:
        yield "narrow"
    elif width >= 0.9 * height:
        yield "wide"
    for name, part in zip(("wall-left", "wall-centre", "wall-right"), _thirds(mask.T), strict=True):
        if width >= 3 and _longest(part) >= 0.62 * height:
            yield name


def _bays(mask: Mask) -> Iterator[str]:
    """Background with ink on three sides, named by its open side and, for east and west, the half in which it lies."""
    height = mask.shape[0]
    up, left = np.logical_or.accumulate(mask, 0), np.logical_or.accumulate(mask, 1)
    down = np.logical_or.accumulate(mask[::-1], 0)[::-1]
    right = np.logical_or.accumulate(mask[:, ::-1], 1)[:, ::-1]
    upper = np.arange(height)[:, None] < height / 2
    opens = {
        "north": ~up & down & left & right,
        "south": up & ~down & left & right,
        "west": up & down & ~left & right,
        "east": up & down & left & ~right,
    }
    points = []
    for side, ground in opens.items():
        if side in ("north", "south"):
            points += [side] * bool(ground.sum() >= _BAY * mask.size)
            continue
        shares = [(ground & half).sum() / mask.size for half in (upper, ~upper)]
        if all(share >= _BAY for share in shares) and _joined(ground):
            points.append(side)
        else:
            points += [half + side for half, s in zip(("north", "south"), shares, strict=True) if s >= _BAY]
    yield from (f"bay-{point}" for point in BAYS if point in points)


def _joined(ground: Mask) -> bool:
    """Whether the background above and below the middle is connected."""
    middle = ground.shape[0] // 2
    return bool(ground[max(middle - 1, 0) : middle + 1].any(1).all())


def _weight(mask: Mask) -> Iterator[str]:
    """The halves that hold clearly more ink."""
    rows, columns = np.nonzero(mask)
    low, far = (rows + 0.5).mean() / mask.shape[0], (columns + 0.5).mean() / mask.shape[1]
    if abs(low - 0.5) > 0.035:
        yield "heavy-below" if low > 0.5 else "heavy-above"
    if abs(far - 0.5) > 0.06:
        yield "heavy-right" if far > 0.5 else "heavy-left"


def _slant(mask: Mask) -> Iterator[str]:
    """The slant, by the shear that would make the object upright, from its second moments."""
    rows, columns = np.nonzero(mask)
    spread = rows.var()
    shear = -np.mean((rows - rows.mean()) * (columns - columns.mean())) / spread if spread else 0.0
    yield "lean-right" if shear > 0.15 else "lean-left" if shear < -0.15 else "lean-not"
