"""Projectors between an encoder and an LLM."""

import torch
from torch import nn

from fedloom.core.streams import torch_stream
from fedloom.models.mllm.config import MLLMConfig


def new_projector(
    encoder: nn.Module, width: int, config: MLLMConfig, seed: int = 0, device: str = "cpu"
) -> nn.Module:
    """A fresh P from the named stream of `seed`: Linear out_dim -> width with bias, or Linear, GELU, Linear(width -> width).

    One for all modalities or one each; U(-1/sqrt(d_in), 1/sqrt(d_in)), PyTorch's own bounds; on the
    device `meta` only shapes.
    """
    out_dim = int(encoder.out_dim)  # type: ignore[arg-type]

    def fresh(name: str) -> nn.Module:
        stream = torch_stream(seed, "projector", name)
        first = _linear(out_dim, width, stream, device)
        if config.layers == "linear":
            return first
        return nn.Sequential(first, nn.GELU(), _linear(width, width, stream, device))

    if config.projector == "shared":
        return fresh("shared")
    return nn.ModuleDict({m: fresh(m) for m in encoder.modalities})  # type: ignore[union-attr]


def _linear(d_in: int, d_out: int, stream: torch.Generator, device: str) -> nn.Linear:
    with torch.device("meta"):
        layer = nn.Linear(d_in, d_out)
    if device == "meta":
        return layer
    layer.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in (layer.weight, layer.bias):
            tensor.uniform_(-(d_in**-0.5), d_in**-0.5, generator=stream)
    return layer
