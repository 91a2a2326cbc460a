"""The linear layers among a round's named tensors, read from the replies one at a time."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from fedloom.aggregation.canonical import join
from fedloom.core.payload import Reply, group_of


@dataclass(frozen=True)
class Layer(Sequence[Tensor]):
    """One layer's W_k (m, n) at the clients that trained it, the bias (where `bias` names one) as last column.

    Item k is read on access. `weights` are the holders' p_k, which sum to 1 (float64).
    """

    weight: str
    bias: str | None
    replies: Sequence[Reply]
    weights: Tensor

    def __len__(self) -> int:
        return len(self.replies)

    def __getitem__(self, k: int) -> Tensor:  # type: ignore[override]
        return self.of(self.replies[k].payload.tensors)

    def of(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The layer (m, n) in `tensors`."""
        return join(tensors[self.weight], None if self.bias is None else tensors[self.bias])

    @property
    def clients(self) -> list[str]:
        """The holders' names."""
        return [reply.client for reply in self.replies]


def layers(
    replies: Sequence[Reply],
    weights: Sequence[float],
    groups: Sequence[str] = ("projector*",),
    *,
    bias: bool = True,
) -> Iterator[Layer]:
    """Every `<place>weight` with two axes in these groups, with its `<place>bias`, over the clients that sent it; `bias`
    False leaves the bias out.
    """
    names = {n for reply in replies for n in reply.payload.tensors}
    for name in sorted(names):
        if not name.endswith("weight") or not any(fnmatchcase(group_of(name), g) for g in groups):
            continue
        holders = [k for k, reply in enumerate(replies) if name in reply.payload.tensors]
        if replies[holders[0]].payload.tensors[name].ndim != 2:
            continue
        beside = name.removesuffix("weight") + "bias"
        p = torch.tensor([weights[k] for k in holders], dtype=torch.float64)
        yield Layer(
            name,
            beside if bias and beside in names else None,
            [replies[k] for k in holders],
            p / p.sum(),
        )
