"""Fusing linear layers in a shared, slowly moving orthonormal basis: our reconstruction of Fed-CMP from its abstract.

The published method section is not known to us; docs/methods/fedma.md says what is known and what is ours. W (m, n) is one
layer, its bias the last column; W_k are the clients', W the server's at the round's start, p_k their weights (sum 1).

    C1  G = sum p_k W_k W_k^T = V diag(l) V^T;  U = the r leading columns of V
    C2  U^T B = P S Q^T;  U' = U P Q^T                      (B: the basis of the last round; at first U' = U)
    C3  C_k = U'^T W_k,  C_0 = U'^T W,  D_k = C_k - C_0
    C4  rho_kj from D_kj and the others' mean of it         (aggregation/reliability.py)
    C5  C = C_0 + sum rho_k D_k, row by row
    C6  B' = polar((1 - beta) U' + beta B)
    C7  W' = B' C + lambda (I - B' B'^T) sum p_k W_k
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fedloom.aggregation.reliability import Statistic, reliability

Space = Literal["weight", "update"]
Momentum = Literal["blend", "heavyball"]
Form = Literal["attach", "reproject"]
Side = Literal["output", "input"]
DOUBLE = 1024
"""Decompositions of up to this size are made in float64, larger ones in float32."""
OVERSAMPLE = 16


@dataclass(frozen=True)
class Rules:
    """The switches of C1-C7. beta = 0 leaves the reliability (CRA) alone, gamma = 0 the momentum (OPM), both 0 is averaging."""

    beta: float = 0.2
    gamma: float = 1.0
    floor: float = 1e-3
    kappa: float = 2.0
    residual: float = 1.0
    space: Space = "weight"
    momentum: Momentum = "blend"
    form: Form = "attach"
    statistic: Statistic = "variance"
    side: Side = "output"


@dataclass(frozen=True)
class Fused:
    """A layer after a round: W (m, n) in the dtype it came in; the basis B (m, r), or (n, r) with side `input`, and the
    heavy ball's N in its shape, both in the working dtype; rho (K, r); `energy`, the share of G that U holds.
    """

    W: Tensor
    B: Tensor
    N: Tensor | None
    rho: Tensor
    energy: float


def join(weight: Tensor, bias: Tensor | None) -> Tensor:
    """(m, n) or (m, n + 1): the bias as last column."""
    return weight if bias is None else torch.cat([weight, bias[:, None].to(weight)], 1)


def part(W: Tensor, biased: bool) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a layer that `join` made."""
    return (W[:, :-1].contiguous(), W[:, -1].contiguous()) if biased else (W, None)


def rank_of(values: Tensor, total: float, eta: float, largest: int) -> int:
    """The smallest r whose leading `values` (falling) hold the share `eta` of `total`; at most `largest`, at least 1."""
    short = int((values.double().cumsum(0) < eta * total).sum())
    return max(1, min(short + 1, largest))


def fuse(
    uploads: Sequence[Tensor],
    current: Tensor,
    weights: Tensor,
    rules: Rules,
    *,
    previous: Tensor | None = None,
    velocity: Tensor | None = None,
    rank: int | None = None,
    eta: float = 0.99,
    largest: int | None = None,
    draw: torch.Generator | None = None,
) -> Fused:
    """One layer through C1-C7.

    Args:
        uploads: the clients' W_k (m, n); each is read three times and none is kept, so a lazy sequence need hold only one.
        current: W (m, n).
        weights: p (K,), sums to 1.
        rules: the switches.
        previous: B of the last round; its width is the rank. None at first.
        velocity: N of the last round, for `heavyball`.
        rank: r of the first round; None: the smallest that holds `eta` of the energy, at most `largest` (none: min(m - 1, n)).
        eta: share of the energy.
        largest: the largest r.
        draw: generator of the subspace iteration that finds the basis where its side has more than 1,024 entries and r is at
            most a quarter of it; None always decomposes the whole Gram matrix.

    Cost: K m^2 n for the whole Gram matrix, or about 8 K m n r by iteration; and 4 K m n r for the coefficients.

    """
    turned = rules.side == "input"

    def see(tensor: Tensor) -> Tensor:
        value = tensor.detach().to(work)
        return value.T if turned else value

    m, n = reversed(current.shape) if turned else current.shape
    work = torch.float64 if m <= DOUBLE and current.device.type != "mps" else torch.float32
    W = see(current)
    origin = W if rules.space == "update" else torch.zeros_like(W)
    p = weights.to(current.device, torch.float64)
    shares = p.tolist()

    def read(k: int) -> Tensor:
        return see(uploads[k]) - origin if rules.space == "update" else see(uploads[k])

    cap = min(m - 1, n) if largest is None else min(largest, m)
    start_rank = rank if previous is None else previous.shape[1]
    U, energy = leading(read, shares, m, work, W.device, start_rank, eta, cap, draw, previous)
    B, N = U, torch.zeros_like(U) if rules.momentum == "heavyball" else None
    if previous is not None:
        last = previous.to(U)
        P, _, Qt = torch.linalg.svd(U.T @ last)
        U = U @ (P @ Qt)  # C2
        B, N = moved(U, last, None if velocity is None else velocity.to(U), rules)
    frame = B if rules.form == "reproject" else U
    start = frame.T @ (W - origin)
    mean = torch.zeros_like(W)
    D: list[Tensor] = []
    for k, share in enumerate(shares):
        value = read(k)
        mean.add_(value, alpha=share)
        D.append(frame.T @ value - start)  # C3
    rho = reliability(
        D, p, statistic=rules.statistic, gamma=rules.gamma, floor=rules.floor, kappa=rules.kappa
    )
    fused = start
    for d, row in zip(D, rho, strict=True):
        fused = fused + row[:, None].to(d) * d  # C5
    out = B @ fused + rules.residual * (mean - B @ (B.T @ mean)) + origin  # C7
    out = (out.T if turned else out).to(current.dtype).contiguous()
    return Fused(out, B.contiguous(), N, rho, energy)


