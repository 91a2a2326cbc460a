"""Server optimisers: a step along Delta = new - old, the change of the clients' combined tensors.

Pure functions of the tensors before the round (`old`), the combined ones (`new`) and the optimiser's state (`kept`, named
`<name>.<moment>`); they return the moved tensors and the new state. A name that `new` lacks was not trained: it and its state
are unchanged.
"""

from collections.abc import Mapping

from torch import Tensor

Tensors = Mapping[str, Tensor]


def momentum(
    old: Tensors, new: Tensors, kept: Tensors, beta: float, lr: float = 1.0
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """v' = beta v + Delta; w' = w + lr v'. Paper: Hsu et al., 2019, section 4 (FedAvgM)."""
    v = {
        f"{n}.momentum": beta * kept[f"{n}.momentum"] + (t - old[n])
        if f"{n}.momentum" in kept
        else t - old[n]
        for n, t in new.items()
    }
    return {n: old[n] + lr * v[f"{n}.momentum"] for n in new}, v


def nesterov(
    old: Tensors, new: Tensors, kept: Tensors, beta: float, lr: float
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """v' = beta v + Delta; w' = w + lr (Delta + beta v'). Paper: Douillard et al., 2023, Algorithm 1 (DiLoCo)."""
    _, v = momentum(old, new, kept, beta)
    return {n: old[n] + lr * (t - old[n] + beta * v[f"{n}.momentum"]) for n, t in new.items()}, v


def adam(
    old: Tensors, new: Tensors, kept: Tensors, lr: float, beta1: float, beta2: float, tau: float
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """a' = b1 a + (1 - b1) Delta; b' = b2 b + (1 - b2) Delta^2; w' = w + lr a' / (sqrt b' + tau).

    Paper: Reddi et al., 2021, Algorithm 2 (FedAdam). As there, no bias is corrected; a and b begin at 0.
    """
    moved: dict[str, Tensor] = {}
    moments: dict[str, Tensor] = {}
    for n, t in new.items():
        delta = t - old[n]
        a, b = (1 - beta1) * delta, (1 - beta2) * delta.square()
        if f"{n}.first" in kept:
            a, b = a + beta1 * kept[f"{n}.first"], b + beta2 * kept[f"{n}.second"]
        moved[n] = old[n] + lr * a / (b.sqrt() + tau)
        moments |= {f"{n}.first": a, f"{n}.second": b}
    return moved, moments
