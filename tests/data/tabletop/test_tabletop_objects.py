"""Pictures of one object: classes, splits, bytes, and that one object is what they show."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from fedloom.core.errors import ExperimentError
from fedloom.data.tabletop import PRIVATE_STYLES, PUBLIC_STYLES, Tabletop
from fedloom.data.tabletop.objects import (
    COMBINATIONS,
    NOVEL_COMBINATIONS,
    PUBLIC_COMBINATIONS,
    Combination,
    class_name,
    object_sample,
)

CUBE = Combination("cube", "red", "striped")


def test_a_third_of_the_combinations_is_novel() -> None:
    assert (len(COMBINATIONS), len(PUBLIC_COMBINATIONS), len(NOVEL_COMBINATIONS)) == (108, 72, 36)
    assert {*PUBLIC_COMBINATIONS, *NOVEL_COMBINATIONS} == {*COMBINATIONS}
    assert len({class_name(c) for c in COMBINATIONS}) == 108
    for part, each in (("shape", 12), ("colour", 12), ("texture", 24)):
        counts = [getattr(c, part) for c in PUBLIC_COMBINATIONS]
        assert {counts.count(word) for word in counts} == {each}, f"public pictures show every {part}"


def test_no_public_scene_shows_a_novel_combination_either() -> None:
    novel = {(c.shape, c.colour, c.texture) for c in NOVEL_COMBINATIONS}
    scenes = [Tabletop(3).scene("public", i) for i in range(300)]
    assert not novel & {(t.shape, t.colour, t.texture) for scene in scenes for t in scene.things}


def test_a_novel_combination_has_no_public_picture() -> None:
    for combination in NOVEL_COMBINATIONS:
        with pytest.raises(ExperimentError, match="no public picture"):
            object_sample(0, "public", 0, combination, "wood")
        assert object_sample(0, "private", 0, combination, "wood").meta["novel"]


def test_equal_arguments_give_equal_bytes_and_others_do_not() -> None:
    one, same = (object_sample(4, "private", 2, CUBE, "dusk") for _ in range(2))
    assert one.uid == same.uid
    assert torch.equal(one.modalities["image"], same.modalities["image"])
    assert (one.modalities["image"].dtype, tuple(one.modalities["image"].shape)) == (torch.uint8, (3, 32, 32))
    assert (one.answer, one.question) == ("striped red cube", "")
    others = [
        object_sample(5, "private", 2, CUBE, "dusk"),
        object_sample(4, "public", 2, CUBE, "dusk"),
        object_sample(4, "private", 3, CUBE, "dusk"),
        object_sample(4, "private", 2, CUBE, "fog"),
    ]
    assert all(not torch.equal(one.modalities["image"], o.modalities["image"]) for o in others)
    assert len({one.uid, *(o.uid for o in others)}) == 5


def colourful(picture: torch.Tensor) -> np.ndarray:
    """Where the picture has a colour: in style studio the table is grey, and every object is not."""
    channels = picture.numpy().astype(int)
    return channels.max(0) - channels.min(0) > 24


def test_a_picture_shows_one_object_whose_place_and_size_vary() -> None:
    areas, centres = [], []
    for i, combination in enumerate(COMBINATIONS):
        shown = colourful(object_sample(1, "private", i, combination, "studio").modalities["image"])
        parts, count = ndimage.label(shown, structure=np.ones((3, 3)))
        sizes = ndimage.sum(shown, parts, range(1, count + 1))
        assert sizes.max() > 0.97 * sizes.sum(), f"one object, but {combination} has parts of {sizes}"
        if combination.shape == "cube":
            areas.append(sizes.max())
            centres.append(ndimage.center_of_mass(shown))
    assert min(areas) < 200 < max(areas)
    assert np.ptp(centres, axis=0).min() > 4, "the object moves both ways"


@pytest.mark.parametrize("style", [*PUBLIC_STYLES, *PRIVATE_STYLES])
def test_textures_can_be_told_apart_in_every_style(style: str) -> None:
    spreads = []
    for texture in ("plain", "striped", "dotted"):
        sample = object_sample(0, "private", 7, Combination("cube", "red", texture), style)
        red, green, blue = sample.modalities["image"].numpy().astype(float)
        x, y = (round(c) for c in ndimage.center_of_mass(np.clip(red - (green + blue) / 2 - 40, 0, None)))
        spreads.append(red[x - 3 : x + 4, y - 3 : y + 4].std())
    assert min(spreads[1:]) > 1.5 * spreads[0]


def test_an_unknown_style_or_split_is_one_sentence() -> None:
    with pytest.raises(ExperimentError, match="style 'neon'"):
        object_sample(0, "private", 0, CUBE, "neon")
    with pytest.raises(ExperimentError, match="split 'test'"):
        object_sample(0, "test", 0, CUBE, "wood")
