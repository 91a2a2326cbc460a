"""Rotations of a LoRA pair: (B R, Rᵀ A) is the same update for every rotation R (FedRot-LoRA).

`A: (r, d_in)`, `B: (d_out, r)`, of one client; a reference has its factor's shape. Computed in float64 (float32 where the
device lacks it); results come in the input's dtype, detached. No d_out x d_in matrix is formed.
"""

import torch
from torch import Tensor

from fedloom.aggregation.stack import wide


def procrustes(products: Tensor) -> Tensor:
    """The rotation R (r, r), det R = 1, that maximises tr(Rᵀ M) for M = `products` (r, r) (Kabsch 1976)."""
    U, _, V_t = torch.linalg.svd(products)
    signs = torch.ones(len(products), dtype=products.dtype, device=products.device)
    signs[-1] = torch.linalg.det(U @ V_t).sign()
    rotation: Tensor = (U * signs) @ V_t
    return rotation


def towards(R: Tensor, strength: float) -> Tensor:
    """The rotation nearest (1 - strength) I + strength R: the identity at 0, R at 1."""
    return procrustes((1 - strength) * torch.eye(len(R), dtype=R.dtype, device=R.device) + strength * R)


def rotate_a(A: Tensor, B: Tensor, reference: Tensor, strength: float = 1.0) -> tuple[Tensor, Tensor]:
    """(Rᵀ A, B R), with Rᵀ A nearest the reference A at strength 1. Raises ValueError on other shapes."""
    return _rotated(A, B, wide(A.detach()) @ wide(_like(reference, A)).T, strength)


def rotate_b(A: Tensor, B: Tensor, reference: Tensor, strength: float = 1.0) -> tuple[Tensor, Tensor]:
    """(Rᵀ A, B R), with B R nearest the reference B at strength 1. Raises ValueError on other shapes."""
    return _rotated(A, B, wide(B.detach()).T @ wide(_like(reference, B)), strength)


def _rotated(A: Tensor, B: Tensor, products: Tensor, strength: float) -> tuple[Tensor, Tensor]:
    """Both factors under the softened optimal rotation for `products`."""
    R = towards(procrustes(products), strength)
    return (R.T @ wide(A.detach())).to(A.dtype), (wide(B.detach()) @ R).to(B.dtype)


def _like(reference: Tensor, factor: Tensor) -> Tensor:
    """The reference, detached and of the factor's shape."""
    if reference.shape != factor.shape:
        raise ValueError(
            f"a factor of shape {tuple(factor.shape)} cannot be rotated towards {tuple(reference.shape)}."
        )
    return reference.detach()
