"""Two data sets without download: Tabletop's single objects, and scikit-learn's handwritten digits."""

from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np
from torch import Tensor

from fedloom.data.digits.names import DIGITS
from fedloom.data.pictures.pictures import Picture, Pictures, enlarged
from fedloom.data.tabletop.objects import (
    COMBINATIONS,
    OBJECT_SIDE,
    Combination,
    class_name,
    object_sample,
)
from fedloom.data.tabletop.scene import COLOURS, SHAPES, TEXTURES
from fedloom.data.tabletop.styles import style_of


def _odd(combination: Combination) -> bool:
    """Whether the indices of its shape, colour and texture have an odd sum."""
    indices = (
        SHAPES.index(combination.shape),
        COLOURS.index(combination.colour),
        TEXTURES.index(combination.texture),
    )
    return sum(indices) % 2 == 1


TABLETOP_CLASSES: dict[str, tuple[Combination, ...]] = {
    "tabletop": tuple(sorted(COMBINATIONS, key=_odd)),
    "tabletop48": tuple(
        sorted((c for c in COMBINATIONS if c.shape in SHAPES[:4] and c.colour in COLOURS[:4]), key=_odd)
    ),
}
"""All 108 classes, and the 48 of four shapes and four colours, ordered so that base and novel half are balanced: each has every
shape and colour equally often, and as many combinations without a public picture (18 and 18; 7 and 8)."""


_TEST = 1_000_000
"""First number of the test pictures, above all training pictures."""

_EVERY = 5
"""Every fifth digit is a test picture: the data set has no split."""


def tabletop(name: str, styles: Sequence[str], train: int, test: int, seed: int) -> Pictures:
    """`train` and `test` private pictures of every class of `name`, cycling through these styles; a style is a domain.

    Raises ExperimentError for an unknown style.
    """
    for style in styles:
        style_of(style)

    combinations = TABLETOP_CLASSES[name]

    def part(first: int, count: int) -> tuple[Picture, ...]:
        return tuple(
            _object(seed, label, combination, first + i, styles[i % len(styles)])
            for label, combination in enumerate(combinations)
            for i in range(count)
        )

    return Pictures(tuple(map(class_name, combinations)), part(0, train), part(_TEST, test), tuple(styles))


def _object(seed: int, label: int, combination: Combination, index: int, style: str) -> Picture:
    uid = f"tabletop/{seed}/{class_name(combination).replace(' ', '-')}/{style}/{index}"
    return Picture(uid, label, partial(_render, seed, index, combination, style), style)


def _render(seed: int, index: int, combination: Combination, style: str) -> Tensor:
    return object_sample(seed, "private", index, combination, style).modalities["image"]


def digits() -> Pictures:
    """1,797 handwritten digits of 8 x 8 pixels, enlarged to 32 x 32: 1,438 for training and 359 for testing."""
    _, labels = _digits()
    pictures = [Picture(f"digits/{i}", int(label), partial(_digit, i)) for i, label in enumerate(labels)]
    return Pictures(
        DIGITS,
        tuple(p for i, p in enumerate(pictures) if i % _EVERY != _EVERY - 1),
        tuple(p for i, p in enumerate(pictures) if i % _EVERY == _EVERY - 1),
    )


@lru_cache(maxsize=1)
def _digits() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """(1797, 8, 8) uint8 and (1797,) labels."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return np.round(bunch.images * (255 / 16)).astype(np.uint8), bunch.target


def _digit(number: int) -> Tensor:
    return enlarged(_digits()[0][number], OBJECT_SIDE)
