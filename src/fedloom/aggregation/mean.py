"""Weighted means of named tensors, each name over the clients that hold it."""

import math
from collections.abc import Collection, Mapping, Sequence
from functools import reduce

import torch
from torch import Tensor

from fedloom.aggregation.stack import wide

_SUMMED = 1 << 16
"""Elements of a thread's block of a mean: the float64 sum and one client's float64 copy fit into a core's cache."""
_COMPARED = 1 << 17
"""Elements of a block of a difference, and of the small tensors that are compared at once."""


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
    shares = _checked(len(tensors), weights)
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


def tensor_mean(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The mean of one name's tensors, of one shape, as `weighted_mean` gives it; all K must be in memory.

    It goes block by block: a block's sum stays in the cache, and no float64 copy of a large tensor is made.
    """
    shares = _checked(len(tensors), weights)
    if any(t.shape != tensors[0].shape for t in tensors):
        raise ValueError(f"shapes {sorted({tuple(t.shape) for t in tensors})} differ; they must agree.")
    if kinds := [t.dtype for t in tensors if not t.is_floating_point()]:
        raise ValueError(f"a tensor is {kinds[0]}; only floating-point tensors have a mean.")
    own = [(t.detach(), share) for t, share in zip(tensors, shares, strict=True) if share > 0]
    dtype, held = reduce(torch.promote_types, (t.dtype for t, _ in own)), [share for _, share in own]
    block = _SUMMED * torch.get_num_threads()
    if own[0][0].numel() <= block:
        return _block_mean([t for t, _ in own], held).to(dtype)
    mean = torch.empty(own[0][0].shape, dtype=dtype, device=own[0][0].device)
    blocks = (torch.split(t.flatten(), block) for t in (mean.view(-1), *(t for t, _ in own)))
    for part, *parts in zip(*blocks, strict=True):
        part.copy_(_block_mean(parts, held))
    return mean


def _block_mean(tensors: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    """The mean as a new tensor in float64, or float32 where the device lacks it."""
    total = wide(tensors[0]) * shares[0]
    for tensor, share in zip(tensors[1:], shares[1:], strict=True):
        total.add_(tensor, alpha=share)
    return total.div_(sum(shares))


def _checked(count: int, weights: Sequence[float] | None) -> list[float]:
    """The weights of `count` clients; ValueError where they do not fit."""
    shares = [1.0] * count if weights is None else [float(w) for w in weights]
    if not count or len(shares) != count:
        raise ValueError(f"there are {count} clients and {len(shares)} weights; each needs one.")
    if not all(math.isfinite(w) and w >= 0 for w in shares) or sum(shares) <= 0:
        raise ValueError("weights must be finite, not negative, and not all zero.")
    return shares


def squared_distances(tensors: Sequence[Tensor], other: Tensor) -> list[float]:
    """Squared distances of K tensors to another of their shape, in at least float32; inf or NaN where one is not finite.

    Small tensors are compared many at once; large ones block by block, so that a block of `other` is read from memory once and
    no copy of a large tensor is made.
    """
    work = reduce(torch.promote_types, (t.dtype for t in (other, *tensors)), torch.float32)
    base = other.detach().flatten()
    if base.numel() <= _COMPARED // 2:
        together, reference = _COMPARED // max(base.numel(), 1), base.to(work)
        parts = (torch.stack(tuple(tensors[i : i + together])) for i in range(0, len(tensors), together))
        changes = (part.detach().flatten(1).to(work) - reference for part in parts)
        return [square for change in changes for square in change.square_().sum(1).tolist()]
    flat = [t.detach().flatten() for t in tensors]
    totals, change = [0.0] * len(flat), torch.empty(_COMPARED, dtype=work, device=base.device)
    for start in range(0, base.numel(), _COMPARED):
        block = base[start : start + _COMPARED].to(work)
        for k, tensor in enumerate(flat):
            own = torch.sub(tensor[start : start + _COMPARED].to(work), block, out=change[: len(block)])
            totals[k] += float(torch.dot(own, own))
    return totals
