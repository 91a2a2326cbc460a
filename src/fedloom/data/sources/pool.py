"""Labelled pictures before they are dealt out to clients."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Pool:
    """Pictures, uint8 (3, H, W) each, their labels, and a text of each where the data set has one of its own."""

    pictures: Sequence[Tensor]
    labels: Sequence[int]
    names: tuple[str, ...]
    texts: Sequence[str] | None = None
