"""A client's change of the shared tensors, clipped, and the server's tensors after a mean change."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fedloom.core.payload import group_of

Layout = Mapping[str, Sequence[int]]
"""Shapes of the tensors that are summed, by name."""


def by_group(layout: Layout) -> dict[str, list[str]]:
    """Names by group, both in order."""
    groups: dict[str, list[str]] = {}
    for name in sorted(layout):
        groups.setdefault(group_of(name), []).append(name)
    return groups


def change(
    tensors: Mapping[str, Tensor], reference: Mapping[str, Tensor], layout: Layout
) -> dict[str, Tensor]:
    """Each trained group's change as one vector (float64), against `reference`, or against zero where it names nothing.

    Raises ValueError for a group that is not whole or has other shapes than the layout.
    """
    changes = {}
    for group, names in by_group(layout).items():
        there = [n for n in names if n in tensors]
        if not there:
            continue
        if len(there) < len(names) or any(list(tensors[n].shape) != list(layout[n]) for n in names):
            raise ValueError(f"group {group} is not whole, or not of the shapes that are summed")
        changes[group] = torch.cat(
            [(tensors[n].cpu().double() - _at(reference, n, tensors[n])).flatten() for n in names]
        )
    return changes


def norm_of(changes: Mapping[str, Tensor]) -> float:
    """The Euclidean norm of all groups' changes as one vector."""
    return math.sqrt(sum(float(c.square().sum()) for c in changes.values()))


def clipped(changes: Mapping[str, Tensor], clip: float) -> dict[str, Tensor]:
    """All groups' changes scaled together, to one vector of norm at most `clip`. Raises ValueError if not finite."""
    norm = norm_of(changes)
    if not math.isfinite(norm):
        raise ValueError("a change that is not finite cannot be clipped")
    scale = min(1.0, clip / norm) if norm > 0 else 1.0
    return {group: c * scale for group, c in changes.items()}


def restored(
    mean: Tensor, names: Sequence[str], reference: Mapping[str, Tensor], layout: Layout
) -> dict[str, Tensor]:
    """A group's mean change as tensors, added to the reference, in its dtype (float32 where it names nothing)."""
    parts = torch.split(mean, [math.prod(layout[n]) for n in names])
    tensors = {}
    for name, part in zip(names, parts, strict=True):
        before = reference.get(name)
        new = part.reshape(tuple(layout[name]))
        tensors[name] = new.float() if before is None else (before.cpu().double() + new).to(before)
    return tensors


def _at(reference: Mapping[str, Tensor], name: str, like: Tensor) -> Tensor:
    before = reference.get(name)
    if before is None:
        return torch.zeros(like.shape, dtype=torch.float64)
    return before.cpu().double()
