"""The plainest form of every adapter: the same update of every layer as PEFT computes, by one rank and alpha / r."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import nn

from fedloom.models.adapter_folder import read_groups, save_groups
from fedloom.models.base import Trainable
from fedloom.models.lora.layers import LoRA, adapted_layers, attach, named_factors
from fedloom.models.lora.uniform import make_uniform
from tests.models.readers import READERS, apply, trained, uneven


class Block(nn.Module):
    """Two layers whose weights are not square."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(5, 9), nn.Linear(9, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(torch.relu(self.up(x)))


class Adapted(Trainable):
    """One adapted block as a model."""

    def __init__(self, spec: LoRA, second: bool = False) -> None:
        self.block = block()
        self.spec = spec
        self.wrapped = attach(self.block, spec, "llm", 0, second)
        named = {f"llm/{n}": p for n, p in named_factors(self.wrapped).items()}
        layers = {f"llm/{n}": layer for n, layer in adapted_layers(self.wrapped).items()}
        super().__init__(named, layers, {"llm": spec.scale()})

    @property
    def root(self):
        return self.wrapped

    def groups(self, holds, client=None):
        return frozenset({"llm"})

    def prepare(self, sample, client=None):
        return sample

    def losses(self, examples, owners, count, features=None):
        raise NotImplementedError

    score = generate = losses

    def save_adapters(self, folder: Path) -> None:
        save_groups(folder, self.exported(), {"llm": self.spec}, self.layers)


def block() -> Block:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return Block()


SHAPES = {
    "lora": LoRA(rank=3, alpha=5, targets=("up", "down")),
    "rslora": LoRA(rank=3, alpha=5, rslora=True, targets=("up", "down")),
    "vera": LoRA(kind="vera", rank=7, targets=("up", "down")),
}
X = torch.linspace(-2, 2, 30).reshape(6, 5)


@pytest.mark.identities
@pytest.mark.parametrize("second", [False, True], ids=["one adapter", "two adapters"])
@pytest.mark.parametrize(
    ("shape", "merged"),
    [("lora", False), ("lora", True), ("rslora", False), ("rslora", True), ("vera", False)],
)
def test_every_reader_computes_the_same_model(shape, second, merged, tmp_path) -> None:
    model = Adapted(SHAPES[shape], second)
    model.load(trained(model, merged=merged, size=0.5), None if shape == "vera" else uneven(model))
    want = model.wrapped(X)
    assert not torch.allclose(want, block()(X), atol=0.1)
    model.save_adapters(tmp_path)
    back = read_groups(tmp_path, ["llm"])
    assert back.keys() == model.exported().keys()
    assert all(torch.equal(t, back[n]) for n, t in model.exported().items())
    folder = tmp_path / "llm"
    if not second:
        torch.testing.assert_close(PeftModel.from_pretrained(block(), folder)(X), want)
        for rank in READERS.values() if shape != "vera" else ():
            torch.testing.assert_close(apply(block(), folder, rank)(X), want)
    rank = make_uniform(folder, {n.removeprefix("llm/"): t for n, t in model.frozen.items()})
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["use_rslora"]) == (rank, rank, False)
    assert config["rank_pattern"] == config["alpha_pattern"] == {}
    assert sorted(p.name for p in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    for key, tensor in load_file(folder / "adapter_model.safetensors").items():
        assert tensor.shape[0 if "lora_A" in key else 1] == rank
    torch.testing.assert_close(PeftModel.from_pretrained(block(), folder)(X), want)
    for rank_of in READERS.values():
        torch.testing.assert_close(apply(block(), folder, rank_of)(X), want)


def test_a_folder_with_patterns_of_an_earlier_version_is_read(tmp_path) -> None:
    """Its ranks and scales differ from place to place, and rsLoRA is named by PEFT's own switch."""
    model = Adapted(SHAPES["rslora"])
    model.load(trained(model, merged=True, size=0.5))
    want, tensors = model.wrapped(X), model.exported()
    model.save_adapters(tmp_path)
    folder = tmp_path / "llm"
    ranks = json.loads((folder / "merged.json").read_text())["ranks"]
    config = json.loads((folder / "adapter_config.json").read_text())
    config |= {"r": 3, "lora_alpha": 5.0, "use_rslora": True, "rank_pattern": ranks}
    config["alpha_pattern"] = {place: model.scales["llm"] * rank**0.5 for place, rank in ranks.items()}
    stored = load_file(folder / "adapter_model.safetensors")
    for key, tensor in stored.items():
        rank = ranks.get(key.split(".")[2], 3)
        stored[key] = (tensor[:rank] if "lora_A" in key else tensor[:, :rank]).contiguous()
    from fedloom.models.lora import peft_files

    peft_files.write(folder, config, stored)
    (folder / "merged.json").unlink()
    back = read_groups(tmp_path, ["llm"])
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[n], t) for n, t in tensors.items())
    torch.testing.assert_close(PeftModel.from_pretrained(block(), folder)(X), want)
    make_uniform(folder, {})
    torch.testing.assert_close(PeftModel.from_pretrained(block(), folder)(X), want)
