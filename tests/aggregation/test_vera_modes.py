"""FedA² for VeRA against a dense least-squares problem for every row and mode (specification fedlora 3.15)."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.aggregation import vera

pytestmark = pytest.mark.identities


def rows_of(d, b, A, B, p):
    """For every row i: the direction diag(m)-weighted row of B A, and the mean update's row, both dense."""
    directions = (B * (p @ d)) @ A
    target = sum(p_k * (b_k[:, None] * B * d_k) @ A for p_k, b_k, d_k in zip(p, b, d, strict=True))
    return directions, target


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**20),
    mode=st.sampled_from(["strict", "always", "relative", "centred"]),
    ridge=st.sampled_from([0.0, 0.01, 0.7, 5.0]),
    sizes=st.sampled_from([(2, 3, 8, 5), (5, 9, 7, 11), (3, 4, 13, 6)]),
)
def test_21_every_mode_is_the_ridge_regression_of_its_row(seed, mode, ridge, sizes) -> None:
    K, r, d_in, d_out = sizes
    g = torch.Generator().manual_seed(seed)
    d = 0.1 + 0.05 * torch.randn(K, r, generator=g, dtype=torch.float64)
    b, A, B = (
        torch.randn(*shape, generator=g, dtype=torch.float64) for shape in ((K, d_out), (r, d_in), (d_out, r))
    )
    p = torch.rand(K, generator=g, dtype=torch.float64) + 0.1
    p /= p.sum()
    directions, target = rows_of(d, b, A, B, p)
    squares = directions.square().sum(1)
    lam = {"strict": 0.0, "always": ridge}.get(mode, ridge * float(squares.mean()))
    centre = p @ b if mode == "centred" else torch.zeros(d_out, dtype=torch.float64)
    # min_x ||x g_i - u_i||^2 + lam (x - c_i)^2, solved as an augmented least-squares problem
    want = torch.stack(
        [
            torch.linalg.lstsq(
                torch.cat([row, torch.tensor([lam**0.5], dtype=torch.float64)])[:, None],
                torch.cat([u, lam**0.5 * c[None]])[:, None],
            ).solution[0, 0]
            for row, u, c in zip(directions, target, centre, strict=True)
        ]
    )
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        mean, solved = vera.feda2(*(t.to(dtype) for t in (d, b, A, B)), p, ridge, mode)
        assert (mean.dtype, solved.dtype) == (dtype, dtype)
        scale = float((p @ b.abs()).norm())
        assert float((mean.double() - p @ d).norm()) < tolerance
        assert float((solved.double() - want).norm()) < tolerance * 10 * scale
