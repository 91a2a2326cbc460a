import numpy as np
import pytest

from fedloom.tasks.metrics import bootstrap_interval, paired_difference, seed_sign_flip


def test_interval_matches_the_normal_approximation() -> None:
    values = [0.0] * 60 + [1.0] * 140
    found = bootstrap_interval(values, draws=4000)
    half = 1.96 * (0.7 * 0.3 / 200) ** 0.5
    assert found.mean == pytest.approx(0.7)
    assert found.low == pytest.approx(0.7 - half, abs=0.01)
    assert found.high == pytest.approx(0.7 + half, abs=0.01)
    narrow = bootstrap_interval(values, level=0.5, draws=4000)
    assert found.low < narrow.low < 0.7 < narrow.high < found.high


def test_order_and_a_second_call_change_nothing() -> None:
    values = [0.1, 0.9, 0.4, 0.4, 1.0]
    assert bootstrap_interval(values) == bootstrap_interval(values[::-1]) == bootstrap_interval(values)
    assert bootstrap_interval(values, seed=1) != bootstrap_interval(values)
    assert bootstrap_interval([0.25] * 3).low == 0.25


def test_sign_flip_p_value_against_all_flips() -> None:
    # all 8 sign patterns of (1, 2, 3): the sums that reach |6| are two
    found = paired_difference([1.0, 2.0, 3.0], [0.0, 0.0, 0.0], draws=8000)
    assert found.mean == 2
    assert found.p == pytest.approx(0.25, abs=0.02)
    assert paired_difference([1.0, 0.5], [1.0, 0.5]).p == 1


def test_pairing_sees_what_separate_intervals_do_not() -> None:
    base = np.random.default_rng(0).random(80)
    found = paired_difference((base + 0.02).tolist(), base.tolist())
    assert found.p is not None
    assert found.p < 0.01
    assert found.low > 0
    wide = bootstrap_interval(base.tolist())
    assert wide.high - wide.low > 0.05


def test_an_end_that_only_rounding_keeps_from_zero_is_zero() -> None:
    thirds = [-1 / 3] * 4 + [2 / 3] * 2  # the median of the draws has these counts
    assert bootstrap_interval(thirds, level=0.0).low == 0


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="same samples"):
        paired_difference([1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="at least one"):
        bootstrap_interval([])


def test_sign_flip_over_seeds_counts_every_pattern() -> None:
    assert seed_sign_flip([1.0, 2.0, 3.0]) == 0.25  # all signs alike: 2 of 8
    assert seed_sign_flip([0.1] * 6) == 2 / 64
    assert seed_sign_flip([1.0, -1.0, 0.0]) == 1
    with pytest.raises(ValueError, match="1 to 16"):
        seed_sign_flip([])
