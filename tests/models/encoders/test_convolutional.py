"""Frozen networks of convolutions as picture encoders: ResNet, EfficientNet and ConvNeXt, saved by the real classes."""

from importlib.resources import files

import pytest
import torch
from torch.nn.functional import normalize

from fedloom.core.errors import ExperimentError
from fedloom.data.sample import Sample
from fedloom.models.encoders.pooling import group_means
from fedloom.models.mllm.load import load_model
from fedloom.models.settings import Foundation
from tests.models.encoders.tiny_encoders import SIDE, WITHOUT_LINEAR, write

LLM = str(files("fedloom.models") / "shipped" / "tiny-mllm" / "llm")
NAMES = [*WITHOUT_LINEAR, "convnextv2"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("convolutions")
    return {name: write(name, root) for name in NAMES}


def settings(folder, **more):
    return {"llm": LLM, "encoder": {"image": str(folder)}, "tokens": 2, "encoder_lora": None, **more}


def made(folder, **more):
    return load_model(Foundation(**settings(folder, **more)), ["image"], "cpu", 0)


def samples(count):
    draw = torch.Generator().manual_seed(1)
    pictures = torch.randint(0, 256, (count, 3, SIDE, SIDE), generator=draw, dtype=torch.uint8)
    return [Sample(f"s{i}", {"image": p}, "what is it?", "red") for i, p in enumerate(pictures)]


@pytest.mark.parametrize("name", NAMES)
def test_features_are_means_over_the_last_grid_of_the_published_pipeline(name, folders) -> None:
    from transformers import AutoImageProcessor, AutoModel

    model = made(folders[name])
    given = samples(2)
    ours = torch.stack([f["image"] for f in model.features([model.prepare(s) for s in given])])
    processor = AutoImageProcessor.from_pretrained(folders[name], backend="pil")
    pictures = [s.modalities["image"].permute(1, 2, 0).numpy() for s in given]
    tower = AutoModel.from_pretrained(folders[name]).eval()
    with torch.no_grad():
        grid = tower(**processor(pictures, return_tensors="pt")).last_hidden_state
    assert grid.dim() == 4
    states = grid.flatten(2).transpose(1, 2)
    theirs = normalize(group_means(states, torch.full((2,), states.shape[1]), 2), dim=-1)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_training_leaves_the_frozen_network_and_its_statistics_alone(name, folders) -> None:
    model = made(folders[name])
    tower = model.mllm.encoder.trunks["image"]
    before = {n: t.clone() for n, t in tower.state_dict().items()}
    examples = [model.prepare(s) for s in samples(3)]
    optimiser = torch.optim.Adam(model.begin(model.tensors), 1e-2)
    losses = []
    for _ in range(3):
        loss = model.loss(examples)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] != losses[0]
    assert all(torch.equal(t, before[n]) for n, t in tower.state_dict().items())


def test_features_of_a_frozen_network_are_computed_once(folders, quick, federate) -> None:
    given = settings(folders["efficientnet"], foundation=None, llm_lora={"rank": 2})
    model = {k: v for k, v in given.items() if v is not None or k == "encoder_lora"}
    data = {"clients": {"image": 2}, "train": 4, "test": 2}
    federation = federate(quick(method="feda2-lora", data=data, rounds=2, model=model, engine={"memory": 64}))
    federation.run()
    assert federation.engine.model.store.constant
    assert federation.engine.model.store.made == 2 * 4 + 2 * 2


@pytest.mark.parametrize("name", WITHOUT_LINEAR)
def test_an_adapter_on_a_network_without_linear_layers_is_refused(name, folders) -> None:
    with pytest.raises(
        ExperimentError,
        match=r"encoder\.image has no linear layer to adapt; model\.encoder_lora: null leaves encoders frozen",
    ):
        made(folders[name], encoder_lora={"rank": 2})
