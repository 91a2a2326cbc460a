"""Factors in the server's gauge, and changes of bounded length."""

import pytest
import torch

from fedloom.aggregation import gauge, lora

R, D_OUT, D_IN = 3, 24, 37
TOL = {"rtol": 1e-10, "atol": 1e-10}


def draw(seed: int, rank: int = R) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    A = torch.randn(rank, D_IN, generator=g, dtype=torch.float64)
    return A, torch.randn(D_OUT, rank, generator=g, dtype=torch.float64)


def near(A_0: torch.Tensor, B_0: torch.Tensor, spread: float = 0.1) -> tuple[torch.Tensor, torch.Tensor]:
    A, B = draw(5)
    return A_0 + spread * A, B_0 + spread * B


def test_the_change_is_that_of_the_products() -> None:
    (A_0, B_0), (A, B) = draw(0), draw(1)
    A_d, B_d = gauge.change(A, B, A_0, B_0)
    torch.testing.assert_close(B_d @ A_d, B @ A - B_0 @ A_0, **TOL)


def test_in_gauge_keeps_the_product_and_forgets_the_factors() -> None:
    A_0, B_0 = draw(0)
    A, B = near(A_0, B_0)
    turn = torch.randn(R, R, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    one = gauge.in_gauge(A, B, A_0)
    for scale in (1.0, 1e-4, 1e5):
        other = gauge.in_gauge(scale * turn @ A, B @ torch.linalg.inv(scale * turn), A_0)
        torch.testing.assert_close(other[0], one[0], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(other[1], one[1], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(one[1] @ one[0], B @ A, **TOL)
    space = torch.linalg.pinv(A) @ A
    torch.testing.assert_close(one[0], A_0 @ space, **TOL)


def test_the_servers_own_pair_is_in_its_gauge() -> None:
    A_0, B_0 = draw(0)
    A, B = gauge.in_gauge(A_0, B_0, A_0)
    torch.testing.assert_close(A, A_0, **TOL)
    torch.testing.assert_close(B, B_0, **TOL)


def test_a_gauge_that_would_lead_the_separate_average_no_longer_does() -> None:
    """One of four clients sends (1e4 B, 1e-4 A), the same product: plain averages come to another product, gauged ones do not."""
    A_0, B_0 = draw(0)
    pairs = [(A_0 + 0.05 * draw(s)[0], B_0 + 0.05 * draw(s)[1]) for s in range(1, 5)]
    mean = torch.stack([b @ a for a, b in pairs]).mean(0)
    sent = [(1e-4 * pairs[0][0], 1e4 * pairs[0][1]), *pairs[1:]]

    def averaged(pairs) -> float:
        A, B = lora.fedavg(torch.stack([a for a, _ in pairs]), torch.stack([b for _, b in pairs]))
        return float((B @ A - mean).norm() / mean.norm())

    assert averaged(sent) > 100
    assert averaged([gauge.in_gauge(a, b, A_0) for a, b in sent]) < 0.02


def test_a_row_space_far_from_the_servers_cannot_make_b_large() -> None:
    A_0 = torch.zeros(R, D_IN, dtype=torch.float64)
    A_0[:, :R] = torch.eye(R, dtype=torch.float64)
    A, B = draw(1)
    A[:, :R] *= 1e-9
    A_out, B_out = gauge.in_gauge(A, B, A_0)
    torch.testing.assert_close(B_out @ A_out, B @ A, **TOL)
    assert float(torch.linalg.svdvals(A_out).min()) > 0.099
    assert float(B_out.norm()) < 1.001 * float((B @ A).norm()) / gauge.SHORTEST


def test_directions_that_are_missing_stay_the_servers() -> None:
    A_0, _ = draw(0)
    A, B = draw(1, rank=1)
    A_out, B_out = gauge.in_gauge(A, B, A_0)
    assert A_out.shape == A_0.shape
    assert int(torch.linalg.matrix_rank(A_out)) == R
    torch.testing.assert_close(B_out @ A_out, B @ A, **TOL)
    A_none, B_none = gauge.in_gauge(A[:0], B[:, :0], A_0)
    torch.testing.assert_close(A_none, A_0, **TOL)
    assert B_none.shape == (D_OUT, R)
    assert not B_none.any()
    with pytest.raises(ValueError, match="must fit into it"):
        gauge.in_gauge(*draw(1, rank=R + 1), A_0)
    fresh = gauge.in_gauge(A, B, torch.zeros_like(A_0))
    torch.testing.assert_close(fresh[1] @ fresh[0], B @ A, **TOL)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_step_measures_every_share_of_the_way_and_stops_at_the_bound(dtype) -> None:
    tol = 1e-10 if dtype == torch.float64 else 1e-5
    A_0, B_0 = (t.to(dtype) for t in draw(0))
    A, B = (t.to(dtype) for t in near(A_0, B_0, 2.0))
    way = gauge.step(A, B, A_0, B_0)

    def dense(share: float) -> float:
        A_t, B_t = A_0 + share * (A - A_0), B_0 + share * (B - B_0)
        return float((B_t.double() @ A_t.double() - B_0.double() @ A_0.double()).norm())

    for share in (0.0, 0.3, 1.0):
        assert way.norm(share) == pytest.approx(dense(share), rel=10 * tol, abs=tol)
    bound = way.norm() / 7
    share = way.share(bound)
    assert 0 < share < 1
    assert dense(share) == pytest.approx(bound, rel=10 * tol)
    assert way.share(way.norm()) == 1.0
    both = way + gauge.Step(linear=4.0)
    assert both.norm() ** 2 == pytest.approx(way.norm() ** 2 + 4.0)
