"""Whole numbers that are a share of a count: 0.07 of 100 is 7, although the product of the floats is 7.000000000000001."""

import math

DIGITS = 9
"""Decimal places of the product; what lies beyond them is rounding error."""


def at_least(share: float, count: int) -> int:
    """The smallest whole number that is not below share * count."""
    return math.ceil(round(share * count, DIGITS))


def at_most(share: float, count: int) -> int:
    """The largest whole number that is not above share * count."""
    return math.floor(round(share * count, DIGITS))
