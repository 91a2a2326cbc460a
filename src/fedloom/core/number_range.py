"""Ranges of numbers that come from outside."""

from dataclasses import dataclass

LARGEST = 1e30
"""Largest size of a number: sums of a million of them are finite in float64."""


@dataclass(frozen=True)
class Range:
    """The range of a number, both ends included."""

    low: float = -LARGEST
    high: float = LARGEST
    whole: bool = False

    def fault(self, value: object) -> str | None:
        """The rule that a value breaks, or None."""
        if isinstance(value, bool) or not isinstance(value, int if self.whole else int | float):
            return f"a {'whole ' if self.whole else ''}number is right"
        if not self.low <= value <= self.high:
            return f"a number from {self.low:g} to {self.high:g} is right"
        return None
