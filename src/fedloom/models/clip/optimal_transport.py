"""Optimal transport between a picture's patches and a class's prompts (FedOTP, Li et al., CVPR 2024). Pure functions.

With similarities S (..., M, N), cost 1 - S and K = exp(-(1 - S) / eps), the plan T = diag(u) K diag(v) has the columns' sums
mass / N exactly; the rows' sums are at most 1 / M (unbalanced), or 1 / M up to convergence (sinkhorn, whose mass is 1).
"""

from typing import Literal

import torch
from torch import Tensor

from fedloom.core.dtypes import at_least_float32

Kind = Literal["ot", "sinkhorn", "uniform"]
LOG_BELOW = 0.05
"""Below this eps K underflows in float32 (e^-40 and less), and the iterations go on logarithms."""


@torch.no_grad()
def plan(
    S: Tensor,
    *,
    kind: Kind = "ot",
    mass: float = 0.8,
    eps: float = 0.1,
    tolerance: float | None = 1e-3,
    iterations: int = 100,
) -> Tensor:
    """T (..., M, N) without gradient, in float32 (float64 for float64 input).

    Every item (..., ) iterates until its own mean |dv| is under `tolerance`, so that no item depends on the others; with None
    always all `iterations`. `uniform` gives T = mass / (M N). mass is clipped to at most 1.
    """
    S = at_least_float32(S)
    m, n = S.shape[-2:]
    mass = 1.0 if kind == "sinkhorn" else min(1.0, mass)
    if kind == "uniform":
        return torch.full_like(S, mass / (m * n))
    flat = S.reshape(-1, m, n)
    step = _in_logs if eps < LOG_BELOW else _plainly
    return step(flat, 1 / m, mass / n, eps, kind == "ot", tolerance, iterations).view(S.shape)


def _plainly(
    S: Tensor, a: float, b: float, eps: float, capped: bool, tolerance: float | None, iterations: int
) -> Tensor:
    K = torch.exp((S - 1) / eps)
    u, v = torch.ones_like(S[:, :, 0]), torch.ones_like(S[:, 0])
    going = torch.ones(len(S), 1, dtype=torch.bool, device=S.device)
    for _ in range(iterations):
        new_u = a / (K @ v[:, :, None])[:, :, 0]
        new_u = new_u.clamp(max=1.0) if capped else new_u
        new_v = b / (new_u[:, None] @ K)[:, 0]
        moved = (new_v - v).abs().mean(-1, keepdim=True)
        u, v = torch.where(going, new_u, u), torch.where(going, new_v, v)
        if tolerance is not None and not bool((going := going & (moved >= tolerance)).any()):
            break
    return u[:, :, None] * K * v[:, None]


def _in_logs(
    S: Tensor, a: float, b: float, eps: float, capped: bool, tolerance: float | None, iterations: int
) -> Tensor:
    K = (S - 1) / eps
    log_a, log_b = (torch.tensor(x, dtype=S.dtype).log().to(S.device) for x in (a, b))
    u, v = torch.zeros_like(S[:, :, 0]), torch.zeros_like(S[:, 0])
    going = torch.ones(len(S), 1, dtype=torch.bool, device=S.device)
    for _ in range(iterations):
        new_u = log_a - torch.logsumexp(K + v[:, None], 2)
        new_u = new_u.clamp(max=0.0) if capped else new_u
        new_v = log_b - torch.logsumexp(K + new_u[:, :, None], 1)
        moved = (
            (new_v.exp() - v.exp()).abs().mean(-1, keepdim=True)
        )  # not a number where exp overflows: not small
        u, v = torch.where(going, new_u, u), torch.where(going, new_v, v)
        if tolerance is not None and not bool((going := going & ~(moved < tolerance)).any()):
            break
    T = torch.exp(u[:, :, None] + K + v[:, None])
    return T * (b / T.sum(1, keepdim=True))  # restores the columns' sums, which large logarithms blur
