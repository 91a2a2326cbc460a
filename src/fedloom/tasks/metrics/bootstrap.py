"""Uncertainty: a percentile bootstrap interval over test samples, and paired tests over samples and over seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from fedloom.core.streams import numpy_stream

_BLOCK = 2**22  # numbers per block of draws, 32 MB
DIGITS = 12
"""Decimals up to which two values count as one: what lies below is rounding, has no sign and makes no distinct value."""
MOST_SEEDS = 16
"""Largest number of seeds of which every sign pattern is tried."""


@dataclass(frozen=True)
class Interval:
    """A mean, its interval `[low, high]`, and the two-sided p-value of the paired test, if any."""

    mean: float
    low: float
    high: float
    p: float | None = None


def bootstrap_interval(
    values: Sequence[float], level: float = 0.95, draws: int = 2000, seed: int = 0
) -> Interval:
    """Mean of per-sample `values` and its percentile bootstrap interval (Efron 1979).

    The interval covers the choice of test samples alone, not of seeds or clients. Independent of the order of
    values. Raises ValueError without values.
    """
    data = np.sort(np.asarray(values, dtype=np.float64))
    if not len(data):
        raise ValueError("a bootstrap interval needs at least one value")
    # A draw of n values with replacement is a multinomial draw of how often each distinct value comes.
    distinct, counts = np.unique(data.round(DIGITS), return_counts=True)
    rng = numpy_stream(seed, "metrics", "bootstrap")
    means = [
        rng.multinomial(len(data), counts / len(data), size) @ distinct / len(data)
        for size in _blocks(draws, len(distinct))
    ]
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2]).round(DIGITS)
    return Interval(float(data.mean()), float(low), float(high))


def paired_difference(
    first: Sequence[float], second: Sequence[float], level: float = 0.95, draws: int = 2000, seed: int = 0
) -> Interval:
    """Mean of `first` - `second` on the same samples, its bootstrap interval, and a sign-flip test's p-value.

    Under the null hypothesis the two methods are exchangeable on every sample; p = (1 + flips at least as
    extreme) / (1 + draws), hence never 0. Raises ValueError on unequal lengths or no values.
    """
    if len(first) != len(second):
        raise ValueError(f"a paired test needs the same samples: {len(first)} against {len(second)}")
    gaps = np.sort(np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64))
    interval = bootstrap_interval(gaps.tolist(), level, draws, seed)
    # Of m equal gaps a binomial number keeps its sign; gaps of zero have none.
    sizes, counts = np.unique(np.abs(gaps).round(DIGITS), return_counts=True)
    rng = numpy_stream(seed, "metrics", "sign-flip")
    extreme = sum(
        int(
            (
                np.abs((2 * rng.binomial(counts, 0.5, (size, len(counts))) - counts) @ sizes) >= _bar(gaps)
            ).sum()
        )
        for size in _blocks(draws, len(sizes))
    )
    return Interval(interval.mean, interval.low, interval.high, (1 + extreme) / (1 + draws))


def seed_sign_flip(gaps: Sequence[float]) -> float:
    """Two-sided p-value of the sign-flip test on one difference per seed, by all 2^n sign patterns.

    It is never below 2 / 2^n: 0.25 for three seeds. Raises ValueError without gaps, or with more than MOST_SEEDS.
    """
    data = np.asarray(gaps, dtype=np.float64)
    if not 0 < len(data) <= MOST_SEEDS:
        raise ValueError(
            f"the sign-flip test over seeds needs 1 to {MOST_SEEDS} differences, not {len(data)}"
        )
    signs = np.array(list(product((-1.0, 1.0), repeat=len(data))))
    return float((np.abs(signs @ data) >= _bar(data)).mean())


def _bar(gaps: NDArray[np.float64]) -> float:
    """The size of the observed sum, less a margin that keeps a flip equal to it from being missed by rounding."""
    return float(abs(gaps.sum()) - 1e-9 * np.abs(gaps).sum())


def _blocks(draws: int, width: int) -> list[int]:
    """Numbers of draws that are made at a time, of `width` numbers each."""
    step = max(1, _BLOCK // width)
    return [min(step, draws - done) for done in range(0, draws, step)]
