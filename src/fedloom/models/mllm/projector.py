"""Projectors between an encoder and an LLM."""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import nn

from fedloom.core.errors import ExperimentError
from fedloom.core.streams import torch_stream
from fedloom.models.mllm.config import MLLMConfig


class HasWidths(Protocol):
    """An encoder, as its projector sees it."""

    @property
    def widths(self) -> Mapping[str, int]:
        """Width of each modality's output."""


def new_projector(
    encoder: HasWidths, width: int, config: MLLMConfig, seed: int = 0, device: str = "cpu"
) -> nn.Module:
    """A fresh P from the named stream of `seed`: Linear out_dim -> width with bias, or Linear, GELU, Linear(width -> width).

    One for all modalities or one each; U(-1/sqrt(d_in), 1/sqrt(d_in)), PyTorch's own bounds; on the
    device `meta` only shapes. Raises ExperimentError for one projector behind towers of several widths.
    """

    def fresh(name: str, d_in: int) -> nn.Module:
        stream = torch_stream(seed, "projector", name)
        first = _linear(d_in, width, stream, device)
        if config.layers == "linear":
            return first
        return nn.Sequential(first, nn.GELU(), _linear(width, width, stream, device))

    widths = encoder.widths
    if config.projector == "per_modality":
        return nn.ModuleDict({m: fresh(m, d_in) for m, d_in in widths.items()})
    if len(set(widths.values())) > 1:
        listed = ", ".join(f"{m} {d}" for m, d in widths.items())
        raise ExperimentError(
            f"one projector cannot follow encoders of several widths ({listed}); take projector: per_modality"
        )
    return fresh("shared", next(iter(widths.values())))


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
