"""Pauses of whoever looks for something again and again: short at first, longer the longer it takes."""

SHARE = 0.05
"""The pause as a share of the wait so far, which is also the largest part of it that a pause can add."""


def pause(waited: float, shortest: float = 0.1, longest: float = 3.0) -> float:
    """Seconds until the next look, after `waited` seconds without success."""
    return min(max(SHARE * waited, shortest), max(longest, shortest))
