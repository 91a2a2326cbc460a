"""Labelled pictures before they are distributed to clients."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Pool:
    """Pictures, uint8 (3, H, W) each, their labels and class names, and their texts if the data set has texts."""

    pictures: Sequence[Tensor]
    labels: Sequence[int]
    names: tuple[str, ...]
    texts: Sequence[str] | None = None
    skipped: Sequence[str] = ()
    """One sentence per picture that was left out because its file cannot be used."""
