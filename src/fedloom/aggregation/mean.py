"""Weighted means of named tensors, each name over the clients that hold it."""

import math
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from fedloom.aggregation.stack import wide

_PIECE = 1 << 18
"""Elements of a block, which fits into a core's cache."""


def weighted_mean(
    tensors: Collection[Mapping[str, Tensor]], weights: Sequence[float] | None = None
) -> dict[str, Tensor]:
    """The mean of each name over the mappings that hold it, with their weights renormalised.

    Weights are K finite numbers >= 0 (uniform if None); they need not sum to 1. A running sum in float64
    (float32 where the device lacks it) holds one copy of each name, whatever K; the result has the widest
    dtype in which the name came and is a new tensor. A name whose holders all weigh 0 is left out: nobody
    trained it. Raises ValueError on no mapping, on weights that do not fit, on shapes that differ and on
    tensors that are not floating point.
    """
    shares = [1.0] * len(tensors) if weights is None else [float(w) for w in weights]
    if not tensors or len(shares) != len(tensors):
        raise ValueError(f"there are {len(tensors)} clients and {len(shares)} weights; each needs one.")
    if not all(math.isfinite(w) and w >= 0 for w in shares) or sum(shares) <= 0:
        raise ValueError("weights must be finite, not negative, and not all zero.")
    sums: dict[str, Tensor] = {}
    held: dict[str, float] = {}
    dtypes: dict[str, torch.dtype] = {}
    for client, share in zip(tensors, shares, strict=True):
        for name, tensor in client.items():
            if not tensor.is_floating_point():
                raise ValueError(f"{name} is {tensor.dtype}; only floating-point tensors have a mean.")
            if share == 0:
                continue
            value = tensor.detach()
            if name not in sums:
                sums[name], held[name], dtypes[name] = wide(value) * share, share, tensor.dtype
                continue
            if value.shape != sums[name].shape:
                raise ValueError(
                    f"{name} has shape {tuple(tensor.shape)} at one client and "
                    f"{tuple(sums[name].shape)} at another; they must agree."
                )
            sums[name].add_(value, alpha=share)  # widens as it adds, without a wide copy
            held[name] += share
            dtypes[name] = torch.promote_types(dtypes[name], tensor.dtype)
    return {name: total.div_(held[name]).to(dtypes[name]) for name, total in sums.items()}


def squared_distance(one: Tensor, other: Tensor) -> float:
    """Sum of squared differences of two tensors of one shape, in at least float32; inf or NaN where one is not finite.

    Piece by piece, so that no copy of a large tensor is made.
    """
    work = torch.promote_types(torch.promote_types(one.dtype, other.dtype), torch.float32)
    if one.numel() <= _PIECE:  # most adapters' tensors: three operations
        return _squared(one.detach().flatten(), other.detach().flatten(), work)
    ones, others = (torch.split(t.detach().flatten(), _PIECE) for t in (one, other))
    return sum(_squared(a, b, work) for a, b in zip(ones, others, strict=True))


def _squared(one: Tensor, other: Tensor, work: torch.dtype) -> float:
    change = one.to(work) - other.to(work)
    return float(torch.dot(change, change))
