"""Participation in turns: with correlated noise clients are not drawn, they take part once in 1 / cohort.fraction rounds."""

from collections.abc import Sequence

import torch

from fedloom.core.streams import torch_stream


def in_turn(names: Sequence[str], seed: int, fraction: float, round: int) -> list[str]:
    """The clients of a round, from 1: one of 1 / fraction parts, dealt at random by the seed; part follows part."""
    parts = rounds_apart(fraction)
    order = torch.randperm(len(names), generator=torch_stream(seed, "cohort", "turns")).tolist()
    return sorted(names[i] for i in order[(round - 1) % parts :: parts])


def rounds_apart(fraction: float) -> int:
    """The rounds from one turn of a client to its next."""
    return round(1 / fraction)
