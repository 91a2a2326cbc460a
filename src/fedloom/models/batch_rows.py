"""Whose the rows of a batch are, while a foundation works on them."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, eq=False)
class RowMap:
    """`of[i]`: the example, by its place in the batch, that row i of the next module's input belongs to.

    A module may see several rows for each of these, such as clips, in the same order. `lengths[i]`: how many of the row's
    positions are not padding; None where nothing is padded.
    """

    of: Sequence[int]
    lengths: Sequence[int] | None = None
