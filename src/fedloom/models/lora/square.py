"""Square adapters, as in LoRA-XS: `W = W0 + s U R V` with U (d_out, r) and V (r, d_in) frozen, and R (r, r) trained from zero.

U and V are the leading singular directions of the frozen W0, so that whoever holds the base has them, and R is all that travels.
A plain adapter with `lora_A = R V` and `lora_B = U` computes the same.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from fedloom.core.errors import ExperimentError

SURPLUS, ITERATIONS = 8, 8
"""Further directions and power iterations of the randomised SVD."""


class Inner(nn.Module):
    """The layer x -> R V x in the place of PEFT's A."""

    frozen: Tensor

    def __init__(self, V: Tensor) -> None:
        super().__init__()
        self.register_buffer("frozen", V)
        self.core = nn.Parameter(V.new_zeros(len(V), len(V)))

    @property
    def weight(self) -> Tensor:
        """R V, (r, d_in)."""
        return self.core @ self.frozen

    def forward(self, x: Tensor) -> Tensor:
        """(..., d_in) to (..., r)."""
        return linear(x, self.weight)


class Outer(nn.Module):
    """The frozen layer y -> U y in the place of PEFT's B."""

    weight: Tensor

    def __init__(self, U: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", U)

    def forward(self, y: Tensor) -> Tensor:
        """(..., r) to (..., d_out)."""
        return linear(y, self.weight)


def make_square(layer: Any, name: str) -> None:
    """Replace both factors of PEFT's layer. Raises ExperimentError for a base weight that is no plain matrix."""
    weight = layer.get_base_layer().weight
    if not weight.is_floating_point() or type(weight.data) is not Tensor:
        raise ExperimentError(
            f"method fed-sb takes its frozen directions from the weight of {name}, which is quantised; leave model.quantize out"
        )
    W = weight.detach().float().cpu()
    rank = layer.r["default"]
    U, V = directions(W.T if getattr(layer, "fan_in_fan_out", False) else W, rank)
    layer.lora_A["default"] = Inner(V.to(weight.device))
    layer.lora_B["default"] = Outer(U.to(weight.device))


def as_factors(tensors: Mapping[str, Tensor], layers: Mapping[str, Any]) -> dict[str, Tensor]:
    """`<place>.lora_A` = R V and `<place>.lora_B` = U of every `<place>.lora_R` in `tensors`."""
    factors: dict[str, Tensor] = {}
    for place, layer in layers.items():
        if (R := tensors.get(f"{place}.lora_R")) is not None:
            factors[f"{place}.lora_A"] = R @ layer.lora_A["default"].frozen
            factors[f"{place}.lora_B"] = layer.lora_B["default"].weight
    return factors


def directions(W: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Leading left and right singular directions, U (d_out, r) and V (r, d_in), of W (d_out, d_in), the same at every call.

    A direction's sign is that for which the largest entry of its row of V is positive.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        U, _, V = torch.svd_lowrank(W, q=min(rank + SURPLUS, *W.shape), niter=ITERATIONS)
    U, V = U[:, :rank], V[:, :rank]
    signs = V.gather(0, V.abs().argmax(0, keepdim=True)).sign()
    return (U * signs).contiguous(), (V * signs).T.contiguous()
