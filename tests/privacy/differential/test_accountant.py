"""The budget: dp-accounting's own figure, the figures that papers print, and how many rounds fit."""

from math import log

import dp_accounting
import numpy as np
import pytest
from dp_accounting.rdp import RdpAccountant

from fedloom.privacy.differential.accountant import Accountant, _one_round
from fedloom.privacy.settings import DP

PUBLISHED = {
    "Abadi et al. 2016, section 3.2": (0.01, 4.0, 10_000, 1.26, 1.035),
    "TensorFlow Privacy, tutorials/README, 60 epochs": (256 / 60_000, 1.12, 14_062, 2.92, 2.519),
    "TensorFlow Privacy, tutorials/README, 30 epochs": (256 / 60_000, 0.6, 7_031, 9.74, 8.777),
    "TensorFlow Privacy, tutorials/README, 10 epochs": (256 / 60_000, 1.2, 2_343, 1.20, 0.932),
}
"""Sampling rate, noise multiplier, steps; ε as printed and as this version of dp-accounting gives it; δ = 1e-5."""


@pytest.mark.parametrize("where", PUBLISHED)
def test_epsilon_is_the_accountants_and_the_printed_one_by_the_older_conversion(where) -> None:
    q, z, steps, printed, today = PUBLISHED[where]
    ours = Accountant(z, q, 1e-5)
    event = dp_accounting.PoissonSampledDpEvent(q, dp_accounting.GaussianDpEvent(z))
    reference = RdpAccountant().compose(event, steps).get_epsilon(1e-5)
    assert ours.epsilon(steps) == pytest.approx(reference, abs=1e-3)
    assert ours.epsilon(steps) == pytest.approx(today, abs=1e-3)
    # The papers' figures come from the same divergences by a looser step from Rényi to (ε, δ): ε = T ρ + log(1/δ) / (α - 1).
    orders, divergences = (np.array(x) for x in _one_round(ours))
    assert np.min(steps * divergences + log(1e5) / (orders - 1)) == pytest.approx(printed, abs=0.025)


def test_the_tighter_accountant_is_tighter_and_knows_the_exact_figure_of_one_gaussian() -> None:
    """δ(ε) of the Gaussian mechanism (Balle and Wang, 2018), solved for z = 1: ε = 4.377 at δ = 1e-5."""
    exact = Accountant(1.0, 1.0, 1e-5, "pld").epsilon(1)
    from scipy.stats import norm

    delta = norm.cdf(0.5 - exact) - np.exp(exact) * norm.cdf(-0.5 - exact)
    assert delta == pytest.approx(1e-5, rel=0.01)
    assert exact <= Accountant(1.0, 1.0, 1e-5).epsilon(1)


def test_as_many_rounds_fit_as_the_budget_allows_and_not_one_more() -> None:
    accountant = Accountant(1.0, 0.5, 1e-5)
    rounds = accountant.rounds(8.0, 1000)
    assert 0 < rounds < 1000
    assert accountant.epsilon(rounds) <= 8.0 < accountant.epsilon(rounds + 1)
    assert accountant.rounds(1e9, 7) == 7
    assert accountant.rounds(1e-3, 7) == 0
    assert accountant.epsilon(0) == 0.0


def test_two_sums_of_a_round_cost_what_their_composition_costs() -> None:
    """z = 2 asked twice is z = 2 / sqrt 2 asked once, which dp-accounting confirms without sampling."""
    gaussian = dp_accounting.GaussianDpEvent(2.0)
    twice = RdpAccountant().compose(gaussian, 10).get_epsilon(1e-5)
    dp = DP(noise_multiplier=2.0)
    assert Accountant.of(dp, 1.0, sums=2).epsilon(5) == pytest.approx(twice, abs=1e-9)
    assert Accountant.of(dp, 1.0).epsilon(10) == pytest.approx(twice, abs=1e-9)
    assert Accountant.of(dp, 0.1, sums=2).epsilon(5) > Accountant.of(dp, 0.1).epsilon(5)
