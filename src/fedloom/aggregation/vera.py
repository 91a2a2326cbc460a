"""FedA² for VeRA (fedlora.md 3.15): the paper leaves it undefined; this is the consistent form.

y = W0 x + λ_b ⊙ (B (λ_d ⊙ (A x))) with A (r, d_in) and B (d_out, r) frozen and common. With λ̄_d = Σ p_k λ_d,k fixed, the
best λ_b for the mean update is one least-squares number per row.
"""

import torch
from torch import Tensor

from fedloom.aggregation.solve import DEFAULT_RIDGE, Mode
from fedloom.aggregation.stack import Weights, normalised, wide


def feda2(
    lambda_d: Tensor,
    lambda_b: Tensor,
    A: Tensor,
    B: Tensor,
    weights: Weights = None,
    ridge: float | None = None,
    mode: Mode = "centred",
) -> tuple[Tensor, Tensor]:
    """λ̄_d (r,) and the λ_b (d_out,) for which diag(λ_b) B diag(λ̄_d) A restores the mean update best.

    `lambda_d` is (K, r), `lambda_b` (K, d_out), weights (K,) of sum 1, uniform if None. Modes as in `lora.feda2`, on each
    row's own scalar equation λ_b[i] den_i = num_i: strict num/den, always num/(den + λ), relative and centred with λ times
    the mean of den; centred pulls towards the mean of the λ_b,k. A row with den = 0 has no update and keeps its mean.
    O(d r²) once and O(K d r); float64 inside, the input's dtype outside. Raises ValueError on shapes that do not fit, an
    unknown mode and a negative ridge.
    """
    if mode not in DEFAULT_RIDGE:
        raise ValueError(f"mode is {mode!r}; it must be one of {', '.join(DEFAULT_RIDGE)}.")
    lam = DEFAULT_RIDGE[mode] if ridge is None else float(ridge)
    if not lam >= 0:
        raise ValueError(f"ridge is {lam}; it must be a number that is not negative.")
    clients, r = lambda_d.shape
    if lambda_b.shape != (clients, B.shape[0]) or A.shape[0] != r or B.shape[1] != r:
        shapes = [tuple(t.shape) for t in (lambda_d, lambda_b, A, B)]
        raise ValueError(
            f"lambda_d, lambda_b, A and B have shapes {shapes}; (K, r), (K, d_out), (r, d_in), (d_out, r) fit."
        )
    p = wide(normalised(weights, clients).to(lambda_d.device))
    d, b = wide(lambda_d.detach()), wide(lambda_b.detach())
    A64, B64 = wide(A.detach()), wide(B.detach())
    mean_d, mean_b = p @ d, p @ b
    H = (B64 * mean_d) @ (A64 @ A64.T)
    num = torch.einsum("k,ko,ok->o", p, b, (B64 * H) @ d.T)
    den = ((B64 * H) * mean_d).sum(1)
    centre = mean_b if mode == "centred" else torch.zeros_like(mean_b)
    if mode == "strict":
        lam = 0.0
    elif mode in ("relative", "centred"):
        lam *= float(den.mean())
    whole = den + lam
    solved = centre + (num - centre * den) / torch.where(whole > 0, whole, torch.ones_like(whole))
    return mean_d.to(lambda_d.dtype), torch.where(den > 0, solved, mean_b).to(lambda_b.dtype)
