"""One client's contribution to a sum: its weighted or clipped changes by group, as words; and the mean behind a sum.

A group's words are: 1, the client's weight, and weight times change of every number, names in order.
The group `numbers` holds the number of cut values, the examples, 1 for a loss, 1 for a capped weight, and the loss; it, too, is
seen as a sum only.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedloom.core.payload import group_of
from fedloom.privacy.clipping import Layout
from fedloom.privacy.secure.fixed_point import FixedPoint, Words, signed
from fedloom.privacy.settings import Secure

NUMBERS = "numbers"
_LOSS = 64.0
"""Losses are cut to this value."""


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
        self, changes: Mapping[str, Tensor], weight: float, numbers: Mapping[str, float], capped: bool = False
    ) -> dict[str, Words]:
        """A client's words for every group of `changes`, and for NUMBERS, all zero where there are no `numbers`.

        `capped`: whether the client has more examples than its weight says.
        """
        encoded, cut = {}, 0
        share, _ = self._fixed(1.0).encode(torch.tensor([weight], dtype=torch.float64))
        for group, vector in changes.items():
            words, over = self.values.encode(weight * vector)
            encoded[group] = np.concatenate([self.values.counts(1), share, words])
            cut += over
        loss, _ = self._fixed(_LOSS).encode(torch.tensor([float(numbers.get("loss", 0.0))]))
        counted = self.values.counts(
            cut if numbers else 0,
            int(numbers.get("examples", 0)),
            "loss" in numbers,
            bool(numbers) and capped,
        )
        return {**encoded, NUMBERS: np.concatenate([counted, loss])}

    @staticmethod
    def size(group: str, layout: Layout) -> int:
        """The number of words of a group."""
        if group == NUMBERS:
            return 5
        return 2 + sum(math.prod(shape) for name, shape in layout.items() if group_of(name) == group)

    def decode(self, words: Words) -> tuple[int, float, Tensor]:
        """Of a group's sum: the number of clients that trained it, their weights' sum, and the sum of their weighted changes."""
        count = int(signed(words[:1])[0])
        return count, float(self._fixed(1.0).decode(words[1:2])[0]), self.values.decode(words[2:])

    def numbers(self, words: Words) -> tuple[int, int, int, float | None]:
        """Of the sum of NUMBERS: values cut, examples, capped weights, and the mean loss of the clients that have one."""
        cut, examples, losses, capped = signed(words[:4]).tolist()
        loss = float(self._fixed(_LOSS).decode(words[4:])[0]) / losses if losses else None
        return cut, examples, capped, loss

    def weight(self, examples: int, by_examples: bool) -> float:
        """A client's weight in (0, 1]: its examples over the largest number that counts, or 1."""
        return min(examples, self.settings.examples) / self.settings.examples if by_examples else 1.0
