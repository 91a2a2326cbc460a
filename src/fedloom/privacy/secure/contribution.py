"""One client's contribution to a sum: its weighted or clipped changes by group, as words; and the mean behind a sum.

A group's words are: 1, the client's weight, and weight times change of every number, names in order.
The group `numbers` holds the number of cut values, the examples, 1 for a loss, and the loss; it, too, is seen as a sum only.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedloom.core.payload import group_of
from fedloom.privacy.secure.fixed_point import FixedPoint, Words, signed
from fedloom.privacy.settings import Secure

Layout = Mapping[str, Sequence[int]]
"""Shapes of the tensors that are summed, by name."""
NUMBERS = "numbers"
_LOSS = 64.0
"""Losses are cut to this value."""


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


def clipped(changes: Mapping[str, Tensor], clip: float) -> dict[str, Tensor]:
    """All groups' changes scaled together, to one vector of norm at most `clip`. Raises ValueError if not finite."""
    norm = math.sqrt(sum(float(c.square().sum()) for c in changes.values()))
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


@dataclass(frozen=True)
class Codec:
    """Words of a secure sum over `clients` clients, by these settings."""

    settings: Secure
    clients: int

    def _fixed(self, clip: float) -> FixedPoint:
        return FixedPoint(self.settings.bits, clip, self.clients)

    @property
    def values(self) -> FixedPoint:
        """The format of changes."""
        return self._fixed(self.settings.clip)

    def encode(
        self, changes: Mapping[str, Tensor], weight: float, numbers: Mapping[str, float]
    ) -> dict[str, Words]:
        """A client's words for every group of `changes`, and for NUMBERS, all zero where there are no `numbers`."""
        encoded, cut = {}, 0
        share, _ = self._fixed(1.0).encode(torch.tensor([weight], dtype=torch.float64))
        for group, vector in changes.items():
            words, over = self.values.encode(weight * vector)
            encoded[group] = np.concatenate([self.values.counts(1), share, words])
            cut += over
        loss, _ = self._fixed(_LOSS).encode(torch.tensor([float(numbers.get("loss", 0.0))]))
        counted = self.values.counts(
            cut if numbers else 0, int(numbers.get("examples", 0)), "loss" in numbers
        )
        return {**encoded, NUMBERS: np.concatenate([counted, loss])}

    @staticmethod
    def size(group: str, layout: Layout) -> int:
        """The number of words of a group."""
        if group == NUMBERS:
            return 4
        return 2 + sum(math.prod(shape) for name, shape in layout.items() if group_of(name) == group)

    def decode(self, words: Words) -> tuple[int, float, Tensor]:
        """Of a group's sum: the number of clients that trained it, their weights' sum, and the sum of their weighted changes."""
        count = int(signed(words[:1])[0])
        return count, float(self._fixed(1.0).decode(words[1:2])[0]), self.values.decode(words[2:])

    def numbers(self, words: Words) -> tuple[int, int, float | None]:
        """Of the sum of NUMBERS: values cut, examples, and the mean loss of the clients that have one."""
        cut, examples, losses = signed(words[:3]).tolist()
        return cut, examples, float(self._fixed(_LOSS).decode(words[3:])[0]) / losses if losses else None

    def weight(self, examples: int, by_examples: bool) -> float:
        """A client's weight in (0, 1]: its examples over the largest number that counts, or 1."""
        return min(examples, self.settings.examples) / self.settings.examples if by_examples else 1.0


def _at(reference: Mapping[str, Tensor], name: str, like: Tensor) -> Tensor:
    before = reference.get(name)
    if before is None:
        return torch.zeros(like.shape, dtype=torch.float64)
    return before.cpu().double()
