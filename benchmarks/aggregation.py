"""FedA²-LoRA's server step through factors, against the paper's O(K r d^2) form that makes U = mean(B_k A_k) dense.

`python -m benchmarks aggregation [d] [r] [K] [matrices]` (1024 8 10 4 if none are given).
"""

import time

import torch

from fedloom.aggregation import lora


def dense(A: torch.Tensor, B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Eq. 9, 10 and 13 as they are printed."""
    mean = A.mean(0)
    U = torch.stack([b @ a for a, b in zip(A, B, strict=True)]).mean(0)
    return mean, torch.linalg.solve(mean @ mean.T, mean @ U.T).T


def main(arguments: list[str]) -> None:
    d, r, K, matrices = (int(a) for a in arguments) if len(arguments) == 4 else (1024, 8, 10, 4)
    draw = torch.Generator().manual_seed(0)
    layers = [
        (torch.randn(K, r, d, generator=draw), torch.randn(K, d, r, generator=draw)) for _ in range(matrices)
    ]
    seconds = {}
    for name, step in (("factors", lambda A, B: lora.feda2(A, B, mode="strict")), ("dense", dense)):
        step(*layers[0])
        began = time.perf_counter()
        results = [step(A, B) for A, B in layers]
        seconds[name] = time.perf_counter() - began
        if name == "factors":
            ours = results
    gap = max(float((x[1] - y[1]).norm() / y[1].norm()) for x, y in zip(ours, results, strict=True))
    print(
        f"d={d} r={r} K={K}, {matrices} matrices: factors {seconds['factors']:.4f} s, dense {seconds['dense']:.4f} s, "
        f"ratio {seconds['dense'] / seconds['factors']:.1f}; largest relative difference {gap:.1e}"
    )
