"""Robust statistics of LoRA products: distances, multi-Krum, coordinate median and trimmed mean, through factors only.

K clients, `A: (K, r, d_in)`, `B: (K, d_out, r)`, or lists of (r_k, d_in) and (d_out, r_k). A client's update is the product
B_k A_k: (B_k R^-1, R A_k) is the same one for every invertible R, so that a client that chooses R could lead a rule on A and B
themselves. Everything here depends on the products alone, and not on the clients' order. Computed in float64 (float32
where the device lacks it), detached; no d_out x d_in matrix is formed while sum r_k is below the layer's size. `scales[k]` is
s_k / s, folded into B_k. All raise ValueError on shapes that do not fit and on values that are not finite.

A coordinate of the product. Column and row spaces of all products together have orthonormal bases U (d_out, q) and V
(d_in, q'), q <= min(sum r_k, d_out): the left singular vectors of [P_1/|P_1|, ..., P_K/|P_K|], P_k = B_k A_k, and of the
transposes side by side. They follow from the products, up to signs and order, which a median or trimmed mean carries through;
no client's norm turns them, because each product counts with norm 1. P_k = U C_k V^T exactly, the rule is taken over the
entries of the cores C_k (q, q'), and `cut` brings the result to a rank. This is not the rule over the entries
of the dense matrices (another basis, another median), nor unique where singular values coincide. It guarantees that every entry
of the core lies between those of the clients that are not cut away, in whatever basis: fewer than half (median) or than the
trimmed share of the clients cannot carry it
away. Distances cost O((K r)^2 (d_in + d_out)), a rule over coordinates also the SVD
of two matrices of K r columns, which at K r beyond a thousand is for a GPU.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from fedloom.aggregation.stack import Factors, Weights, stack, wide

Rule = Callable[[Tensor], Tensor]
"""(K, ...) to (...), coordinate by coordinate; must map -x to minus its result."""

_PIECE = 1 << 24
"""Elements of the clients' cores in memory at a time."""


