"""Pooling of an encoder's tokens."""

import torch
from torch import Tensor


def group_means(states: Tensor, lengths: Tensor, groups: int) -> Tensor:
    """Means over `groups` runs of each row's first `lengths` (B,) tokens: (B, n, d) -> (B, groups, d)."""
    index = torch.arange(groups, device=states.device)
    start = index * lengths[:, None] // groups
    stop = torch.maximum((index + 1) * lengths[:, None] // groups, start + 1)
    at = torch.arange(states.shape[1], device=states.device)
    inside = ((at >= start[..., None]) & (at < stop[..., None])).to(states.dtype)
    return inside @ states / (stop - start)[..., None].to(states.dtype)
