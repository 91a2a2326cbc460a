"""Tree aggregation and the Toeplitz square root: dense reference matrices, noise, sensitivity, participation in turns."""

import itertools
import math

import dp_accounting
import numpy as np
import pytest
import torch
from dp_accounting import NeighboringRelation
from dp_accounting.rdp import RdpAccountant
from hypothesis import given
from hypothesis import strategies as st

from fedloom.privacy.differential.accountant import Accountant, calibrated
from fedloom.privacy.differential.correlated import Correlated
from fedloom.privacy.differential.mechanism import Mechanism
from fedloom.privacy.differential.participation import in_turn
from fedloom.privacy.differential.settings import DP

KINDS = ["tree", "toeplitz"]


def decoder(noise: Correlated, rounds: int) -> np.ndarray:
    """B (rounds, draws): the noise of every prefix, from the rounds' own weights."""
    names, _ = noise.encoder(rounds)
    increments = np.array([[noise.weights(t).get(name, 0.0) for name in names] for t in range(1, rounds + 1)])
    assert all(set(noise.weights(t)) <= set(names) for t in range(1, rounds + 1))
    return increments.cumsum(axis=0)


@pytest.mark.parametrize("kind", KINDS)
@given(rounds=st.integers(1, 40), restart=st.one_of(st.none(), st.integers(1, 20)))
def test_the_factors_multiply_to_the_prefix_sum(kind, rounds, restart) -> None:
    noise = Correlated(kind, 3, restart)
    _, C = noise.encoder(rounds)
    np.testing.assert_allclose(decoder(noise, rounds) @ C, np.tri(rounds), atol=1e-10)
    assert (C >= 0).all()


def test_the_tree_of_seven_rounds_is_the_papers() -> None:
    """Prefix 7 is the nodes 1-4, 5-6 and 7; each has 0 or 1 of every draw, and no more nodes than binary digits."""
    B = decoder(Correlated("tree", 1), 7)
    assert [int(row.sum()) for row in B] == [t.bit_count() for t in range(1, 8)]
    assert set(np.unique(B)) == {0.0, 1.0}


@pytest.mark.parametrize("kind", KINDS)
def test_the_noise_of_every_prefix_is_the_dense_matrix_times_its_draws(kind) -> None:
    rounds, size = 11, 6
    one = Mechanism(DP(mechanism=kind, seeded=True, clip=0.5, noise_multiplier=3.0, restart=8), 0.5, 1, 4)
    names, _ = one.correlated.encoder(rounds)
    draws = torch.stack([one._draw(name, ("train", "a/w"), size) for name in names])
    prefixes = torch.stack([one.noise(t, "train", "a", {"a/w": size}) for t in range(1, rounds + 1)]).cumsum(
        0
    )
    expected = 1.5 * torch.from_numpy(decoder(one.correlated, rounds)) @ draws
    torch.testing.assert_close(prefixes, expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seeded", [True, False])
def test_a_rounds_noise_has_its_deviation_and_tensors_have_draws_of_their_own(kind, seeded) -> None:
    one = Mechanism(DP(mechanism=kind, seeded=seeded, noise_multiplier=2.0), 0.5, 1, 0, bytes(32))
    drawn = one.noise(4, "train", "a", {"a/v": 20_000, "a/w": 20_000})
    weights = np.array(list(one.correlated.weights(4).values()))
    assert float(drawn.std()) == pytest.approx(2 * float(np.linalg.norm(weights)), rel=0.02)
    first, second = drawn.split(20_000)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.03
    again = Mechanism(DP(mechanism=kind, seeded=seeded, noise_multiplier=2.0), 0.5, 1, 0, bytes(32))
    assert torch.equal(again.noise(4, "train", "a", {"a/v": 20_000, "a/w": 20_000}), drawn)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("rounds", "apart", "restart"), [(12, 3, None), (9, 9, None), (10, 4, 4), (7, 1, 3)])
def test_the_sensitivity_bounds_every_client_and_is_reached(kind, rounds, apart, restart) -> None:
    """Changes of norm 1 in any direction, in the rounds of a client's turn: C X has at most this norm."""
    noise = Correlated(kind, apart, restart)
    _, C = noise.encoder(rounds)
    rng, reached = np.random.default_rng(1), 0.0
    for p, _ in itertools.product(range(min(apart, rounds)), range(40)):
        X = np.zeros((rounds, 3))
        X[p::apart] = rng.normal(size=X[p::apart].shape)
        X[p::apart] /= np.linalg.norm(X[p::apart], axis=1, keepdims=True)
        assert np.linalg.norm(C @ X) <= noise.sensitivity(rounds) + 1e-12
        same = np.zeros((rounds, 1))
        same[p::apart] = 1
        reached = max(reached, float(np.linalg.norm(C @ same)))
    assert reached == pytest.approx(noise.sensitivity(rounds), abs=1e-12)


