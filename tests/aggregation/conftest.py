from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

D_OUT, D_IN = 24, 37  # never square: a transpose must not hide


@dataclass
class Cohort:
    A: Tensor
    B: Tensor
    p: Tensor
    tol: float

    @property
    def U(self) -> Tensor:
        out = torch.zeros(D_OUT, D_IN, dtype=torch.float64)
        for p, a, b in zip(self.p, self.A, self.B, strict=True):
            out += float(p) * b.double() @ a.double()
        return out

    def close(self, got: Tensor, want: Tensor, size: Tensor | None = None) -> bool:
        scale = (want if size is None else size).double().norm()
        return float((got.double() - want.double()).norm()) <= self.tol * float(scale)


def draw(seed: int, dtype: torch.dtype = torch.float64, K: int = 5, r: int = 4) -> Cohort:
    g = torch.Generator().manual_seed(seed)
    start = torch.randn(r, D_IN, generator=g, dtype=torch.float64) / D_IN**0.5
    A = start + torch.randn(K, r, D_IN, generator=g, dtype=torch.float64) / D_IN**0.5
    B = torch.randn(K, D_OUT, r, generator=g, dtype=torch.float64)
    p = torch.rand(K, generator=g, dtype=torch.float64) + 0.1
    return Cohort(A.to(dtype), B.to(dtype), p / p.sum(), 1e-10 if dtype == torch.float64 else 1e-5)


def ragged(
    seed: int, ranks: tuple[int, ...] = (2, 4, 3, 6, 1), dtype: torch.dtype = torch.float64
) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
    """Factors of unequal ranks, weights and U in float64."""
    c = draw(seed, dtype, K=len(ranks), r=max(ranks))
    A = [a[:r] for a, r in zip(c.A, ranks, strict=True)]
    B = [b[:, :r] for b, r in zip(c.B, ranks, strict=True)]
    return A, B, c.p, sum(p * b.double() @ a.double() for p, a, b in zip(c.p, A, B, strict=True))


@pytest.fixture(
    params=[(0, torch.float64), (1, torch.float64), (2, torch.float32)], ids=["f64a", "f64b", "f32"]
)
def cohort(request: pytest.FixtureRequest) -> Cohort:
    return draw(*request.param)


@pytest.fixture
def make_cohort():
    return draw


@pytest.fixture
def make_ragged():
    return ragged
