"""A scene: two things on the table and the tray's motion; the ground truth of all modalities."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fedloom.core.errors import ExperimentError

SHAPES = ("cube", "ball", "cone", "ring", "star", "cross")
COLOURS = ("red", "yellow", "green", "cyan", "blue", "pink")
TEXTURES = ("plain", "striped", "dotted")
SIZES = ("small", "large")
WARMTHS = ("cold", "warm", "hot")
MOTIONS = ("still", "push", "shake", "spin", "lift", "drop")
SIDES = ("left", "right")
SPLITS = ("public", "private")

Pair = tuple[str, str]

PAIRS: tuple[Pair, ...] = tuple((s, c) for s in SHAPES for c in COLOURS)
"""All 36 (shape, colour) pairs."""

# A Latin square: every shape keeps four public colours and every colour four public shapes.
NOVEL_PAIRS: tuple[Pair, ...] = tuple(
    (s, c) for i, s in enumerate(SHAPES) for j, c in enumerate(COLOURS) if (j - i) % 6 in (1, 4)
)
"""The 12 pairs in private scenes alone."""

PUBLIC_PAIRS: tuple[Pair, ...] = tuple(p for p in PAIRS if p not in NOVEL_PAIRS)
"""The 24 pairs in scenes of both splits."""


@dataclass(frozen=True)
class Thing:
    """One object, its attributes out of SHAPES, COLOURS, TEXTURES, SIZES and WARMTHS."""

    shape: str
    colour: str
    texture: str
    size: str
    warmth: str

    @property
    def pair(self) -> Pair:
        """Its (shape, colour)."""
        return self.shape, self.colour


@dataclass(frozen=True)
class Scene:
    """A left and a right thing, which differ in shape and in colour, and the motion of their tray."""

    left: Thing
    right: Thing
    motion: str

    def __post_init__(self) -> None:
        if self.left.shape == self.right.shape or self.left.colour == self.right.colour:
            raise ExperimentError(
                f"a Tabletop scene needs two things that differ in shape and colour, "
                f"but got {self.left.pair} and {self.right.pair}"
            )

    @property
    def things(self) -> tuple[Thing, Thing]:
        """The left and the right thing."""
        return self.left, self.right

    @property
    def novel(self) -> bool:
        """Whether one of its pairs is held out from the public split."""
        return self.left.pair in NOVEL_PAIRS or self.right.pair in NOVEL_PAIRS

    def attributes(self) -> dict[str, Any]:
        """The scene as nested dictionaries of plain strings."""
        return asdict(self)


def pairs_of(split: str) -> tuple[Pair, ...]:
    """The pairs in scenes of `split`. Raises ExperimentError for an unknown split."""
    if split not in SPLITS:
        raise ExperimentError(f"unknown Tabletop split {split!r}; choose one of {', '.join(SPLITS)}")
    return PUBLIC_PAIRS if split == "public" else PAIRS


def draw_scene(rng: np.random.Generator, pairs: tuple[Pair, ...]) -> Scene:
    """A random scene: uniform pairs out of `pairs` (the second given the first) and uniform attributes."""
    first = pairs[int(rng.integers(len(pairs)))]
    rest = [p for p in pairs if p[0] != first[0] and p[1] != first[1]]
    if not rest:
        raise ExperimentError(
            f"no pair in {pairs} differs from {first} in shape and colour; pass at least two such pairs"
        )
    second = rest[int(rng.integers(len(rest)))]
    if rng.random() < 0.5:
        first, second = second, first
    draws = rng.integers((3, 3, 2, 2, 3, 3, 6))
    left, right = (
        Thing(*pair, TEXTURES[draws[i]], SIZES[draws[2 + i]], WARMTHS[draws[4 + i]])
        for i, pair in enumerate((first, second))
    )
    return Scene(left, right, MOTIONS[draws[6]])
