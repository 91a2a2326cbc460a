"""Merged changes: low-rank products that stand on the frozen weights of a model until others replace them."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from fedloom.core.dtypes import at_least_float32
from fedloom.core.payload import group_of


class MergedChanges:
    """The changes s B A of adapted layers, each on its original weight W0.

    A float32 weight becomes W0 + s B A, a new tensor; W0 is kept and never written, since processes may share it. On any other,
    which would round the sum or cannot hold it (bfloat16, quantised), the layer adds s B A x to its output: the change is not
    rounded to W0's steps.
    """

    def __init__(self, layers: Mapping[str, Any], scales: Mapping[str, float]) -> None:
        """`layers`: PEFT's layers by place; `scales`: s by group."""
        self._layers, self._scales = layers, scales
        self._originals: dict[str, Tensor] = {}
        self._hooks: dict[str, Any] = {}

    @torch.no_grad()
    def put(self, changes: Mapping[str, Tensor]) -> None:
        """Merge `<place>.merged_A` (q, d_in) and `merged_B` (d_out, q); all other places get their original weights back."""
        for place, layer in self._layers.items():
            A, B = changes.get(f"{place}.merged_A"), changes.get(f"{place}.merged_B")
            base, s = layer.get_base_layer(), self._scales[group_of(place)]
            if (hook := self._hooks.pop(place, None)) is not None:
                hook.remove()
            if A is None or B is None or not A.numel():
                if (original := self._originals.pop(place, None)) is not None:
                    base.weight.data = original
            elif _holds_sums(base):
                self._add(place, layer, s * (at_least_float32(B) @ at_least_float32(A)))
            else:
                self._hooks[place] = base.register_forward_hook(_Beside(A, s * at_least_float32(B)))

    def _add(self, place: str, layer: Any, change: Tensor) -> None:
        weight = layer.get_base_layer().weight
        if getattr(layer, "fan_in_fan_out", False):  # GPT-2's Conv1D keeps its weight as (d_in, d_out)
            change = change.T
        if place in self._originals:
            torch.add(self._originals[place], change.to(weight), out=weight.data)
        else:
            self._originals[place] = weight.data  # subtraction would not restore the same bits
            weight.data = weight.data + change.to(weight)


class _Beside:
    """A forward hook that adds B A x, or (B A) x where that is less to keep."""

    def __init__(self, A: Tensor, B: Tensor) -> None:
        small = A.numel() + B.numel() < A.shape[1] * B.shape[0]
        A = at_least_float32(A)
        self._factors: tuple[Tensor, ...] = (A, B) if small else (B @ A,)

    def __call__(self, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        change: Tensor = args[0]
        self._factors = tuple(f.to(change.device) for f in self._factors)
        for factor in self._factors:
            change = linear(change, factor.to(change.dtype))
        return output + change.to(output.dtype)


def _holds_sums(layer: nn.Module) -> bool:
    """Whether a layer's weight is plain float32 or more."""
    weight = layer.weight
    return weight.dtype in (torch.float32, torch.float64) and type(weight.data) is Tensor
