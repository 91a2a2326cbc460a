"""Pictures of one object each, for image classification: a class is a combination of shape, colour and texture.

A picture is a crop of 32 x 32 pixels around a single thing on the table; size, place, rotation and light vary.
"""

from dataclasses import dataclass

from fedloom.core.errors import ExperimentError
from fedloom.core.streams import numpy_stream, stream_seed
from fedloom.data.sample import Sample
from fedloom.data.tabletop.render import render_thing
from fedloom.data.tabletop.scene import COLOURS, NOVEL_PAIRS, SHAPES, SIZES, TEXTURES, Thing, pairs_of
from fedloom.data.tabletop.shapes import SIDE

OBJECT_SIDE = 32
"""Pixels of an object picture's side."""

_SHIFT = 3
"""Largest horizontal shift of the crop in pixels; the renderer jitters a lone thing vertically."""


@dataclass(frozen=True, order=True)
class Combination:
    """A class: a shape, colour and texture out of SHAPES, COLOURS and TEXTURES."""

    shape: str
    colour: str
    texture: str

    @property
    def novel(self) -> bool:
        """Whether it is held out from all public pictures, of scenes and of single objects."""
        return (self.shape, self.colour) in NOVEL_PAIRS


COMBINATIONS: tuple[Combination, ...] = tuple(
    Combination(s, c, t) for s in SHAPES for c in COLOURS for t in TEXTURES
)
"""All 108 combinations of 6 shapes, 6 colours and 3 textures."""

PUBLIC_COMBINATIONS: tuple[Combination, ...] = tuple(c for c in COMBINATIONS if not c.novel)
"""The 72 combinations in both splits: those of PUBLIC_PAIRS."""

NOVEL_COMBINATIONS: tuple[Combination, ...] = tuple(c for c in COMBINATIONS if c.novel)
"""The 36 combinations in the private split alone: those of NOVEL_PAIRS, absent from public scenes as well."""


def class_name(combination: Combination) -> str:
    """The class name, such as "striped red cube"."""
    return f"{combination.texture} {combination.colour} {combination.shape}"


def object_sample(seed: int, split: str, index: int, combination: Combination, style: str) -> Sample:
    """Picture number `index` of `combination` in `style`: uint8 (3, 32, 32); the answer is its class name.

    Equal arguments give equal bytes. meta: split, index, style, combination (three words), novel.

    Raises ExperimentError for an unknown split or style, and for a public picture of a novel combination.
    """
    if (combination.shape, combination.colour) not in pairs_of(split):
        raise ExperimentError(
            f"no {split} picture shows a {class_name(combination)}; ask for one of PUBLIC_COMBINATIONS, or for split private"
        )
    name = class_name(combination)
    where = ("tabletop-object", split, index, name)
    size = SIZES[int(numpy_stream(seed, *where, "size").integers(len(SIZES)))]
    thing = Thing(combination.shape, combination.colour, combination.texture, size, "warm")
    photo = render_thing(thing, style, stream_seed(seed, *where, "render"))
    top = (SIDE - OBJECT_SIDE) // 2
    left = top + int(numpy_stream(seed, *where, "place").integers(-_SHIFT, _SHIFT + 1))
    picture = photo[:, top : top + OBJECT_SIDE, left : left + OBJECT_SIDE].contiguous()
    meta = {
        "split": split,
        "index": index,
        "style": style,
        "combination": (combination.shape, combination.colour, combination.texture),
        "novel": combination.novel,
    }
    uid = f"tabletop/{seed}/{split}/object/{name.replace(' ', '-')}/{style}/{index}"
    return Sample(uid, {"image": picture}, "", name, meta)
