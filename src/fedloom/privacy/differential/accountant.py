"""Privacy loss of a run: (ε, δ) by `dp-accounting`, for adding or removing one client.

One round is the Gaussian mechanism on the sum of clipped changes: sensitivity C, deviation z C; with clients drawn
independently with probability q it is the Poisson-subsampled Gaussian. Rounds compose. Two such sums of one round's clients, the
second of which may depend on the first, are one Gaussian mechanism of sensitivity sqrt(2) C (Dong et al., "Gaussian differential
privacy", 2022, corollary 3.3): z counts as z / sqrt(2). With correlated noise all rounds together are one Gaussian
mechanism, whose sensitivity `Correlated` knows; a client's turn is known, so that removing it means that it adds zero.
"""

import logging
import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

from fedloom.privacy.differential.correlated import Correlated
from fedloom.privacy.differential.participation import rounds_apart
from fedloom.privacy.differential.settings import DP

_PARTS = 1000
"""Parts of one in a calibrated multiplier, rounded up: machines agree on it, whatever their last bits."""
_MOST = 10**9
"""Largest calibrated multiplier, in parts."""


@dataclass(frozen=True)
class Accountant:
    """Noise multiplier z, sampling rate q and δ of every round; `correlated` where the rounds' noise is."""

    noise_multiplier: float
    rate: float
    delta: float
    kind: Literal["rdp", "pld"] = "rdp"
    correlated: Correlated | None = None

    @classmethod
    def of(cls, dp: DP, rate: float, sums: int = 1) -> "Accountant":
        """The accountant of these settings, for rounds of `sums` noisy sums each."""
        correlated = correlated_of(dp, rate)
        return cls(dp.multiplier / math.sqrt(sums), rate, dp.delta, dp.accountant, correlated)

    def epsilon(self, rounds: int) -> float:
        """ε after `rounds` rounds; 0 before the first."""
        if not rounds:
            return 0.0
        if self.correlated is None:
            return _epsilon(self, rounds)
        z = self.noise_multiplier / self.correlated.sensitivity(rounds)
        return _epsilon(replace(self, noise_multiplier=z, rate=1.0, correlated=None), 1)

    def rounds(self, epsilon: float, most: int) -> int:
        """The largest number of rounds, at most `most`, whose ε is within the budget."""
        low, high = 0, most
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.epsilon(middle) <= epsilon else (low, middle - 1)
        return low


def correlated_of(dp: DP, rate: float) -> Correlated | None:
    """The correlated noise of these settings, with a participation in 1 / rate rounds; None for independent noise."""
    if dp.mechanism == "gaussian":
        return None
    return Correlated(dp.mechanism, rounds_apart(rate), dp.restart)


def calibrated(dp: DP, rate: float, sums: int, rounds: int) -> float:
    """The least z, to 3 decimal places, with which this many rounds fit into `dp.epsilon`. Raises ValueError if there is none."""
    low, high = 0, 1
    while not _fits(dp, rate, sums, rounds, high):
        low, high = high, 2 * high
        if high > _MOST:
            raise ValueError(f"no noise brings {rounds} rounds down to epsilon {dp.epsilon:g}")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _fits(dp, rate, sums, rounds, middle) else (middle, high)
    return high / _PARTS


def _fits(dp: DP, rate: float, sums: int, rounds: int, parts: int) -> bool:
    """Whether z = `parts` thousandths keeps the budget."""
    with_z = dp.model_copy(update={"noise_multiplier": parts / _PARTS})
    return dp.epsilon is not None and Accountant.of(with_z, rate, sums).epsilon(rounds) <= dp.epsilon


def _event(settings: Accountant) -> Any:
    """The mechanism of one round."""
    import dp_accounting

    event = dp_accounting.GaussianDpEvent(settings.noise_multiplier)
    return event if settings.rate >= 1 else dp_accounting.PoissonSampledDpEvent(settings.rate, event)


@lru_cache(maxsize=64)
def _one_round(settings: Accountant) -> tuple[Any, Any]:
    """The Rényi orders, and the divergences of one round: those of T rounds are T times as large."""
    from dp_accounting.rdp import RdpAccountant

    # It logs every order that it leaves out; the others are upper bounds by themselves.
    log = logging.getLogger("absl")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        accountant = RdpAccountant().compose(_event(settings))
    finally:
        log.setLevel(level)
    return accountant.orders, accountant.rdp


@lru_cache(maxsize=4096)
def _epsilon(settings: Accountant, rounds: int) -> float:
    if settings.kind == "rdp":
        from dp_accounting.rdp import compute_epsilon

        orders, divergences = _one_round(settings)
        return float(compute_epsilon(orders, rounds * divergences, settings.delta)[0])
    from dp_accounting.pld import PLDAccountant

    return float(PLDAccountant().compose(_event(settings), rounds).get_epsilon(settings.delta))
