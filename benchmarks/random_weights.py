"""Random weights that are made on the device: drawn there from the meta device, and quantised there layer by layer."""

from dataclasses import dataclass

import torch
from torch import nn

from fedloom.core.streams import torch_stream


@dataclass(frozen=True)
class Work:
    """A client's samples: `steps` batches of `batch` samples, each of `positions` positions with `answer` answer tokens."""

    batch: int = 4
    positions: int = 128
    answer: int = 16
    steps: int = 4


@torch.no_grad()
def draw(module: nn.Module, name: str, device: torch.device, precision: torch.dtype) -> None:
    """Materialise a meta module on `device`: matrices N(0, 0.02^2), vectors 1 for norms, else 0."""
    module.to(precision).to_empty(device=device)
    generator = torch.Generator(device).manual_seed(torch_stream(0, "benchmark", name).initial_seed())
    for part in module.modules():
        for place, parameter in part.named_parameters(recurse=False):
            if parameter.dim() > 1:
                parameter.normal_(0.0, 0.02, generator=generator)
            else:
                parameter.fill_(1.0 if type(part).__name__.endswith("Norm") and place == "weight" else 0.0)
    for path, part in list(module.named_modules()):
        if hasattr(part, "inv_freq"):  # rotary buffers are computed, not stored
            parent, _, last = path.rpartition(".")
            setattr(module.get_submodule(parent), last, type(part)(config=part.config).to(device))


@torch.no_grad()
def quantize(llm: nn.Module, precision: torch.dtype) -> int:
    """Replace an LLM's frozen linear layers by 4-bit ones (nf4, double quantisation), in place; returns their number.

    PEFT's adapters stay: the frozen layers below them are replaced. So does the output layer.
    """
    from bitsandbytes.nn import Linear4bit, Params4bit

    count = 0
    for path, layer in list(llm.named_modules()):
        if type(layer) is not nn.Linear or ".lora_" in path or path.endswith("lm_head"):
            continue
        parent, _, last = path.rpartition(".")
        sizes = (layer.in_features, layer.out_features, layer.bias is not None)
        small = Linear4bit(*sizes, compute_dtype=precision, quant_type="nf4", device="meta")
        full = Params4bit(layer.weight.data, requires_grad=False, quant_type="nf4", module=small)
        small.weight, small.bias = full.to(layer.weight.device), layer.bias
        small.train()  # in evaluation, bitsandbytes packs a CPU's weights for inference, and training fails
        setattr(llm.get_submodule(parent), last, small)
        count += 1
    return count
