import hashlib
import re
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.core.errors import ExperimentError
from fedloom.data.sample import Sample
from fedloom.data.tabletop import (
    COLOURS,
    KINDS,
    NOVEL_PAIRS,
    PAIRS,
    PRIVATE_STYLES,
    PRIVATE_VOICES,
    PUBLIC_PAIRS,
    PUBLIC_STYLES,
    PUBLIC_VOICES,
    QUESTION_KINDS,
    SHAPES,
    VOCABULARY,
    Scene,
    Tabletop,
    Thing,
)
from fedloom.data.tabletop.language import ask, caption, entailment, words

WORLD = Tabletop(0)
CUBE = Thing("cube", "red", "striped", "small", "hot")
BALL = Thing("ball", "blue", "plain", "large", "cold")
SCENE = Scene(CUBE, BALL, "spin")


def digest(sample: Sample) -> str:
    text = "|".join([sample.uid, sample.question, sample.answer, repr(sorted(sample.meta.items()))])
    data = b"".join(t.contiguous().numpy().tobytes() for t in sample.modalities.values())
    return hashlib.sha256(text.encode() + data).hexdigest()[:16]


# Change these only with a reason: everything trained on the world depends on the bytes.
GOLDEN: dict[tuple[str, int, str], str] = {
    ("public", 0, "image"): "9b2650800df01974",
    ("private", 1, "image"): "abef8263cf750c51",
    ("private", 2, "audio"): "85ca63589d18539f",
    ("public", 3, "depth"): "f07e08645fc4b20c",
    ("private", 4, "thermal"): "1acdfc7fe8c69dab",
    ("public", 5, "imu"): "8e6801961df1dda0",
    ("private", 6, "image+audio"): "7fe5478e3edc3d7e",
    ("public", 7, "entailment"): "bfd07f2cfe847727",
}


@pytest.mark.parametrize(("split", "index", "kind"), list(GOLDEN))
def test_golden_bytes(split: str, index: int, kind: str) -> None:
    assert digest(WORLD.sample(split, index, kind)) == GOLDEN[split, index, kind]


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_do_not_depend_on_call_order_or_instance(kind: str) -> None:
    forward = [digest(WORLD.sample("private", i, kind)) for i in range(6)]
    other = Tabletop(0)
    assert [digest(other.sample("private", i, kind)) for i in reversed(range(6))] == forward[::-1]
    assert len(set(forward)) == 6
    assert digest(Tabletop(1).sample("private", 0, kind)) != forward[0]


def test_a_drawn_choice_equals_the_same_choice_by_name() -> None:
    drawn = WORLD.sample("private", 7, "image+audio")
    named = WORLD.sample(
        "private",
        7,
        "image+audio",
        style=drawn.meta["style"],
        voice=drawn.meta["voice"],
        question=drawn.meta["question_kind"],
    )
    assert digest(drawn) == digest(named)


def test_pairs_form_a_latin_square() -> None:
    assert len(PAIRS) == 36
    assert len(NOVEL_PAIRS) == 12
    assert set(NOVEL_PAIRS) | set(PUBLIC_PAIRS) == set(PAIRS)
    assert set(Counter(s for s, _ in NOVEL_PAIRS).values()) == {2}
    assert set(Counter(c for _, c in NOVEL_PAIRS).values()) == {2}


def test_public_scenes_show_public_pairs_only_and_private_scenes_all() -> None:
    public = Counter(t.pair for i in range(1200) for t in WORLD.scene("public", i).things)
    private = Counter(t.pair for i in range(1200) for t in WORLD.scene("private", i).things)
    assert set(public) == set(PUBLIC_PAIRS)
    assert set(private) == set(PAIRS)
    assert min(public.values()) > 0.5 * 2400 / 24
    assert min(private.values()) > 0.5 * 2400 / 36
    assert any(WORLD.scene("private", i).novel for i in range(9))


def test_styles_and_voices_of_a_split_are_its_own_and_all_used() -> None:
    for split, styles, voices in (
        ("public", PUBLIC_STYLES, PUBLIC_VOICES),
        ("private", PRIVATE_STYLES, PRIVATE_VOICES),
    ):
        metas = [WORLD.sample(split, i, "image+audio").meta for i in range(60)]
        assert {m["style"] for m in metas} == set(styles)
        assert {m["voice"] for m in metas} == set(voices)
    assert not set(PUBLIC_STYLES) & set(PRIVATE_STYLES)
    assert not set(PUBLIC_VOICES) & set(PRIVATE_VOICES)


