"""Real numbers as whole numbers modulo 2^bits, so that sums of masked numbers are exact.

With n clients and values cut to [-clip, clip] the step is clip / Q, Q = floor((2^(bits-1) - 1) / n): no sum of n words leaves
the signed range. Rounding to the nearest step costs at most half a step a client, so that a sum of n words differs from the
sum of the cut values by at most n clip / (2 Q), and their mean by clip / (2 Q), about n clip / 2^bits: 1.9e-8 for 10 clients,
clip 8 and 32 bits.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Words = NDArray[Any]
"""A vector of unsigned numbers of `bits` bits, little-endian; sums wrap around."""


@dataclass(frozen=True)
class FixedPoint:
    """Words of `bits` (32 or 64) bits for values in [-clip, clip] of at most `clients` clients."""

    bits: int
    clip: float
    clients: int

    @property
    def dtype(self) -> np.dtype[Any]:
        """The words' dtype."""
        return np.dtype(f"<u{self.bits // 8}")

    @property
    def largest(self) -> int:
        """Q, the largest whole number that one client may send."""
        return int((2 ** (self.bits - 1) - 1) // self.clients)

    @property
    def step(self) -> float:
        """The distance of two neighbouring values."""
        return self.clip / self.largest

    @property
    def error(self) -> float:
        """The largest error of one client's value, half a step; also of a mean over any number of clients of equal weight."""
        return self.step / 2

    def encode(self, values: Tensor) -> tuple[Words, int]:
        """Words of any number of values, flattened, and the number of cut ones. Raises ValueError if one is not finite."""
        wide = values.detach().cpu().flatten().double()
        if not bool(torch.isfinite(wide).all()):
            raise ValueError("a value that is not finite cannot be summed")
        cut = int((wide.abs() > self.clip).sum())
        # The top of 64 bits is no double: the last clamp keeps rounding from leaving the range.
        top = float(np.nextafter(float(self.largest), 0)) if self.bits == 64 else float(self.largest)
        steps = (wide.clamp(-self.clip, self.clip) / self.step).round().clamp(-top, top)
        return steps.numpy().astype(np.int64).astype(self.dtype), cut

    def decode(self, words: Words) -> Tensor:
        """The values (float64) of a sum of encoded words."""
        return torch.from_numpy(signed(words).astype(np.float64)) * self.step

    def counts(self, *numbers: int) -> Words:
        """Whole numbers as words, each cut to 0..Q."""
        return np.array([min(max(n, 0), self.largest) for n in numbers], dtype=np.int64).astype(self.dtype)


def signed(words: Words) -> Words:
    """The whole numbers that words stand for, negative ones from the upper half."""
    return np.ascontiguousarray(words).view(words.dtype.str.replace("u", "i"))


def to_tensor(words: Words) -> Tensor:
    """Words as a tensor that can travel: signed numbers with the same bits."""
    return torch.from_numpy(signed(words).copy())


def from_tensor(tensor: Tensor) -> Words:
    """The words of a tensor made by `to_tensor`."""
    return tensor.cpu().contiguous().numpy().view(f"<u{tensor.element_size()}")
