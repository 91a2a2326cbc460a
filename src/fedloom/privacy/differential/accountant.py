"""Privacy loss of a run: (ε, δ) by `dp-accounting`, for adding or removing one client.

One round is the Gaussian mechanism on the sum of clipped changes: sensitivity C, deviation z C; with clients drawn
independently with probability q it is the Poisson-subsampled Gaussian. Rounds compose. Two such sums of one round's clients, the
second of which may depend on the first, are one Gaussian mechanism of sensitivity sqrt(2) C (Dong et al., "Gaussian differential
privacy", 2022, corollary 3.3): z counts as z / sqrt(2).
"""

import logging
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from fedloom.privacy.settings import DP


@dataclass(frozen=True)
class Accountant:
    """Noise multiplier z, sampling rate q and δ of every round."""

    noise_multiplier: float
    rate: float
    delta: float
    kind: Literal["rdp", "pld"] = "rdp"

    @classmethod
    def of(cls, dp: DP, rate: float, sums: int = 1) -> "Accountant":
        """The accountant of these settings, for rounds of `sums` noisy sums each."""
        return cls(dp.noise_multiplier / math.sqrt(sums), rate, dp.delta, dp.accountant)

    def epsilon(self, rounds: int) -> float:
        """ε after `rounds` rounds; 0 before the first."""
        return _epsilon(self, rounds) if rounds else 0.0

    def rounds(self, epsilon: float, most: int) -> int:
        """The largest number of rounds, at most `most`, whose ε is within the budget."""
        low, high = 0, most
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.epsilon(middle) <= epsilon else (low, middle - 1)
        return low


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