def true_answer(scene: Scene, question: str) -> str:
    """An independent reading of the question; fails if it names no thing or more than one."""

    def the(**attributes: str) -> tuple[Thing, str]:
        found = [
            (t, side)
            for t, side in zip(scene.things, ("left", "right"), strict=True)
            if all(getattr(t, k) == v for k, v in attributes.items())
        ]
        assert len(found) == 1, (question, scene)
        return found[0]

    if m := re.fullmatch(r"what colour is the (\w+)\?", question):
        return f"the {m[1]} is {the(shape=m[1])[0].colour}"
    if m := re.fullmatch(r"what pattern is the (\w+)\?", question):
        return f"the {m[1]} is {the(shape=m[1])[0].texture}"
    if m := re.fullmatch(r"how big is the (\w+)\?", question):
        return f"the {m[1]} is {the(shape=m[1])[0].size}"
    if m := re.fullmatch(r"what shape is (\w+)\?", question):
        return f"the {m[1]} one is a {the(colour=m[1])[0].shape}"
    if m := re.fullmatch(r"what is on the (left|right)\?", question):
        return f"a {getattr(scene, m[1]).shape} is on the {m[1]}"
    if m := re.fullmatch(r"where is the (\w+)\?", question):
        return f"the {m[1]} is on the {the(shape=m[1])[1]}"
    m = re.fullmatch(r"is there a (\w+) (\w+)\?", question)
    assert m is not None, question
    return "yes there is" if (m[2], m[1]) in [t.pair for t in scene.things] else "no there is not"


@pytest.mark.parametrize("kind", QUESTION_KINDS)
@given(index=st.integers(0, 10**6), split=st.sampled_from(["public", "private"]))
@settings(max_examples=40, deadline=None)
def test_answers_follow_from_the_scene(kind: str, index: int, split: str) -> None:
    sample = WORLD.sample(split, index, "text", question=kind)
    asked = sample.question.split(". ")[1]
    assert sample.meta["question_kind"] == kind
    assert sample.answer == true_answer(WORLD.scene(split, index), asked)


@pytest.mark.parametrize("split", ["public", "private"])
def test_exist_is_balanced_hard_and_not_told_by_the_pair_alone(split: str) -> None:
    yes, hard, no = Counter(), 0, Counter()
    for i in range(1500):
        sample = WORLD.sample(split, i, "text", question="exist")
        colour, shape = sample.question.rstrip("?").split()[-2:]
        assert split == "private" or (shape, colour) in PUBLIC_PAIRS
        scene = WORLD.scene(split, i)
        if sample.answer == "yes there is":
            yes[shape, colour] += 1
        else:
            no[shape, colour] += 1
            shapes, colours = {t.shape for t in scene.things}, {t.colour for t in scene.things}
            assert shape in shapes or colour in colours
            hard += shape in shapes and colour in colours
    assert 0.45 < yes.total() / 1500 < 0.55
    assert 0.3 < hard / no.total() < 0.8
    assert set(yes) == set(no)


def test_caption_worked_by_hand() -> None:
    assert caption(SCENE) == "a small red striped cube on the left and a large blue plain ball on the right"
    questions = {k: ask(SCENE, k, np.random.default_rng(0)) for k in QUESTION_KINDS}
    assert questions["colour"] == ("what colour is the ball?", "the ball is blue")
    assert questions["where"] == ("where is the ball?", "the ball is on the right")


def test_sensor_captions_say_what_the_sensor_knows_and_no_more() -> None:
    for i in range(30):
        scene = WORLD.scene("private", i)
        left, right = scene.things
        depth, thermal, imu = (WORLD.sample("private", i, k).answer for k in ("depth", "thermal", "imu"))
        assert (
            depth == f"a {left.size} {left.shape} on the left and a {right.size} {right.shape} on the right"
        )
        assert thermal == f"the left one is {left.warmth} and the right one is {right.warmth}"
        assert not set(words(depth)) & set(COLOURS)
        assert not set(words(thermal)) & {*COLOURS, *SHAPES}
        assert imu.startswith("the tray is ")
    assert len({WORLD.sample("private", i, "imu").answer for i in range(60)}) == 6


