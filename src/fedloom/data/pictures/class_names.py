"""A data set's class names, base and novel."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Classes:
    """Ordered class names: a label is an index into `base` or into `novel`."""

    base: tuple[str, ...]
    novel: tuple[str, ...] = ()
