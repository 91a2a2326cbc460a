"""What PEFT's start values mean for the solve: figures of specification fedlora, sections 1 and 4."""

import pytest
import torch

from fedloom.aggregation import lora
from fedloom.models.lora.layers import fresh_factor

pytestmark = pytest.mark.identities


def started(r: int, d_in: int, seed: int = 0) -> torch.Tensor:
    """A as an adapter begins, (r, d_in), in float64."""
    return fresh_factor(torch.empty(r, d_in), seed, "lora", "llm", "q_proj").double()


@pytest.mark.parametrize(("r", "d_in"), [(8, 1024), (32, 4096), (4, 77)])
def test_a_begins_uniform_so_that_its_gram_matrix_is_a_third_of_the_identity(r, d_in) -> None:
    A = torch.stack([started(r, d_in, seed) for seed in range(40)])
    assert float(A.abs().max()) <= d_in**-0.5
    assert float(A.abs().max()) > 0.99 * d_in**-0.5
    gram = torch.einsum("kri,ksi->krs", A, A).mean(0)
    torch.testing.assert_close(gram, torch.eye(r, dtype=torch.float64) / 3, rtol=0, atol=0.03)


@pytest.mark.parametrize(
    ("r", "d_in", "condition"), [(8, 1024, 1.3), (16, 1024, 1.5), (32, 4096, 1.4), (64, 512, 4.0)]
)
def test_the_gram_matrix_of_a_fresh_a_is_well_conditioned(r, d_in, condition) -> None:
    drawn = [float(torch.linalg.cond(A @ A.T)) for A in (started(r, d_in, seed) for seed in range(5))]
    assert sum(drawn) / 5 == pytest.approx(condition, rel=0.1)


@pytest.mark.parametrize(("ridge", "kept"), [(1.0, 0.25), (0.1, 0.77), (0.01, 0.97)])
def test_an_absolute_ridge_keeps_this_share_of_b_in_every_round(ridge, kept) -> None:
    A = started(8, 1024)
    B = torch.randn(24, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    _, B_new = lora.feda2(A[None], B[None], None, ridge, "always")
    assert float(B_new.norm() / B.norm()) == pytest.approx(kept, abs=0.01)
    for _ in range(4):
        _, B_new = lora.feda2(A[None], B_new[None], None, ridge, "always")
    if ridge == 1.0:
        assert float(B_new.norm() / B.norm()) == pytest.approx(0.001, abs=2e-4)
    assert torch.equal(lora.feda2(A[None], B[None], None, 0.0, "always")[0], A)