def median(values: Tensor) -> Tensor:
    """Coordinate median over the first axis, (K, ...) to (...): the mean of the middle two where K is even."""
    ordered = values.sort(dim=0).values
    k = len(ordered)
    if k < 1:
        raise ValueError("there is no client to take a median of; at least one is needed.")
    return (ordered[(k - 1) // 2] + ordered[k // 2]) / 2


def trimmed_mean(values: Tensor, cut: int) -> Tensor:
    """Coordinate mean over the first axis without the `cut` smallest and `cut` largest, (K, ...) to (...)."""
    k = len(values)
    if not 0 <= cut < k / 2:
        raise ValueError(
            f"cut is {cut}; of {k} clients at least 0 and fewer than half can be cut at each end."
        )
    return values.sort(dim=0).values[cut : k - cut].mean(dim=0)


def combine_products(A: Factors, B: Factors, rule: Rule, *, scales: Weights = None) -> tuple[Tensor, Tensor]:
    """`rule` over the coordinates of the products, as factors (q, d_in) and (d_out, q), strongest direction first.

    q is the numerical rank of the result, 0 where it vanishes. The head of the file defines a coordinate.
    """
    s = stack(A, B, None, scales)
    A_k, B_k = wide(s.A), wide(s.B)
    U, V = _bases(A_k, B_k)
    left, right = U.T @ B_k, A_k @ V  # (K, q, r), (K, r, q')
    rows = max(1, _PIECE // max(1, len(A_k) * right.shape[-1]))
    core = torch.cat([rule(left[:, i : i + rows] @ right) for i in range(0, left.shape[1], rows)])
    P, S, Q_t = _leading(core, min(core.shape))
    return s.out(S.sqrt()[:, None] * (Q_t @ V.T), (U @ P) * S.sqrt())


def cut(A: Tensor, B: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The best approximation of B A of at most `rank`, as factors (q, d_in) and (d_out, q); zero directions are left out."""
    Q_B, R_B = torch.linalg.qr(wide(B.detach()))
    Q_A, R_A = torch.linalg.qr(wide(A.detach()).T)
    P, S, Q_t = _leading(R_B @ R_A.T, rank)
    return (S.sqrt()[:, None] * (Q_t @ Q_A.T)).to(A.dtype), ((Q_B @ P) * S.sqrt()).to(B.dtype)


def inner_products(A: Factors, B: Factors, *, scales: Weights = None) -> Tensor:
    """(K, K): <B_i A_i, B_j A_j>_F = sum of (B_i^T B_j) * (A_i A_j^T)."""
    s = stack(A, B, None, scales)
    K, r = s.A.shape[:2]
    rows, columns = wide(s.A).flatten(0, 1), wide(s.B).mT.flatten(0, 1)
    return ((rows @ rows.T) * (columns @ columns.T)).view(K, r, K, r).sum((1, 3))


def squared_distances(gram: Tensor) -> Tensor:
    """(K, K): |x_i - x_j|^2 from the inner products (K, K); zero on the diagonal, never negative."""
    sizes = gram.diagonal()
    squared = (sizes[:, None] + sizes - gram - gram.T).clamp_min(0)
    return squared.fill_diagonal_(0)


def distances(A: Factors, B: Factors, *, scales: Weights = None) -> Tensor:
    """(K, K): |B_i A_i - B_j A_j|_F.

    Two products that agree to a share e of their norm are distinguished down to e of about 1e-8: take the changes from a common
    product (`gauge.change`) where clients differ by less.
    """
    return squared_distances(inner_products(A, B, scales=scales)).sqrt()


def krum_scores(squared: Tensor, byzantine: int) -> Tensor:
    """(K,): the sum of the K - byzantine - 2 smallest squared distances to others (Blanchard et al., 2017)."""
    k = len(squared)
    if byzantine < 0 or k < 2 * byzantine + 3:
        raise ValueError(
            f"byzantine is {byzantine} with {k} clients; Krum needs at least 2 byzantine + 3 clients."
        )
    others = squared.clone().fill_diagonal_(math.inf)
    return others.sort(dim=1).values[:, : k - byzantine - 2].sum(dim=1)


def multi_krum(distances: Tensor, byzantine: int, keep: int | None = None) -> list[int]:
    """Indices of the clients to keep, ascending: the `keep` (default K - byzantine) of K with the lowest Krum scores.

    Paper: Blanchard et al., "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent", NeurIPS 2017.
    `distances` (K, K) are not squared. Of equal scores the first in order are kept.
    """
    k = len(distances)
    keep = k - byzantine if keep is None else keep
    scores = krum_scores(distances.square(), byzantine)
    if not 1 <= keep <= k:
        raise ValueError(f"keep is {keep}; of {k} clients at least one and at most all can be kept.")
    return sorted(sorted(range(k), key=lambda i: float(scores[i]))[:keep])


def _leading(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """At most `rank` leading singular triples (m, q), (q,), (q, n), without those that are numerically zero."""
    P, S, Q_t = torch.linalg.svd(matrix, full_matrices=False)
    q = min(rank, int((S[:1] * torch.finfo(S.dtype).eps * max(matrix.shape) < S).sum()))
    return P[:, :q], S[:q], Q_t[:q]


def _bases(A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """U (d_out, q), V (d_in, q'): left singular vectors of the products of norm 1 side by side, and of their transposes."""
    # With A = L Q^T, Q's columns orthonormal, B L has the column space and the singular values of B A.
    left = B @ torch.linalg.qr(A.mT, mode="r").R.mT
    right = A.mT @ torch.linalg.qr(B, mode="r").R.mT
    size = left.flatten(1).norm(dim=1)
    unit = torch.where(size > 0, 1 / size, torch.zeros_like(size))[:, None, None]
    U, V = (
        torch.linalg.svd((unit * t).transpose(0, 1).flatten(1), full_matrices=False).U for t in (left, right)
    )
    return U, V
