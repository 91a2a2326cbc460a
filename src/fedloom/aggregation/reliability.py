"""Reliability weights of clients, from the distance of each update to the others' mean.

Updates D_k of K clients with weights p_k (sum 1). Every function works on any stack (K, r, n): one weight for each client and
row; or (K, 1, n), one for each client. Our reconstruction of Fed-CMP's reliability (docs/methods/fedma.md, C4).
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Statistic = Literal["variance", "cosine", "energy"]


def consensus(D: Sequence[Tensor], weights: Tensor) -> Tensor:
    """(r, n): sum p_k D_k."""
    total = torch.zeros_like(D[0])
    for d, p in zip(D, weights.tolist(), strict=True):
        total.add_(d, alpha=p)
    return total


def deviations(D: Sequence[Tensor], weights: Tensor) -> Tensor:
    """(K, r), float64: v_kj, the mean square of D_kj minus the others' mean of it.

    With S = sum p_i D_i the mean of the others is (S - p_k D_k) / (1 - p_k), and D_k minus it is (D_k - S) / (1 - p_k).
    A client that has all the weight has no others: 0.
    """
    S = consensus(D, weights)
    squares = torch.stack([(d - S).double().square().mean(1) for d in D])
    rest = (1 - weights.double().to(squares.device))[:, None]
    return torch.where(rest > 0, squares / rest.clamp_min(1e-30).square(), torch.zeros_like(squares))


def agreements(D: Sequence[Tensor], weights: Tensor) -> Tensor:
    """(K, r), float64: the cosine between D_kj and the mean of the others; 0 where one of the two is zero."""
    S = consensus(D, weights)
    cosines = []
    for d, p in zip(D, weights.tolist(), strict=True):
        others = S - p * d
        scale = (d.double().norm(dim=1) * others.double().norm(dim=1)).clamp_min(1e-300)
        cosines.append((d.double() * others.double()).sum(1) / scale)
    return torch.stack(cosines)


def reliability(
    D: Sequence[Tensor],
    weights: Tensor,
    *,
    statistic: Statistic = "variance",
    gamma: float = 1.0,
    floor: float = 1e-3,
    kappa: float = 2.0,
) -> Tensor:
    """(K, r), float64: rho, whose columns sum to 1.

    Args:
        D: K updates (r, n), all of one dtype.
        weights: p (K,), sums to 1; a client of weight 0 keeps weight 0.
        statistic: `variance`: rho ~ p v^-gamma, with v plus `floor` times the clients' mean of it, which bounds every
            weight; `cosine`: rho ~ p exp(kappa cos); `energy`: rho ~ p |D|^2, for ablations.
        gamma: strength; 0 gives rho = p.
        floor: epsilon_v.
        kappa: strength of `cosine`.

    """
    p = weights.double().to(D[0].device)[:, None]
    if statistic == "cosine":
        score = kappa * agreements(D, weights)
    else:
        size = torch.stack([d.double().square().mean(1) for d in D])
        # In float32 a difference is rounding below this part of the size.
        tiny = 1e-30 + (0.0 if D[0].dtype == torch.float64 else 1e-12) * size.mean(0, keepdim=True)
        if statistic == "energy":
            score = torch.log(size + tiny)
        else:
            v = deviations(D, weights)
            score = -gamma * torch.log(v + floor * v.mean(0, keepdim=True) + tiny)
    return torch.softmax(torch.log(p) + score, dim=0)


def effective(rho: Tensor) -> Tensor:
    """(r,): 1 / sum_k rho_kj^2, the effective number of clients of each row."""
    return 1 / rho.square().sum(0)
