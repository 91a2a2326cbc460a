"""Labelled pictures before they are distributed to clients."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from fedloom.data.partition.rows import Value


@dataclass(frozen=True)
class Pool:
    """Pictures, uint8 (3, H, W) each, their labels and class names, and their texts if the data set has texts."""

    pictures: Sequence[Tensor]
    labels: Sequence[int]
    names: tuple[str, ...]
    texts: Sequence[str] | None = None
    picture_of: Sequence[int] | None = None
    """A number for each picture's content, if pictures repeat with other texts; None if all differ."""
    skipped: Sequence[str] = ()
    """One sentence per picture that was left out because its file cannot be used."""
    columns: Mapping[str, Sequence[Value]] = field(default_factory=dict)
    """What else the data set says of every picture."""
