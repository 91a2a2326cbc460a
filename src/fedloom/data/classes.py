"""The names of an image-classification task's classes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Classes:
    """Names in order: label numbers are positions in `base`, or in `novel`. Training is over `base`."""

    base: tuple[str, ...]
    novel: tuple[str, ...] = ()
