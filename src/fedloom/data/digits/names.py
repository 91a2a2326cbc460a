"""Digit names, and masking of class names in texts."""

import re
from collections.abc import Sequence

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def mask_names(text: str, classes: Sequence[str]) -> tuple[str, int]:
    """`text` without class names, and the number of removed names.

    Whole words, case ignored, plurals included; a class named after a digit is also masked as its figure ("7").
    """
    known = list(classes) + [str(DIGITS.index(name)) for name in classes if name in DIGITS]
    if not known:
        return text, 0
    longest_first = sorted(map(re.escape, known), key=len, reverse=True)
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(longest_first)})(?:e?s)?(?!\w)", re.IGNORECASE)
    masked, hits = pattern.subn("", text)
    return (" ".join(masked.split()), hits) if hits else (text, 0)
