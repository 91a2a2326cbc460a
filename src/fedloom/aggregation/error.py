"""Error of an aggregate against U = Σ p_k B_k A_k, without forming U (fedlora.md section 4)."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fedloom.aggregation.stack import Factors, Stack, Weights, stack, wide


class Diagnostics(NamedTuple):
    """Measures of one layer's aggregation in one round.

    `error_mean` and `error` are ‖U − BA‖/‖U‖ for the plain means and for the result; `condition` is
    cond(Ā Āᵀ) on its non-zero rows (inf if singular); `norm_ratio` is ‖B'‖/‖B̄‖; `angle` is the largest
    principal angle in radians between the row spaces of any two clients' A (accurate to 1e-7).
    """

    error_mean: float
    error: float
    condition: float
    norm_ratio: float
    angle: float


def restoration_error(
    A: Factors,
    B: Factors,
    A_out: Tensor,
    B_out: Tensor,
    weights: Weights = None,
    *,
    scales: Weights = None,
) -> float:
    """‖U − B_out A_out‖_F / ‖U‖_F with U = Σ p_k B_k A_k, by QR of the stacked factors, in float64.

    `A_out` is (q, d_in) and `B_out` (d_out, q) for any q, so that a FedEx or FLoRA result is measured by
    its joined factors. Exact results give about 1e-15 (float64). Zero if both U and the product are zero;
    inf if only U is.
    """
    return _errors(stack(A, B, weights, scales), [(A_out, B_out)])[0]


def diagnostics(
    A: Factors,
    B: Factors,
    A_out: Tensor,
    B_out: Tensor,
    weights: Weights = None,
    *,
    scales: Weights = None,
) -> Diagnostics:
    """The figures of `Diagnostics` for one layer; arguments as in `restoration_error`."""
    s = stack(A, B, weights, scales)
    A_bar, B_bar = s.mean()
    error_mean, error = _errors(s, [(A_bar, B_bar), (A_out, B_out)])
    after, before = float(wide(B_out).norm()), float(wide(B_bar).norm())
    return Diagnostics(error_mean, error, _condition(A_bar), _ratio(after, before, empty=1.0), _angle(s))


def dense(A: Factors, B: Factors, weights: Weights = None, *, scales: Weights = None) -> Tensor:
    """U = Σ p_k s_k/s B_k A_k as a float64 (d_out, d_in) matrix, for tests only."""
    s = stack(A, B, weights, scales)
    return torch.einsum("k,kor,kri->oi", wide(s.weights), wide(s.B), wide(s.A))


def _errors(s: Stack, results: list[tuple[Tensor, Tensor]]) -> list[float]:
    """The relative errors of several results from one pair of QR decompositions."""
    A_all, B_all = s.joined()
    layer = (B_all.shape[0], A_all.shape[1])
    for A_out, B_out in results:
        if A_out.ndim != 2 or B_out.ndim != 2 or (B_out.shape[0], A_out.shape[1]) != layer:
            raise ValueError(
                f"the result has A {tuple(A_out.shape)} and B {tuple(B_out.shape)}; "
                f"the layer is {layer[0]} x {layer[1]}."
            )
        if A_out.shape[0] != B_out.shape[1]:
            raise ValueError(f"the result's A has rank {A_out.shape[0]} and its B rank {B_out.shape[1]}.")
    columns = torch.cat([wide(B_all), *(wide(b.detach()).to(B_all.device) for _, b in results)], dim=1)
    rows = torch.cat([wide(A_all), *(wide(a.detach()).to(A_all.device) for a, _ in results)])
    R_B, R_A = _triangular(columns), _triangular(rows.T)
    n = len(A_all)
    core = R_B[:, :n] @ R_A[:, :n].T
    size, errors, start = float(core.norm()), [], n
    for A_out, _ in results:
        own = slice(start, start := start + len(A_out))
        miss = core - R_B[:, own] @ R_A[:, own].T
        errors.append(_ratio(float(miss.norm()), size, empty=0.0))
    return errors


def _triangular(tall: Tensor) -> Tensor:
    """R of M = QR, for norms of products with M; M itself where it has no more rows than columns, because R is no smaller."""
    return tall if tall.shape[0] <= tall.shape[1] else torch.linalg.qr(tall, mode="r").R


def _ratio(top: float, bottom: float, empty: float) -> float:
    if bottom > 0:
        return top / bottom
    return empty if top == 0 else math.inf


def _condition(A_bar: Tensor) -> float:
    live = wide(A_bar)[A_bar.norm(dim=1) > 0]
    if len(live) == 0:
        return math.inf
    e = torch.linalg.eigvalsh(live @ live.T)
    return float(e[-1] / e[0]) if float(e[0]) > 0 else math.inf


def _angle(s: Stack) -> float:
    """The largest principal angle over all pairs of clients of positive weight."""
    weights: list[float] = s.weights.tolist()
    members = [k for k, weight in enumerate(weights) if weight > 0]
    if len(members) < 2:
        return 0.0
    i, j = torch.triu_indices(len(members), len(members), offset=1)
    of = s.A if len(members) == len(weights) else s.A[members]
    if len(set(s.ranks)) == 1:
        Q = torch.linalg.qr(wide(of[:, : s.ranks[0]]).mT).Q
        cosines = torch.einsum("kdr,lds->klrs", Q, Q)[i, j]
        return math.acos(min(1.0, math.sqrt(max(0.0, _smallest(cosines.mT @ cosines)))))
    width = min(s.A.shape[1:])
    Q = torch.zeros(len(members), s.A.shape[2], width, dtype=wide(s.A[:0]).dtype, device=s.A.device)
    sizes = torch.tensor([min(s.ranks[k], s.A.shape[2]) for k in members])
    for rank in set(sizes.tolist()):  # clients of one rank together
        alike = [n for n, k in enumerate(members) if int(sizes[n]) == rank]
        rows = wide(of[alike])[:, : max(s.ranks[members[n]] for n in alike)]
        Q[alike, :, :rank] = torch.linalg.qr(rows.mT).Q
    cosines = torch.einsum("kdr,lds->klrs", Q, Q)[i, j]
    # Squared cosines, rising; those of padding are zeros at the front.
    squares = torch.linalg.eigvalsh(cosines.mT @ cosines)
    first = (width - torch.minimum(sizes[i], sizes[j])).to(squares.device)
    smallest = squares.gather(1, first[:, None]).min()
    return math.acos(min(1.0, math.sqrt(max(0.0, float(smallest)))))


def _smallest(S: Tensor) -> float:
    """The smallest eigenvalue of all of P symmetric matrices (P, r, r) with eigenvalues in [0, 1].

    Eigenvalues are computed only of matrices that may hold it: with E = I - S and p = 32, (tr E^p / r)^(1/p) and (tr E^p)^(1/p)
    enclose the largest of E, 1 minus the smallest of S.
    """
    r, noise = S.shape[1], 64 * S.shape[1] * torch.finfo(S.dtype).eps
    E = torch.eye(r, dtype=S.dtype, device=S.device) - S
    scale = E.diagonal(dim1=1, dim2=2).sum(1).clamp_min(noise)
    power = E / scale[:, None, None]
    for _ in range(5):
        power = power @ power
    upper = scale * power.diagonal(dim1=1, dim2=2).sum(1) ** (1 / 32)
    lower = upper.max() * r ** (-1 / 32)
    return float(torch.linalg.eigvalsh(S[upper >= lower - noise]).min())
