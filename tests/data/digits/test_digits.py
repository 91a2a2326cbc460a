"""The digits' world: pictures that repeat, words that follow from pixels and name no class, sounds that follow the rows."""

import numpy as np
import pytest
import torch

from fedloom.core.errors import ExperimentError
from fedloom.data.digits import (
    DIGITS,
    WORDINGS,
    describe,
    facts,
    handwriting,
    mask_names,
    printed,
    sonify,
    tabletop_objects,
)
from fedloom.data.digits.sound import HIGHEST, LOWEST, RATE
from fedloom.data.tabletop.scene import SHAPES


def drawn(*rows: str) -> torch.Tensor:
    """A picture of # in light on dark, with a border of one pixel."""
    ink = np.array([[c == "#" for c in row] for row in rows])
    grey = np.pad(ink, 1).astype(np.uint8) * 220 + 10
    return torch.from_numpy(grey).expand(3, -1, -1).contiguous()


SEVEN = drawn("######", "#####.", "...##.", "..##..", "..##..", ".##...", ".##...", ".##...")
SIX = drawn("..###.", ".#....", "#.....", "#.....", "#####.", "#....#", "#....#", "#....#", ".####.")


def test_what_is_said_follows_from_the_form() -> None:
    assert facts(SIX)[:3] == ("loops-single", "loop-low", "bar-middle")
    assert "bay-northeast" in facts(SIX)
    assert "heavy-below" in facts(SIX)
    assert facts(SEVEN)[:2] == ("loops-none", "bar-high")
    assert {"bay-west", "bay-northwest"} & set(facts(SEVEN))
    assert "heavy-above" in facts(SEVEN)
    stroke = drawn("....##", "....##", "...##.", "..##..", ".##...", "##....")
    assert "lean-right" in facts(stroke)
    assert "lean-left" in facts(stroke.flip(2))
    eight = drawn(".###.", "#...#", "#...#", ".###.", "#...#", "#...#", ".###.")
    assert facts(eight)[0] == "loops-pair"
    assert {"bay-north", "bay-south"} <= set(
        facts(drawn("#..#", "#..#", "#..#", "####", "#..#", "#..#", "#..#"))
    )
    assert {"narrow", "lean-not"} <= set(facts(drawn(*["##"] * 9)))
    assert describe(drawn("....", "...."), 0) == "an empty picture"


def test_turning_a_picture_turns_its_bays_and_walls() -> None:
    mirrored = {"left": "right", "right": "left", "east": "west", "west": "east"}

    def mirror(name: str) -> str:
        for one, other in mirrored.items():
            if name.endswith(one):
                return name.removesuffix(one) + other
        return name

    for picture in printed(40, 5)[0]:
        assert sorted(map(mirror, facts(picture))) == sorted(facts(picture.flip(2)))


def test_light_and_ground_do_not_matter() -> None:
    assert facts(255 - SIX) == facts(SIX)
    assert facts((SIX.float() * 0.5 + 40).to(torch.uint8)) == facts(SIX)
    assert facts(torch.nn.functional.pad(SIX, (3, 1, 0, 2), value=10)) == facts(SIX)


def test_no_description_names_a_class() -> None:
    shown = [
        *printed(30, 1)[0],
        *handwriting()[0][:30],
        *tabletop_objects(12, 0, "private", ("fog", "dusk"))[0],
    ]
    for wording in range(len(WORDINGS)):
        for number, picture in enumerate(shown):
            text = describe(picture, number, wording)
            assert text
            assert mask_names(text, (*DIGITS, *SHAPES)) == (text, 0)
    phrases = [p for wording in WORDINGS for several in wording.values() for p in several]
    assert not any(mask_names(p, (*DIGITS, *SHAPES))[1] for p in phrases)
    assert {frozenset(w) for w in WORDINGS} == {frozenset(WORDINGS[0])}


def test_the_public_writer_always_says_the_same_and_private_ones_vary() -> None:
    picture = printed(8, 3)[0][5]
    assert len({describe(picture, seed) for seed in range(5)}) == 1
    assert len({describe(picture, seed, 1) for seed in range(5)}) > 1
    assert describe(picture, 4, 1) == describe(picture, 4, 1)
    rng = np.random.default_rng(0)
    assert describe(picture, rng, 2) != describe(picture, rng, 2)
    with pytest.raises(IndexError):
        describe(picture, 0, len(WORDINGS))


