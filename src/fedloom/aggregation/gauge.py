"""Gauge fixing of a LoRA pair, and norms of its change: (B R^-1, R A) is the same update for every invertible R.

A client that chooses R leads any method that averages A and B separately: with R = 1e-6 I its B is a million times larger, and
every distance between products is unchanged. The result of `in_gauge` depends on the product's row space and on the server's
own A alone. `A: (r, d_in)`, `B: (d_out, r)`, of one client. Computed in float64 (float32 where the device lacks
it); results come in the input's dtype. No d_out x d_in matrix is formed.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fedloom.aggregation.stack import wide

SHORTEST = 0.1
"""No direction of an A in gauge is shorter than this share of the server's rows' mean, so that B cannot grow without bound."""


def change(A: Tensor, B: Tensor, A_0: Tensor, B_0: Tensor) -> tuple[Tensor, Tensor]:
    """B A - B_0 A_0 as factors [A; A_0] (2r, d_in) and [B, -B_0] (d_out, 2r)."""
    return torch.cat([A, A_0]), torch.cat([B, -B_0], dim=1)


def in_gauge(A: Tensor, B: Tensor, A_0: Tensor) -> tuple[Tensor, Tensor]:
    """The same product as a pair (r, d_in), (d_out, r) whose A is near `A_0` (r, d_in); `A` (q, d_in) may have fewer rows.

    With Q the row space of A and W = A_0 Q = X D Z^T, A' = (I - X X^T) A_0 + X D' Z^T Q^T, where D' is D, but nowhere below
    SHORTEST of the root mean square length of A_0's rows; B' follows. Where A has r independent rows near A_0, A' is A_0
    projected on their space: B' then holds the movement within A_0's own row space, A' the movement out of it.
    Directions that A lacks keep A_0's, so that they can still be trained. Raises ValueError where A has more rows than A_0.
    """
    if len(A) > len(A_0) or A.shape[1] != A_0.shape[1]:
        raise ValueError(f"A is {tuple(A.shape)} and the server's A {tuple(A_0.shape)}; A must fit into it.")
    a, b, like = wide(A.detach()), wide(B.detach()), wide(A_0.detach())
    length = float(like.norm()) / math.sqrt(len(like))
    if not length:
        return _padded(A, B, len(A_0))
    _, sizes, Q_t = torch.linalg.svd(a, full_matrices=False)
    Q_t = Q_t[sizes > sizes[:1] * torch.finfo(sizes.dtype).eps * max(a.shape)]
    X, D, Z_t = torch.linalg.svd(like @ Q_t.T, full_matrices=False)
    D = D.clamp_min(SHORTEST * length)
    A_out = like - X @ (X.T @ like) + (X * D) @ (Z_t @ Q_t)
    B_out = (b @ (a @ Q_t.T) @ Z_t.T / D) @ X.T
    return A_out.to(A_0.dtype), B_out.to(B.dtype)


class Step(NamedTuple):
    """A model's change at a share t of the way in its tensors: |change(t)|^2 = linear t^2 + 2 mixed t^3 + square t^4."""

    linear: float = 0.0
    mixed: float = 0.0
    square: float = 0.0

    def __add__(self, other: "Step") -> "Step":  # type: ignore[override]
        return Step(*(a + b for a, b in zip(self, other, strict=True)))

    def norm(self, share: float = 1.0) -> float:
        """The Frobenius norm of the change at `share` of the way."""
        square = share**2 * (self.linear + 2 * share * self.mixed + share**2 * self.square)
        return math.sqrt(max(square, 0.0))

    def share(self, bound: float) -> float:
        """A t in [0, 1] with a change of norm `bound`; 1 where the whole change is no larger."""
        if self.norm() <= bound:
            return 1.0
        low, high = 0.0, 1.0
        while (middle := (low + high) / 2) not in (low, high):
            low, high = (low, middle) if self.norm(middle) > bound else (middle, high)
        return low


def step(A: Tensor, B: Tensor, A_0: Tensor, B_0: Tensor) -> Step:
    """The way from (A_0, B_0) to (A, B), measured on the product: B A - B_0 A_0 = (dB A_0 + B_0 dA) + dB dA."""
    a, b, a_0, b_0 = (wide(t.detach()) for t in (A, B, A_0, B_0))
    d_A, d_B = a - a_0, b - b_0
    first = (torch.cat([a_0, d_A]), torch.cat([d_B, b_0], dim=1))
    second = (d_A, d_B)
    return Step(_inner(first, first), _inner(first, second), _inner(second, second))


def _inner(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> float:
    """The Frobenius inner product of two products, each given as (A, B)."""
    return float(((one[0] @ other[0].T) * (one[1].T @ other[1])).sum())


def _padded(A: Tensor, B: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    missing = rank - len(A)
    return torch.nn.functional.pad(A, (0, 0, 0, missing)), torch.nn.functional.pad(B, (0, missing))