def moved(U: Tensor, last: Tensor, velocity: Tensor | None, rules: Rules) -> tuple[Tensor, Tensor | None]:
    """C6: the next basis and, for `heavyball`, its N. `U` is gauge-fixed.

    heavyball: N = beta (N - B sym(B^T N)) + (U - B), B' = polar(B + N): only the old momentum is projected.
    """
    if rules.momentum == "blend":
        if rules.beta == 0:
            return U, None
        return polar((1 - rules.beta) * U + rules.beta * last), None
    N = torch.zeros_like(last) if velocity is None else velocity
    inner = last.T @ N
    N = rules.beta * (N - last @ ((inner + inner.T) / 2)) + (U - last)
    if float(torch.linalg.eigvalsh((last + N).T @ (last + N))[0]) < 1e-12:
        return U, torch.zeros_like(U)  # no nearest basis: reset the momentum
    return polar(last + N), N


def polar(M: Tensor) -> Tensor:
    """(m, r): the nearest matrix with orthonormal columns, M (M^T M)^-1/2, for M of full rank."""
    values, vectors = torch.linalg.eigh(M.T @ M)
    B = M @ ((vectors / values.clamp_min(1e-30).sqrt()) @ vectors.T)
    polished: Tensor = B @ (1.5 * torch.eye(B.shape[1], dtype=B.dtype, device=B.device) - 0.5 * (B.T @ B))
    return polished


def leading(
    read: Callable[[int], Tensor],
    shares: Sequence[float],
    m: int,
    work: torch.dtype,
    device: torch.device,
    rank: int | None,
    eta: float,
    largest: int,
    draw: torch.Generator | None,
    previous: Tensor | None = None,
) -> tuple[Tensor, float]:
    """C1: (m, r) leading eigenvectors of sum p_k X_k X_k^T, and the share of its trace that they hold."""
    r = min(rank, m) if rank is not None else largest
    if draw is not None and m > DOUBLE and r <= m // 4:
        values, U, total = _by_iteration(read, shares, m, work, device, r, draw, previous)
    else:
        G = torch.zeros(m, m, dtype=work, device=device)
        for k, share in enumerate(shares):
            value = read(k)
            G.addmm_(value, value.T, alpha=share)
        values, vectors = torch.linalg.eigh(G)
        values, U, total = values.flip(0).clamp_min(0), vectors.flip(1), float(G.diagonal().double().sum())
    if rank is None:
        r = rank_of(values, total, eta, largest)
    held = float(values[:r].double().sum()) / total if total > 0 else 1.0
    return U[:, :r].contiguous(), held


def _by_iteration(
    read: Callable[[int], Tensor],
    shares: Sequence[float],
    m: int,
    work: torch.dtype,
    device: torch.device,
    r: int,
    draw: torch.Generator,
    previous: Tensor | None,
) -> tuple[Tensor, Tensor, float]:
    """Leading values, vectors and trace by subspace iteration (Halko, Martinsson and Tropp, 2011), then Rayleigh-Ritz.

    It starts from the last round's basis, if there is one, and from random numbers at first.
    """
    width = min(m, r + OVERSAMPLE)
    Q = torch.randn(m, width, generator=draw, dtype=work).to(device)
    if previous is not None:
        Q[:, : previous.shape[1]] = previous.to(Q)
    total = 0.0
    for turn in range(1 if previous is not None else 2):
        Q, _ = torch.linalg.qr(Q)
        Y = torch.zeros_like(Q)
        for k, share in enumerate(shares):
            value = read(k)
            Y.addmm_(value, value.T @ Q, alpha=share)
            total += share * float(value.square().sum()) if turn == 0 else 0.0
        Q = Y
    Q, _ = torch.linalg.qr(Q)
    T = torch.zeros(width, width, dtype=work, device=device)
    for k, share in enumerate(shares):
        value = Q.T @ read(k)
        T.addmm_(value, value.T, alpha=share)
    values, vectors = torch.linalg.eigh(T)
    return values.flip(0).clamp_min(0), Q @ vectors.flip(1), total
