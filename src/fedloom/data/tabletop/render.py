"""A scene as an image, a depth map, a thermal map or a motion trace. Pure: equal arguments, equal bytes."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedloom.core.errors import ExperimentError
from fedloom.core.streams import numpy_stream
from fedloom.data.tabletop.scene import Scene, Thing
from fedloom.data.tabletop.shapes import RADII, SIDE, TURNS, Floats, Masks, masks
from fedloom.data.tabletop.styles import PALETTE, Style, style_of, table

TEMPERATURE = {"cold": 0.15, "warm": 0.5, "hot": 0.9}
"""A thing's level in the thermal map; the table's is 0.32."""

IMU_STEPS = 200
"""Steps of a motion trace: two seconds at 100 Hz."""

Placed = tuple[Thing, Masks, int, int]


def _place(things: Sequence[Thing], rng: np.random.Generator, pixels: int) -> list[Placed]:
    """Each thing's masks and its tile's top left corner: even columns, jittered place, rotation and radius."""
    scale = pixels / SIDE
    draws = rng.random((len(things), 4))
    placed = []
    for i, (thing, draw) in enumerate(zip(things, draws, strict=True)):
        m = masks(thing.shape, thing.texture, thing.size, int(draw[0] * 2), int(draw[1] * len(TURNS)), pixels)
        half = m.cover.shape[0] // 2
        free = 2.0 if thing.size == "small" else 0.6  # a large thing fills its half of the picture
        x = SIDE * (i + 0.5) / len(things) + (draw[2] * 2 - 1) * free
        y = SIDE / 2 + (draw[3] * 2 - 1) * 5
        placed.append((thing, m, round(y * scale) - half, round(x * scale) - half))
    return placed


def _cut(array: Floats, tile: Floats, top: int, left: int) -> tuple[Floats, Floats]:
    """The views of `array` and of `tile`, whose corner is (top, left), where they overlap."""
    side, n = array.shape[0], tile.shape[0]
    a, b, c, d = max(top, 0), min(top + n, side), max(left, 0), min(left + n, side)
    return array[a:b, c:d], tile[a - top : b - top, c - left : d - left]


def _draw(canvas: Floats, placed: Placed, style: Style) -> None:
    """Draw the shadow, then the object, onto the canvas."""
    thing, m, top, left = placed
    fall = round(1.5 * canvas.shape[0] / SIDE)
    if style.shadow:
        under, cover = _cut(canvas, m.cover, top + fall, left + fall)
        under *= 1 - np.float32(style.shadow) * cover[:, :, None]
    colour = np.array(PALETTE[thing.colour], np.float32)
    colour += (1 - colour) * np.float32(style.tint)
    ink = (1 - np.float32(1 - style.dark) * m.texture) * (1 - np.float32(style.rim) * m.rim)
    ink *= 1 + np.float32(style.shade) * (m.light - np.float32(0.5))
    under, tile = _cut(canvas, m.cover, top, left)
    _, ink = _cut(canvas, ink, top, left)
    under *= 1 - tile[:, :, None]
    under += (tile * ink)[:, :, None] * colour


def _photo(things: Sequence[Thing], style: str, rng: np.random.Generator, pixels: int) -> Tensor:
    """Table, things, camera: uint8 (3, pixels, pixels)."""
    if pixels < 8:
        raise ExperimentError(f"a Tabletop image needs at least 8 pixels a side, but got {pixels}")
    look = style_of(style)
    canvas = table(look, pixels, rng)
    for placed in _place(things, rng, pixels):
        _draw(canvas, placed, look)
    gain = np.float32(0.94 + 0.12 * rng.random())
    canvas *= np.array(look.cast, np.float32) * gain
    if look.fog:
        canvas += (np.array(look.haze, np.float32) - canvas) * np.float32(look.fog)
    noise = rng.random((pixels, pixels, 1), dtype=np.float32) - np.float32(0.5)
    canvas += noise * np.float32(look.noise * 12**0.5)
    np.clip(canvas, 0, 1, out=canvas)
    canvas *= 255
    canvas += 0.5
    return torch.from_numpy(np.ascontiguousarray(canvas.astype(np.uint8).transpose(2, 0, 1)))


def render_image(scene: Scene, style: str, seed: int, pixels: int = SIDE) -> Tensor:
    """The scene photographed in `style`: uint8 (3, pixels, pixels). ExperimentError for an unknown style."""
    return _photo(scene.things, style, numpy_stream(seed, "image", style), pixels)


def render_thing(thing: Thing, style: str, seed: int, pixels: int = SIDE) -> Tensor:
    """One thing in the middle of the table: uint8 (3, pixels, pixels), for classification and generation."""
    return _photo((thing,), style, numpy_stream(seed, "thing", style), pixels)


def render_depth(scene: Scene, seed: int, pixels: int = SIDE) -> Tensor:
    """Distance from a camera 1 m above the table: float32 (1, pixels, pixels), in metres."""
    rng = numpy_stream(seed, "depth")
    depth = np.full((pixels, pixels), 1.0, np.float32)
    for thing, m, top, left in _place(scene.things, rng, pixels):
        view, height = _cut(depth, m.height, top, left)
        view -= height * np.float32(RADII[thing.size][0] / 60)
    depth += (rng.random(depth.shape, dtype=np.float32) - np.float32(0.5)) * np.float32(0.01)
    return torch.from_numpy(depth[None])


def render_thermal(scene: Scene, seed: int, pixels: int = SIDE) -> Tensor:
    """The thermal map, warm or cold blobs on a mild table: float32 (1, pixels, pixels) in [0, 1]; no shapes, no colours."""
    rng = numpy_stream(seed, "thermal")
    heat = np.full((pixels, pixels), 0.32, np.float32)
    at = np.arange(pixels, dtype=np.float32) + np.float32(0.5)
    for thing, m, top, left in _place(scene.things, rng, pixels):
        half = m.cover.shape[0] // 2
        square = (at[:, None] - (top + half)) ** 2 + (at[None, :] - (left + half)) ** 2
        reach = np.float32((RADII[thing.size][0] * pixels / SIDE) ** 2)
        level = TEMPERATURE[thing.warmth] + (rng.random() - 0.5) * 0.08
        heat += np.float32(level - 0.32) / (1 + (square / reach) ** 2)
    heat += (rng.random(heat.shape, dtype=np.float32) - np.float32(0.5)) * np.float32(0.06)
    return torch.from_numpy(np.clip(heat, 0, 1)[None])


def _pulse(t: NDArray[np.float64], start: float, width: float) -> NDArray[np.float64]:
    """A smooth bump of height 1 on [start, start + width]."""
    z = np.clip((t - start) / width, 0, 1)
    return 16 * (z * (1 - z)) ** 2


def render_imu(scene: Scene, seed: int) -> Tensor:
    """The tray's motion at 100 Hz: float32 (6, 200), accelerometer (m/s^2, gravity on z) then gyroscope."""
    rng = numpy_stream(seed, "imu")
    t = np.arange(IMU_STEPS) / 100
    start, strength, angle, rate = rng.random(4)
    start, strength, rate = 0.2 + 0.5 * start, 0.75 + 0.5 * strength, 3 + 2 * rate
    trace = (rng.random((6, IMU_STEPS)) - 0.5) * np.array([[0.3]] * 3 + [[0.08]] * 3)
    trace[2] += 9.81
    across = np.array([[math.cos(2 * math.pi * angle)], [math.sin(2 * math.pi * angle)]])
    if scene.motion == "push":
        trace[:2] += across * strength * 3 * (_pulse(t, start, 0.4) - _pulse(t, start + 0.5, 0.4))
    elif scene.motion == "shake":
        trace[:2] += across * strength * 5 * np.sin(2 * math.pi * rate * t) * _pulse(t, start - 0.2, 1.5)
    elif scene.motion == "spin":
        turning = _pulse(t, start, 1.2) * strength * 4 * (1 if angle < 0.5 else -1)
        trace[5] += turning
        trace[0] += 0.2 * turning**2
    elif scene.motion == "lift":
        trace[2] += strength * 3 * (_pulse(t, start, 0.4) - _pulse(t, start + 0.5, 0.4))
    elif scene.motion == "drop":
        falling = (t >= start) & (t < start + 0.3)
        trace[2] = np.where(falling, trace[2] - 9.81, trace[2]) + strength * 30 * _pulse(t, start + 0.3, 0.1)
    # four decimals: a sensor's resolution, and the same bytes wherever sines differ in their last bit
    return torch.from_numpy(np.round(trace, 4).astype(np.float32))
