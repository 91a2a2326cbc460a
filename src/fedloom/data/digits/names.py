"""The classes' names, and texts without them."""

import re
from collections.abc import Sequence

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def mask_names(text: str, classes: Sequence[str]) -> tuple[str, int]:
    """`text` without any class name, and how many there were.

    Whole words, whatever their case, in the plural, too; a class named after a digit is also found as its figure ("7").
    """
    known = list(classes) + [str(DIGITS.index(name)) for name in classes if name in DIGITS]
    if not known:
        return text, 0
    longest_first = sorted(map(re.escape, known), key=len, reverse=True)
    found = re.compile(rf"(?<!\w)(?:{'|'.join(longest_first)})(?:e?s)?(?!\w)", re.IGNORECASE)
    masked, hits = found.subn("", text)
    return (" ".join(masked.split()), hits) if hits else (text, 0)
