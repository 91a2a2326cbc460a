"""The judge of the generator and of the votes, which sees what no server sees."""

import dataclasses
import json
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import tests.models.own.tiny_own_models
from fedloom.data.digits import DIGITS
from fedloom.data.sources.labelled import open_pool
from fedloom.data.sources.pool import Pool
from fedloom.methods import State
from fedloom.models.generation.load import load_synthesis
from fedloom.models.generation.settings import SynthesisSettings
from fedloom.tasks import generator_evaluation as judge
from fedloom.tasks.metrics.oracle import train_oracle


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> judge.GeneratorEvaluator:
    """A judge of few pictures that has hardly learned."""
    monkeypatch.setattr(judge, "train_oracle", partial(train_oracle, steps=15))
    whole = open_pool("handwriting", None, 0, 0)
    pool = Pool(whole.pictures[:150], whole.labels[:150], whole.names)
    made = judge.GeneratorEvaluator.of(pool, 0, None, tests.models.own.tiny_own_models.SIDE)
    return judge.GeneratorEvaluator(made.pictures, made.labels, made.classes, 0, each=2, shown=2)


@pytest.fixture
def synthesis(zoo_folder: Any) -> Any:
    settings = SynthesisSettings(
        generator=str(zoo_folder / "t2i"), captioner=str(zoo_folder / "captioner"), steps=2, caption_tokens=3
    )
    return load_synthesis(settings, DIGITS, ["image"], "cpu")


def test_it_measures_the_generator_and_draws_grids(small, synthesis, tmp_path) -> None:
    found = small.assess(synthesis, State({}), 3, tmp_path / "generated")
    assert set(found) == {f"generator/{n}" for n in ("agreement", "fid", "kid", "diversity", "clip_score")}
    assert 0 <= found["generator/agreement"] <= 1
    assert found["generator/fid"] > 0
    assert json.loads((tmp_path / "generated" / "classes.json").read_text()) == list(DIGITS)
    drawn, real = (Image.open(tmp_path / "generated" / n) for n in ("round-000003.png", "real.png"))
    assert drawn.size == real.size
    assert drawn.height > 4 * drawn.width  # ten classes of two


def test_equal_denoisers_draw_equal_pictures_and_others_do_not(small, synthesis, tmp_path) -> None:
    name = sorted(synthesis.start)[0]
    other = State({}, {n: t + (0.5 if n == name else 0) for n, t in synthesis.start.items()})
    states = [State({}), State({}, dict(synthesis.start)), other]
    pages = []
    for i, state in enumerate(states):
        small.assess(synthesis, state, i, tmp_path / str(i))
        pages.append(np.array(Image.open(tmp_path / str(i) / f"round-00000{i}.png")))
    assert np.array_equal(pages[0], pages[1])
    assert not np.array_equal(pages[0], pages[2])


def test_votes_are_judged_by_the_oracles_labels(small, synthesis) -> None:
    pictures = small.pictures[:6]
    truth = small.oracle.logits(pictures).argmax(-1)
    wrong = (truth + 1) % len(DIGITS)
    state = State(
        {},
        {
            "public/image": pictures,
            "prompted/label": torch.cat([truth[:3], wrong[3:]]),
            "vote/item": torch.tensor([0, 2, 4, 5]),
            "vote/label": torch.stack([truth[0], truth[2], truth[4], wrong[5]]),
        },
    )
    found = small.assess(synthesis, state, 1, None)
    assert found["vote/prompt_accuracy"] == 0.5
    assert found["vote/precision"] == 0.75


def test_pictures_of_another_size_are_brought_to_the_generators() -> None:
    pool = Pool([torch.zeros(3, 40, 20, dtype=torch.uint8)], [0], ("a", "b"))
    assert judge.GeneratorEvaluator.of(pool, 0, None, 16).pictures.shape == (1, 3, 16, 16)


def test_what_one_run_drew_and_learned_the_next_run_of_the_process_shares(
    small, synthesis, monkeypatch
) -> None:
    """The bits of results computed anew, in half of the draws."""
    from fedloom.models.generation import public_set
    from fedloom.tasks import generator_evaluation

    stores = (public_set._PICTURES, public_set._CAPTIONS, generator_evaluation._ORACLES)
    drawn, trained = [], []
    sample, train = synthesis.generator.sample, generator_evaluation.train_oracle
    monkeypatch.setattr(synthesis.generator, "sample", lambda *a, **k: drawn.append(1) or sample(*a, **k))
    monkeypatch.setattr(
        generator_evaluation, "train_oracle", lambda *a, **k: trained.append(1) or train(*a, **k)
    )
    figures = []
    for shared in (False, True, True):
        if not shared:
            for store in stores:
                store.clear()
        evaluator = dataclasses.replace(small)
        found = evaluator.assess(synthesis, State({}), 0, None)
        public = synthesis.public({}, 5, 1)
        figures.append((found, public.captions, public.items["image"].tolist()))
        public.items["image"].zero_()  # a caller's own copy
    assert figures[0] == figures[1] == figures[2]
    assert (len(drawn), len(trained)) == (2, 1)
    synthesis.public({}, 6, 1)
    synthesis.public({}, 5, 2)
    assert len(drawn) == 4, "another seed and another round have pictures of their own"
