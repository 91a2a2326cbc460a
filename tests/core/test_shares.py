"""Shares of a count."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedloom.core.shares import at_least, at_most


@given(percent=st.integers(0, 100), count=st.integers(0, 10_000))
def test_shares_in_percent_are_exact(percent: int, count: int) -> None:
    exact = Fraction(percent, 100) * count
    assert at_least(percent / 100, count) == -(-exact.numerator // exact.denominator)
    assert at_most(percent / 100, count) == exact.numerator // exact.denominator


@pytest.mark.parametrize("parts", range(1, 60))
def test_one_part_of_as_many_is_one(parts: int) -> None:
    assert at_least(1 / parts, parts) == at_most(1 / parts, parts) == 1
