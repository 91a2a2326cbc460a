"""Texts about a scene, in a closed vocabulary: captions, questions and answers, entailment pairs."""

from collections.abc import Sequence

import numpy as np

from fedloom.core.errors import ExperimentError
from fedloom.data.tabletop.scene import (
    COLOURS,
    MOTIONS,
    PAIRS,
    SHAPES,
    SIDES,
    SIZES,
    TEXTURES,
    WARMTHS,
    Pair,
    Scene,
    Thing,
)


def words(text: str) -> list[str]:
    """The words of `text` without punctuation."""
    return text.replace("?", " ").replace(".", " ").split()


QUESTION_KINDS = ("colour", "texture", "size", "shape", "side", "where", "exist")
LABELS = ("entailment", "contradiction", "neutral")

DESCRIBE = "describe the table."
ANSWER_SPOKEN = "answer the spoken question."
WHAT_WAS_SAID = "what was said?"
ASK_DEPTH = "what does the depth sensor see?"
ASK_THERMAL = "how warm is each side?"
ASK_IMU = "what happens to the tray?"
FOLLOWS = "does it follow?"

MOTION_WORDS = dict(zip(MOTIONS, ("still", "pushed", "shaken", "spun", "lifted", "dropped"), strict=True))

_ASKING = "what colour is the pattern how big shape on where there a and"

SPOKEN_WORDS = tuple(sorted({*SHAPES, *COLOURS, *TEXTURES, *SIZES, *SIDES, *words(_ASKING)}))
"""Every word of every question and caption; the speech bank holds them all."""

_FRAMES = " ".join([ASK_DEPTH, ASK_THERMAL, ASK_IMU, DESCRIBE, ANSWER_SPOKEN, WHAT_WAS_SAID, FOLLOWS])

_OTHERS = {*WARMTHS, *MOTION_WORDS.values(), *LABELS, *words("yes no not one")}

VOCABULARY = tuple(sorted({*SPOKEN_WORDS, *_OTHERS, *words(_FRAMES)}))
"""Every word of any question or answer (lower case; the punctuation is "." and "?")."""


def describe(thing: Thing, *, without: Sequence[str] = ()) -> str:
    """A noun phrase such as "a small red striped cube"; attributes named in `without` are omitted."""
    parts = [getattr(thing, name) for name in ("size", "colour", "texture", "shape") if name not in without]
    return " ".join(["a", *parts])


def caption(scene: Scene) -> str:
    """A caption such as "a small red striped cube on the left and a large blue plain ball on the right"."""
    return f"{describe(scene.left)} on the left and {describe(scene.right)} on the right"


def caption_right_first(scene: Scene) -> str:
    """The caption in reverse order: "a large blue plain ball on the right and a small red striped cube on the left"."""
    return f"{describe(scene.right)} on the right and {describe(scene.left)} on the left"


WRITERS = {"plain": caption, "right_first": caption_right_first}
"""Caption styles: the same facts in different orders."""


def depth_caption(scene: Scene) -> str:
    """Caption of a depth map: sizes, shapes, sides."""
    left, right = (describe(t, without=("colour", "texture")) for t in scene.things)
    return f"{left} on the left and {right} on the right"


def thermal_caption(scene: Scene) -> str:
    """Caption of a thermal map: the warmth of each side."""
    return f"the left one is {scene.left.warmth} and the right one is {scene.right.warmth}"


def imu_caption(scene: Scene) -> str:
    """Caption of a motion trace: the tray's motion."""
    return f"the tray is {MOTION_WORDS[scene.motion]}"


def absent_pair(scene: Scene, rng: np.random.Generator, pairs: Sequence[Pair] = PAIRS) -> Pair:
    """A random pair of `pairs` absent from the scene whose shape or colour, or both, are present.

    Both (on different things) with probability 1/2 where possible. With the split's own `pairs`, the name
    of a pair alone never reveals the answer.
    """
    shown = {t.pair for t in scene.things}
    shapes, colours = {t.shape for t in scene.things}, {t.colour for t in scene.things}
    hard = [p for p in pairs if p not in shown and p[0] in shapes and p[1] in colours]
    near = [p for p in pairs if p not in shown and (p[0] in shapes) != (p[1] in colours)]
    pool = hard if hard and (not near or rng.random() < 0.5) else near
    return pool[int(rng.integers(len(pool)))]


def ask(scene: Scene, kind: str, rng: np.random.Generator, pairs: Sequence[Pair] = PAIRS) -> tuple[str, str]:
    """A question of `kind` about the scene, and its unique answer.

    `rng` draws the target thing; absent pairs of "exist" come from `pairs`. The two things differ in shape
    and colour, so that each identifies one of them. Raises ExperimentError for an unknown kind.
    """
    which = int(rng.integers(2))
    thing, side = scene.things[which], SIDES[which]
    name = thing.shape
    if kind == "colour":
        return f"what colour is the {name}?", f"the {name} is {thing.colour}"
    if kind == "texture":
        return f"what pattern is the {name}?", f"the {name} is {thing.texture}"
    if kind == "size":
        return f"how big is the {name}?", f"the {name} is {thing.size}"
    if kind == "shape":
        return f"what shape is {thing.colour}?", f"the {thing.colour} one is a {name}"
    if kind == "side":
        return f"what is on the {side}?", f"a {name} is on the {side}"
    if kind == "where":
        return f"where is the {name}?", f"the {name} is on the {side}"
    if kind == "exist":
        present = rng.random() < 0.5
        shape, colour = thing.pair if present else absent_pair(scene, rng, pairs)
        return f"is there a {colour} {shape}?", "yes there is" if present else "no there is not"
    raise ExperimentError(f"unknown question kind {kind!r}; choose one of {', '.join(QUESTION_KINDS)}")


def entailment(
    scene: Scene, rng: np.random.Generator, pairs: Sequence[Pair] = PAIRS, label: str | None = None
) -> tuple[str, str, str]:
    """A textual entailment example: (premise, hypothesis, label).

    The premise is a caption that omits some attributes; the hypothesis names one thing's colour, texture or
    size: the true one (entailment), another one (contradiction), or either one if the premise omits it
    (neutral). The label is uniform unless given, and neither sentence alone reveals it. Wrong colours stay
    within `pairs`. Raises ExperimentError for an unknown label.
    """
    label = LABELS[int(rng.integers(3))] if label is None else label
    if label not in LABELS:
        raise ExperimentError(f"unknown entailment label {label!r}; choose one of {', '.join(LABELS)}")
    target = int(rng.integers(2))
    attribute = ("colour", "texture", "size")[int(rng.integers(3))]
    dropped = [[a for a in ("colour", "texture", "size") if rng.random() < 1 / 3] for _ in SIDES]
    dropped[target] = [a for a in dropped[target] if a != attribute]
    if label == "neutral":
        dropped[target].append(attribute)
    thing = scene.things[target]
    value = getattr(thing, attribute)
    if label == "contradiction" or (label == "neutral" and rng.random() < 0.5):
        allowed = {
            "colour": [c for s, c in pairs if s == thing.shape],
            "texture": list(TEXTURES),
            "size": list(SIZES),
        }[attribute]
        others = [v for v in allowed if v != value]
        value = others[int(rng.integers(len(others)))]
    left, right = (describe(t, without=d) for t, d in zip(scene.things, dropped, strict=True))
    return f"{left} on the left and {right} on the right", f"the {thing.shape} is {value}", label
