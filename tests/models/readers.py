"""Readers of an adapter's folder that know `lora_alpha` and a rank, and nothing of patterns, rsLoRA or PEFT."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from fedloom.core.payload import group_of
from fedloom.core.streams import torch_stream
from fedloom.models.base import Trainable

Rank = Callable[[dict, Tensor], int]
READERS: dict[str, Rank] = {
    "the configuration's rank": lambda config, A: config["r"],
    "each tensor's own rank": lambda config, A: A.shape[0],
}


def apply(model: nn.Module, folder: Path, rank: Rank) -> nn.Module:
    """Add lora_alpha / rank times B A to every named weight of a plain model, and take the other tensors as they are."""
    config = json.loads((folder / "adapter_config.json").read_text())
    stored = {
        n.removeprefix("base_model.model."): t
        for n, t in load_file(folder / "adapter_model.safetensors").items()
    }
    state = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in stored.items():
            if name.endswith("lora_A.weight"):
                place = name.removesuffix(".lora_A.weight")
                update = (
                    config["lora_alpha"] / rank(config, tensor) * stored[f"{place}.lora_B.weight"] @ tensor
                )
                conv1d = type(model.get_submodule(place)).__name__ == "Conv1D"
                state[f"{place}.weight"].add_(update.T if conv1d else update)
            elif not name.endswith("lora_B.weight"):
                state[name].copy_(tensor)
    return model


def trained(
    model: Trainable, *, merged: bool = False, size: float = 0.05, seed: int = 0
) -> dict[str, Tensor]:
    """Every tensor moved at random; `merged`: with updates of the base of several ranks, and none at every third place."""
    rng = torch_stream(seed, "trained")
    tensors = {n: t + size * torch.randn(t.shape, generator=rng) for n, t in model.start.items()}
    for number, place in enumerate(sorted(model.layers) if merged else ()):
        A, B = tensors[f"{place}.lora_A"], tensors[f"{place}.lora_B"]
        q = number % 3 * 3
        if q:
            tensors[f"{place}.merged_A"] = size * torch.randn(q, A.shape[1], generator=rng)
            tensors[f"{place}.merged_B"] = size * torch.randn(B.shape[0], q, generator=rng)
    return tensors


def uneven(model: Trainable) -> dict[str, float]:
    """A client's scale over the model's, of every adapted group."""
    return dict.fromkeys(sorted({group_of(place) for place in model.layers}), 0.75)
