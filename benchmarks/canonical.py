"""Fed-CMP's server step (our reconstruction) on a full-size projector, beside FedAvg's mean of the same uploads.

`python -m benchmarks canonical [K] [r] [exact]` (20 256 if none are given): Linear(1024, 4096) and Linear(4096, 4096) with
biases, K uploads in memory. `exact` also decomposes the whole Gram matrix, at a cost independent of r. The notes give
processor seconds, which other load does not inflate.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import torch

from benchmarks.report import Row, tell
from fedloom.aggregation.canonical import Fused, Rules, fuse
from fedloom.aggregation.mean import weighted_mean

SHAPES = ((4096, 1025), (4096, 4097))
T = TypeVar("T")


def uploads(W: torch.Tensor, K: int, seed: int = 0, rank: int = 16) -> list[torch.Tensor]:
    """K changed copies of a layer: a common and an individual low-rank change."""
    draw = torch.Generator().manual_seed(seed)
    m, n = W.shape

    def low() -> torch.Tensor:
        return torch.randn(m, rank, generator=draw) @ torch.randn(rank, n, generator=draw) / m

    common = low()
    return [W + common + low() for _ in range(K)]


def once(step: Callable[[], T]) -> tuple[float, float, T]:
    """Seconds by the clock, processor seconds, and the result."""
    began, worked = time.perf_counter(), time.process_time()
    result = step()
    return time.perf_counter() - began, time.process_time() - worked, result


def mean(held: Sequence[torch.Tensor]) -> torch.Tensor:
    """FedAvg's mean of a layer."""
    return weighted_mean([{"W": t} for t in held])["W"]


def subspace(
    held: Sequence[torch.Tensor],
    W: torch.Tensor,
    p: torch.Tensor,
    rules: Rules,
    r: int,
    previous: torch.Tensor | None,
) -> Fused:
    """Fed-CMP's step, its basis found by iteration."""
    draw = torch.Generator().manual_seed(1)
    return fuse(held, W, p, rules, previous=previous, rank=r, draw=draw)


def measure(K: int, r: int, exact: bool, shapes: Sequence[tuple[int, int]] = SHAPES) -> list[Row]:
    """Per layer and space: a first round and one with a warm basis, each beside FedAvg's mean."""
    rows = []
    p = torch.full((K,), 1 / K, dtype=torch.float64)
    for m, n in shapes:
        W = (torch.rand(m, n, generator=torch.Generator().manual_seed(0)) - 0.5) * (2 / n**0.5)
        held = uploads(W, K)
        clock, cpu, average = once(partial(mean, held))
        what = f"Fed-CMP, {m} x {n}, K={K}, r={r}"
        for space in ("weight", "update"):
            rules = Rules(space=space, gamma=0.0, beta=0.0)  # then the result is the mean, whatever the basis
            step = partial(subspace, held, W, p, rules, r)
            first, first_cpu, fused = once(partial(step, None))
            later, later_cpu, again = once(partial(step, fused.B))
            note = (
                f"processor seconds: first round {first_cpu:.1f}, later {later_cpu:.1f}, the mean {cpu:.1f}; first "
                f"round {first:.1f} s; the basis holds {again.energy:.3f} of the energy; the difference is relative to the mean "
                "change, without momentum and reliability"
            )
            gap = float((again.W - average).norm() / (average - W).norm())
            rows.append(
                Row(
                    f"canonical {space}",
                    f"{what}, a later round",
                    "FedAvg's mean",
                    "none",
                    [later],
                    [clock],
                    gap,
                    note,
                )
            )
        if exact:
            whole, whole_cpu, _ = once(partial(fuse, held, W, p, Rules(), rank=r))
            note = f"processor seconds: {whole_cpu:.1f}, the mean {cpu:.1f}"
            rows.append(
                Row(
                    "canonical exact",
                    f"{what}, whole Gram matrix",
                    "FedAvg's mean",
                    "none",
                    [whole],
                    [clock],
                    None,
                    note,
                )
            )
    return rows


def main(arguments: list[str]) -> list[Row]:
    numbers = [int(a) for a in arguments if a.isdigit()]
    K, r = (numbers + [20, 256][len(numbers) :])[:2]
    rows = measure(K, r, "exact" in arguments)
    tell(rows)
    return rows
