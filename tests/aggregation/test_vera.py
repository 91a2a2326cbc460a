"""Spec fedlora.md 3.15 and identity 21: FedA² for VeRA's vectors."""

import pytest
import torch

from fedloom.aggregation import vera

pytestmark = pytest.mark.identities

K, R, D_IN, D_OUT = 5, 12, 37, 24


def draw(seed: int, dtype: torch.dtype = torch.float64):
    g = torch.Generator().manual_seed(seed)
    d = 0.1 + 0.05 * torch.randn(K, R, generator=g, dtype=torch.float64)
    b = torch.randn(K, D_OUT, generator=g, dtype=torch.float64)
    A = torch.randn(R, D_IN, generator=g, dtype=torch.float64)
    B = torch.randn(D_OUT, R, generator=g, dtype=torch.float64)
    p = torch.rand(K, generator=g, dtype=torch.float64) + 0.1
    return *(t.to(dtype) for t in (d, b, A, B)), p / p.sum()


def update(d, b, A, B):
    return (b[:, None] * B * d) @ A


def mean_update(d, b, A, B, p):
    return sum(p_k * update(d_k, b_k, A, B) for p_k, d_k, b_k in zip(p, d, b, strict=True))


@pytest.mark.parametrize(("dtype", "tol"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_21_each_row_is_the_least_squares_answer(dtype, tol) -> None:
    d, b, A, B, p = draw(0, dtype)
    U = mean_update(*(t.double() for t in (d, b, A, B)), p)
    mean_d, solved = vera.feda2(d, b, A, B, p, mode="strict")
    rows = update(mean_d.double(), torch.ones(D_OUT, dtype=torch.float64), A.double(), B.double())
    expected = (rows * U).sum(1) / rows.square().sum(1)
    assert float((solved.double() - expected).norm() / expected.norm()) < tol
    rest = U - update(mean_d.double(), solved.double(), A.double(), B.double())
    assert float((rest * rows).sum(1).abs().max()) < tol * 100 * float(U.norm())


def test_21_error_is_at_most_that_of_the_mean_vectors_and_centred_lies_between() -> None:
    d, b, A, B, p = draw(1)
    U = mean_update(d, b, A, B, p)

    def error(pair) -> float:
        return float((U - update(*pair, A, B)).norm())

    mean = error((p @ d, p @ b))
    errors = [error(vera.feda2(d, b, A, B, p, ridge, "centred")) for ridge in (0.0, 0.1, 1.0, 100.0)]
    assert errors == sorted(errors)
    assert errors[0] == pytest.approx(error(vera.feda2(d, b, A, B, p, mode="strict")), rel=1e-10)
    assert errors[-1] < mean
    assert error(vera.feda2(d, b, A, B, p, 1e9, "centred")) == pytest.approx(mean, rel=1e-6)


@pytest.mark.parametrize("mode", ["strict", "centred"])
def test_21_equal_lambda_d_is_exact(mode) -> None:
    d, b, A, B, p = draw(2)
    d = d[:1].expand(K, -1)
    mean_d, solved = vera.feda2(d, b, A, B, p, mode=mode)
    torch.testing.assert_close(solved, p @ b, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(mean_d, d[0], rtol=1e-10, atol=1e-12)


def test_plain_ridge_shrinks_and_a_row_without_direction_keeps_its_mean() -> None:
    d, b, A, B, p = draw(3)
    strict = vera.feda2(d, b, A, B, p, mode="strict")[1]
    always = vera.feda2(d, b, A, B, p, 0.5, "always")[1]
    assert bool((always.abs() < strict.abs()).all())
    B = B.clone()
    B[3] = 0
    for mode in ("strict", "always", "relative", "centred"):
        assert float(vera.feda2(d, b, A, B, p, mode=mode)[1][3]) == pytest.approx(float(p @ b[:, 3]))


def test_client_order_changes_nothing_and_bad_input_is_refused() -> None:
    d, b, A, B, p = draw(4)
    order = [3, 1, 4, 0, 2]
    for one, two in zip(
        vera.feda2(d, b, A, B, p), vera.feda2(d[order], b[order], A, B, p[order]), strict=True
    ):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-14)
    with pytest.raises(ValueError, match="mode is 'firm'"):
        vera.feda2(d, b, A, B, p, mode="firm")
    with pytest.raises(ValueError, match="shapes"):
        vera.feda2(d, b, B, A, p)
    with pytest.raises(ValueError, match="ridge"):
        vera.feda2(d, b, A, B, p, -1.0)
