"""Clients with unequal LoRA ranks and scales: the client's view of the server's factors (fedlora.md, section 5)."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from fedloom.core.payload import group_of


@dataclass(frozen=True)
class Shape:
    """A client's rank in one group, and its scale over the model's, s_k / s."""

    rank: int
    ratio: float = 1.0


Shapes = Mapping[str, Shape]
"""Shapes by group; other groups have the model's own rank and scale."""


def cut(tensors: Mapping[str, Tensor], shapes: Shapes) -> dict[str, Tensor]:
    """The first r_k rows of every A and columns of every B. Other tensors are passed on."""
    own = {}
    for name, tensor in tensors.items():
        shape = shapes.get(group_of(name))
        if shape is not None and name.endswith(("lora_A", "local_A")):
            tensor = tensor[: shape.rank]
        elif shape is not None and name.endswith(("lora_B", "local_B")):
            tensor = tensor[:, : shape.rank]
        own[name] = tensor
    return own


def to_client(tensors: Mapping[str, Tensor], shapes: Shapes) -> dict[str, Tensor]:
    """`cut`, and B divided by s_k / s, so that the client's own scale gives the same effective weight."""
    return {
        name: tensor / shapes[group_of(name)].ratio
        if name.endswith("lora_B") and group_of(name) in shapes and shapes[group_of(name)].ratio != 1.0
        else tensor
        for name, tensor in cut(tensors, shapes).items()
    }


def ratios(shapes: Shapes) -> dict[str, float]:
    """s_k / s by group."""
    return {group: shape.ratio for group, shape in shapes.items()}
