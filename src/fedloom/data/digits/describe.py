"""Descriptions of pictures: facts measured on the pixels, phrased by a writer's vocabulary (a wording).

No phrase holds the name of a digit or of a Tabletop shape. Wording 0 is the public one, of captions: one phrase per fact, in a
fixed order, complete. The others are private: several phrases per fact, some sharing words with the public one, in random order,
some facts omitted.
"""

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from fedloom.core.streams import numpy_stream
from fedloom.data.digits.facts import facts

Wording = Mapping[str, tuple[str, ...]]

PUBLIC: Wording = {
    "nothing": ("an empty picture",),
    "loops-none": ("no loop",),
    "loops-single": ("a loop",),
    "loops-pair": ("a pair of loops",),
    "loop-high": ("in the head",),
    "loop-low": ("in the belly",),
    "loop-tall": ("over the whole body",),
    "bar-high": ("a roof",),
    "bar-middle": ("a belt",),
    "bar-low": ("a floor",),
    "narrow": ("slim",),
    "wide": ("broad",),
    "wall-left": ("a left wall",),
    "wall-centre": ("a spine",),
    "wall-right": ("a right wall",),
    "bay-north": ("a bay to the north",),
    "bay-northeast": ("a bay to the northeast",),
    "bay-east": ("a bay to the east",),
    "bay-southeast": ("a bay to the southeast",),
    "bay-south": ("a bay to the south",),
    "bay-southwest": ("a bay to the southwest",),
    "bay-west": ("a bay to the west",),
    "bay-northwest": ("a bay to the northwest",),
    "heavy-above": ("heavy above",),
    "heavy-below": ("heavy below",),
    "heavy-left": ("heavy on the left",),
    "heavy-right": ("heavy on the right",),
    "lean-left": ("falling back",),
    "lean-right": ("leaning forward",),
    "lean-not": ("upright",),
}

GEOMETER: Wording = {
    "nothing": ("a blank field",),
    "loops-none": ("an open curve", "it encloses no loop"),
    "loops-single": ("a closed curve", "it encloses a loop"),
    "loops-pair": ("a double closed curve", "a pair of closed loops"),
    "loop-high": ("with a closed head", "the closed part sits high"),
    "loop-low": ("with a closed belly", "the closed part sits low"),
    "loop-tall": ("closed over the whole height", "the closed part is the whole body"),
    "bar-high": ("a level stroke on top", "a straight roof"),
    "bar-middle": ("a level stroke across the middle", "a straight belt"),
    "bar-low": ("a level stroke at the base", "a straight floor"),
    "narrow": ("very thin", "slim"),
    "wide": ("stretched sideways", "broad"),
    "wall-left": ("a vertical along the left", "a left wall"),
    "wall-centre": ("a vertical through the centre", "a spine"),
    "wall-right": ("a vertical along the right", "a right wall"),
    "bay-north": ("open northward", "a concave side to the north"),
    "bay-northeast": ("open northeastward", "a concave side to the northeast"),
    "bay-east": ("open eastward", "a concave side to the east"),
    "bay-southeast": ("open southeastward", "a concave side to the southeast"),
    "bay-south": ("open southward", "a concave side to the south"),
    "bay-southwest": ("open southwestward", "a concave side to the southwest"),
    "bay-west": ("open westward", "a concave side to the west"),
    "bay-northwest": ("open northwestward", "a concave side to the northwest"),
    "heavy-above": ("its mass lies above", "top heavy"),
    "heavy-below": ("its mass lies below", "bottom heavy"),
    "heavy-left": ("its mass lies left",),
    "heavy-right": ("its mass lies right",),
    "lean-left": ("tilted backward", "falling back"),
    "lean-right": ("tilted forward", "leaning forward"),
    "lean-not": ("no tilt", "upright"),
}

STORYTELLER: Wording = {
    "nothing": ("nobody is there",),
    "loops-none": ("no eye at all", "no loop anywhere"),
    "loops-single": ("it has an eye", "a loop like a lake"),
    "loops-pair": ("it has a pair of eyes", "a pair of lakes"),
    "loop-high": ("up in the face", "in its head"),
    "loop-low": ("down in the tummy", "in its belly"),
    "loop-tall": ("as large as the whole body", "from head to heel"),
    "bar-high": ("wearing a flat hat", "under a roof"),
    "bar-middle": ("arms stretched out", "wearing a belt"),
    "bar-low": ("on a flat sole", "standing on the floor"),
    "narrow": ("slim as a reed", "a mere stick"),
    "wide": ("broad as a barn", "a stout fellow"),
    "wall-left": ("its back is a left wall", "a post on the left"),
    "wall-centre": ("a stiff spine", "a pole in the midst"),
    "wall-right": ("its front is a right wall", "a post on the right"),
    "bay-north": ("a mouth to the north", "drinks the rain"),
    "bay-northeast": ("a mouth to the northeast",),
    "bay-east": ("a mouth to the east",),
    "bay-southeast": ("a mouth to the southeast",),
    "bay-south": ("a mouth to the south", "legs apart"),
    "bay-southwest": ("a mouth to the southwest",),
    "bay-west": ("a mouth to the west",),
    "bay-northwest": ("a mouth to the northwest",),
    "heavy-above": ("big shoulders above", "heavy above"),
    "heavy-below": ("big feet below", "heavy below"),
    "heavy-left": ("with a load on the left",),
    "heavy-right": ("with a load on the right",),
    "lean-left": ("falling back in its chair",),
    "lean-right": ("leaning forward in a hurry",),
    "lean-not": ("standing upright",),
}

WORDINGS: tuple[Wording, ...] = (PUBLIC, GEOMETER, STORYTELLER)
"""The public vocabulary first, then the private ones."""

OMITTED = 0.1
"""Probability that a private wording omits a fact."""


def describe(picture: Tensor, rng: int | np.random.Generator, wording: int = 0) -> str:
    """A description of uint8 (3, H, W): phrases joined by commas. Deterministic in its arguments; `rng` is a seed or a generator.

    Wording 0 draws nothing. Raises IndexError for a wording that WORDINGS lacks.
    """
    words, fact_names = WORDINGS[wording], facts(picture)
    if wording == 0:
        return ", ".join(words[fact][0] for fact in fact_names)
    draw = rng if isinstance(rng, np.random.Generator) else numpy_stream(rng, "digits", "describe", wording)
    kept = [fact for fact in fact_names if draw.random() >= OMITTED] or list(fact_names[:1])
    phrases = [words[fact][int(draw.integers(len(words[fact])))] for fact in kept]
    return ", ".join(phrases[int(i)] for i in draw.permutation(len(phrases)))