@given(index=st.integers(0, 10**6), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_entailment_labels_follow_from_the_premise(index: int, seed: int) -> None:
    scene = WORLD.scene("private", index)
    premise, hypothesis, label = entailment(scene, np.random.default_rng(seed))
    shape, value = words(hypothesis)[1], words(hypothesis)[-1]
    told = next(part for part in premise.split(" and ") if f" {shape} " in f"{part} ")
    if value in words(told):
        expected = "entailment"
    else:
        families = (COLOURS, ("plain", "striped", "dotted"), ("small", "large"))
        family = next(f for f in families if value in f)
        expected = "contradiction" if set(words(told)) & set(family) else "neutral"
    assert label == expected


def test_entailment_is_balanced_and_the_hypothesis_alone_tells_nothing() -> None:
    labels, by_value = Counter(), {}
    for i in range(3000):
        sample = WORLD.sample("public", i, "entailment")
        labels[sample.answer] += 1
        by_value.setdefault(words(sample.question.split(". ")[1])[-1], Counter())[sample.answer] += 1
    assert min(labels.values()) > 900
    for value, counts in by_value.items():
        assert max(counts.values()) / counts.total() < 0.5, (value, counts)


@pytest.mark.parametrize("kind", KINDS)
def test_texts_stay_within_the_vocabulary(kind: str) -> None:
    for i in range(80):
        sample = WORLD.sample("private", i, kind)
        assert {*words(sample.question), *words(sample.answer)} <= set(VOCABULARY)
        assert sample.question == sample.question.lower()


def test_written_text_of_audio_kinds_tells_nothing_of_the_spoken_question() -> None:
    for kind in ("audio", "image+audio", "transcript"):
        samples = [WORLD.sample("private", 3, kind, question=q) for q in QUESTION_KINDS]
        assert len({s.question for s in samples}) == 1
        assert len({s.meta["spoken"] for s in samples}) == len(QUESTION_KINDS)
    assert "ball" not in WORLD.sample("private", 3, "image+audio").question


def test_kinds_carry_their_modalities_and_shapes() -> None:
    expected = {
        "image": "image",
        "audio": "audio",
        "image+audio": "image+audio",
        "text": "text",
        "caption": "image",
        "transcript": "audio",
        "depth": "depth",
        "thermal": "thermal",
        "imu": "imu",
        "entailment": "text",
    }
    assert {k: WORLD.sample("public", 0, k).kind for k in KINDS} == expected
    shapes = {"image": (3, 48, 48), "depth": (1, 48, 48), "thermal": (1, 48, 48), "imu": (6, 200)}
    for name, shape in shapes.items():
        tensor = WORLD.sample("public", 0, name).modalities[name]
        assert tuple(tensor.shape) == shape
        assert tensor.dtype == (torch.uint8 if name == "image" else torch.float32)


def test_one_scene_keeps_its_photo_and_question_in_every_kind() -> None:
    image, caption_, both, text = (
        WORLD.sample("public", 11, k) for k in ("image", "caption", "image+audio", "text")
    )
    assert torch.equal(image.modalities["image"], caption_.modalities["image"])
    assert torch.equal(image.modalities["image"], both.modalities["image"])
    assert text.question.endswith(image.question)
    assert " ".join(words(image.question)) == both.meta["spoken"]
    assert len({image.uid, caption_.uid, both.uid, text.uid}) == 4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("secret", 0, "image"), "split 'secret'"),
        (("public", 0, "video"), "kind 'video'"),
        (("public", 0, "image", "neon"), "style 'neon'"),
        (("public", 0, "audio", None, "zoe"), "voice 'zoe'"),
        (("public", 0, "image", None, None, "age"), "question kind 'age'"),
        (("public", 0, "depth", None, None, "size"), "takes no question"),
    ],
)
def test_mistakes_are_named(arguments: tuple[str, ...], said: str) -> None:
    with pytest.raises(ExperimentError, match=said):
        WORLD.sample(*arguments)


def test_a_scene_needs_two_different_things() -> None:
    with pytest.raises(ExperimentError, match="differ"):
        Scene(CUBE, Thing("ball", "red", "plain", "large", "cold"), "still")
