"""Parts of recordings: a sound, video or motion trace is read whole, or as one of several windows of equal length."""

import math

Part = tuple[int, int]
"""(k, n): the k-th of n windows, from 0."""
WHOLE: Part = (0, 1)


def windows(seconds: float, window: float) -> int:
    """The fewest windows of equal length that are no longer than `window` seconds."""
    return max(1, math.ceil(round(seconds / window, 6)))


def bounds(length: int, part: Part) -> tuple[int, int]:
    """The first index of a part of `length` samples or frames, and the index after its last."""
    k, n = part
    return k * length // n, (k + 1) * length // n
