"""The reconstruction of Fed-CMP's server step: reductions and invariants (docs/methods/fedma.md, C1-C7)."""

from dataclasses import replace

import pytest
import torch

from fedloom.aggregation.canonical import Rules, fuse, join, leading, moved, part, polar, rank_of
from fedloom.aggregation.reliability import agreements, deviations, effective, reliability

pytestmark = pytest.mark.identities
PLAIN = Rules(beta=0.0, gamma=0.0)
CASES = [(4, 7, 5, 1), (3, 7, 5, 5), (5, 5, 9, 5), (2, 6, 6, 3), (8, 12, 9, 6)]
"""(K, m, n, r)."""


def drawn(
    seed: int, K: int, m: int, n: int, spread: float = 0.3, dtype: torch.dtype = torch.float64
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Current W, the clients' W_k near it, and unequal weights in float64."""
    g = torch.Generator().manual_seed(seed)
    W = torch.randn(m, n, generator=g, dtype=torch.float64)
    common = torch.randn(m, n, generator=g, dtype=torch.float64)
    clients = W + spread * (common + torch.randn(K, m, n, generator=g, dtype=torch.float64))
    p = torch.rand(K, generator=g, dtype=torch.float64) + 0.2
    return W.to(dtype), clients.to(dtype), p / p.sum()


BOTH = pytest.mark.parametrize(
    ("dtype", "tol"), [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=["f64", "f32"]
)


def orthonormal(seed: int, m: int, r: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(m, r, generator=g, dtype=torch.float64))[0]


def mean(W: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    return torch.einsum("k,kmn->mn", p.to(W.dtype), W)


def off(B: torch.Tensor) -> float:
    return float((B.T @ B - torch.eye(B.shape[1], dtype=B.dtype)).norm())


@pytest.mark.parametrize("form", ["attach", "reproject"])
@pytest.mark.parametrize("space", ["weight", "update"])
@pytest.mark.parametrize("side", ["output", "input"])
@pytest.mark.parametrize(("K", "m", "n", "r"), CASES)
def test_1_without_momentum_and_reliability_it_is_fedavg(K, m, n, r, side, space, form) -> None:
    W, clients, p = drawn(K, K, m, n)
    rules = replace(PLAIN, space=space, form=form, side=side)
    r = min(r, n) if side == "input" else r
    last = None
    for _ in range(2):
        fused = fuse(clients, W, p, rules, rank=r, previous=last)
        torch.testing.assert_close(fused.W, mean(clients, p), rtol=1e-10, atol=1e-10)
        last = fused.B
    single = fuse(clients.float(), W.float(), p, rules, rank=r)
    assert single.W.dtype == torch.float32
    torch.testing.assert_close(single.W, mean(clients, p).float(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("momentum", ["blend", "heavyball"])
@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_2_the_basis_stays_orthonormal_and_the_blend_far_from_singular(beta, momentum) -> None:
    W, B, N = drawn(0, 3, 9, 6)[0], None, None
    rules = Rules(beta=beta, momentum=momentum)
    for round_ in range(8):
        _, clients, p = drawn(round_, 4, 9, 6)
        fused = fuse(clients, W, p, rules, previous=B, velocity=N, rank=4)
        assert off(fused.B) < 1e-10
        if B is not None and momentum == "blend":
            U = fuse(clients, W, p, PLAIN, previous=B, rank=4).B
            smallest = torch.linalg.svdvals((1 - beta) * U + beta * B)[-1]
            assert float(smallest) >= ((1 - beta) ** 2 + beta**2) ** 0.5 - 1e-6
        W, B, N = fused.W, fused.B, fused.N


@BOTH
@pytest.mark.parametrize("statistic", ["variance", "cosine", "energy"])
def test_3_the_clients_order_changes_nothing(statistic, dtype, tol) -> None:
    W, clients, p = drawn(1, 5, 8, 6, dtype=dtype)
    order = [3, 0, 4, 1, 2]
    rules, last = Rules(statistic=statistic), orthonormal(7, 8, 4)
    one = fuse(clients, W, p, rules, previous=last)
    two = fuse(clients[order], W, p[order], rules, previous=last)
    torch.testing.assert_close(one.W, two.W, rtol=tol, atol=tol)
    torch.testing.assert_close(one.rho[order], two.rho, rtol=tol, atol=tol)


def test_4_the_gauge_of_the_basis_does_not_matter_once_there_is_a_last_one(monkeypatch) -> None:
    from fedloom.aggregation import canonical

    W, clients, p = drawn(2, 4, 9, 6)
    rules, last = Rules(beta=0.3), orthonormal(3, 9, 4)
    plain = fuse(clients, W, p, rules, previous=last)
    turn = orthonormal(4, 4, 4)
    original = canonical.leading

    def turned(*arguments):
        U, energy = original(*arguments)
        return U @ turn, energy

    monkeypatch.setattr(canonical, "leading", turned)
    torch.testing.assert_close(fuse(clients, W, p, rules, previous=last).W, plain.W, rtol=1e-9, atol=1e-9)

    def signs(*arguments):
        U, energy = original(*arguments)
        return U[:, [2, 0, 3, 1]] * torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=U.dtype), energy

    monkeypatch.setattr(canonical, "leading", original)
    first = fuse(clients, W, p, rules, rank=4)
    monkeypatch.setattr(canonical, "leading", signs)
    torch.testing.assert_close(fuse(clients, W, p, rules, rank=4).W, first.W, rtol=1e-9, atol=1e-9)


@BOTH
@pytest.mark.parametrize("gamma", [0.0, 1.0, 4.0])
@pytest.mark.parametrize("K", [1, 3])
def test_5_and_6_identical_clients_and_one_client_come_back_as_they_are(K, gamma, dtype, tol) -> None:
    W, clients, _ = drawn(3, 1, 7, 5, dtype=dtype)
    p = torch.full((K,), 1 / K, dtype=torch.float64)
    fused = fuse(clients.expand(K, 7, 5), W, p, Rules(beta=0.0, gamma=gamma), previous=orthonormal(1, 7, 3))
    torch.testing.assert_close(fused.W, clients[0], rtol=tol, atol=tol)
    torch.testing.assert_close(fused.rho, p[:, None].expand(K, 3), rtol=1e-6, atol=1e-6)


def test_6_two_clients_keep_their_weights() -> None:
    W, clients, _ = drawn(4, 2, 7, 5)
    p = torch.tensor([0.3, 0.7], dtype=torch.float64)
    rho = fuse(clients, W, p, Rules(gamma=2.0), rank=4).rho
    torch.testing.assert_close(rho, p[:, None].expand(2, 4), rtol=1e-9, atol=1e-9)


def test_7_and_19_a_client_that_pulls_the_other_way_counts_less_and_8_columns_sum_to_one() -> None:
    W, clients, _ = drawn(5, 6, 12, 9)
    clients[2] = W - 5 * (clients[2] - W)
    p = torch.full((6,), 1 / 6, dtype=torch.float64)
    rho = fuse(clients, W, p, Rules(), rank=8).rho
    assert float((rho[2] < 1 / 6).double().mean()) > 0.9
    assert float(rho[2].mean()) < float(rho[[0, 1, 3, 4, 5]].mean())
    torch.testing.assert_close(rho.sum(0), torch.ones(8, dtype=torch.float64), rtol=1e-12, atol=1e-12)
    assert float(effective(rho).max()) <= 6 + 1e-9


def test_8_fused_coefficients_are_the_weighted_coefficients() -> None:
    """C5's two forms: sum rho C_k, and C_0 + sum rho D_k."""
    W, clients, p = drawn(6, 4, 8, 6)
    fused = fuse(clients, W, p, Rules(beta=0.0, residual=0.0), rank=5)
    C = torch.einsum("mr,kmn->krn", fused.B, clients)
    by_hand = fused.B @ torch.einsum("kr,krn->rn", fused.rho, C)
    torch.testing.assert_close(fused.W, by_hand, rtol=1e-10, atol=1e-10)


def test_9_the_gram_matrix_gives_the_space_of_the_side_by_side_svd() -> None:
    _, clients, p = drawn(7, 5, 8, 6)
    U, energy = leading(lambda k: clients[k], p.tolist(), 8, torch.float64, clients.device, 3, 0.99, 8, None)
    stacked = torch.cat([p[k].sqrt() * clients[k] for k in range(5)], 1)
    left, values, _ = torch.linalg.svd(stacked, full_matrices=False)
    torch.testing.assert_close(U @ U.T, left[:, :3] @ left[:, :3].T, rtol=1e-10, atol=1e-10)
    assert energy == pytest.approx(float(values[:3].square().sum() / values.square().sum()), abs=1e-12)


def test_10_with_a_whole_basis_momentum_does_nothing() -> None:
    W, clients, p = drawn(8, 4, 6, 9)
    last = orthonormal(2, 6, 6)
    fused = fuse(clients, W, p, Rules(beta=0.7), previous=last)
    torch.testing.assert_close(fused.B, last, rtol=1e-9, atol=1e-9)


@BOTH
def test_11_a_heavy_ball_without_momentum_is_the_blend_without(dtype, tol) -> None:
    W, clients, p = drawn(9, 4, 9, 6, dtype=dtype)
    last, N = orthonormal(5, 9, 4), 0.1 * orthonormal(6, 9, 4)
    heavy = fuse(clients, W, p, Rules(beta=0.0, momentum="heavyball"), previous=last, velocity=N)
    blend = fuse(clients, W, p, Rules(beta=0.0), previous=last)
    torch.testing.assert_close(heavy.W, blend.W, rtol=tol, atol=tol)
    other = fuse(clients, W, p, Rules(beta=0.5, momentum="heavyball"), previous=last, velocity=N)
    assert float((other.B - heavy.B).norm()) > 1e-3


@pytest.mark.parametrize("beta", [0.25, 0.5])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_heavy_ball_without_a_nearest_basis_begins_anew_from_u(beta, dtype) -> None:
    """N = -U / beta gives B + N' = 0; where a thousandth of U is left, the momentum stays."""
    basis = orthonormal(7, 9, 6)
    if dtype == torch.float32:  # powers of two, so that the sum is zero in every precision
        basis = torch.eye(9, 6, dtype=torch.float64)
    U, last = basis[:, :3].to(dtype), basis[:, 3:].to(dtype)
    rules = Rules(beta=beta, momentum="heavyball")
    B, N = moved(U, last, -U / beta, rules)
    assert torch.equal(B, U)
    assert torch.equal(N, torch.zeros_like(U))
    B, N = moved(U, last, -(1 - 2**-10) * U / beta, rules)
    torch.testing.assert_close(N, 2**-10 * U - last, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(B, U, rtol=1e-6, atol=1e-6)


@BOTH
@pytest.mark.parametrize("beta", [0.0, 0.4, 0.9])
def test_12_reprojecting_without_reliability_is_fedavg_for_every_momentum(beta, dtype, tol) -> None:
    W, clients, p = drawn(10, 4, 9, 6, dtype=dtype)
    rules = Rules(beta=beta, gamma=0.0, form="reproject")
    fused = fuse(clients, W, p, rules, previous=orthonormal(5, 9, 4))
    torch.testing.assert_close(fused.W, mean(clients, p), rtol=tol, atol=tol)
    attached = fuse(clients, W, p, replace(rules, form="attach"), previous=orthonormal(5, 9, 4))
    assert (float((attached.W - mean(clients, p)).norm()) > 1e-3) == (beta > 0)


def test_13_bias_is_the_last_column_and_half_precision_comes_back() -> None:
    weight, bias = torch.randn(5, 3), torch.randn(5)
    assert join(weight, bias).shape == (5, 4)
    one, two = part(join(weight, bias), True)
    assert torch.equal(one, weight)
    assert torch.equal(two, bias)
    assert part(join(weight, None), False)[1] is None
    W, clients, p = drawn(11, 3, 7, 5)
    half = fuse(clients.half(), W.half(), p, PLAIN, rank=3)
    assert half.W.dtype == torch.float16
    assert half.B.dtype == torch.float64
    torch.testing.assert_close(half.W.double(), mean(clients, p), rtol=5e-3, atol=5e-3)


def test_side_input_is_the_transposed_step() -> None:
    W, clients, p = drawn(12, 4, 8, 5)
    across = fuse(clients, W, p, Rules(side="input"), rank=3)
    turned = fuse(clients.transpose(1, 2), W.T, p, Rules(), rank=3)
    torch.testing.assert_close(across.W, turned.W.T, rtol=1e-10, atol=1e-10)


def test_without_the_residual_only_the_spanned_part_is_left() -> None:
    W, clients, p = drawn(13, 4, 8, 6)
    fused = fuse(clients, W, p, Rules(beta=0.0, gamma=0.0, residual=0.0), rank=2)
    assert torch.linalg.matrix_rank(fused.W) == 2


def test_the_variance_by_hand() -> None:
    """Three clients, one row of two numbers: v_1 against the mean of the other two, and so on."""
    D = torch.tensor([[[1.0, 0.0]], [[3.0, 0.0]], [[0.0, 4.0]]], dtype=torch.float64)
    p = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)
    v = deviations(D, p)
    assert v[:, 0].tolist() == pytest.approx(
        [(0.5**2 + 2**2) / 2, ((3 - 2 / 3) ** 2 + (4 / 3) ** 2) / 2, 9.3888888889]
    )
    rho = reliability(D, p, floor=0.0)[:, 0]
    by_hand = p / v[:, 0]
    torch.testing.assert_close(rho, by_hand / by_hand.sum(), rtol=1e-12, atol=1e-12)
    assert agreements(D, p)[0, 0] == pytest.approx(1.5 / (1.5**2 + 2**2) ** 0.5)
    flat = reliability(D[:2].expand(2, 1, 2) * 0, torch.tensor([0.2, 0.8], dtype=torch.float64))
    assert flat[:, 0].tolist() == pytest.approx([0.2, 0.8])


def test_the_rank_holds_the_energy_and_no_more_than_is_allowed() -> None:
    values = torch.tensor([8.0, 1.0, 0.9, 0.1])
    assert [rank_of(values, 10.0, eta, 4) for eta in (0.5, 0.9, 0.95, 0.985, 1.0)] == [1, 2, 3, 3, 4]
    assert rank_of(values, 10.0, 0.99, 2) == 2
    W, clients, p = drawn(14, 3, 6, 9)
    assert fuse(clients, W, p, Rules(), eta=1.0).B.shape == (6, 5)  # r < m, or momentum would do nothing


def test_the_polar_factor_is_the_nearest_orthonormal_matrix() -> None:
    M = orthonormal(0, 7, 3) + 0.2 * orthonormal(1, 7, 3)
    left, _, right = torch.linalg.svd(M, full_matrices=False)
    torch.testing.assert_close(polar(M), left @ right, rtol=1e-8, atol=1e-8)


def test_iteration_finds_the_leading_space_of_a_large_layer() -> None:
    """Above 1,024 rows: subspace iteration against the whole Gram matrix, on a decaying spectrum."""
    g = torch.Generator().manual_seed(0)
    m, n, K = 1100, 40, 3
    scale = 0.7 ** torch.arange(n)
    clients = torch.randn(K, m, n, generator=g) * scale
    W, p = clients.mean(0), torch.full((K,), 1 / K, dtype=torch.float64)
    exact = fuse(clients, W, p, Rules(), rank=10)
    quick = fuse(clients, W, p, Rules(), rank=10, draw=torch.Generator().manual_seed(1))
    assert quick.B.dtype == torch.float32
    overlap = torch.linalg.svdvals(exact.B.T @ quick.B)
    assert float(overlap[-1]) > 0.99
    assert float(overlap[:7].min()) > 0.9999
    assert quick.energy == pytest.approx(exact.energy, abs=1e-4)
    torch.testing.assert_close(quick.W, exact.W, rtol=1e-2, atol=1e-3)
    again = fuse(clients, W, p, Rules(), previous=quick.B, draw=torch.Generator().manual_seed(2))
    assert off(again.B.double()) < 1e-5
