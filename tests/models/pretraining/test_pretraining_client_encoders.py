"""The tiny clients' encoders: a build that repeats, and what the shipped ones know."""

import pytest
import torch

from fedloom.core.errors import ExperimentError
from fedloom.data.digits import DIGITS
from fedloom.data.sources.labelled import vocabulary
from fedloom.models.own.architectures import load_architecture
from fedloom.models.own.tiny import RANDOM, SHIPPED, TINY
from fedloom.models.pretraining import client_encoders

NAMES = sorted(client_encoders.STEPS)


def loaded(name: str, seed: int = 0):
    return load_architecture(name, TINY[name.removesuffix(RANDOM)]()[0], len(DIGITS), 8, vocabulary(), seed)


@pytest.mark.parametrize("name", ["tiny-resnet", "tiny-distilbert"])
def test_a_build_repeats_and_measures_what_it_wrote(name, tmp_path) -> None:
    settings = {"seed": 3, "steps": 2, "pictures": 6, "batch": 4, "checks": 4, "log": lambda line: None}
    metrics = client_encoders.build(name, tmp_path / "a", **settings)
    state = torch.get_rng_state()
    client_encoders.build(name, tmp_path / "b", **settings)
    assert torch.equal(torch.get_rng_state(), state)
    assert metrics.keys() == {"loss", "facts", "facts/guess", "recall", "seconds"}
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes(), file


def test_labels_are_facts_of_pictures_in_all_wordings_and_never_a_class() -> None:
    assert not set(DIGITS) & set(client_encoders.FACTS)
    pictures, labels = client_encoders.lessons(loaded("tiny-vit"), 3, 7)
    assert pictures["pixel_values"].shape == (3, 3, 16, 16)
    assert labels.shape == (3, 30)
    texts, repeated = client_encoders.lessons(loaded("tiny-bert"), 3, 7)
    assert torch.equal(repeated, labels.repeat(3, 1))
    first = texts["input_ids"].reshape(3, 3, -1)[:, 0]
    assert len({tuple(row) for row in first.tolist()}) == 3


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_pre_trained_and_its_random_twin_has_the_same_tensors(name: str) -> None:
    shipped, other, random = loaded(name), loaded(name, 1), loaded(name + RANDOM)
    parameters = dict(shipped.net.named_parameters())
    for place, tensor in random.net.named_parameters():
        assert tensor.shape == parameters[place].shape
    assert parameters.keys() == dict(random.net.named_parameters()).keys()
    places = [p for p, t in parameters.items() if t.ndim > 1]
    again, drawn = dict(other.net.named_parameters()), dict(random.net.named_parameters())
    assert all(torch.equal(parameters[p], again[p]) == p.startswith("encoder.") for p in places)
    assert not any(torch.equal(parameters[p], drawn[p]) for p in places if "encoder." in p)
    if shipped.processor is not None:
        assert shipped.processor.get_vocab() == random.processor.get_vocab()


@pytest.mark.parametrize("name", NAMES)
def test_facts_can_be_read_from_the_shipped_encoder_better_than_from_a_random_one(name: str) -> None:
    errors = {}
    for twin in (name, name + RANDOM):
        architecture = loaded(twin)
        count = 60 if architecture.modality == "text" else 200
        inputs, labels = client_encoders.lessons(architecture, count, 9_000_000)
        with torch.no_grad():
            architecture.net.head = torch.nn.Identity()
            states = architecture.net(inputs)[0].double()
        states = torch.cat([states, torch.ones(len(states), 1)], 1)
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
        known, held = order[: len(order) // 2], order[len(order) // 2 :]
        gram = states[known].T @ states[known] + torch.eye(states.shape[1])
        weights = torch.linalg.solve(gram, states[known].T @ labels[known].double())
        errors[twin] = float((states[held] @ weights - labels[held]).square().mean())
    assert errors[name] < 0.7 * errors[name + RANDOM]


def test_they_are_small_and_a_wrong_modality_is_refused() -> None:
    files = [p for name in NAMES for p in (SHIPPED / name).iterdir()]
    assert sum(p.stat().st_size for p in files) < 1_500_000
    for name in ("tiny-bert", "tiny-bert-random"):
        with pytest.raises(ExperimentError, match="tiny-bert is for clients that hold text, not image"):
            load_architecture(name, "image", 10, 8, vocabulary(), 0)