def by_dp_accounting(event: dp_accounting.DpEvent, delta: float) -> float:
    accountant = RdpAccountant(neighboring_relation=NeighboringRelation.REPLACE_SPECIAL)
    return accountant.compose(event).get_epsilon(delta)


@pytest.mark.parametrize("z", [1.13, 8.83])
@pytest.mark.parametrize("rounds", [1, 6, 7, 8, 1600])
def test_one_participation_in_a_tree_costs_what_dp_accounting_says(z, rounds) -> None:
    event = dp_accounting.SingleEpochTreeAggregationDpEvent(z, rounds)
    ours = Accountant(z, 1.0, 1e-6, "rdp", Correlated("tree", rounds)).epsilon(rounds)
    assert ours == pytest.approx(by_dp_accounting(event, 1e-6), abs=1e-9)


@pytest.mark.parametrize(("z", "printed"), [(1.13, 19.74), (8.83, 2.04)])
def test_the_published_figures_of_dp_ftrl_hold(z, printed) -> None:
    """Kairouz et al., Stack Overflow, 1,600 rounds, each client once, δ = 1e-6: ε 19.74 and 2.04, by the older conversion."""
    orders = np.arange(1.1, 200, 0.1)
    older = np.min(orders * 11 / (2 * z**2) + math.log(1e6) / (orders - 1))
    assert older == pytest.approx(printed, abs=0.01)
    ours = Accountant(z, 1.0, 1e-6, "rdp", Correlated("tree", 1600)).epsilon(1600)
    assert printed - 1.2 < ours < printed


def test_a_tree_that_begins_anew_at_every_turn_is_composed_as_dp_accounting_does() -> None:
    tree = dp_accounting.SingleEpochTreeAggregationDpEvent(3.0, 5)
    reference = by_dp_accounting(dp_accounting.SelfComposedDpEvent(tree, 4), 1e-5)
    assert Accountant(3.0, 0.2, 1e-5, "rdp", Correlated("tree", 5, 5)).epsilon(20) == pytest.approx(
        reference, abs=1e-9
    )


def test_a_tree_of_one_round_is_independent_noise() -> None:
    for kind in KINDS:
        ours = Accountant(2.0, 1.0, 1e-5, "rdp", Correlated(kind, 1, 1)).epsilon(9)
        assert ours == pytest.approx(Accountant(2.0, 1.0, 1e-5).epsilon(9), abs=1e-9)


@pytest.mark.parametrize("kind", ["gaussian", *KINDS])
def test_a_calibrated_multiplier_is_the_least_that_keeps_the_budget(kind) -> None:
    dp = DP(mechanism=kind, noise_multiplier="calibrated", epsilon=3.0)
    z = calibrated(dp, 0.25, 2, 12)
    spent = [
        Accountant.of(dp.model_copy(update={"noise_multiplier": x}), 0.25, 2).epsilon(12)
        for x in (z, z - 0.001)
    ]
    assert spent[0] <= 3.0 < spent[1]


def test_every_client_has_its_turn_once_and_the_same_rounds_apart() -> None:
    names = [f"c{i:02}" for i in range(11)]
    rounds = [in_turn(names, 3, 0.25, t) for t in range(1, 9)]
    assert sorted(n for clients in rounds[:4] for n in clients) == names
    assert rounds[4:] == rounds[:4]
    assert {len(clients) for clients in rounds} == {2, 3}
    assert rounds != [in_turn(names, 4, 0.25, t) for t in range(1, 9)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("restart", [None, 4])
def test_a_draw_is_new_in_the_round_that_it_names(kind, restart) -> None:
    noise = Correlated(kind, 2, restart)
    first: dict[tuple[int, ...], int] = {}
    for number in range(1, 14):
        for draw in noise.weights(number):
            first.setdefault(draw, number)
    assert {draw: noise.first(draw) for draw in first} == first


@pytest.mark.parametrize("kind", KINDS)
def test_a_round_that_is_repeated_has_other_new_noise_and_takes_the_same_old_noise_back(
    kind, tmp_path
) -> None:
    """Else two models of one round with different sums would differ by a client's bare change."""
    one, again = (Mechanism(DP(mechanism=kind), 0.5, 1, 0) for _ in range(2))
    sizes = {"a/w": 50}
    one.open(tmp_path, after=0)
    published = one.noise(1, "train", "a", sizes)
    state = one.state(["x"])
    killed = one.noise(2, "train", "a", sizes)
    again.restore(state, ["x"])
    again.open(tmp_path, after=1)
    assert torch.equal(again.noise(1, "train", "a", sizes), published)
    repeated = again.noise(2, "train", "a", sizes)
    assert float((repeated - killed).abs().min()) > 1e-6
    names, _ = again.correlated.encoder(2)
    draws = torch.stack([again._draw(name, ("train", "a/w"), 50) for name in names])
    expected = torch.from_numpy(decoder(again.correlated, 2)) @ draws
    torch.testing.assert_close(torch.stack([published, published + repeated]), expected, atol=1e-10, rtol=0)
    assert torch.equal(again.noise(2, "train", "a", sizes), repeated)
