"""A data set's class names, base and novel."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Classes:
    """Class names in order: a label number is a position in `base`, or in `novel`."""

    base: tuple[str, ...]
    novel: tuple[str, ...] = ()
