"""Reals as words: hand-worked codes, the stated error, and sums that never leave their range."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.privacy.secure.fixed_point import FixedPoint, from_tensor, to_tensor


def test_codes_by_hand() -> None:
    fixed = FixedPoint(32, 1.0, 2)
    assert fixed.largest == 2**30 - 1
    words, cut = fixed.encode(torch.tensor([[1.0, -1.0], [0.0, 5.0]]))
    assert words.tolist() == [2**30 - 1, 2**32 - 2**30 + 1, 0, 2**30 - 1]
    assert cut == 1
    assert fixed.decode(words).tolist() == [1.0, -1.0, 0.0, 1.0]
    assert fixed.counts(7, -1, 2**40).tolist() == [7, 0, 2**30 - 1]


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 50), st.sampled_from([32, 64]), st.floats(1e-3, 100), st.integers(0, 10**6))
def test_a_mean_is_within_the_stated_error_also_where_all_send_the_largest(n, bits, clip, seed) -> None:
    fixed = FixedPoint(bits, clip, n)
    values = (
        torch.rand(n, 30, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1
    ) * clip
    values[:, 0], values[:, 1] = clip, -clip
    total = np.zeros(30, fixed.dtype)
    for row in values:
        words, cut = fixed.encode(row)
        assert cut == 0
        total += words
    miss = (fixed.decode(total) / n - values.mean(0)).abs().max()
    assert float(miss) <= fixed.error * (1 + 1e-9) + clip * 1e-14


def test_the_stated_figure_for_ten_clients() -> None:
    assert FixedPoint(32, 8.0, 10).error == pytest.approx(1.86e-8, rel=0.01)


@pytest.mark.parametrize("bits", [32, 64])
def test_words_travel_as_signed_numbers_with_the_same_bits(bits) -> None:
    fixed = FixedPoint(bits, 2.0, 3)
    words, _ = fixed.encode(torch.linspace(-2, 2, 7))
    tensor = to_tensor(words)
    assert tensor.dtype == {32: torch.int32, 64: torch.int64}[bits]
    np.testing.assert_array_equal(from_tensor(tensor), words)


def test_what_is_not_finite_cannot_be_summed() -> None:
    with pytest.raises(ValueError, match="not finite"):
        FixedPoint(32, 1.0, 2).encode(torch.tensor([1.0, float("nan")]))
