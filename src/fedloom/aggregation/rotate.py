"""Turning a client's factors towards a reference without changing their product (FedRot-LoRA; fedlora.md 13)."""

import torch
from torch import Tensor

from fedloom.aggregation.stack import wide


def towards(A: Tensor, B: Tensor, A_ref: Tensor) -> tuple[Tensor, Tensor]:
    """(Rᵀ A, B R) with the rotation R, det R = 1, that brings Rᵀ A (r, d_in) nearest to A_ref in the Frobenius norm.

    B is (d_out, r); the product (B R)(Rᵀ A) = B A stays. Orthogonal Procrustes by an r x r SVD, O(r² d_in + r³); float64
    inside, the inputs' dtypes outside. Raises ValueError on shapes that do not fit.
    """
    if A.ndim != 2 or A.shape != A_ref.shape or B.ndim != 2 or B.shape[1] != A.shape[0]:
        shapes = [tuple(t.shape) for t in (A, B, A_ref)]
        raise ValueError(f"A, B and A_ref have shapes {shapes}; (r, d_in), (d_out, r) and (r, d_in) fit.")
    U, _, Vt = torch.linalg.svd(wide(A.detach()) @ wide(A_ref.detach()).T)
    turn = torch.ones(len(U), dtype=U.dtype, device=U.device)
    turn[-1] = torch.linalg.det(U @ Vt).sign()  # a reflection would be nearer, but is no rotation
    R = (U * turn) @ Vt
    return (R.T @ wide(A.detach())).to(A.dtype), (wide(B.detach()) @ R).to(B.dtype)
