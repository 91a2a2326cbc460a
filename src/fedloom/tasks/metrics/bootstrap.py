"""Uncertainty over test samples: a percentile bootstrap interval, and a paired test between two methods."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedloom.core.streams import numpy_stream

_BLOCK = 2**22  # numbers per block of draws, 32 MB


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
    rng = numpy_stream(seed, "metrics", "bootstrap")
    step = max(1, _BLOCK // len(data))
    blocks = [
        data[rng.integers(0, len(data), (min(step, draws - done), len(data)))].mean(1)
        for done in range(0, draws, step)
    ]
    low, high = np.quantile(np.concatenate(blocks), [(1 - level) / 2, (1 + level) / 2])
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
    rng = numpy_stream(seed, "metrics", "sign-flip")
    step = max(1, _BLOCK // len(gaps))
    # The margin keeps a flip that equals the observed sum from being missed by rounding.
    bar = abs(gaps.sum()) - 1e-9 * np.abs(gaps).sum()
    extreme = sum(
        int((np.abs(rng.choice((-1.0, 1.0), (min(step, draws - done), len(gaps))) @ gaps) >= bar).sum())
        for done in range(0, draws, step)
    )
    return Interval(interval.mean, interval.low, interval.high, (1 + extreme) / (1 + draws))
