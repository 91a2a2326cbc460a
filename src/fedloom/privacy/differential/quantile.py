"""Adaptive clipping: the clip follows a quantile of the clients' norms, which is learned from a noisy count.

Paper: Andrew et al., "Differentially Private Learning with Adaptive Clipping", NeurIPS 2021, Algorithm 1. Every client adds
b - 1/2 to the sum, b = 1 if its change is no longer than the clip C: one client moves this sum by at most 1/2. With noise
N(0, sigma_b^2) on it and z_delta C on the changes, z_delta = (z^-2 - (2 sigma_b)^-2)^(-1/2), both together are one Gaussian
mechanism of multiplier z (Theorem 1). Then C' = C exp(-eta (share below - gamma)).

Deliberate difference: sigma_b is a multiple of z (`noise`), where the paper takes a twentieth of the clients of a round: a
multiple is valid at any number of clients.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from fedloom.privacy.clipping import norm_of
from fedloom.privacy.differential.settings import DP, QuantileClip

BELOW = "below-clip/share"
"""Name of the number that a client adds to a secure sum beside its changes."""
SMALLEST, LARGEST = 1e-9, 1e6
"""Smallest and largest clip."""


def first_clip(dp: DP) -> float:
    """C of the first round."""
    return dp.clip.start if isinstance(dp.clip, QuantileClip) else dp.clip


def vector_multiplier(dp: DP) -> float:
    """z_delta, the noise multiplier of the changes; z where the clip is a number."""
    if not isinstance(dp.clip, QuantileClip):
        return dp.multiplier
    return dp.multiplier / math.sqrt(1 - 1 / (2 * dp.clip.noise) ** 2)


def count_deviation(dp: DP) -> float:
    """sigma_b, the deviation of the noise on the sum of b - 1/2; 0 where the clip is a number."""
    return dp.multiplier * dp.clip.noise if isinstance(dp.clip, QuantileClip) else 0.0


def centred(changes: Mapping[str, Tensor], clip: float) -> float:
    """b - 1/2 of a client: 1/2 if its change, all groups together, is no longer than the clip, else -1/2."""
    return 0.5 if norm_of(changes) <= clip else -0.5


def indicator(changes: Mapping[str, Tensor], clip: float) -> Tensor:
    """`centred` as a vector of one number, (1,) float64."""
    return torch.tensor([centred(changes, clip)], dtype=torch.float64)


def next_clip(clip: float, below: float, settings: QuantileClip) -> float:
    """C', given the noisy share of clients `below` the clip."""
    step = min(700.0, max(-700.0, -settings.rate * (below - settings.quantile)))  # few clients, much noise
    return min(LARGEST, max(SMALLEST, clip * math.exp(step)))
