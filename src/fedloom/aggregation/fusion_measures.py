"""Measures of fused representations: similarity of items, effective number of clients (FedMMKT, section 9)."""

from collections.abc import Mapping

import torch
from torch import Tensor

from fedloom.aggregation.fusion_attention import unit
from fedloom.aggregation.stack import wide

FEW = 1.5
"""Effective clients below which fusion rests on one client."""
ALIKE = 0.95
"""Mean cosine between items above which all items have one vector."""


def effective_clients(weights: Tensor) -> Tensor:
    """K_eff (N,): 1 / sum_c a_ci², of weights (K, N) whose columns sum to 1; K if uniform, 1 if one has everything."""
    return 1 / weights.square().sum(0)


def pairwise_cosine(vectors: Tensor) -> float:
    """Mean cosine between the vectors (N, d) of every two items; 1 is a collapse. NaN for fewer than two items."""
    N = len(vectors)
    r = unit(wide(vectors.detach()))
    # |sum r|² holds every ordered pair and each item with itself.
    total = float(r.sum(0).square().sum() - r.square().sum())
    return total / (N * (N - 1)) if N > 1 else float("nan")


def rank99(vectors: Tensor) -> int:
    """Number of singular values of (N, d) that hold 99 % of the energy (the sum of their squares); 0 for no energy."""
    energy = torch.linalg.svdvals(wide(vectors.detach())).square()
    if not energy.numel() or float(energy.sum()) <= 0:
        return 0
    held = energy.cumsum(0) / energy.sum()
    return int((held < 0.99 - 1e-12).sum()) + 1


def alignment_error(representations: Mapping[str, Tensor], fused: Tensor) -> Tensor:
    """(N,), float64: mean over the clients of all modalities of |z_ci - r_i|², of (K_m, N, d) and r (N, d).

    In [0, 4] for unit vectors. Ours: the paper's definition is not known. Zeros without any client.
    """
    distances = [(wide(z.detach()) - wide(fused.detach())).square().sum(2) for z in representations.values()]
    if not sum(map(len, distances)):
        return wide(fused.detach()).new_zeros(len(fused))
    return torch.cat(distances).mean(0)


def collapse(weights: Mapping[str, Tensor], vectors: Tensor) -> str | None:
    """A sentence that names a collapse of the fused vectors (N, d) or of the weights (K_m, N) in them; None without one."""
    findings = []
    for m, a in weights.items():
        if len(a) > 1 and a.shape[1]:
            k = float(effective_clients(a).mean())
            if k < FEW:
                findings.append(f"fusion of {m} rests on {k:.2f} of {len(a)} clients")
    cosine = pairwise_cosine(vectors)
    if cosine > ALIKE:
        findings.append(f"the fused vectors of different items are nearly one (mean cosine {cosine:.3f})")
    if not findings:
        return None
    return (
        "collapse: " + " and ".join(findings) + "; a larger tau_agg, or aggregate: mean, spreads the weights."
    )
