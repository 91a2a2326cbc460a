"""The tiny text-to-image model and captioner: a build that repeats, and what the shipped ones know."""

import pytest
import torch

from fedloom.core.errors import ExperimentError
from fedloom.core.streams import torch_stream
from fedloom.data.digits import DIGITS, describe, mask_names, printed
from fedloom.models.generation.captioner import Captioner
from fedloom.models.generation.generator import Generator
from fedloom.models.pretraining import captioner as build_captioner
from fedloom.models.pretraining import generator as build_generator


def size_of(folder) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def test_a_build_repeats_and_measures_what_it_wrote(tmp_path) -> None:
    settings = {"seed": 3, "steps": 2, "pictures": 20, "batch": 4, "checks": 4, "classes": ("two", "four")}
    metrics = build_generator.build(tmp_path / "a", log=lambda line: None, **settings)
    state = torch.get_rng_state()
    build_generator.build(tmp_path / "b", log=lambda line: None, **settings)
    assert torch.equal(torch.get_rng_state(), state)
    assert {
        "agreement",
        "agreement/two",
        "agreement/four",
        "oracle",
        "autoencoder/printed",
        "seconds",
    } <= metrics.keys()
    assert "agreement/three" not in metrics
    for file in (p for p in (tmp_path / "a").rglob("*") if p.is_file()):
        assert file.read_bytes() == (tmp_path / "b" / file.relative_to(tmp_path / "a")).read_bytes(), file


def test_classes_are_digits() -> None:
    assert build_generator.known_classes("seven, two three") == ("two", "three", "seven")
    for wrong in ("ten", "", "one,7"):
        with pytest.raises(ExperimentError, match="--classes"):
            build_generator.known_classes(wrong)


def test_prompts_vary_and_some_are_empty() -> None:
    draw = torch_stream(0, "prompts")
    prompts = [build_generator.prompt("eight", "a loop", draw) for _ in range(400)]
    assert set(prompts) == {
        "",
        *(
            f"{frame}{a} eight{end}"
            for a in ("a", "an")
            for frame, end in (("", ""), ("a picture of ", ""), ("a picture of ", ", a loop"))
        ),
    }
    assert 0.1 < prompts.count("") / 400 < 0.2
    assert all(build_generator.prompt("two", "", draw).find("an") < 0 for _ in range(50))


def test_the_shipped_generator_draws_what_it_is_asked_for() -> None:
    generator = Generator.load("tiny-t2i")
    assert sum(p.numel() for p in generator.tensors.values()) < 1_000_000
    assert (generator.channels, generator.size) == (3, 16)
    expected = list(range(10)) * 3
    samples = generator.sample([f"a picture of a {DIGITS[i]}" for i in expected], torch_stream(5, "test"))
    right = build_generator.oracle(1, 400).predict(build_generator.flat(samples)) == expected
    assert right.mean() > 0.5  # chance is 0.1
    tokens = generator.parts.tokenizer([f"a picture of a {name}" for name in DIGITS])["input_ids"]
    assert {len(ids) for ids in tokens} == {7}  # a token for each word, start and end


def test_the_shipped_captioner_says_what_it_sees_and_names_no_digit() -> None:
    captioner = Captioner.load("tiny-captioner")
    shown, _ = printed(24, 7_000_000)
    expected = [describe(picture, 0) for picture in shown]
    said = captioner.caption(shown)
    assert all(mask_names(text, DIGITS) == (text, 0) for text in said)
    pairs = [(set(s.split(", ")), set(w.split(", "))) for s, w in zip(said, expected, strict=True)]
    assert sum(len(s & w) / len(s | w) for s, w in pairs) / 24 > 0.6
    likeness = captioner.embed_pictures(shown) @ captioner.embed_texts(expected).T
    assert likeness.diagonal().mean() > likeness.mean() + 0.2


def test_both_are_small() -> None:
    assert size_of(build_generator.FOLDER) + size_of(build_captioner.FOLDER) < 6_000_000
