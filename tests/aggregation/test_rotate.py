"""Spec fedlora.md section 9, identities 33 (rotations) and 34 (means of inner factors)."""

import pytest
import torch

from fedloom.aggregation.mean import weighted_mean
from fedloom.aggregation.rotate import towards

pytestmark = pytest.mark.identities


@pytest.mark.parametrize("seed", range(6))
def test_33_the_product_stays_and_a_comes_no_farther_from_the_reference(seed, make_cohort) -> None:
    c = make_cohort(seed)
    reference = c.A.mean(0)
    for A, B in zip(c.A, c.B, strict=True):
        turned, opposite = towards(A, B, reference)
        torch.testing.assert_close(opposite @ turned, B @ A, rtol=1e-10, atol=1e-12)
        assert float((turned - reference).norm()) <= float((A - reference).norm()) + 1e-12
        R = torch.linalg.lstsq(A.T, turned.T).solution
        torch.testing.assert_close(R @ R.T, torch.eye(4, dtype=torch.float64), rtol=1e-8, atol=1e-9)
        assert float(torch.linalg.det(R)) == pytest.approx(1.0)


def test_33_a_turned_copy_is_turned_back(make_cohort) -> None:
    c = make_cohort(7)
    Q, _ = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    Q[:, 0] *= torch.linalg.det(Q).sign()
    A, B = towards(Q @ c.A[0], c.B[0] @ Q.T, c.A[0])
    torch.testing.assert_close(A, c.A[0], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(B, c.B[0], rtol=1e-10, atol=1e-12)
    with pytest.raises(ValueError, match="shapes"):
        towards(c.A[0], c.B[0], c.A[0][:2])


def test_34_the_mean_of_inner_factors_is_the_mean_of_the_products(make_cohort) -> None:
    c = make_cohort(8)
    inner = torch.randn(5, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    mean = weighted_mean([{"R": R} for R in inner], c.p.tolist())["R"]
    wanted = sum(p * c.B[0] @ R @ c.A[0] for p, R in zip(c.p, inner, strict=True))
    torch.testing.assert_close(c.B[0] @ mean @ c.A[0], wanted, rtol=1e-10, atol=1e-12)
