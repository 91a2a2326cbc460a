"""A data set's class names, base and novel."""

import unicodedata
from dataclasses import dataclass


@dataclass(frozen=True)
class Classes:
    """Ordered class names: a label is an index into `base` or into `novel`."""

    base: tuple[str, ...]
    novel: tuple[str, ...] = ()


def class_words(name: str) -> str:
    """A class name for a text encoder: underscores become spaces, accents one character with their letter."""
    return " ".join(unicodedata.normalize("NFC", name).replace("_", " ").split())
