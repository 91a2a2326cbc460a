"""Maps from the rows of a module's input to the examples of a batch."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, eq=False)
class RowMap:
    """Maps rows of the current module's input to examples: row i belongs to the example at place `of[i]` of the batch.

    A module may see several rows per entry, such as clips, in the same order. `lengths[i]`: the row's positions without
    padding; None where nothing is padded.
    """

    of: Sequence[int]
    lengths: Sequence[int] | None = None
