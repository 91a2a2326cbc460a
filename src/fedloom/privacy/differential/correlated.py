"""Noise that later rounds take back in part: tree aggregation and the square root of the prefix sum.

Papers: Kairouz et al., "Practical and Private (Deep) Learning without Sampling or Shuffling" (DP-FTRL), ICML 2021, the binary
tree; Denisov et al., "Improved Differential Privacy for SGD via Optimal Private Linear Operators on Adaptive Streams", NeurIPS
2022, the matrix view and its proof for sums that depend on earlier answers; Fichtenberger, Henzinger and Upadhyay, "Constant
Matters", ICML 2023, the Toeplitz square root; Choquette-Choo et al., "Multi-Epoch Matrix Factorization Mechanisms for
Private Machine Learning", ICML 2023, the sensitivity with several participations.

With X (rounds, numbers) the sums of the rounds and A the lower triangle of ones, the mechanism publishes
A X + B Z = B (C X + Z): B C = A, and Z has independent entries N(0, (z clip)^2). Round t adds row t of A^-1 B times Z, its
`weights`. A client takes part in the rounds p, p + b, p + 2b and so on. C has no negative entry, so that the sensitivity is the
clip times the largest Euclidean norm of the sum of C's columns over such a pattern.

Deliberate differences: the tree is read without Honaker's refinement, which combines all nodes below an answer; at a restart the
next rounds begin a new tree, whose noise adds to that of the last one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Draw = tuple[int, ...]
"""Name of one draw of Z: its block, and its place in it."""
Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Correlated:
    """The noise of a run by its kind, the rounds of a block, and b, the rounds between two participations of a client."""

    kind: Literal["tree", "toeplitz"]
    apart: int
    restart: int | None = None

    def weights(self, round: int) -> Mapping[Draw, float]:
        """The draws of which the noise of a round, from 1, is made, with their weights."""
        block, place = self._place(round)
        if self.kind == "toeplitz":
            return {(block, j): w for j, w in enumerate(_inverse_root(place + 1)[::-1])}
        new, old = _nodes(place + 1), _nodes(place)
        added = {(block, *node): 1.0 for node in new if node not in old}
        return added | {(block, *node): -1.0 for node in old if node not in new}

    def sensitivity(self, rounds: int) -> float:
        """The norm by which one client whose changes have norm 1 moves C X in the first `rounds` rounds."""
        return _sensitivity(self, rounds)

    def encoder(self, rounds: int) -> tuple[list[Draw], Matrix]:
        """C for these rounds: its rows' draws, and the matrix (draws, rounds)."""
        names: list[Draw] = []
        rows: list[Matrix] = []
        size = rounds if self.restart is None else min(self.restart, rounds)
        for start in range(0, rounds, size):
            length = min(size, rounds - start)
            for name, row in _tree(length) if self.kind == "tree" else _root(length):
                whole = np.zeros(rounds)
                whole[start : start + length] = row
                names.append((start // size, *name))
                rows.append(whole)
        return names, np.array(rows)

    def first(self, draw: Draw) -> int:
        """The round, from 1, whose noise is the first to have this draw."""
        block, *place = draw
        last = place[0] + 1 if self.kind == "toeplitz" else (place[1] + 1) << place[0]
        return block * (self.restart or 0) + last

    def _place(self, round: int) -> tuple[int, int]:
        """A round's block and its place in it, both from 0."""
        return (0, round - 1) if self.restart is None else divmod(round - 1, self.restart)


@lru_cache(maxsize=4096)
def _sensitivity(noise: Correlated, rounds: int) -> float:
    _, encoder = noise.encoder(rounds)
    patterns = np.zeros((rounds, min(noise.apart, rounds)))
    for p in range(patterns.shape[1]):
        patterns[p :: noise.apart, p] = 1
    return float(np.linalg.norm(encoder @ patterns, axis=0).max())


def _nodes(leaves: int) -> list[Draw]:
    """The nodes (level, index) whose leaves are the first `leaves`, as few as possible."""
    nodes: list[Draw] = []
    for level in range(leaves.bit_length() - 1, -1, -1):
        if leaves >> level & 1:
            nodes.append((level, (leaves >> level) - 1))
    return nodes


def _tree(leaves: int) -> list[tuple[Draw, Matrix]]:
    """The nodes that are whole, each with 1 at its leaves."""
    found: list[tuple[Draw, Matrix]] = []
    for level in range(leaves.bit_length()):
        for index in range(leaves >> level):
            row = np.zeros(leaves)
            row[index << level : (index + 1) << level] = 1
            found.append(((level, index), row))
    return found


def _root(length: int) -> list[tuple[Draw, Matrix]]:
    """The rows of the lower triangular Toeplitz matrix whose square is the lower triangle of ones."""
    series = np.cumprod([1.0, *((2 * k - 1) / (2 * k) for k in range(1, length))])
    return [((i,), np.concatenate([series[i::-1], np.zeros(length - i - 1)])) for i in range(length)]


def _inverse_root(length: int) -> list[float]:
    """The first column of the inverse of `_root`: the series of sqrt(1 - x)."""
    series: list[Any] = [1.0]
    for k in range(1, length):
        series.append(series[-1] * (2 * k - 3) / (2 * k))
    return series
