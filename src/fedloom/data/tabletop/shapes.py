"""Masks of one object: coverage, texture, light and height.

Only exactly rounded operations run on arrays, so that the bytes do not depend on the machine.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Mask = NDArray[np.bool_]

SIDE = 48
"""Default side of an image in pixels."""

RADII = {"small": (7.2, 7.7), "large": (10.2, 10.8)}
"""Two radii per size, in pixels of a 48-pixel image; jitter chooses one."""

TURNS = (-14.0, -9.0, -4.0, 0.0, 4.0, 9.0, 14.0)
"""Rotations in degrees; jitter chooses one."""

SUPERSAMPLE = 4


@dataclass(frozen=True)
class Masks:
    """One object's masks in a tile: float32 (T, T) each.

    `cover` is the object's share of a pixel, `texture` that of the dark pattern, `rim` that of the outline,
    `light` the illumination (0.5 is even); all in [0, 1]. `height` is a relief in units of the object's radius.
    """

    cover: Floats
    texture: Floats
    rim: Floats
    light: Floats
    height: Floats


def _polygon(u: Doubles, v: Doubles, corners: Sequence[tuple[float, float]]) -> Mask:
    """Whether each point (u, v) lies inside the closed polygon, by the even-odd rule."""
    inside = np.zeros(u.shape, bool)
    for (x0, y0), (x1, y1) in zip(corners, [*corners[1:], corners[0]], strict=True):
        if y0 != y1:
            inside ^= ((y0 > v) != (y1 > v)) & (u < (x1 - x0) * (v - y0) / (y1 - y0) + x0)
    return inside


def _corners(radii: Sequence[float]) -> list[tuple[float, float]]:
    """A polygon's corners at even angles, the first at the top."""
    step = 2 * math.pi / len(radii)
    return [(r * math.sin(i * step), -r * math.cos(i * step)) for i, r in enumerate(radii)]


def _inside(shape: str, u: Doubles, v: Doubles, grow: float = 0.0) -> Mask:
    """Whether the shape covers each point (units of the radius); a negative `grow` shrinks it."""
    square = u * u + v * v
    if shape == "cube":
        return (np.abs(u) < 0.86 + grow) & (np.abs(v) < 0.86 + grow)
    if shape == "ball":
        return square < (0.98 + grow) ** 2
    if shape == "cone":
        return _polygon(u, v - 0.15, _corners([1.16 + 2 * grow] * 3))
    if shape == "ring":
        return (square < (1.02 + grow) ** 2) & (square > (0.44 - grow) ** 2)
    if shape == "star":
        return _polygon(u, v - 0.05, _corners([1.18 + 1.8 * grow, 0.52 + 1.2 * grow] * 5))
    wide, long = 0.36 + grow, 1.02 + grow
    return ((np.abs(u) < wide) & (np.abs(v) < long)) | ((np.abs(u) < long) & (np.abs(v) < wide))


def _texture(texture: str, u: Doubles, v: Doubles, radius: float) -> Mask:
    """Mask of the dark pattern: none, diagonal stripes, or a triangular grid of dots."""
    x, y = u * radius, v * radius  # pixels of a 48-pixel image, so that both sizes carry the same pattern
    if texture == "plain":
        return np.zeros(u.shape, bool)
    if texture == "striped":
        return ((x + y) / 4.6) % 1.0 < 0.48
    row = np.floor(y / 3.6 + 0.5)
    dx = (x / 4.2 + 0.5 * (row % 2) + 0.5) % 1.0 - 0.5
    dy = y / 3.6 - row
    return (dx * 4.2) ** 2 + (dy * 3.6) ** 2 < 1.35**2


def _height(shape: str, u: Doubles, v: Doubles) -> Doubles:
    """The relief seen from above: a dome, a pyramid, or a flat top."""
    square = u * u + v * v
    if shape == "ball":
        return np.sqrt(np.maximum(1 - square, 0.0))
    if shape == "cone":
        return np.maximum(1.2 - 1.1 * np.sqrt(square), 0.1)
    return np.full(u.shape, {"cube": 0.9, "ring": 0.45, "star": 0.3, "cross": 0.35}[shape])


@lru_cache(maxsize=2048)
def masks(shape: str, texture: str, size: str, fine: int, turn: int, pixels: int = SIDE) -> Masks:
    """The masks of one object in a tile around its centre, for a square image of `pixels`.

    `fine` is an index into RADII[size], `turn` one into TURNS. The arrays are shared: do not write to them.
    """
    scale = pixels / SIDE
    radius = RADII[size][fine]
    half = math.ceil(radius * 1.3 * scale)
    n = 2 * half * SUPERSAMPLE
    axis = ((np.arange(n) + 0.5) / SUPERSAMPLE - half) / (radius * scale)
    x, y = axis[None, :].repeat(n, 0), axis[:, None].repeat(n, 1)
    angle = math.radians(TURNS[turn])
    c, s = math.cos(angle), math.sin(angle)
    u, v = c * x + s * y, c * y - s * x
    inside = _inside(shape, u, v)
    core = _inside(shape, u, v, grow=-0.8 / radius)

    def small(values: Mask | Doubles) -> Floats:
        tiles = values.astype(np.float64).reshape(2 * half, SUPERSAMPLE, 2 * half, SUPERSAMPLE)
        out: Floats = tiles.mean((1, 3)).astype(np.float32)
        out.flags.writeable = False
        return out

    light = np.clip(0.5 - 0.28 * (x + y), 0.0, 1.0)
    return Masks(
        small(inside),
        small(inside & _texture(texture, u, v, radius)),
        small(inside & ~core),
        small(light),
        small(inside * _height(shape, u, v)),
    )
