"""Robust statistics of products: against dense matrices, and whatever factors and order the clients choose."""

import pytest
import torch

from fedloom.aggregation import robust

K, R, D_OUT, D_IN = 6, 3, 24, 37
TOL = {"rtol": 1e-10, "atol": 1e-10}


def clients(seed: int = 0, k: int = K, spread: float = 0.3) -> tuple[torch.Tensor, torch.Tensor]:
    """Factors around common ones, as clients that train from one adapter have them."""
    g = torch.Generator().manual_seed(seed)
    A = torch.randn(R, D_IN, generator=g, dtype=torch.float64) / D_IN**0.5
    B = torch.randn(D_OUT, R, generator=g, dtype=torch.float64)
    A = A + spread * torch.randn(k, R, D_IN, generator=g, dtype=torch.float64) / D_IN**0.5
    B = B + spread * torch.randn(k, D_OUT, R, generator=g, dtype=torch.float64)
    return A, B


def regauged(A: torch.Tensor, B: torch.Tensor, seed: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    """Other factors of the same products: every client chooses an R of its own, one of them a huge one."""
    g = torch.Generator().manual_seed(seed)
    R_k = torch.eye(R, dtype=torch.float64) + 0.3 * torch.randn(
        len(A), R, R, generator=g, dtype=torch.float64
    )
    R_k[0] *= 1e4
    return R_k @ A, B @ torch.linalg.inv(R_k)


def mean(values: torch.Tensor) -> torch.Tensor:
    return values.mean(0)


def test_inner_products_and_distances_are_those_of_the_dense_products() -> None:
    A, B = clients()
    P = (B @ A).flatten(1)
    torch.testing.assert_close(robust.inner_products(A, B), P @ P.T, **TOL)
    torch.testing.assert_close(robust.distances(A, B), torch.cdist(P, P), rtol=1e-7, atol=1e-7)
    squared = (P[:, None] - P).square().sum(-1)
    torch.testing.assert_close(robust.squared_distances(robust.inner_products(A, B)), squared, **TOL)


def test_scales_and_unequal_ranks_are_folded_in() -> None:
    A, B = clients()
    scales = [1.0, 2.0, 0.5, 1.0, 1.0, 3.0]
    A_k, B_k = [a[: 1 + i % R] for i, a in enumerate(A)], [b[:, : 1 + i % R] for i, b in enumerate(B)]
    P = torch.stack([s * b @ a for s, a, b in zip(scales, A_k, B_k, strict=True)])
    flat = P.flatten(1)
    torch.testing.assert_close(robust.inner_products(A_k, B_k, scales=scales), flat @ flat.T, **TOL)
    A_out, B_out = robust.combine_products(A_k, B_k, mean, scales=scales)
    torch.testing.assert_close(B_out @ A_out, P.mean(0), **TOL)


@pytest.mark.parametrize(
    "rule", [robust.median, mean, lambda x: robust.trimmed_mean(x, 1)], ids=["median", "mean", "trimmed"]
)
def test_a_rule_over_products_sees_neither_factors_nor_order(rule) -> None:
    A, B = clients()
    A_out, B_out = robust.combine_products(A, B, rule)
    product = B_out @ A_out
    again = robust.combine_products(*regauged(A, B), rule)
    torch.testing.assert_close(again[1] @ again[0], product, **TOL)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    turned = robust.combine_products(A[order], B[order], rule)
    torch.testing.assert_close(turned[1] @ turned[0], product, **TOL)
    assert A_out.shape[1] == D_IN
    assert B_out.shape[0] == D_OUT


def test_a_linear_rule_gives_the_dense_mean_of_the_products() -> None:
    A, B = clients()
    for rule in (mean, lambda x: robust.trimmed_mean(x, 0)):
        A_out, B_out = robust.combine_products(A, B, rule)
        torch.testing.assert_close(B_out @ A_out, (B @ A).mean(0), **TOL)


def test_the_median_is_the_dense_one_in_the_bases_of_the_products() -> None:
    """The same bases, found from dense matrices."""
    A, B = clients(k=5)
    P = B @ A
    unit = P / P.flatten(1).norm(dim=1)[:, None, None]
    U = torch.linalg.svd(unit.transpose(0, 1).flatten(1), full_matrices=False).U[:, : 5 * R]
    V = torch.linalg.svd(unit.permute(2, 0, 1).flatten(1), full_matrices=False).U[:, : 5 * R]
    want = U @ (U.T @ P @ V).median(dim=0).values @ V.T
    A_out, B_out = robust.combine_products(A, B, robust.median)
    torch.testing.assert_close(B_out @ A_out, want, **TOL)


def test_a_median_of_pieces_is_the_median_of_the_whole(monkeypatch) -> None:
    A, B = clients()
    whole = robust.combine_products(A, B, robust.median)
    monkeypatch.setattr(robust, "_PIECE", 7 * K * R * K)  # a few rows of the core at a time
    part = robust.combine_products(A, B, robust.median)
    torch.testing.assert_close(part[1] @ part[0], whole[1] @ whole[0], **TOL)


def test_equal_products_are_their_own_median_with_their_own_rank() -> None:
    A, B = (t[:1].expand(K, -1, -1) for t in clients())
    A_out, B_out = robust.combine_products(*regauged(A, B), robust.median)
    assert A_out.shape == (R, D_IN)
    torch.testing.assert_close(B_out @ A_out, B[0] @ A[0], **TOL)
    nothing = robust.combine_products(A, torch.zeros_like(B), robust.median)
    assert nothing[0].shape == (0, D_IN)


@pytest.mark.parametrize("size", [1e2, 1e8])
def test_two_of_six_cannot_carry_the_median_away_however_large_they_are(size) -> None:
    A, B = clients(spread=0.05)
    honest = (B[2:] @ A[2:]).mean(0)
    B = B.clone()
    B[:2] *= -size
    A_out, B_out = robust.combine_products(A, B, robust.median)
    spread = max(float((b @ a - honest).norm()) for a, b in zip(A[2:], B[2:], strict=True))
    assert float((B_out @ A_out - honest).norm()) < 5 * spread
    A_out, B_out = robust.combine_products(A, B, lambda x: robust.trimmed_mean(x, 2))
    assert float((B_out @ A_out - honest).norm()) < 5 * spread
    assert float(((B @ A).mean(0) - honest).norm()) > 10 * spread


def test_cut_is_the_best_approximation_of_a_rank() -> None:
    A, B = (t[0] for t in clients())
    want = torch.linalg.svd(B @ A)
    A_out, B_out = robust.cut(A, B, 2)
    torch.testing.assert_close(B_out @ A_out, (want.U[:, :2] * want.S[:2]) @ want.Vh[:2], **TOL)
    assert robust.cut(torch.cat([A, A]), torch.cat([B, B], 1), 9)[0].shape == (R, D_IN)


def test_median_and_trimmed_mean_by_hand() -> None:
    values = torch.tensor([[1.0, 9.0], [2.0, 0.0], [100.0, 5.0], [4.0, -50.0]])
    assert robust.median(values).tolist() == [3.0, 2.5]
    assert robust.median(values[:3]).tolist() == [2.0, 5.0]
    assert robust.trimmed_mean(values, 1).tolist() == [3.0, 2.5]
    assert robust.trimmed_mean(values, 0).tolist() == [26.75, -9.0]
    torch.testing.assert_close(robust.median(-values), -robust.median(values))
    for cut in (-1, 2):
        with pytest.raises(ValueError, match="cut is"):
            robust.trimmed_mean(values, cut)
    with pytest.raises(ValueError, match="no client"):
        robust.median(values[:0])


def test_multi_krum_by_hand() -> None:
    """Points 0, 1, 3, 4, 100 on a line, f = 1: each score is the sum of the two smallest squared distances."""
    x = torch.tensor([0.0, 1.0, 3.0, 4.0, 100.0], dtype=torch.float64)
    d = (x[:, None] - x).abs()
    assert robust.krum_scores(d.square(), 1).tolist() == [10.0, 5.0, 5.0, 10.0, 96.0**2 + 97.0**2]
    assert robust.multi_krum(d, 1) == [0, 1, 2, 3]
    assert robust.multi_krum(d, 1, keep=2) == [1, 2]
    assert robust.multi_krum(d, 1, keep=1) == [1]
    with pytest.raises(ValueError, match="needs at least 2 byzantine"):
        robust.multi_krum(d, 2)
    with pytest.raises(ValueError, match="keep is 6"):
        robust.multi_krum(d, 1, keep=6)


def test_multi_krum_on_products_keeps_the_same_clients_in_every_gauge() -> None:
    A, B = clients(spread=0.05)
    B[4] *= -1
    assert robust.multi_krum(robust.distances(A, B), 1) == [0, 1, 2, 3, 5]
    assert robust.multi_krum(robust.distances(*regauged(A, B)), 1) == [0, 1, 2, 3, 5]