def test_descriptions_tell_classes_apart() -> None:
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.naive_bayes import BernoulliNB

    pictures, labels = handwriting()
    pictures, labels = pictures[:400], labels[:400].numpy()
    for wording in range(len(WORDINGS)):
        words = CountVectorizer().fit_transform([describe(p, i, wording) for i, p in enumerate(pictures)])
        right = BernoulliNB().fit(words[:300], labels[:300]).score(words[300:], labels[300:])
        assert 0.5 < right < 0.98  # chance is 0.1


def test_printed_digits_repeat_and_differ_by_seed() -> None:
    pictures, labels = printed(25, 3)
    assert pictures.shape == (25, 3, 16, 16)
    assert pictures.dtype == torch.uint8
    assert labels.tolist() == [i % 10 for i in range(25)]
    assert torch.equal(printed(12, 3)[0], pictures[:12])
    assert not torch.equal(printed(12, 4)[0], pictures[:12])
    assert torch.equal(pictures[:, 0], pictures[:, 2])
    ink = pictures.float().mean((1, 2, 3))
    assert (ink > 15).all()
    corners = pictures[:, 0, [0, 0, -1, -1], [0, -1, 0, -1]].float().mean(1)
    assert (corners < ink).all()  # light on dark


def test_handwriting_is_all_of_it_in_order() -> None:
    from sklearn.datasets import load_digits

    pictures, labels = handwriting()
    assert pictures.shape == (1797, 3, 16, 16)
    assert pictures.dtype == torch.uint8
    assert labels.dtype == torch.int64
    assert labels.tolist() == load_digits().target.tolist()
    small = torch.from_numpy(load_digits().images).float() * (255 / 16)
    again = pictures.float().mean(1).view(-1, 8, 2, 8, 2).mean((2, 4))
    assert (again - small).abs().mean() < 12
    pictures.zero_()
    assert handwriting()[0].any()


def test_tabletop_objects_take_turns() -> None:
    pictures, labels = tabletop_objects(13, 2, "private", ("fog", "sketch"))
    assert pictures.shape == (13, 3, 16, 16)
    assert labels.tolist() == [i % 6 for i in range(13)]
    assert torch.equal(tabletop_objects(7, 2, "private", ("fog", "sketch"))[0], pictures[:7])
    assert not torch.equal(pictures[:, 0], pictures[:, 2])  # coloured
    with pytest.raises(ExperimentError):
        tabletop_objects(1, 0, "private", ("nowhere",))


def test_a_row_is_a_pitch_and_a_column_a_moment() -> None:
    top, left = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
    top[:, 0], left[:, :, :4] = 255, 255
    for row, hertz in ((0, HIGHEST), (15, LOWEST)):
        sound = sonify(top.roll(row, 1))
        spectrum = torch.fft.rfft(sound).abs()
        assert abs(float(spectrum.argmax()) * RATE / len(sound) - hertz) < RATE / len(sound)
    sound = sonify(left)
    assert sound.shape == (2048,)
    assert sound.dtype == torch.float32
    assert sound[:400].abs().max() > 0.1
    assert not sound[700:].any()
    assert sonify(torch.full((3, 16, 16), 255, dtype=torch.uint8)).abs().max() <= 1
    assert not sonify(torch.zeros(3, 16, 16, dtype=torch.uint8)).any()
    assert not torch.equal(sonify(SIX), sonify(SEVEN))


def test_names_are_masked() -> None:
    assert mask_names("A Seven, and sevens; 7 not 77", DIGITS) == ("A , and ; not 77", 3)
    assert mask_names("someone is weightless", DIGITS) == ("someone is weightless", 0)
    assert mask_names("a striped red cube", ("red cube", "striped red cube")) == ("a", 1)
    assert mask_names("7 cubes", ("cube",)) == ("7", 1)
    assert mask_names("anything", ()) == ("anything", 0)
