"""The least span of a plot's axis, so that a small difference does not look like a collapse."""

from dataclasses import dataclass

from fedloom.tasks.metrics.metric import Unit

LEAST_POINTS = 5.0
"""Least span of an axis of shares, in points of %."""
LEAST_COUNT = 5.0
"""Least span of an axis of counts."""
LEAST_SHARE = 0.05
"""Least span of every other axis, as a share of its largest value."""


@dataclass(frozen=True)
class Span:
    """The ends of an axis, and a sentence if it was widened to the least span."""

    low: float
    high: float
    note: str | None = None


def least_span(low: float, high: float, unit: Unit) -> Span:
    """The values' range `[low, high]`, in displayed units, around its middle and at least as wide as its unit's least span.

    An axis of shares, not one of their differences, stays within 0 and 100 %.
    """
    largest = max(abs(low), abs(high))
    least, words = {
        "percent": (LEAST_POINTS, f"{LEAST_POINTS:g} points"),
        "count": (LEAST_COUNT, f"{LEAST_COUNT:g}"),
    }.get(unit, (LEAST_SHARE * largest or 1.0, f"{LEAST_SHARE:.0%} of the largest value"))
    if high - low >= least:
        return Span(low, high)
    middle = (low + high) / 2
    start, end = middle - least / 2, middle + least / 2
    if unit == "percent" and low >= 0 and high <= 100:
        shift = max(-start, 0.0) - max(end - 100, 0.0)
        start, end = start + shift, end + shift
    return Span(start, end, f"narrow range: this axis spans {words.replace('%', ' %')}")
