"""FedA²-LoRA's server step through factors, beside the paper's form with dense U, and beside reading the factors once.

`python -m benchmarks aggregation [d] [r] [K] [matrices]` (4096 8 20 16 if none are given).

(a) The rival is Eq. 9, 10 and 13 as printed, O(K r d^2): U = mean(B_k A_k), summed client by client in one d x d matrix.
It is measured on one of the matrices and multiplied by their number. Ours combines all matrices at once, as a round does.
(b) The rival is one sum over all stacked factors: the cost of reading them.
"""

from collections.abc import Sequence
from functools import partial

import torch

from benchmarks.report import Row, interleaved, tell
from fedloom.aggregation import lora
from fedloom.aggregation.solve import Mode
from fedloom.aggregation.stack import stack

Layer = tuple[torch.Tensor, torch.Tensor]


def dense(A: torch.Tensor, B: torch.Tensor) -> Layer:
    """Eq. 9, 10 and 13 as printed; the mean is a running sum, so that only one d x d matrix exists."""
    mean = A.mean(0)
    U = torch.zeros(B.shape[1], A.shape[2])
    for a, b in zip(A, B, strict=True):
        U.addmm_(b, a, alpha=1 / len(A))
    return mean, torch.linalg.solve(mean @ mean.T, mean @ U.T).T


def layers(d: int, r: int, K: int, matrices: int) -> list[Layer]:
    """Random factors (K, r, d) and (K, d, r) of each of `matrices` adapted matrices."""
    draw = torch.Generator().manual_seed(0)
    return [
        (torch.randn(K, r, d, generator=draw), torch.randn(K, d, r, generator=draw)) for _ in range(matrices)
    ]


def together(factors: Sequence[Layer], mode: Mode) -> list[Layer]:
    """FedA² of all matrices."""
    return lora.feda2_layers([stack(A, B, checked=False) for A, B in factors], mode=mode)


def measure(d: int, r: int, K: int, matrices: int, repetitions: int = 15) -> list[Row]:
    """Both rows, in the paper's mode; and (b) once more in the default one."""
    factors = layers(d, r, K, matrices)
    size = f"d={d} r={r} K={K}"
    gap = max(
        float((x - y).norm() / y.norm())
        for x, y in zip(together(factors, "strict")[0], dense(*factors[0]), strict=True)
    )
    ours, rival = interleaved(lambda: together(factors, "strict"), lambda: dense(*factors[0]), repetitions)
    rows = [
        Row(
            "aggregation (a)",
            f"FedA² strict, {size}, {matrices} matrices",
            "the paper's formula with dense U",
            "200",
            ours,
            [t * matrices for t in rival],
            gap,
            f"the rival was measured on one matrix, times {matrices}; the difference is relative, target 1e-5",
        )
    ]
    modes: tuple[Mode, ...] = ("strict", "centred")
    for mode in modes:
        ours, rival = interleaved(
            partial(together, factors, mode),
            lambda: [(A.sum(), B.sum()) for A, B in factors],
            repetitions,
        )
        rows.append(
            Row(
                f"aggregation (b) {mode}",
                f"FedA² {mode}, {size}, {matrices} matrices",
                "one sum over the stacked factors",
                "at least 0.33",
                ours,
                rival,
            )
        )
    return rows


def main(arguments: list[str]) -> list[Row]:
    d, r, K, matrices = (int(a) for a in arguments) if len(arguments) == 4 else (4096, 8, 20, 16)
    rows = measure(d, r, K, matrices)
    tell(rows)
    return rows
