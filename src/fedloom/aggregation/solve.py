"""The r x r solve of FedA²-LoRA (UniFLoW Eq. 9-13; fedlora.md section 4)."""

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from fedloom.aggregation.stack import wide

Mode = Literal["strict", "always", "relative", "centred"]
RidgeScale = Literal["relative", "absolute"]

DEFAULT_RIDGE: dict[Mode, float] = {"strict": 1.0, "always": 1.0, "relative": 0.01, "centred": 0.01}
ILL_CONDITIONED = 1e-6  # strict: eigmin / eigmax of G under which the paper's "singular" case applies
_SINGULAR = 1e-12  # below this ratio an eigenvalue is noise: use the pseudo-inverse


def feda2_project(A_k: Tensor, B_k: Tensor, A_bar: Tensor) -> Tensor:
    """B_k (A_k Āᵀ), (d_out, r): one client's term of N, without p_k, in the second ask of secure FedA²."""
    work = torch.promote_types(B_k.dtype, torch.float32)
    out = B_k.detach().to(work) @ (A_k.detach().to(work) @ A_bar.detach().to(work).T)
    return out.to(B_k.dtype)


def feda2_solve(
    A_bar: Tensor,
    N: Tensor,
    B_bar: Tensor | None = None,
    ridge: float | None = None,
    mode: Mode = "centred",
    *,
    ridge_scale: RidgeScale = "relative",
) -> Tensor:
    """B' (d_out, r) from sums: Ā (r, d_in), N = Σ p_k B_k A_k Āᵀ (d_out, r), B̄ (d_out, r) if centred.

    With G = Ā Āᵀ and λ = `ridge` (None: 1, 1, 0.01, 0.01 for the four modes, in this order):

    * strict: N G⁻¹, but N (G + λI)⁻¹ where eigmin(G) < 1e-6 eigmax(G) (UniFLoW Eq. 13)
    * always: N (G + λI)⁻¹
    * relative: N (G + λ tr(G)/r I)⁻¹
    * centred: B̄ + (N − B̄G)(G + λ tr(G)/r I)⁻¹, or λI there if `ridge_scale` is "absolute" (LoRA-FAIR)

    Zero rows of Ā take no part; a G that is singular without ridge is solved by the pseudo-inverse.
    Computed in float64, returned in N's dtype. Raises ValueError on shapes that do not fit, an unknown
    mode or scale, and a ridge that is negative or not finite.
    """
    shapes = [tuple(t.shape) for t in (N, A_bar)]
    if A_bar.ndim != 2 or N.ndim != 2 or N.shape[1] != A_bar.shape[0]:
        raise ValueError(f"N and A_bar have shapes {shapes}; they must be (d_out, r) and (r, d_in).")
    if mode == "centred" and (B_bar is None or B_bar.shape != N.shape):
        raise ValueError(f"mode 'centred' needs the mean of B too, in the shape {shapes[0]} of N.")
    M, R = feda2_inverse(gram(A_bar), ridge, mode, ridge_scale=ridge_scale)
    out = wide(N.detach()) @ M
    if B_bar is not None and R is not None:
        out += wide(B_bar.detach()) @ R
    return out.to(N.dtype)


def gram(A_bar: Tensor) -> Tensor:
    """G = Ā Āᵀ, (r, r) in float64."""
    A64 = wide(A_bar.detach())
    return A64 @ A64.T


def feda2_inverse(
    G: Tensor,
    ridge: float | None = None,
    mode: Mode = "centred",
    *,
    ridge_scale: RidgeScale = "relative",
) -> tuple[Tensor, Tensor | None]:
    """M and R, (r, r) and symmetric, with B' = N M + B̄ R; arguments as in `feda2_solve`. Also for (L, r, r).

    M is (G + λI)⁻¹ and R = I − G M = λM in mode "centred", else None for zero: centred is the ridge towards B̄,
    B' = (N + λB̄)(G + λI)⁻¹. Both come from the eigenvectors of G, so that the pseudo-inverse is the same formula with fewer.
    """
    if G.ndim == 2:
        M, R = feda2_inverse(G[None], ridge, mode, ridge_scale=ridge_scale)
        return M[0], None if R is None else R[0]
    given, centred = _checked(ridge, mode, ridge_scale), mode == "centred"
    diagonals: list[list[float]] = G.diagonal(dim1=1, dim2=2).tolist()
    if not all(g > 0 for diagonal in diagonals for g in diagonal):
        apart = [_of_live(g, d, ridge, mode, ridge_scale) for g, d in zip(G, diagonals, strict=True)]
        return torch.stack([M for M, _ in apart]), (
            torch.stack([R for _, R in apart if R is not None]) if centred else None
        )
    relative = mode == "relative" or (centred and ridge_scale == "relative")
    values, V = torch.linalg.eigh(G)
    of_M, of_R = [], []
    # Plain floats: for r numbers they are faster than tensor operations.
    for diagonal, e in zip(diagonals, values.tolist(), strict=True):
        lam = given * sum(diagonal) / len(e) if relative else given
        if mode == "strict" and e[0] >= ILL_CONDITIONED * e[-1]:
            lam = 0.0
        cut = max(_SINGULAR, len(e) * torch.finfo(G.dtype).eps)
        singular = e[0] + lam <= cut * (e[-1] + lam)
        kept = [not singular or x > cut * e[-1] for x in e]
        of_M.append([1 / (x + lam) if k else 0.0 for x, k in zip(e, kept, strict=True)])
        of_R.append([lam / (x + lam) if k else 1.0 for x, k in zip(e, kept, strict=True)])
    M = (V * V.new_tensor(of_M)[:, None]) @ V.mT
    return M, (V * V.new_tensor(of_R)[:, None]) @ V.mT if centred else None


def _of_live(
    G: Tensor, diagonal: list[float], ridge: float | None, mode: Mode, ridge_scale: RidgeScale
) -> tuple[Tensor, Tensor | None]:
    """`feda2_inverse` of one layer where rows of Ā may be zero: M is zero there, and R leaves B̄ as it is."""
    live = [j for j, g in enumerate(diagonal) if g > 0]
    M = torch.zeros_like(G)
    R = torch.eye(len(G), dtype=G.dtype, device=G.device) if mode == "centred" else None
    if live:
        at = torch.tensor(live, device=G.device)
        own = (at[:, None], at)
        M_live, R_live = feda2_inverse(G[own], ridge, mode, ridge_scale=ridge_scale)
        M[own] = M_live
        if R is not None and R_live is not None:
            R[own] = R_live
    return M, R


def _checked(ridge: float | None, mode: Mode, ridge_scale: RidgeScale) -> float:
    if mode not in DEFAULT_RIDGE:
        raise ValueError(f"mode is {mode!r}; it must be one of {', '.join(DEFAULT_RIDGE)}.")
    if ridge_scale not in get_args(RidgeScale):
        raise ValueError(f"ridge_scale is {ridge_scale!r}; it must be relative or absolute.")
    if ridge_scale == "absolute" and mode != "centred":
        raise ValueError(f"ridge_scale is an option of mode 'centred' only; mode {mode!r} fixes its own.")
    lam = DEFAULT_RIDGE[mode] if ridge is None else float(ridge)
    if not math.isfinite(lam) or lam < 0:
        raise ValueError(f"ridge is {lam}; it must be a finite number that is not negative.")
    return lam
