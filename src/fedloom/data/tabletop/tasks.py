"""Text classification on the Tabletop world: four tasks, each a small offline counterpart of a GLUE task.

entailment  MNLI   does the second sentence follow from the first, contradict it, or neither?
follows     RTE    does it follow or not?
same        QQP    do two captions, with the things in opposite order, describe the same table?
warm        SST-2  are the colours of the table warm (red, yellow, pink) or cold (green, cyan, blue)?
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fedloom.core.streams import numpy_stream
from fedloom.data.sample import Sample
from fedloom.data.tabletop import language
from fedloom.data.tabletop.scene import PAIRS, SIZES, TEXTURES, Pair, Scene, pairs_of
from fedloom.data.tabletop.world import Tabletop

TASKS: dict[str, tuple[str, ...]] = {
    "entailment": language.LABELS,
    "follows": ("entailment", "not_entailment"),
    "same": ("same", "different"),
    "warm": ("warm", "cold"),
}
"""The labels of each task, in the order of their numbers."""

WARM = ("red", "yellow", "pink")


def text_sample(world: Tabletop, split: str, index: int, task: str, label: str) -> Sample | None:
    """The example of scene `index` with this label; None if the scene has none (task warm alone).

    `question` is the first sentence, `meta["pair"]` the second or None, `answer` the label's word.
    """
    scene, pairs = world.scene(split, index), pairs_of(split)
    rng = numpy_stream(world.seed, "tabletop", split, index, task, label)
    first, second = language.caption(scene), None
    if task == "entailment":
        first, second, _ = language.entailment(scene, rng, pairs, label)
    elif task == "follows":
        other = ("contradiction", "neutral")[int(rng.integers(2))]
        first, second, _ = language.entailment(
            scene, rng, pairs, other if label == "not_entailment" else label
        )
    elif task == "same":
        second = language.caption_right_first(scene if label == "same" else altered(scene, rng, pairs))
    elif {t.colour in WARM for t in scene.things} != {label == "warm"}:
        return None
    uid = f"tabletop/{world.seed}/{split}/{index}/{task}"
    return Sample(uid, {}, first, label, {"pair": second, "labels": list(TASKS[task]), "task": task})


def altered(scene: Scene, rng: np.random.Generator, pairs: Sequence[Pair] = PAIRS) -> Scene:
    """The scene with another colour, texture or size of one thing; its colours stay within `pairs` and distinct."""
    side = int(rng.integers(2))
    attribute = ("colour", "texture", "size")[int(rng.integers(3))]
    thing, beside = scene.things[side], scene.things[1 - side]
    allowed = {
        "colour": [c for s, c in pairs if s == thing.shape and c != beside.colour],
        "texture": list(TEXTURES),
        "size": list(SIZES),
    }[attribute]
    others = [v for v in allowed if v != getattr(thing, attribute)]
    changed = replace(thing, **{attribute: others[int(rng.integers(len(others)))]})
    return replace(scene, left=changed) if side == 0 else replace(scene, right=changed)
