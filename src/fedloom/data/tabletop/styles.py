"""Rendering styles: appearance of the table and of the camera. A style is a domain (feature shift)."""

from dataclasses import dataclass

import numpy as np

from fedloom.core.errors import ExperimentError
from fedloom.data.tabletop.shapes import Floats

RGB = tuple[float, float, float]


@dataclass(frozen=True)
class Style:
    """A table, its light and its camera. Colours in [0, 1].

    `tint` mixes an object's colour with white; `dark` is the brightness of a pattern; `rim` darkens outlines;
    `shade` is the strength of the light from the top left, `shadow` that of the cast shadow. The
    camera multiplies by `cast`, mixes `fog` of `haze` into everything and adds noise of RMS `noise`.
    """

    table: RGB
    grain: str = "smooth"
    depth: float = 0.05
    tint: float = 0.0
    dark: float = 0.35
    rim: float = 0.15
    shade: float = 0.35
    shadow: float = 0.3
    cast: RGB = (1.0, 1.0, 1.0)
    fog: float = 0.0
    haze: RGB = (0.8, 0.82, 0.84)
    noise: float = 0.01


STYLES = {
    "studio": Style((0.86, 0.86, 0.85), shadow=0.22),
    "wood": Style((0.60, 0.42, 0.25), "planks", 0.10),
    "slate": Style((0.25, 0.28, 0.32), "mottled", 0.05, shadow=0.45, cast=(1.05, 1.05, 1.05)),
    "linen": Style((0.80, 0.75, 0.66), "weave", 0.08, shade=0.25),
    "sketch": Style(
        (0.95, 0.93, 0.88), "mottled", 0.03, tint=0.38, rim=0.85, shade=0.1, shadow=0.0, dark=0.30
    ),
    "dusk": Style(
        (0.48, 0.42, 0.46), "planks", 0.06, cast=(1.0, 0.74, 0.68), shade=0.5, shadow=0.5, noise=0.02
    ),
    "fog": Style((0.60, 0.62, 0.64), "smooth", 0.03, fog=0.45, shadow=0.2, noise=0.015),
    "grain": Style((0.52, 0.52, 0.50), "tiles", 0.07, noise=0.10, shade=0.2),
}
PUBLIC_STYLES = ("studio", "wood", "slate", "linen")
PRIVATE_STYLES = ("sketch", "dusk", "fog", "grain")

PALETTE: dict[str, RGB] = {
    "red": (0.88, 0.12, 0.10),
    "yellow": (0.96, 0.86, 0.10),
    "green": (0.12, 0.62, 0.16),
    "cyan": (0.10, 0.80, 0.86),
    "blue": (0.14, 0.22, 0.86),
    "pink": (0.96, 0.36, 0.76),
}


def style_of(name: str) -> Style:
    """The style called `name`. Raises ExperimentError for an unknown one."""
    if name not in STYLES:
        raise ExperimentError(f"unknown Tabletop style {name!r}; choose one of {', '.join(STYLES)}")
    return STYLES[name]


def table(style: Style, pixels: int, rng: np.random.Generator) -> Floats:
    """The empty table: float32 (pixels, pixels, 3). The grain scales with the picture."""
    at = (np.arange(pixels, dtype=np.float32) + 0.5) * np.float32(48 / pixels)
    phase, slope = rng.random(2, dtype=np.float32)
    y, x = at[:, None], at[None, :]
    if style.grain == "planks":
        wave = np.abs(((y + (x * 0.04 + phase * 12)) / 3.1) % 2 - 1)
        seam = ((y + phase * 12) % 12 < 1).astype(np.float32)
        field = wave - 0.5 - seam
    elif style.grain == "weave":
        field = ((x + phase * 4) % 3 < 1.5).astype(np.float32) - ((y + phase * 4) % 3 < 1.5)
    elif style.grain == "tiles":
        field = ((((x + phase * 16) // 8) + ((y + phase * 16) // 8)) % 2) * np.float32(2) - 1
    elif style.grain == "mottled":
        patches = rng.random((12, 12), dtype=np.float32) * 2 - 1
        rows = (np.arange(pixels) * 12) // pixels
        field = patches[rows[:, None], rows[None, :]]
    else:
        field = (x + y) * np.float32(1 / 48) - 1
    light = (slope - np.float32(0.5)) * np.float32(0.08 / 48) * (x - y)
    level: Floats = field.astype(np.float32) * np.float32(style.depth) + light
    return level[:, :, None] + np.array(style.table, np.float32)
