"""The server side of the federated LoRA family (fedlora.md): one short function per method.

K clients, `A: (K, r, d_in)`, `B: (K, d_out, r)`, weights p (K,) summing to 1, uniform if None;
y = W0 x + s B A x and U = Σ p_k B_k A_k is the update that the clients' mean would make. Where a method
defines unequal ranks, `A` and `B` may be lists of (r_k, d_in) and (d_out, r_k). `scales[k]` is s_k / s where
clients use different LoRA scales: it is folded into B_k first, and the result is to be used with s. bf16 and
fp16 are computed in float32; results come back in the input's dtype, detached. All raise ValueError on
shapes, ranks or weights that do not fit and on values that are not finite. No d_out x d_in matrix is formed,
except where an SVD's core is as large because Σ r_k reaches the layer's size.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import linear

from fedloom.aggregation.error import Diagnostics, dense, diagnostics, restoration_error
from fedloom.aggregation.solve import (
    DEFAULT_RIDGE,
    Mode,
    RidgeScale,
    feda2_inverse,
    feda2_project,
    feda2_solve,
    gram,
)
from fedloom.aggregation.stack import (
    Factors,
    Stack,
    Tail,
    Weights,
    refuse_unless_finite,
    stack,
    wide,
)

__all__ = [
    "DEFAULT_RIDGE",
    "Diagnostics",
    "Mode",
    "RidgeScale",
    "Split",
    "Tail",
    "dense",
    "diagnostics",
    "feda2",
    "feda2_layers",
    "feda2_project",
    "feda2_solve",
    "fedavg",
    "fedex",
    "flexlora",
    "flora",
    "residual",
    "restoration_error",
]

Split = Literal["sqrt", "b"]


def fedavg(
    A: Factors,
    B: Factors,
    weights: Weights = None,
    *,
    scales: Weights = None,
    rank: int | None = None,
    tail: Tail = "rescale",
) -> tuple[Tensor, Tensor]:
    """Ā = Σ p_k A_k (r, d_in) and B̄ = Σ p_k B_k (d_out, r): FedIT, and HetLoRA's mean for unequal ranks.

    Unequal ranks are zero-padded to `rank` (default: the cohort's largest). With h_j the weight of the
    clients that hold row j, `tail` is "rescale" (divide row j of Ā by h_j: the product keeps U's dilution
    h_j), "pad" (plain zero padding: the product shrinks by h_j²) or "keep" (also divide column j of B̄:
    holders average among themselves).
    """
    s = stack(A, B, weights, scales, rank, tail)
    return s.out(*s.mean())


def feda2(
    A: Factors,
    B: Factors,
    weights: Weights = None,
    ridge: float | None = None,
    mode: Mode = "centred",
    *,
    ridge_scale: RidgeScale = "relative",
    scales: Weights = None,
    rank: int | None = None,
    tail: Tail = "rescale",
) -> tuple[Tensor, Tensor]:
    """Ā and the B' for which B'Ā restores U best: UniFLoW Eq. 9-13 (FedA²-LoRA).

    `mode` and `ridge` are those of `feda2_solve`; "strict" is the paper's, "centred" (default) is never
    worse than `fedavg` for any ridge. Unequal ranks as in `fedavg`; rows that nobody holds take no part in
    the solve.
    """
    s = stack(A, B, weights, scales, rank, tail, checked=False)
    return feda2_layers([s], ridge, mode, ridge_scale=ridge_scale)[0]


def feda2_layers(
    layers: Sequence[Stack],
    ridge: float | None = None,
    mode: Mode = "centred",
    *,
    ridge_scale: RidgeScale = "relative",
) -> list[tuple[Tensor, Tensor]]:
    """`feda2` of L layers of one shape and dtype, stacked with `checked=False`.

    What has a layer's size is made layer by layer, so that it stays in the cache; all that is r x r at once.
    """
    bars = [s.mean_first() for s in layers]
    G = torch.stack([gram(a) for a in bars])
    refuse_unless_finite(layers, G)
    M, R = feda2_inverse(G, ridge, mode, ridge_scale=ridge_scale)
    # B' = N M + B̄ R = Σ p_k B_k C_k with r x r matrices C_k = A_k Āᵀ M + R, so that every B_k is read once. Here transposed,
    # [l, j, k, i], because M and R are symmetric, and because a product with r rows is four times faster than one with r columns.
    inner = torch.stack([linear(a, s.A.flatten(0, 1)) for a, s in zip(bars, layers, strict=True)])
    C_t = (M @ wide(inner)).view(*M.shape[:2], *layers[0].A.shape[:2])
    if R is not None:
        C_t += R[:, :, None]
    C_t = (C_t * wide(torch.stack([s.weights for s in layers]))[:, None, :, None]).to(layers[0].B.dtype)
    B_t = [
        torch.addbmm(s.B.new_empty(s.B.shape[:0:-1]), c, s.B.transpose(1, 2), beta=0)
        for s, c in zip(layers, C_t.transpose(1, 2), strict=True)
    ]
    refuse_unless_finite(layers, torch.stack([b.sum() for b in B_t]))
    return [s.out(a, b.T.contiguous()) for s, a, b in zip(layers, bars, B_t, strict=True)]


def fedex(
    A: Factors,
    B: Factors,
    weights: Weights = None,
    *,
    residual_rank: int | None = None,
    scales: Weights = None,
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Ā, B̄ and the residual U − B̄Ā = Σ p_k (B_k − B̄)(A_k − Ā) as factors (d_out, q), (q, d_in): FedEx-LoRA.

    q is (K − 1) r, or what the layer's shape or `residual_rank` allows; the leading directions are kept, in
    falling order. The base of *every* client moves by s times the residual (fedlora.md 3.4). Equal ranks
    only.
    """
    s = stack(A, B, weights, scales)
    if s.holders is not None:
        raise ValueError(f"FedEx-LoRA is not defined for unequal ranks ({s.ranks}); use flora or flexlora.")
    A_bar, B_bar = s.mean()
    rows = (s.A - A_bar).flatten(0, 1)
    columns = (s.weights[:, None, None] * (s.B - B_bar)).transpose(0, 1).flatten(1)
    R_A, R_B = _residual(s, rows, columns, (len(s.ranks) - 1) * s.A.shape[1], residual_rank)
    return *s.out(A_bar, B_bar), (R_B, R_A)


def residual(
    A: Factors,
    B: Factors,
    A_out: Tensor,
    B_out: Tensor,
    weights: Weights = None,
    *,
    rank: int | None = None,
    scales: Weights = None,
) -> tuple[Tensor, Tensor]:
    """U − B_out A_out as factors (d_out, q), (q, d_in), leading directions first: makes any result exact.

    q is `rank`, by default all that can be non-zero. After FedA² it is never larger in norm than FedEx's.
    """
    s = stack(A, B, weights, scales)
    A_all, B_all = s.joined()
    rows = torch.cat([A_all, A_out.detach().to(A_all)])
    columns = torch.cat([B_all, -B_out.detach().to(B_all)], dim=1)
    R_A, R_B = _residual(s, rows, columns, len(rows), rank)
    return R_B, R_A


def flexlora(
    A: Factors,
    B: Factors,
    weights: Weights = None,
    rank: int | None = None,
    *,
    split: Split = "sqrt",
    scales: Weights = None,
) -> tuple[Tensor, Tensor]:
    """The best rank-`rank` pair for U, (rank, d_in) and (d_out, rank), by QR and SVD of factors (FlexLoRA).

    `rank` defaults to the cohort's largest. With U = P S Qᵀ, `split` is "sqrt" (B = P√S, A = √S Qᵀ) or "b"
    (B = P S, A = Qᵀ). Directions fall in weight, so a client of rank r_k takes the first r_k rows of A and
    columns of B. A direction in which U is zero gets a unit row of A and a zero column of B, so that it can
    still be trained; a `rank` beyond Σ r_k or the layer's size is filled with zeros. Each row's largest entry
    is positive, so that the factors are unique.
    """
    if split not in get_args(Split):
        raise ValueError(f"split is {split!r}; it must be sqrt or b.")
    s = stack(A, B, weights, scales)
    r = max(s.ranks) if rank is None else _positive("rank", rank)
    P, S, Q_t = _svd(*s.joined(), r)
    # √S on a direction that U lacks would leave A and B both zero there, where no gradient ever comes.
    empty = S.max() * torch.finfo(S.dtype).eps * 100 >= S
    share = torch.where(empty, torch.ones_like(S), S.sqrt()) if split == "sqrt" else torch.ones_like(S)
    missing = r - len(S)
    A_out = torch.nn.functional.pad(share[:, None] * Q_t, (0, 0, 0, missing))
    return s.out(A_out, torch.nn.functional.pad(P * (S / share), (0, missing)))


def flora(
    A: Factors,
    B: Factors,
    weights: Weights = None,
    *,
    scales: Weights = None,
) -> tuple[Tensor, Tensor]:
    """`[A_1; ...; A_K]` (n, d_in) and `[p_1 B_1, ..., p_K B_K]` (d_out, n), n = Σ r_k; the product is U.

    With `scales` = s_k the product is the mean of the clients' scaled updates, to be merged with scale 1.
    """
    s = stack(A, B, weights, scales)
    A_all, B_all = s.joined()
    return s.out(A_all.clone(), B_all)


def _residual(s: Stack, rows: Tensor, columns: Tensor, most: int, rank: int | None) -> tuple[Tensor, Tensor]:
    """Both factors of `columns @ rows`, compressed to at most `most` and `rank` directions, √S on each."""
    q = most if rank is None else min(most, _positive("the residual's rank", rank))
    P, S, Q_t = _svd(rows, columns, q)
    return s.out(S.sqrt()[:, None] * Q_t, P * S.sqrt())


def _svd(rows: Tensor, columns: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """The leading singular triples of `columns @ rows`, (d_out, q), (q,), (q, d_in), by QR of each factor that is narrow."""
    Q_B, R_B = _narrowed(columns)
    Q_A, R_A = _narrowed(rows.T)
    P, S, V_t = torch.linalg.svd(R_B @ R_A.T, full_matrices=False)
    P, S, V_t = P[:, :rank], S[:rank], V_t[:rank]
    P, Q_t = P if Q_B is None else Q_B @ P, V_t if Q_A is None else V_t @ Q_A.T
    # Signs are arbitrary in an SVD: fix them, so that client order and library do not show.
    peak = Q_t.gather(1, Q_t.abs().argmax(dim=1, keepdim=True)).squeeze(1)
    sign = torch.where(peak < 0, -torch.ones_like(S), torch.ones_like(S))
    return P * sign, S, sign[:, None] * Q_t


def _narrowed(factor: Tensor) -> tuple[Tensor | None, Tensor]:
    """Q and R of a factor (d, n) with n < d; a wider one as it is, because its R would be no smaller."""
    if factor.shape[1] >= factor.shape[0]:
        return None, factor
    Q, R = torch.linalg.qr(factor)
    return Q, R


def _positive(name: str, value: int) -> int:
    if value < 1:
        raise ValueError(f"{name} is {value}; it must be at least 1.")
    return value
